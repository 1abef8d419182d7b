"""Settings of `polygraph train gan`: options, YAML files, presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from polygraph.data.images import ImageDataConfig
from polygraph.models.images.sizes import at_size
from polygraph.tasks.gan.losses import GanConfig
from polygraph.tasks.gan.presets import GanPreset, get_gan_preset
from polygraph.tasks.gan.training import GanRunConfig
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

DEFAULT_PRESET = "digits"
_OWN = ("score_images", "classifier")


def _nested(preset: GanPreset) -> dict[str, Any]:
    return {
        "generator": type(preset.generator),
        "critic": type(preset.critic),
        "data": ImageDataConfig,
        "gan": GanConfig,
    }


def _spelling(nested: dict[str, Any]) -> Spelling:
    return Spelling(
        list_settings(nested),
        {**DATA_WORDS, "latent": "generator.latent_channels", "size": "data.size"},
        {"glyphs": {"kind": "glyphs", "path": None}},
    )


def make_gan_parser(name: str) -> Any:
    """The parser, with the settings of a preset as its defaults."""
    preset = get_gan_preset(name)
    parser = base_parser(
        "gan", "Train a generator and a critic of images.", packaged_configs("gan")
    )
    parser.add_argument("--preset", type=str, default=name, help="networks and settings")
    parser.add_argument("--score_images", type=int, default=0)
    parser.add_argument("--classifier", type=str | None, default=None)
    nested = _nested(preset)
    defaults = {
        "generator": preset.generator,
        "critic": preset.critic,
        "data": ImageDataConfig(size=preset.generator.size),
        "gan": preset.gan,
    }
    add_nested(parser, nested, defaults)
    parser.set_defaults(preset.train)
    add_help(parser, nested, GanRunConfig, _OWN)
    return parser


def parse_train_gan(arguments: Sequence[str]) -> tuple[GanRunConfig, str, bool]:
    """Read the command line of `polygraph train gan`.

    Later settings win: defaults, the preset, configurations in their order, options. The data's
    size is that of both networks.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    nested = _nested(get_gan_preset(DEFAULT_PRESET))
    told = read_told(arguments, "gan", _spelling(nested))
    name = told.last("preset") or DEFAULT_PRESET
    nested = _nested(get_gan_preset(name))
    told = read_told(arguments, "gan", _spelling(nested))
    values = parse_values(make_gan_parser(name), told.words, nested)
    data = values["data"]
    if data["path"] is not None and not told.names("data.kind"):
        data["kind"] = "folder"
    preset = get_gan_preset(name)
    for network, start in (("generator", preset.generator), ("critic", preset.critic)):
        if not told.names(f"{network}.size"):
            values[network] = _in_size(values[network], start, data["size"])
    config = GanRunConfig(
        train=TrainConfig(**{f.name: values["train"][f.name] for f in fields(TrainConfig)}),
        preset=name,
        **{key: values[key] for key in _OWN},
        **{key: cls(**values[key]) for key, cls in nested.items()},
    )
    return config, values["out"], values["resume"]


def _in_size(values: dict[str, Any], start: Any, size: int) -> dict[str, Any]:
    """The settings of a network for images of a size; what was told, and not preset, stays."""
    preset, wanted = asdict(start), asdict(at_size(start, size))
    return {key: wanted[key] if value == preset[key] else value for key, value in values.items()}
