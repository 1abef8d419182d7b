"""Regions on a segment and in a plane, against counting by hand and dense sampling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import polygraph.nn as pnn
from polygraph.analysis import SplineLens
from polygraph.analysis.spline.surveys import Path

D = torch.float64


def deep() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.LeakyReLU(0.1), nn.Linear(16, 16),
        nn.Hardtanh(-0.3, 0.3), nn.Linear(16, 3),
    )  # fmt: skip


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(2, 3, 2),
        nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 3),
    )  # fmt: skip


class Dynamic(nn.Module):
    """Two layers that find their neighbours, and a maximum over points."""

    def __init__(self) -> None:
        super().__init__()
        self.a = pnn.DynamicEdgeConv(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 2)
        self.b = pnn.DynamicEdgeConv(nn.Sequential(nn.Linear(6, 3), nn.ReLU()), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)).amax(0)


NETWORKS = {"deep": (deep, (5,)), "pooled": (pooled, (1, 8, 8)), "dynamic": (Dynamic, (5, 2))}


_SAMPLES = {"deep": 1500, "pooled": 1500, "dynamic": 250}


def make(name: str, points: int) -> tuple[SplineLens, Tensor]:
    torch.manual_seed(1)
    module, shape = NETWORKS[name]
    lens = SplineLens(module().double(), batched=name != "dynamic")
    return lens, 2 * torch.randn(points, *shape, dtype=D)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_walk_meets_every_region_that_sampling_finds(name: str) -> None:
    lens, (x, y) = make(name, 2)
    walk = lens.walk(x, y)
    path, t = Path(lens, x, (y - x)[None]), torch.linspace(0, 1, _SAMPLES[name], dtype=D)
    codes = path.looked_at(t[:, None])[0]
    # Between two samples the walk knows at least as many borders as there are changes.
    for low, high, before, after in zip(t, t[1:], codes, codes[1:], strict=False):
        inside = ((walk.t > low - 1e-12) & (walk.t < high + 1e-12)).sum()
        assert before == after or int(inside) >= 1
    # In a region nothing changes.
    for low, high in itertools.pairwise(walk.t.tolist()):
        at = torch.tensor([[low + share * (high - low)] for share in (0.01, 0.5, 0.99)], dtype=D)
        assert len(set(path.looked_at(at)[0])) == 1 or high - low < 1e-9
    assert walk.regions > 10
    assert walk.residual < 1e-12
    dense = path.values(t[:, None]).diff(dim=0).abs().sum(0)
    assert (dense <= walk.total_variation * (1 + 1e-9)).all()
    torch.testing.assert_close(dense, walk.total_variation, rtol=0.05, atol=0)
    assert len(walk.sites) == walk.regions - 1
    assert (len(walk.jumps) > 0) == (name == "dynamic")


def test_one_layer_has_a_region_more_than_its_changing_units() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 40).double()
    x, y = 3 * torch.randn(2, 4, dtype=D)
    walk = SplineLens(nn.Sequential(layer, nn.ReLU())).walk(x, y)
    low, high = layer(x), layer(y)
    where = (low / (low - high))[(low > 0) != (high > 0)].sort().values
    torch.testing.assert_close(walk.t[1:-1], where.detach(), rtol=1e-12, atol=1e-13)


def test_the_boundary_of_decisions() -> None:
    torch.manual_seed(3)
    lens = SplineLens(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).double())
    x, y = 9 * torch.randn(2, 5, dtype=D)
    t = torch.linspace(0, 1, 4001, dtype=D)
    winner = Path(lens, x, (y - x)[None]).values(t[:, None]).argmax(1)
    want = t[1:][winner[1:] != winner[:-1]] - 1 / 8000
    found = lens.walk(x, y).boundary
    assert len(found) == len(want) > 0
    torch.testing.assert_close(found, want, rtol=0, atol=1 / 4000)


@pytest.mark.parametrize("seed", range(3))
def test_one_layer_in_a_window_counts_exactly(seed: int) -> None:
    """R = 1 + L + I: lines that cross the window, and their intersections in it."""
    torch.manual_seed(seed)
    layer = nn.Linear(2, 20).double()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) @ weight.T + bias
    lines = int(((corners.min(0) < 0) & (corners.max(0) > 0)).sum())
    meet = [
        np.linalg.solve(weight[[i, j]], -bias[[i, j]])
        for i, j in itertools.combinations(range(20), 2)
    ]
    inside = sum(bool((np.abs(p) < 1).all()) for p in meet)
    eye = torch.eye(2, dtype=D)
    plane = SplineLens(nn.Sequential(layer, nn.ReLU())).slice(torch.zeros(2, dtype=D), *eye)
    assert plane.regions == 1 + lines + inside
    np.testing.assert_allclose(plane.areas().sum(), 4, rtol=1e-12)


@pytest.mark.parametrize("name", ["deep", "pooled"])
def test_a_slice_has_every_region_that_a_grid_finds(name: str) -> None:
    lens, (origin, u, v) = make(name, 3)
    u, v = u / 3, v / 3
    plane = lens.slice(origin, u, v)
    places = torch.cartesian_prod(*[torch.linspace(-1, 1, 50, dtype=D)] * 2)
    path = Path(lens, origin, torch.stack([u, v]))
    assert set(path.looked_at(places)[0]) <= set(plane.codes)
    assert len(set(plane.codes)) == plane.regions > 20
    np.testing.assert_allclose(plane.areas().sum(), 4, rtol=1e-9)
    for polygon, values in zip(plane.polygons, plane.values, strict=True):
        middle = path.values(torch.from_numpy(polygon.mean(0))[None])[0]
        np.testing.assert_allclose(middle, values.mean(0), rtol=0, atol=1e-9)
    pieces = plane.by_class()
    winners = path.values(torch.tensor(np.array([p.mean(0) for _, p in pieces]))).argmax(1)
    assert winners.tolist() == [k for k, _ in pieces]


def test_what_cannot_be_walked() -> None:
    lens, (x, y) = make("deep", 2)
    with pytest.raises(ValueError, match="must be float64"):
        SplineLens(deep()).walk(x.float(), y.float())
    with pytest.raises(ValueError, match="of one shape"):
        lens.walk(x, y[:3])
    with pytest.raises(ValueError, match=r"not piecewise affine: 1 tanh \(Tanh\)"):
        SplineLens(nn.Sequential(nn.Linear(5, 5), nn.Tanh()).double()).walk(x, y)
    with pytest.raises(ValueError, match=r"slice: not piecewise affine: 1 tanh \(Tanh\)"):
        SplineLens(nn.Sequential(nn.Linear(5, 5), nn.Tanh()).double()).slice(x, y, x - y)
    with pytest.raises(NotImplementedError, match="topk"):
        SplineLens(lambda x: x.topk(2).values).walk(x, y)
    dynamic, (p, q) = make("dynamic", 2)
    with pytest.raises(NotImplementedError, match="may jump"):
        dynamic.slice(p, q, p)
