"""Draw images or meshes with a trained generator or autoencoder, or walk between images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polygraph.cli.parser import Parser, UsageError, add_run, check_least


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph sample", description=__doc__)
    add_run(parser)
    parser.add_argument(
        "--out", metavar="PNG", help="default: samples.png; of meshes a folder, samples"
    )
    parser.add_argument("--count", type=int, help="default: 64 images, 16 meshes")
    parser.add_argument("--columns", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--weights", choices=("average", "generator"), default="average")
    parser.add_argument(
        "--interpolate", action="store_true", help="each row is a walk between two images"
    )
    parser.add_argument(
        "--along",
        choices=("linear", "sphere"),
        help="how walks go; default: linear for polynomials, sphere for others",
    )
    parser.add_argument(
        "--walk",
        type=int,
        metavar="N",
        help="N rows from the seed's image, along the directions in which images change most",
    )
    parser.add_argument("--reach", type=float, help="of --walk: deviations of z, default: 2")
    parser.add_argument("--scale", type=int, default=2, help="pixels per pixel")
    chosen = parser.parse_args(arguments)
    rows = chosen.interpolate or chosen.walk is not None
    check_least("sample", chosen, columns=1 + rows, scale=1, seed=0)
    if chosen.count is not None:
        check_least("sample", chosen, count=1)
    if chosen.along and not chosen.interpolate:
        raise UsageError("sample: --along is of walks: it needs --interpolate")
    if chosen.walk is not None and (chosen.interpolate or chosen.walk < 1):
        raise UsageError("sample: --walk must be at least 1, and is not for --interpolate")
    if chosen.reach is not None and not (chosen.walk and 0 < chosen.reach < math.inf):
        raise UsageError("sample: --reach must be positive and finite, and needs --walk")
    meshes = _mesh_run(chosen.run)
    if meshes is not None:
        return _write_meshes(chosen, meshes)
    from polygraph.report.image_grid import write_image_grid

    images = _images(chosen)
    out = chosen.out or "samples.png"
    path = write_image_grid(out, images.numpy(), chosen.columns, scale=chosen.scale)
    print(f"wrote {path.resolve()}")
    return 0


def _mesh_run(folder: str) -> Any:
    """A run of a variational autoencoder of meshes; None where the folder holds anything else."""
    from polygraph.train.recorded import kind_of

    if kind_of(Path(folder)) != "mesh":
        return None
    from polygraph.tasks.mesh.run import load_run

    run = load_run(folder)
    return run if run.model.config.variational else None


def _write_meshes(chosen: Any, run: Any) -> int:
    """Draw meshes of the prior."""
    if chosen.interpolate or chosen.walk is not None:
        raise UsageError(
            "sample: --interpolate and --walk are of images; of meshes: polygraph latent "
            "interpolate, polygraph latent axes"
        )
    from polygraph.tasks.mesh.latent import LatentRun

    sequences = LatentRun(run).sample(chosen.count or 16, seed=chosen.seed)
    for path in sequences.write(chosen.out or "samples"):
        print(f"wrote {path.resolve()}")
    return 0


def _images(chosen: Any) -> Any:
    """The images that the parsed words ask for."""
    from polygraph.tasks.gan.run import load_run, sample_run

    if chosen.walk is not None:
        run = load_run(chosen.run, weights=chosen.weights)
        return run.walk(chosen.walk, chosen.columns, seed=chosen.seed, reach=chosen.reach or 2.0)
    return sample_run(
        chosen.run,
        chosen.count or 64,
        chosen.seed,
        weights=chosen.weights,
        interpolate=chosen.columns if chosen.interpolate else None,
        along=chosen.along,
    )
