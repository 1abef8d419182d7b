"""Tell the class of point clouds by a trained network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from polygraph.cli.parser import Parser, add_run


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    parser = Parser(prog="polygraph predict", description=__doc__)
    parser.add_argument(
        "clouds",
        nargs="+",
        metavar="CLOUD",
        help=".ply, .pcd or .xyz: points as in training, usually centred and in the unit sphere",
    )
    add_run(parser)
    parser.add_argument(
        "--unit-sphere", action="store_true", help="centre each cloud and scale it into the sphere"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: probabilities of classes")
    chosen = parser.parse_args(arguments)
    from polygraph.tasks.points.run import load_run

    trained = load_run(chosen.run)
    found = [_predicted(trained, path, chosen.unit_sphere) for path in chosen.clouds]
    if chosen.json:
        print(json.dumps(found))
        return 0
    for row in found:
        print(f"{row['cloud']}: {row['class']} ({row['probability']:.1%})")
    return 0


def _predicted(trained: Any, path: str, unit_sphere: bool) -> dict[str, Any]:
    """The class of a file, and the probabilities of all."""
    import numpy as np

    from polygraph.mesh.cloud import read_cloud

    points = read_cloud(path)
    if unit_sphere:
        points = points - (points.max(0) + points.min(0)) / 2
        points = points / (np.linalg.norm(points, axis=1).max() or 1.0)
    shares = trained.predict_proba(points)[0]
    best = int(shares.argmax())
    return {
        "cloud": path,
        "class": trained.classes[best],
        "probability": float(shares[best]),
        "probabilities": dict(zip(trained.classes, shares.tolist(), strict=True)),
    }
