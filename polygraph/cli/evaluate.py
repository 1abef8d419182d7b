"""Measure a trained model's vertex error in mm."""

from __future__ import annotations

import json
from collections.abc import Sequence

from polygraph.cli.parser import Parser, add_data, add_run, given_data


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph evaluate", description=__doc__)
    add_run(parser)
    parser.add_argument("--part", choices=("train", "val", "test"), default="test")
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--per-vertex", action="store_true", help="with --json: also the mean error of each vertex"
    )
    chosen = parser.parse_args(arguments)
    from polygraph.tasks.mesh.run import evaluate_run, load_run

    run = load_run(chosen.run)
    result = evaluate_run(run, part=chosen.part, data=given_data(chosen, run))
    if chosen.json:
        more = {"per_vertex": result.per_vertex.tolist()} if chosen.per_vertex else {}
        print(json.dumps({**result.summary(), **more}))
    else:
        print(f"{chosen.part}: {result.num_samples} meshes, {result}")
    return 0
