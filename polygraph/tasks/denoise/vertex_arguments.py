"""Settings of `polygraph train denoise` with ``--kind mesh`` or ``--kind cloud``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polygraph._checks import check_choice
from polygraph.data.vertex_sets import VertexDataConfig
from polygraph.models.denoiser.vertices import VERTEX_PRESETS, VertexDenoiserConfig
from polygraph.tasks.denoise.vertex_training import (
    DEFAULT_SIGMA,
    DEFAULT_VERTEX_PRESET,
    VERTEX_RECIPE,
    VertexRunConfig,
)
from polygraph.train.arguments import (
    add_help,
    add_nested,
    base_parser,
    list_settings,
    parse_values,
    read_told,
)
from polygraph.train.config import TrainConfig
from polygraph.train.words import Spelling

_OWN = {"points": int, "val_shapes": int, "noise_seed": int}
_NESTED: dict[str, Any] = {"model": VertexDenoiserConfig, "data": VertexDataConfig}
_SHORT = {
    **{name: f"data.{name}" for name in ("kind", "split", "every")},
    **{name: f"model.{name}" for name in ("k", "width", "graph")},
}
_SPELLING = Spelling(
    list_settings(_NESTED, ["sigma"]), _SHORT, {"synthetic": {"kind": "mesh", "path": None}}
)


def make_vertex_parser(preset: str, sigma: tuple[float, ...]) -> Any:
    """The parser, with the settings of a preset."""
    parser = base_parser("denoise", "Train a denoiser of meshes or point clouds.", ())
    parser.add_argument("--preset", type=str, default=preset, help="network")
    run = VertexRunConfig()
    parser.add_argument("--sigma", type=list[float], default=list(sigma))
    for name, of in _OWN.items():
        parser.add_argument(f"--{name}", type=of, default=getattr(run, name))
    add_nested(parser, _NESTED, {"model": VERTEX_PRESETS[preset], "data": VertexDataConfig()})
    parser.set_defaults(VERTEX_RECIPE)
    add_help(parser, _NESTED, VertexRunConfig, ("sigma", *_OWN))
    return parser


def parse_train_vertices(arguments: Sequence[str]) -> tuple[VertexRunConfig, str, bool]:
    """Read the command line of `polygraph train denoise --kind mesh` or ``cloud``.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    told = read_told(arguments, "denoise", _SPELLING)
    preset = told.last("preset") or DEFAULT_VERTEX_PRESET
    check_choice("train", "preset", preset, VERTEX_PRESETS)
    kind = told.last("data.kind") or "mesh"
    parser = make_vertex_parser(preset, DEFAULT_SIGMA.get(kind, DEFAULT_SIGMA["mesh"]))
    values = parse_values(parser, told.words, _NESTED)
    config = VertexRunConfig(
        train=TrainConfig(**values["train"]),
        preset=preset,
        sigma=tuple(values["sigma"]),
        **{name: values[name] for name in _OWN},
        **{name: cls(**values[name]) for name, cls in _NESTED.items()},
    )
    return config, values["out"], values["resume"]
