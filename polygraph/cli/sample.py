"""Draw images with a trained generator, or walk between them."""

from __future__ import annotations

from collections.abc import Sequence

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
    parser.add_argument("--scale", type=int, default=2, help="pixels per pixel")
    chosen = parser.parse_args(arguments)
    check_least("sample", chosen, count=1, columns=1 + chosen.interpolate, scale=1, seed=0)
    if chosen.along and not chosen.interpolate:
        raise UsageError("sample: --along is of walks: it needs --interpolate")
    from polygraph.report.image_grid import write_image_grid
    from polygraph.tasks.gan.run import sample_run

    steps = chosen.columns if chosen.interpolate else None
    images = sample_run(
        chosen.run,
        chosen.count,
        chosen.seed,
        weights=chosen.weights,
        interpolate=steps,
        along=chosen.along,
    )
    path = write_image_grid(chosen.out, images.numpy(), chosen.columns, scale=chosen.scale)
    print(f"wrote {path.resolve()}")
    return 0
