"""Settings of `polygraph train denoise`: options, YAML files, presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polygraph._checks import check_choice
from polygraph.data.pictures import PictureDataConfig
from polygraph.models.denoiser.presets import DENOISER_PRESETS
from polygraph.tasks.denoise.picture_training import DEFAULT_PRESET, RECIPE, DenoiseRunConfig
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
from polygraph.train.words import Spelling

_OWN = {"patch": int, "val_size": int, "noise_seed": int}
_BUILT_IN = {"scikit-image": {"kind": "scikit-image", "path": None}}


def _nested(preset: str) -> dict[str, Any]:
    check_choice("train", "preset", preset, DENOISER_PRESETS)
    return {"model": type(DENOISER_PRESETS[preset]), "data": PictureDataConfig}


def _spelling(nested: dict[str, Any]) -> Spelling:
    short = {
        "kind": "data.kind",
        "test": "data.test_path",
        "channels": "data.channels",
        **{name: f"model.{name}" for name in ("k", "width", "graph", "compat")},
    }
    return Spelling(list_settings(nested, ["sigma"]), short, _BUILT_IN)


def make_denoise_parser(preset: str) -> Any:
    """The parser, with the settings of a preset."""
    known = packaged_configs("denoise")
    parser = base_parser("denoise", "Train a denoiser of pictures.", known)
    parser.add_argument("--preset", type=str, default=preset, help="network")
    run, nested = DenoiseRunConfig(), _nested(preset)
    parser.add_argument("--sigma", type=list[float], default=list(run.sigma))
    for name, of in _OWN.items():
        parser.add_argument(f"--{name}", type=of, default=getattr(run, name))
    add_nested(parser, nested, {"model": DENOISER_PRESETS[preset], "data": PictureDataConfig()})
    parser.set_defaults(RECIPE)
    add_help(parser, nested, DenoiseRunConfig, ("sigma", *_OWN))
    return parser


def parse_train_pictures(arguments: Sequence[str]) -> tuple[DenoiseRunConfig, str, bool]:
    """Read the command line of `polygraph train denoise`.

    Later settings win: the recipe, the preset, configurations in their order, options.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    told = read_told(arguments, "denoise", _spelling(_nested(DEFAULT_PRESET)), "pictures")
    preset = told.last("preset") or DEFAULT_PRESET
    nested = _nested(preset)
    told = read_told(arguments, "denoise", _spelling(nested), "pictures")
    values = parse_values(make_denoise_parser(preset), told.words, nested)
    data = values["data"]
    if data["path"] is not None and not told.names("data.kind"):
        data["kind"] = "folder"
    config = DenoiseRunConfig(
        train=TrainConfig(**values["train"]),
        preset=preset,
        sigma=tuple(values["sigma"]),
        **{name: values[name] for name in _OWN},
        **{name: cls(**values[name]) for name, cls in nested.items()},
    )
    return config, values["out"], values["resume"]
