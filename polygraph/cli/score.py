"""Score a trained generator: Inception Score, FID, KID, precision, recall."""

from __future__ import annotations

import json
from collections.abc import Sequence

from polygraph.cli.parser import Parser, add_run, check_least


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph score", description=__doc__)
    add_run(parser)
    parser.add_argument("--count", type=int, default=10_000, help="images, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--weights", choices=("average", "generator"), default="average")
    parser.add_argument("--data", metavar="PATH", help="where the data lie now")
    parser.add_argument(
        "--inception",
        metavar="FILE",
        help="Inception's weights; default: a classifier trained on the run's own data",
    )
    parser.add_argument("--classifier", metavar="DIR", help="folder of that classifier's weights")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    check_least("score", chosen, count=10, seed=0)  # the ten parts of Inception Score
    from polygraph.tasks.gan.scores import score_run

    found = score_run(
        chosen.run,
        chosen.count,
        seed=chosen.seed,
        path=chosen.data,
        classifier=chosen.classifier,
        inception=chosen.inception,
        weights=chosen.weights,
    )
    print(json.dumps(found.summary()) if chosen.json else found)
    return 0
