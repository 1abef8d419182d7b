"""Settings of `polygraph train points`: options and YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polygraph.data import ShapeDataConfig
from polygraph.data.shapes import BUILT_IN
from polygraph.models.points.dgcnn import DGCNNClassifierConfig, DGCNNSegmenterConfig
from polygraph.tasks.points.training import (
    CLASSIFY,
    RECIPE,
    SEGMENT,
    PointsRunConfig,
    model_config,
)
from polygraph.train.arguments import (
    add_help,
    add_nested,
    base_parser,
    list_settings,
    packaged_configs,
    parse_values,
    read_told,
)
from polygraph.train.config import TrainConfig
from polygraph.train.words import DATA_WORDS, Spelling

_OF_THE_RUN: dict[str, Any] = {
    "label_smoothing": float,
    "scale": float,
    "shift": float,
    "orthogonality": float,
    "orthogonality_on": str,
    "orthogonality_unit": bool,
    "balanced": bool,
}
_NESTED: dict[str, Any] = {"model": DGCNNClassifierConfig, "data": ShapeDataConfig}
SPELLING = Spelling(
    list_settings(_NESTED),
    {**DATA_WORDS, "k": "model.k"},
    {name: {"path": None, "built_in": name} for name in BUILT_IN},
)


def default_run(task: str) -> PointsRunConfig:
    """The published recipe of a task, on built-in data.

    Raises:
        ValueError: there is no such task.
    """
    if model_config(task) is DGCNNClassifierConfig:
        return PointsRunConfig()
    return PointsRunConfig(
        task=SEGMENT,
        model=DGCNNSegmenterConfig(num_parts=None, num_categories=None),
        data=ShapeDataConfig(built_in="objects"),
    )


def make_points_parser(task: str = CLASSIFY) -> Any:
    """The parser of point clouds, with the published recipe of a task as its defaults."""
    parser = base_parser("points", "Train a network of point clouds.", packaged_configs("points"))
    run = default_run(task)
    nested = {**_NESTED, "model": type(run.model)}
    parser.add_argument("--task", type=str, default=task)
    for name, of in _OF_THE_RUN.items():
        parser.add_argument(f"--{name}", type=of, default=getattr(run, name))
    add_nested(parser, nested, {"model": run.model, "data": run.data})
    parser.set_defaults(RECIPE)
    add_help(parser, nested, PointsRunConfig, ("task", *_OF_THE_RUN))
    return parser


def parse_train_points(arguments: Sequence[str]) -> tuple[PointsRunConfig, str, bool]:
    """Read the command line of `polygraph train points`.

    Later settings win: the published recipe, configurations in their order, options.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value.
    """
    told = read_told(arguments, "points", SPELLING, data="points")
    task = told.last("task") or CLASSIFY
    nested = {**_NESTED, "model": model_config(task)}
    values = parse_values(make_points_parser(task), told.words, nested)
    config = PointsRunConfig(
        task=task,
        train=TrainConfig(**values["train"]),
        **{name: values[name] for name in _OF_THE_RUN},
        **{name: cls(**values[name]) for name, cls in nested.items()},
    )
    return config, values["out"], values["resume"]
