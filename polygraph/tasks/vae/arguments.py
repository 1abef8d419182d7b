"""Settings of `polygraph train vae`: of images, or those of `polygraph train mesh`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polygraph._names import did_you_mean
from polygraph.data.images import IMAGE_KINDS, ImageDataConfig
from polygraph.models.images.image_vae import VAE_PRESETS, ImageVAEConfig
from polygraph.models.mesh.presets import PRESETS
from polygraph.tasks.mesh.arguments import parse_train_mesh
from polygraph.tasks.vae.training import RECIPE, VaeRunConfig
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

DEFAULT_PRESET, MESH_PRESET = "vae/conv", "vae-full-2"
_OWN = {"val_fraction": float, "split_seed": int}
_NESTED: dict[str, Any] = {
    "model": ImageVAEConfig,
    "data": ImageDataConfig,
    "objective": ObjectiveConfig,
}
_SPELLING = Spelling(
    list_settings(_NESTED),
    {
        **DATA_WORDS,
        **OBJECTIVE_WORDS,
        "size": "data.size",
        "latent": "model.latent_channels",
        "likelihood": "model.likelihood",
        "variance": "model.variance",
    },
    {
        "glyphs": {"kind": "glyphs", "path": None},
        "synthetic": {"kind": "synthetic", "path": None},
    },
)
_MESHES = {".ply", ".obj", ".off", ".stl", ".npy"}
MESH_VAES = tuple(name for name, (model, _) in PRESETS.items() if model.variational)


def make_vae_parser(preset: str) -> Any:
    """The parser of images, with the settings of a preset."""
    parser = base_parser(
        "vae", "Train a variational autoencoder of images or meshes.", packaged_configs("vae")
    )
    parser.add_argument("--preset", type=str, default=preset, help="model to start from")
    run = VaeRunConfig()
    for name, of in _OWN.items():
        parser.add_argument(f"--{name}", type=of, default=getattr(run, name))
    defaults = {
        "model": VAE_PRESETS[preset],
        "data": ImageDataConfig(),
        "objective": ObjectiveConfig(),
    }
    add_nested(parser, _NESTED, defaults)
    parser.set_defaults(RECIPE)
    add_help(parser, _NESTED, VaeRunConfig, tuple(_OWN))
    return parser


def parse_train_vae(arguments: Sequence[str]) -> tuple[Any, str, bool]:
    """Read the command line of `polygraph train vae`.

    Of meshes it is read as that of `polygraph train mesh`, with the preset ``vae-full-2`` as the
    default. Whether it is of meshes is told by the preset, by the kind of the data, or by what lies
    in their folder.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    told = read_told(arguments, "mesh", _SPELLING)
    preset = told.last("preset") or None
    known = (*VAE_PRESETS, *MESH_VAES)
    if preset is not None and preset not in known:
        hint = did_you_mean(preset, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"train: unknown preset {preset!r}{hint}")
    if preset in MESH_VAES or (preset is None and _of_meshes(told)):
        return parse_train_mesh([f"--preset={preset or MESH_PRESET}", *arguments])
    told = read_told(arguments, "vae", _SPELLING)
    preset = preset or DEFAULT_PRESET
    values = parse_values(make_vae_parser(preset), told.words, _NESTED)
    data = values["data"]
    if data["path"] is not None and not told.names("data.kind"):
        data["kind"] = "folder"
    config = VaeRunConfig(
        train=TrainConfig(**values["train"]),
        preset=preset,
        **{name: values[name] for name in _OWN},
        **{name: cls(**values[name]) for name, cls in _NESTED.items()},
    )
    return config, values["out"], values["resume"]


def _of_meshes(told: Any) -> bool:
    """Whether the data are meshes: by their kind, or by the first file that says so."""
    kind, path = told.last("data.kind"), told.last("data.path")
    if kind is not None:
        return kind not in IMAGE_KINDS
    if path is None or not Path(path).is_dir():
        return False
    return any(file.suffix.lower() in _MESHES for file in Path(path).iterdir())
