"""Measure a trained model's vertex error in mm."""

from __future__ import annotations

import json
from collections.abc import Sequence

from polygraph.cli.parser import Parser, add_run


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph evaluate", description=__doc__)
    add_run(parser)
    parser.add_argument("--part", choices=("train", "val", "test"), default="test")
    parser.add_argument("--kind", default="registered", help="kind of the data at --data")
    parser.add_argument("--data", metavar="PATH", help="other data of the same template")
    parser.add_argument("--split", default="interpolation", help="split of the data at --data")
    parser.add_argument("--to-mm", type=float, help="millimetres per unit of the data at --data")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    from polygraph.data import MeshDataConfig
    from polygraph.tasks.mesh.run import evaluate_run, load_run

    data = None
    if chosen.data is not None:
        data = MeshDataConfig(chosen.kind, chosen.data, chosen.split, to_mm=chosen.to_mm)
    result = evaluate_run(load_run(chosen.run), part=chosen.part, data=data)
    if chosen.json:
        print(json.dumps({**result.summary(), "per_vertex": result.per_vertex.tolist()}))
    else:
        print(f"{chosen.part}: {result.num_samples} meshes, {result}")
    return 0
