"""Score a trained generator: IS, FID, KID, precision, recall; is its non-local part used?"""

from __future__ import annotations

import json
from collections.abc import Sequence

from polygraph.cli.parser import Parser, UsageError, add_run, check_least


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
    parser.add_argument(
        "--no-ablations",
        action="store_true",
        help="of networks with graph layers: do not score without them, which takes most of the "
        "time",
    )
    parser.add_argument(
        "--picture",
        metavar="PNG",
        help="of which pixels they join; default: neighbours.png in the run's folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    check_least("score", chosen, count=10, seed=0)  # the ten parts of Inception Score
    if chosen.picture is not None and not chosen.picture.lower().endswith(".png"):
        raise UsageError(f"score: --picture must end in .png, got {chosen.picture!r}")
    from polygraph.tasks.gan.diagnosis import diagnose_run, write_neighbors

    found = diagnose_run(
        chosen.run,
        chosen.count,
        seed=chosen.seed,
        path=chosen.data,
        classifier=chosen.classifier,
        inception=chosen.inception,
        weights=chosen.weights,
        ablations=not chosen.no_ablations,
    )
    print(json.dumps(found.summary()) if chosen.json else found)
    path = write_neighbors(chosen.run, chosen.picture, seed=chosen.seed, weights=chosen.weights)
    if path is None and chosen.picture is not None:
        raise ValueError(f"score: {chosen.run} has no graph layers, there is no picture to write")
    if path is not None and not chosen.json:
        print(f"wrote {path.resolve()}")
    return 0
