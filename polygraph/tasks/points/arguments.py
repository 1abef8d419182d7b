"""Settings of `polygraph train points`: options and YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polygraph.data import ShapeDataConfig
from polygraph.models.points.dgcnn import DGCNNClassifierConfig
from polygraph.tasks.points.training import RECIPE, PointsRunConfig
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

_OF_THE_RUN = ("label_smoothing", "scale", "shift")
_NESTED: dict[str, Any] = {"model": DGCNNClassifierConfig, "data": ShapeDataConfig}
SPELLING = Spelling(
    list_settings(_NESTED), {**DATA_WORDS, "k": "model.k"}, {"shapes": {"path": None}}
)


def make_points_parser() -> Any:
    """The parser of point clouds, with the published recipe as its defaults."""
    parser = base_parser(
        "points", "Train a classifier of point clouds.", packaged_configs("points")
    )
    run = PointsRunConfig()
    for name in _OF_THE_RUN:
        parser.add_argument(f"--{name}", type=float, default=getattr(run, name))
    add_nested(parser, _NESTED, {"model": run.model, "data": run.data})
    parser.set_defaults(RECIPE)
    add_help(parser, _NESTED, PointsRunConfig, _OF_THE_RUN)
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
    values = parse_values(make_points_parser(), told.words, _NESTED)
    config = PointsRunConfig(
        train=TrainConfig(**values["train"]),
        **{name: values[name] for name in _OF_THE_RUN},
        **{name: cls(**values[name]) for name, cls in _NESTED.items()},
    )
    return config, values["out"], values["resume"]
