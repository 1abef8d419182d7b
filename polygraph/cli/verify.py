"""Tell whether two pictures or point clouds are of one identity, by a trained network."""

from __future__ import annotations

import json
from collections.abc import Sequence

from polygraph.cli.parser import Parser, add_run


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph verify", description=__doc__)
    parser.add_argument("first", help="a picture; or .ply, .pcd, .xyz: points as in training")
    parser.add_argument("second", help="another")
    add_run(parser)
    parser.add_argument(
        "--json", action="store_true", help="print JSON: similarity, threshold, decision"
    )
    chosen = parser.parse_args(arguments)
    from polygraph.tasks.verify.run import load_run

    trained = load_run(chosen.run)
    found = trained.verify(trained.read(chosen.first), trained.read(chosen.second))
    similarity, same = float(found.similarity[0]), bool(found.same[0])
    if chosen.json:
        row = {"first": chosen.first, "second": chosen.second, "similarity": similarity}
        print(json.dumps({**row, "threshold": found.threshold, "same": same}))
        return 0
    print(
        f"{chosen.first}, {chosen.second}: {'same' if same else 'different'} (similarity "
        f"{similarity:.3f}, threshold {found.threshold:.3f})"
    )
    return 0
