"""Regions of a network in a plane of its inputs, against SplineCam's way of finding them.

The published code needs a library that pip does not have; its way is in `dense_cells`, written anew
from the paper, with the extra `peers` for the faces of an arrangement. Both must find equally many
regions of equal areas, or nothing is timed. Its matrices are made before the clock starts.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from dense_cells import dense_cells, dense_layers
from harness import FORWARD, Benchmark, Contender, Problem, Target, Workload, main
from torch import Tensor, nn

from polygraph.analysis import SplineLens

WORKLOADS = [
    Workload("plane of two inputs, 3 x 32 units", {"net": "mlp", "D": 2, "width": 32, "depth": 3}),
    Workload("plane of 784 inputs, 2 x 100", {"net": "mlp", "D": 784, "width": 100, "depth": 2}),
    Workload("16 x 16 images, small CNN", {"net": "cnn", "D": 16, "width": 4, "depth": 2}),
]  # fmt: skip
TINY = {"net": "mlp", "D": 2, "width": 4, "depth": 1}


def network(sizes: dict[str, Any]) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A network at its initialisation, and the shape of its inputs."""
    torch.manual_seed(0)
    width, D = sizes["width"], sizes["D"]
    if sizes["net"] == "cnn":
        net = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2), nn.LeakyReLU(0.1),
            nn.AvgPool2d(3), nn.Flatten(), nn.Linear(2 * width, 10),
        )  # fmt: skip
        return net.double().eval(), (1, D, D)
    layers: list[nn.Module] = []
    for depth in range(sizes["depth"]):
        layers += [nn.Linear(width if depth else D, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10)).double().eval(), (D,)


def sorted_areas(areas: Any) -> Tensor:
    """From the largest on: what both ways must agree in."""
    return torch.from_numpy(np.sort(np.asarray(areas, dtype=np.float64))[::-1].copy())


def area(polygon: Any) -> float:
    """Of a polygon of corners ``[n, 2]``."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def make(sizes: dict[str, Any], device: str) -> Problem:
    """Ours, and the peer where shapely is here."""
    if device != "cpu":
        raise SystemExit("spline_slice runs on the CPU alone")
    net, shape = network(sizes)
    generator = torch.Generator().manual_seed(1)
    origin, u, v = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
    lens = SplineLens(net)

    def ours() -> Tensor:
        return sorted_areas(lens.slice(origin, u, v).areas())

    contenders = {"ours": Contender("ours", ours, [])}
    absent = {}
    try:
        importlib.import_module("shapely")
        layers = dense_layers(net, shape)

        def peer() -> Tensor:
            return sorted_areas([area(cell) for cell in dense_cells(layers, origin, u, v)])

        contenders["SplineCam's way"] = Contender("peer", peer, [])
        found = peer()
    except ImportError as error:
        absent["SplineCam's way"] = f"not installed: {error}"
        found = ours()
    notes = {"absent": absent, "regions": len(found)}
    return Problem(contenders, lambda: (found, []), tuple(found.shape), notes=lambda: notes)


TARGETS = [
    Target(
        "SplineCam's way / ours, at least 1",
        lambda row: row["ratios"].get("SplineCam's way / ours", {}).get("median"),
        at_least=1,
    )
]


if __name__ == "__main__":
    names = [w.name for w in WORKLOADS]
    main(Benchmark("spline_slice", WORKLOADS, make, names, TINY, TARGETS, (FORWARD,)))
