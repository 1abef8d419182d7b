"""Draw images with a trained generator, or walk between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from polygraph.cli.parser import Parser, UsageError, add_run, check_least


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph sample", description=__doc__)
    add_run(parser)
    parser.add_argument("--out", default="samples.png", metavar="PNG", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=64, help="images, default: %(default)s")
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
    check_least("sample", chosen, count=1, columns=1 + rows, scale=1, seed=0)
    if chosen.along and not chosen.interpolate:
        raise UsageError("sample: --along is of walks: it needs --interpolate")
    if chosen.walk is not None and (chosen.interpolate or chosen.walk < 1):
        raise UsageError("sample: --walk must be at least 1, and is not for --interpolate")
    if chosen.reach is not None and not (chosen.walk and 0 < chosen.reach < math.inf):
        raise UsageError("sample: --reach must be positive and finite, and needs --walk")
    from polygraph.report.image_grid import write_image_grid

    images = _images(chosen)
    path = write_image_grid(chosen.out, images.numpy(), chosen.columns, scale=chosen.scale)
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
        chosen.count,
        chosen.seed,
        weights=chosen.weights,
        interpolate=chosen.columns if chosen.interpolate else None,
        along=chosen.along,
    )
