"""Settings of `polygraph benchmark mesh`: those of the grid, and those of training passed on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from polygraph.data import MeshDataConfig
from polygraph.tasks.benchmark.cells import DEFAULT_MODELS, Grid
from polygraph.tasks.mesh.arguments import SPELLING, parse_train_mesh
from polygraph.train.words import spelled

RECIPE = "mesh-benchmark"
_OF_A_RUN = ("--preset", "--model.", "--seed", "--resume", "--data.", "--spiral.")
_DASHED = ("--to_mm",)
_ALLOWED = ("--data.cache_dir", "--data.full_check")


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of leaving."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """The parser of what belongs to the grid."""
    parser = _Parser(
        prog="polygraph benchmark mesh",
        description="Train every model with every seed, number of latents and split, alike; what "
        "is finished is kept, what was killed goes on. Settings of `polygraph train mesh` that are "
        "about training (--steps, --batch_size, --learning_rate, --loss, ...) hold for all runs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=["synthetic"],
        metavar="PATH",
        help="folders of registered meshes; or 'synthetic', the built-in animal (default)",
    )
    parser.add_argument("--kind", default="registered", help="registered (default), coma, dfaust")
    parser.add_argument("--to-mm", type=float, help="millimetres per unit; default: of metres")
    parser.add_argument(
        "--up",
        choices=("auto", "x", "y", "z"),
        default="auto",
        help="axis that points up in pictures; auto: as the data say, or a guess",
    )
    parser.add_argument("--frames", type=int, default=1600, help="meshes of the built-in animal")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="use one of N meshes of each split"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(DEFAULT_MODELS),
        metavar="NAME",
        help=f"presets, pca, mean-shape, or patterns; default: {' '.join(DEFAULT_MODELS)}",
    )
    parser.add_argument("--seeds", nargs="+", default=["0"], metavar="N")
    parser.add_argument("--latents", nargs="+", default=["16"], metavar="N")
    parser.add_argument("--splits", nargs="+", default=["interpolation"], metavar="NAME")
    parser.add_argument(
        "--finished",
        nargs="+",
        default=[],
        metavar="GRID",
        help="grids run elsewhere, or their results.json: what they finished is not trained again",
    )
    parser.add_argument(
        "--config", default=RECIPE, help="recipe: a YAML file or a name (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the grid")
    return parser


def _parts(words: Sequence[str]) -> list[str]:
    """Lists as people write them: ``a b``, ``a,b`` or ``[a,b]``."""
    bare = [w[1:-1] if w.startswith("[") and w.endswith("]") else w for w in words]
    return [part for word in bare for part in word.split(",") if part]


def _numbers(name: str, words: Sequence[str]) -> list[int]:
    try:
        return [int(part) for part in _parts(words)]
    except ValueError as error:
        raise ValueError(f"--{name} must be integers, got {' '.join(words)!r}") from error


def parse_benchmark_mesh(arguments: Sequence[str]) -> tuple[Grid, Path, list[Path]]:
    """Read the command line of `polygraph benchmark mesh`.

    Returns:
        The grid, its folder, and the grids that were run elsewhere.

    Raises:
        ValueError: a setting is unknown, has a bad value, or belongs to a single run.
    """
    words = [word.replace("_", "-") if word in _DASHED else word for word in arguments]
    chosen, rest = make_parser().parse_known_args(words)
    rest = spelled(rest, SPELLING)
    for word in rest:
        name = word.split("=")[0]
        own = name in _OF_A_RUN or any(name.startswith(p) for p in _OF_A_RUN if p[-1] == ".")
        if own and name not in _ALLOWED:
            raise ValueError(
                f"{name} is a setting of one run; a grid has --models, --seeds, --latents, --data "
                "and --splits"
            )
    for name in ("seeds", "latents"):
        setattr(chosen, name, _numbers(name, getattr(chosen, name)))
    for name in ("models", "splits"):
        setattr(chosen, name, _parts(getattr(chosen, name)))
    if not chosen.out.strip():
        raise ValueError(f"--out must name a folder, got {chosen.out!r}")
    run, _, _ = parse_train_mesh(["--config", chosen.config, "--out", chosen.out, *rest])
    own_data = {"cache_dir": run.data.cache_dir, "full_check": run.data.full_check}
    data = []
    for path in chosen.data:
        shared = {"split": chosen.splits[0], "every": chosen.every, "up": chosen.up, **own_data}
        if path == "synthetic":
            data.append(MeshDataConfig(num_frames=chosen.frames, **shared))
        else:
            data.append(MeshDataConfig(chosen.kind, path, to_mm=chosen.to_mm, **shared))
    grid = Grid(
        tuple(data),
        tuple(chosen.models),
        tuple(chosen.seeds),
        tuple(chosen.latents),
        tuple(chosen.splits),
        run.train,
        {
            name: getattr(run, name)
            for name in ("factors", "upsampling", "normalization", "loss", "augmentation")
        },
    )
    return grid, Path(chosen.out), [Path(path) for path in chosen.finished]
