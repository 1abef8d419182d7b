"""Settings of `polygraph train verify`: options, YAML files, presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polygraph._checks import check_choice
from polygraph.data.identities import POINT_KINDS, IdentityDataConfig
from polygraph.tasks.verify.config import RECIPE, VerifyRunConfig, usual_augmentation
from polygraph.tasks.verify.embedder import EMBEDDER_PRESETS
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

DEFAULT_PRESET, POINT_PRESET = "bed/conv", "dgcnn"
_OWN: dict[str, Any] = {
    "loss": str,
    "embedding_dim": int,
    "margin": float | None,
    "logit_scale": float | None,
    "balanced": bool,
    "orthogonality": float,
    "orthogonality_on": str,
    "orthogonality_unit": bool,
    "mirror": bool,
    "point_scale": float,
    "point_shift": float,
    "folds": int,
    "pairs_per_fold": int,
    "pair_seed": int,
    "resamples": int,
}


def _nested(preset: str) -> dict[str, Any]:
    check_choice("train", "preset", preset, EMBEDDER_PRESETS)
    model = type(EMBEDDER_PRESETS[preset])
    return {"model": model, "data": IdentityDataConfig, "augment": AugmentConfig}


def _lists() -> frozenset[str]:
    """Settings that are lists, of all networks: the preset is told by words, too."""
    models = {type(config): name for name, config in EMBEDDER_PRESETS.items()}
    return frozenset().union(*(list_settings(_nested(name)) for name in models.values()))


_SPELLING = Spelling(
    _lists(),
    {
        **DATA_WORDS,
        "k": "model.k",
        "width": "model.width",
        "size": "data.size",
        "split_seed": "data.split_seed",
        "test_fraction": "data.test_fraction",
        "test_names": "data.test_names",
    },
    {"glyphs": {"kind": "glyphs", "path": None}},
)


def make_verify_parser(preset: str, kind: str = "glyphs") -> Any:
    """The parser, with the settings of a preset, and what is usual for a kind of data."""
    parser = base_parser("verify", "Train embeddings of identities.", packaged_configs("verify"))
    parser.add_argument("--preset", type=str, default=preset, help="network")
    run, nested = VerifyRunConfig(), _nested(preset)
    for name, of in _OWN.items():
        parser.add_argument(f"--{name}", type=of, default=getattr(run, name))
    model = EMBEDDER_PRESETS[preset]
    defaults = {
        "model": model,
        "data": IdentityDataConfig(size=getattr(model, "size", IdentityDataConfig.size)),
        "augment": usual_augmentation(kind),
    }
    add_nested(parser, nested, defaults)
    parser.set_defaults(RECIPE)
    add_help(parser, nested, VerifyRunConfig, tuple(_OWN))
    return parser


def parse_train_verify(arguments: Sequence[str]) -> tuple[VerifyRunConfig, str, bool]:
    """Read the command line of `polygraph train verify`.

    Later settings win: the recipe, the preset, configurations in their order, options.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value; an unknown preset suggests the nearest.
    """
    told = read_told(arguments, "verify", _SPELLING)
    kind = told.last("data.kind") or "folder"
    usual = POINT_PRESET if kind in POINT_KINDS else DEFAULT_PRESET
    preset = told.last("preset") or usual
    nested = _nested(preset)
    values = parse_values(make_verify_parser(preset, kind), told.words, nested)
    data = values["data"]
    if data["path"] is not None and not told.names("data.kind"):
        data["kind"] = "folder"
    config = VerifyRunConfig(
        train=TrainConfig(**values["train"]),
        preset=preset,
        **{name: values[name] for name in _OWN},
        **{name: cls(**values[name]) for name, cls in nested.items()},
    )
    return config, values["out"], values["resume"]
