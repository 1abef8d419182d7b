"""Settings of `polygraph train audio`: options, YAML files, presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polygraph._checks import check_choice
from polygraph.data.audio.dataset import AudioDataConfig
from polygraph.data.audio.mel import FeatureConfig
from polygraph.models.images.presets import CLASSIFIER_PRESETS
from polygraph.tasks.audio.training import RECIPE, AudioRunConfig
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
from polygraph.train.sound_augment import SoundAugmentConfig
from polygraph.train.words import DATA_WORDS, Spelling

DEFAULT_PRESET = "bed/conv"
_OWN = {
    "balanced": bool,
    "label_smoothing": float,
    "orthogonality": float,
    "orthogonality_on": str,
    "orthogonality_unit": bool,
    "val_fraction": float,
    "split_seed": int,
}
_PARTS = {"data": AudioDataConfig, "features": FeatureConfig, "augment": SoundAugmentConfig}


def _nested(preset: str) -> dict[str, Any]:
    check_choice("train", "preset", preset, CLASSIFIER_PRESETS)
    return {"model": type(CLASSIFIER_PRESETS[preset]), **_PARTS}


def _spelling(nested: dict[str, Any]) -> Spelling:
    return Spelling(
        list_settings(nested),
        {**DATA_WORDS, "k": "model.k", "width": "model.width"},
        {"tones": {"kind": "tones", "path": None}},
    )


def make_audio_parser(preset: str) -> Any:
    """The parser, with the settings of a preset."""
    parser = base_parser("audio", "Train a classifier of sounds.", packaged_configs("audio"))
    parser.add_argument("--preset", type=str, default=preset, help="network")
    run, nested = AudioRunConfig(), _nested(preset)
    for name, of in _OWN.items():
        parser.add_argument(f"--{name}", type=of, default=getattr(run, name))
    defaults = {name: cls() for name, cls in _PARTS.items()}
    add_nested(parser, nested, {"model": CLASSIFIER_PRESETS[preset], **defaults})
    parser.set_defaults(RECIPE)
    add_help(parser, nested, AudioRunConfig, tuple(_OWN))
    return parser


def parse_train_audio(arguments: Sequence[str]) -> tuple[AudioRunConfig, str, bool]:
    """Read the command line of `polygraph train audio`.

    Later settings win: the recipe, the preset, configurations in their order, options.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    told = read_told(arguments, "audio", _spelling(_nested(DEFAULT_PRESET)))
    preset = told.last("preset") or DEFAULT_PRESET
    nested = _nested(preset)
    told = read_told(arguments, "audio", _spelling(nested))
    values = parse_values(make_audio_parser(preset), told.words, nested)
    data = values["data"]
    if data["path"] is not None and not told.names("data.kind"):
        data["kind"] = "auto"
    config = AudioRunConfig(
        train=TrainConfig(**values["train"]),
        preset=preset,
        **{name: values[name] for name in _OWN},
        **{name: cls(**values[name]) for name, cls in nested.items()},
    )
    return config, values["out"], values["resume"]
