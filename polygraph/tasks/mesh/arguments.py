"""Settings of `polygraph train mesh`: options, YAML files, presets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Literal

from polygraph.data import MeshDataConfig
from polygraph.mesh.spiral import SpiralConfig
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoderConfig
from polygraph.models.mesh.presets import get_preset
from polygraph.tasks.mesh.training import LOSSES, NORMALIZATIONS, MeshRunConfig
from polygraph.train.arguments import (
    add_help,
    add_nested,
    base_parser,
    packaged_configs,
    parse_values,
    read_configs,
)
from polygraph.train.config import TrainConfig

DEFAULT_PRESET = "full-2"
_OF_THE_RUN = ("upsampling", "normalization", "loss", "augmentation")
_NESTED: dict[str, Any] = {
    "model": MeshAutoencoderConfig,
    "spiral": SpiralConfig,
    "data": MeshDataConfig,
}


def make_parser(preset: str) -> Any:
    """The parser of meshes, with the settings of a preset as its defaults."""
    parser = base_parser("mesh", "Train a mesh autoencoder.", packaged_configs("mesh"))
    parser.add_argument("--preset", type=str, default=preset, help="model to start from")
    parser.add_argument(
        "--factors", type=list[int], default=[4, 4, 4, 4], help="vertices divided by, per level"
    )
    parser.add_argument("--upsampling", type=str, default="barycentric")
    parser.add_argument("--augmentation", type=float, default=0.0)
    for name, choices in (("normalization", NORMALIZATIONS), ("loss", LOSSES)):
        parser.add_argument(f"--{name}", type=Literal[choices], default=choices[0])
    model, spiral = get_preset(preset)
    add_nested(parser, _NESTED, {"model": model, "spiral": spiral, "data": MeshDataConfig()})
    add_help(parser, _NESTED, MeshRunConfig, _OF_THE_RUN)
    return parser


def _first_look(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The preset that is asked for, and the arguments with names of configurations made paths."""
    contents, words, rest = read_configs(arguments, "mesh")
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    look.add_argument("--preset")
    known, rest = look.parse_known_args(rest)
    preset = DEFAULT_PRESET
    for content in contents:
        preset = str(content.get("preset", preset))
    preset = known.preset or preset
    return preset, [*words, "--preset", preset, *rest]


def parse_train_mesh(arguments: Sequence[str]) -> tuple[MeshRunConfig, str, bool]:
    """Read the command line of `polygraph train mesh`.

    Later settings win: defaults, the preset, configurations in their order, options.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    preset, words = _first_look(arguments)
    values = parse_values(make_parser(preset), words, _NESTED)
    data = values["data"]
    if data["path"] is not None and not any(w.startswith("--data.kind") for w in words):
        # A path alone means a folder of registered meshes.
        data["kind"] = "registered" if data["kind"] == "synthetic" else data["kind"]
    config = MeshRunConfig(
        preset=preset,
        train=TrainConfig(**values["train"]),
        factors=tuple(values["factors"]),
        **{name: values[name] for name in _OF_THE_RUN},
        **{name: cls(**values[name]) for name, cls in _NESTED.items()},
    )
    return config, values["out"], values["resume"]
