"""Vertex error against brute force, in any batching, with predictions that are not finite."""

import math
import statistics

import numpy as np
import pytest
import torch

from polygraph.metrics import VertexError, evaluate, summarize, vertex_distance


def meshes(num, vertices, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(num, vertices, 3, generator=generator)
    return target + 0.1 * torch.randn(num, vertices, 3, generator=generator), target


@pytest.mark.parametrize(("num", "vertices", "batch"), [(1, 1, 1), (7, 5, 3), (6, 4, 2), (5, 9, 8)])
def test_against_brute_force(num, vertices, batch):
    prediction, target = meshes(num, vertices)
    metric = VertexError(to_mm=1000.0)
    for start in range(0, num, batch):
        metric.update(prediction[start : start + batch], target[start : start + batch])
    result = metric.compute()
    brute = [
        [1000 * math.dist(p, t) for p, t in zip(ps, ts, strict=True)]
        for ps, ts in zip(prediction.tolist(), target.tolist(), strict=True)
    ]
    flat = [value for row in brute for value in row]
    close = {"rel": 1e-12}  # float64 sums of a few dozen terms
    assert result.mean == pytest.approx(statistics.fmean(flat), **close)
    assert result.median == pytest.approx(statistics.median(flat), **close)
    assert result.std == pytest.approx(statistics.pstdev(flat), rel=1e-9, abs=1e-9)
    assert result.max == pytest.approx(max(flat), **close)
    assert result.per_vertex == pytest.approx(
        [statistics.fmean(c) for c in zip(*brute, strict=True)]
    )
    assert result.per_sample == pytest.approx([statistics.fmean(row) for row in brute])
    assert (result.num_samples, result.num_nonfinite) == (num, 0)


def test_quantiles_and_outliers():
    errors = np.tile(np.arange(1.0, 101.0), (10, 1))
    result = summarize(errors)
    assert result.quantiles.tolist() == [1.0, *range(1, 101)]
    assert (result.p90, result.num_outliers, result.num_nonfinite_meshes) == (90.0, 0, 0)
    errors[3] *= 3.5
    errors[4, 7] = np.inf
    result = summarize(errors)
    assert (result.num_outliers, result.num_nonfinite_meshes, result.num_nonfinite) == (2, 1, 1)
    assert np.isfinite(result.quantiles[:100]).all()
    assert result.quantiles[100] == np.inf
    assert summarize(np.full((2, 3), np.inf)).num_outliers == 2
    assert not np.isnan(summarize(np.full((2, 3), np.inf)).quantiles).any()


def test_unit_is_millimetres():
    target = torch.zeros(1, 1, 3)
    assert float(vertex_distance(target + torch.tensor([3.0, 4.0, 0.0]), target)) == 5000.0
    assert float(vertex_distance(target + torch.tensor([3.0, 4.0, 0.0]), target, to_mm=1.0)) == 5.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_predictions_that_are_not_finite_count_as_infinitely_wrong(bad):
    prediction, target = meshes(4, 5)
    prediction[2, 1, 0] = bad
    metric = VertexError()
    metric.update(prediction, target)
    result = metric.compute()
    assert result.mean == math.inf
    assert math.isnan(result.std)
    assert math.isfinite(result.median)
    assert result.num_nonfinite == 1
    assert result.num_samples == 4
    assert np.isinf(result.per_vertex).tolist() == [False, True, False, False, False]
    assert "1 vertices not finite" in str(result)


def test_overflow_in_low_precision_predictions_is_not_hidden():
    prediction = torch.full((1, 2, 3), 1e38)
    metric = VertexError()
    metric.update(prediction, torch.zeros(1, 2, 3))
    assert metric.compute().mean == pytest.approx(1e41 * math.sqrt(3), rel=1e-6)  # float32 of 1e38


def test_streamed_evaluation_keeps_the_order():
    prediction, target = meshes(9, 4)
    table = {tuple(t.flatten().tolist()): p for t, p in zip(target, prediction, strict=True)}

    def reconstruct(batch):
        return torch.stack([table[tuple(t.flatten().tolist())] for t in batch])

    indices = np.array([8, 0, 3, 3, 5])
    errors = evaluate(reconstruct, target.numpy(), indices, batch_size=2)
    assert np.array_equal(errors, vertex_distance(prediction[indices], target[indices]).numpy())


def test_bad_input():
    prediction, target = meshes(2, 3)
    with pytest.raises(ValueError, match=r"must both have shape .*got \[2, 3, 3\] and \[1, 3, 3\]"):
        VertexError().update(prediction, target[:1])
    with pytest.raises(ValueError, match=r"prediction must have shape \[B, V, 3\], got \[3, 3\]"):
        VertexError().update(prediction[0], target[0])
    with pytest.raises(ValueError, match="no meshes to measure"):
        VertexError().compute()
    with pytest.raises(ValueError, match="indices is empty"):
        evaluate(lambda x: x, target.numpy(), np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match="to_mm must be positive"):
        VertexError(to_mm=0)
    with pytest.raises(ValueError, match="target holds NaN"):
        VertexError().update(prediction, target * float("nan"))
    with pytest.raises(ValueError, match="non-empty"):
        summarize(np.zeros((0, 3)))
    metric = VertexError()
    metric.update(prediction, target)
    with pytest.raises(ValueError, match="V = 3 vertices, got 4"):
        metric.update(*meshes(2, 4))
