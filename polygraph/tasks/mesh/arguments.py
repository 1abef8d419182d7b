"""Settings of `polygraph train mesh`: options, YAML files, presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from polygraph.data import MeshDataConfig
from polygraph.mesh.spiral import SpiralConfig
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoderConfig
from polygraph.models.mesh.presets import get_preset
from polygraph.tasks.mesh.config import LOSSES, NORMALIZATIONS, MeshRunConfig, with_depth
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
from polygraph.train.variational import ObjectiveConfig
from polygraph.train.words import DATA_WORDS, OBJECTIVE_WORDS, Spelling

DEFAULT_PRESET = "full-2"
_OF_THE_RUN = ("upsampling", "normalization", "loss", "augmentation")
_NESTED: dict[str, Any] = {
    "model": MeshAutoencoderConfig,
    "spiral": SpiralConfig,
    "data": MeshDataConfig,
    "objective": ObjectiveConfig,
}
SPELLING = Spelling(
    list_settings(_NESTED, ("factors",)),
    {
        **DATA_WORDS,
        **OBJECTIVE_WORDS,
        "up": "data.up",
        "latent": "model.latent_channels",
        "likelihood": "model.likelihood",
        "variance": "model.variance",
    },
    {"synthetic": {"kind": "synthetic", "path": None}},
)
#: the default: what wins on small data and large; the published recipe is mesh-published
RECIPE: dict[str, Any] = {
    "steps": 16_000,
    "batch_size": 16,
    "learning_rate": 5e-3,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "normalization": "shared",
    "loss": "distance",
    "augmentation": 0.3,
}


def make_parser(preset: str) -> Any:
    """The parser of meshes, with the settings of a preset as its defaults."""
    parser = base_parser("mesh", "Train a mesh autoencoder.", packaged_configs("mesh"))
    parser.add_argument("--preset", type=str, default=preset, help="model to start from")
    parser.add_argument(
        "--factors", type=list[int] | None, default=None, help="vertices divided by, per level"
    )
    parser.add_argument("--upsampling", type=str, default="barycentric")
    parser.add_argument("--augmentation", type=float, default=0.0)
    for name, choices in (("normalization", NORMALIZATIONS), ("loss", LOSSES)):
        parser.add_argument(f"--{name}", type=Literal[choices], default=choices[0])
    model, spiral = get_preset(preset)
    parts = {"data": MeshDataConfig(), "objective": ObjectiveConfig()}
    add_nested(parser, _NESTED, {"model": model, "spiral": spiral, **parts})
    parser.set_defaults(RECIPE)
    add_help(parser, _NESTED, MeshRunConfig, ("factors", *_OF_THE_RUN))
    return parser


def parse_train_mesh(arguments: Sequence[str]) -> tuple[MeshRunConfig, str, bool]:
    """Read the command line of `polygraph train mesh`.

    Later settings win: the default recipe, the preset, configurations in their order, options.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    told = read_told(arguments, "mesh", SPELLING)
    preset = told.last("preset") or DEFAULT_PRESET
    values = parse_values(make_parser(preset), told.words, _NESTED)
    data = values["data"]
    if data["path"] is not None and not told.names("data.kind"):
        # A path alone means a folder of registered meshes.
        data["kind"] = "registered"
    parts = {name: cls(**values[name]) for name, cls in _NESTED.items()}
    factors = values["factors"] and tuple(values["factors"])
    if factors and not told.names("model.encoder_channels", "model.decoder_channels"):
        parts["model"], parts["spiral"] = with_depth(parts["model"], parts["spiral"], len(factors))
    config = MeshRunConfig(
        preset=preset,
        train=TrainConfig(**values["train"]),
        factors=factors,
        **{name: values[name] for name in _OF_THE_RUN},
        **parts,
    )
    return config, values["out"], values["resume"]
