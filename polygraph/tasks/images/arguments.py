"""Settings of `polygraph train images`: options, YAML files, presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polygraph._checks import check_choice
from polygraph.data.images import ImageDataConfig
from polygraph.models.images.presets import CLASSIFIER_PRESETS
from polygraph.tasks.images.training import RECIPE, ImagesRunConfig, usual_augmentation
from polygraph.train.arguments import (
    add_help,
    add_nested,
    base_parser,
    list_settings,
    packaged_configs,
    parse_values,
    read_told,
)
from polygraph.train.augment import AugmentConfig
from polygraph.train.config import TrainConfig
from polygraph.train.words import DATA_WORDS, Spelling

DEFAULT_PRESET = "bed/conv"
_OWN = {
    "balanced": bool,
    "label_smoothing": float,
    "orthogonality": float,
    "orthogonality_on": str,
    "orthogonality_unit": bool,
    "reconstruction": float,
    "val_fraction": float,
    "train_images": int | None,
    "split_seed": int,
}


def _nested(preset: str) -> dict[str, Any]:
    check_choice("train", "preset", preset, CLASSIFIER_PRESETS)
    model = type(CLASSIFIER_PRESETS[preset])
    return {"model": model, "data": ImageDataConfig, "augment": AugmentConfig}


def _spelling(nested: dict[str, Any]) -> Spelling:
    return Spelling(
        list_settings(nested),
        {**DATA_WORDS, "k": "model.k", "width": "model.width"},
        {"glyphs": {"kind": "glyphs", "path": None}},
    )


def make_images_parser(preset: str, kind: str = "glyphs") -> Any:
    """The parser, with the settings of a preset, and what is usual for a kind of data."""
    parser = base_parser("images", "Train a classifier of images.", packaged_configs("images"))
    parser.add_argument("--preset", type=str, default=preset, help="network")
    run, nested = ImagesRunConfig(), _nested(preset)
    for name, of in _OWN.items():
        parser.add_argument(f"--{name}", type=of, default=getattr(run, name))
    defaults = {
        "model": CLASSIFIER_PRESETS[preset],
        "data": ImageDataConfig(),
        "augment": usual_augmentation(kind),
    }
    add_nested(parser, nested, defaults)
    parser.set_defaults(RECIPE)
    add_help(parser, nested, ImagesRunConfig, tuple(_OWN))
    return parser


def parse_train_images(arguments: Sequence[str]) -> tuple[ImagesRunConfig, str, bool]:
    """Read the command line of `polygraph train images`.

    Later settings win: the recipe, the preset, configurations in their order, options.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    told = read_told(arguments, "images", _spelling(_nested(DEFAULT_PRESET)))
    preset = told.last("preset") or DEFAULT_PRESET
    nested = _nested(preset)
    told = read_told(arguments, "images", _spelling(nested))
    kind = told.last("data.kind") or "folder"
    values = parse_values(make_images_parser(preset, kind), told.words, nested)
    data = values["data"]
    if data["path"] is not None and not told.names("data.kind"):
        data["kind"] = "folder"
    config = ImagesRunConfig(
        train=TrainConfig(**values["train"]),
        preset=preset,
        **{name: values[name] for name in _OWN},
        **{name: cls(**values[name]) for name, cls in nested.items()},
    )
    return config, values["out"], values["resume"]
