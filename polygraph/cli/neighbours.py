"""Show the training images nearest to generated ones, and how many are closer than usual."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from polygraph.cli.parser import Parser, UsageError, add_run, check_least

_EXAMPLE = """Are generated images copies of training images? The number is the share of them that
are closer to a training image than half of the training images are to their nearest other one, in
the features of a classifier or of Inception, beside the same share of held-out images.

example:
  polygraph neighbours --run RUN --out nearest.png --closest
"""


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(
        prog="polygraph neighbours",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run(parser)
    parser.add_argument("--out", default="nearest.png", metavar="PNG", help="default: %(default)s")
    parser.add_argument(
        "--count", type=int, default=1000, help="generated images, default: %(default)s"
    )
    parser.add_argument(
        "--rows", type=int, default=8, help="of them in the picture, default: %(default)s"
    )
    parser.add_argument(
        "--neighbours",
        "--neighbors",
        type=int,
        default=7,
        metavar="K",
        help="training images beside each, default: %(default)s",
    )
    parser.add_argument(
        "--closest", action="store_true", help="show those nearest to a training image"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--weights", choices=("average", "generator"), default="average")
    parser.add_argument("--scale", type=int, default=2, help="pixels per pixel")
    parser.add_argument("--data", metavar="PATH", help="where the data lie now")
    parser.add_argument(
        "--inception",
        metavar="FILE",
        help="Inception's weights; default: a classifier trained on the run's own data",
    )
    parser.add_argument("--classifier", metavar="DIR", help="folder of that classifier's weights")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    check_least("neighbours", chosen, count=1, rows=1, neighbours=1, scale=1, seed=0)
    if chosen.rows > chosen.count:
        raise UsageError(
            f"neighbours: rows must be at most count, {chosen.count}, got {chosen.rows}"
        )
    if not chosen.out.lower().endswith(".png"):
        raise UsageError(f"neighbours: --out must end in .png, got {chosen.out!r}")
    from polygraph.tasks.gan.nearest import nearest_of_run

    found = nearest_of_run(
        chosen.run,
        chosen.count,
        chosen.neighbours,
        seed=chosen.seed,
        path=chosen.data,
        classifier=chosen.classifier,
        inception=chosen.inception,
        weights=chosen.weights,
    )
    path = found.write(chosen.out, chosen.rows, closest=chosen.closest, scale=chosen.scale)
    if chosen.json:
        print(json.dumps(found.summary()))
    else:
        print(f"{found}\nwrote {path.resolve()}")
    return 0
