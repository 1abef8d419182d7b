"""Mesh resampling against the contract, and what is its own."""

from functools import partial

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.contract import OperatorContract
from support.faults import at, put, table_faults, transposed_faults
from support.tables import hostile_features, hostile_tables, normal, table, with_table
from support.tolerances import SUM_FLOAT32, TINY_FLOAT32

from polygraph import ops, reference


def call(B, V, C, M, T, *, transposed=True, missing=0.2, index=None):
    """One call's arguments."""
    seed = hash((B, V, C, M, T)) % 1000
    inputs = {
        "x": normal(B, V, C, seed=seed),
        "index": table(M, T, V, seed=seed, missing=missing) if index is None else index,
        "weight": normal(M, T, seed=seed + 1),
    }
    return with_table(inputs, V) if transposed else inputs


CASES = {
    "plain": partial(call, 2, 6, 5, 9, 3),
    "down-sampling, no table": partial(
        call, 3, 9, 4, 4, 1, transposed=False, index=torch.tensor([[0], [3], [4], [8]])
    ),
    "one vertex": partial(call, 2, 1, 3, 4, 3),
    "nothing but padding": partial(call, 2, 5, 3, 6, 3, missing=1.1),
    "every entry the same": partial(
        call, 2, 5, 3, 6, 3, index=torch.full((6, 3), 4, dtype=torch.int64)
    ),
    "as many terms as vertices": partial(call, 2, 7, 5, 3, 7),
    "many rows": partial(call, 5, 300, 16, 1200, 3),
} | {f"{C} channels": partial(call, 3, 8, C, 11, 3) for C in (1, 2, 4, 7, 8, 16, 33, 64)}

EMPTY = {
    "no samples": partial(call, 0, 5, 3, 4, 2),
    "no targets": partial(call, 2, 5, 3, 0, 2),
    "no sources": partial(call, 2, 0, 3, 4, 2),
    "no channels": partial(call, 2, 5, 0, 4, 2),
}

X, W = "resample_backward_x", "resample_backward_weight"


def raw_arguments(name):
    """Argument tuples of one compiled operator."""
    i = call(2, 6, 5, 9, 3)
    x, weight, grad = (
        t.float().requires_grad_() for t in (i["x"], i["weight"], normal(2, 9, 5, seed=7))
    )
    transposed = i["transposed"]
    if name == X:
        return [(grad, i["index"], weight, *transposed)]
    first = (grad, x, i["index"]) if name == W else (x, i["index"], weight)
    return [(*first, *transposed), (*first, None, None)]


BROKEN = table_faults("resample", 6) | {
    "x of rank 1": (put("x", lambda x: x[0, 0]), RuntimeError, r"x must have shape \[B, V, C\]"),
    "x of rank 4": (put("x", lambda x: x[None]), RuntimeError, r"x must have shape \[B, V, C\]"),
    "x of integers": (
        put("x", lambda x: x.long()),
        RuntimeError,
        "x must be float32, float64, float16 or bfloat16, got int64",
    ),
    "index without slots": (
        lambda i: i | {"index": i["index"][:, :0], "weight": i["weight"][:, :0]},
        RuntimeError,
        "index must have at least one slot",
    ),
    "weight of another length": (
        put("weight", lambda w: w[:-1]),
        RuntimeError,
        r"weight must have shape \[M, T\] = \[9, 3\], got \[8, 3\]",
    ),
    "weight with a term too many": (
        put("weight", lambda w: torch.cat([w, w], 1)),
        RuntimeError,
        r"weight must have shape \[M, T\] = \[9, 3\], got \[9, 6\]",
    ),
    "weight of rank 1": (
        put("weight", lambda w: w[:, 0]),
        RuntimeError,
        r"weight must have shape \[M, T\] = \[9, 3\], got \[9\]",
    ),
    "weight of another dtype": (
        put("weight", lambda w: w.double()),
        RuntimeError,
        "weight must be float32, got float64",
    ),
    "weight on another device": (
        put("weight", lambda w: w.to("meta")),
        RuntimeError,
        "weight must be on the device of x",
    ),
}

RAW_BROKEN = transposed_faults(X, 3, 4, 27) | {
    "x: grad of rank 2": (X, at(0, lambda g: g[0]), r"grad must have shape \[B, M, C\]"),
    "x: grad of integers": (X, at(0, lambda g: g.long()), "grad must be float32"),
    "x: a row too few in grad": (
        X,
        at(0, lambda g: g[:, 1:]),
        r"index must have shape \[M, T\] = \[8, \*\], got \[9, 3\]",
    ),
    "x: weight of another shape": (
        X,
        at(2, lambda w: w[:, 1:]),
        r"weight must have shape \[M, T\] = \[9, 3\], got \[9, 2\]",
    ),
    "x: weight of another dtype": (X, at(2, lambda w: w.double()), "weight must be float32"),
    "x: index int32": (X, at(1, lambda t: t.int()), "index must be int64"),
    "weight: x of rank 2": (W, at(1, lambda x: x[0]), r"x must have shape \[B, V, C\]"),
    "weight: x of integers": (W, at(1, lambda x: x.long()), "x must be float32"),
    "weight: grad of another dtype": (W, at(0, lambda g: g.half()), "grad must be float32"),
    "weight: a channel too few in grad": (
        W,
        at(0, lambda g: g[..., 1:]),
        r"grad must have shape \[B, M, C\] = \[2, 9, 5\], got \[2, 9, 4\]",
    ),
    "weight: index int32": (W, at(2, lambda t: t.int()), "index must be int64"),
    "weight: entry V": (W, at(2, lambda t: t + 20), r"index must lie in \[-1, 6\)"),
    "weight: entry -2": (W, at(2, lambda t: t - 20), r"index must lie in \[-1, 6\)"),
}


RAW = {name: partial(raw_arguments, name) for name in ("resample", X, W)}


class TestResample(OperatorContract):
    """The contract."""

    stem = "resample"
    op = staticmethod(ops.resample)
    reference = staticmethod(reference.resample)
    batched = ("x",)
    cases = CASES
    small = ("plain", "down-sampling, no table", "one vertex", "nothing but padding")
    vectors = ("8 channels", "64 channels")
    empty = EMPTY
    threaded = "many rows"
    broken = BROKEN
    raw = RAW
    raw_broken = RAW_BROKEN
    gpu_asserts = {  # noqa: RUF012
        "entry 6": "resample: index is out of range",
        "entry -2": "resample: index is out of range",
        "x: t_ptr falls": "resample_backward_x: t_ptr must rise",
        "x: t_ptr beyond the end": "resample_backward_x: t_ptr must rise",
        "x: t_entry too large": "resample_backward_x: t_entry must lie in",
        "x: t_entry negative": "resample_backward_x: t_entry must lie in",
        "weight: entry V": "resample_backward_weight: index is out of range",
        "weight: entry -2": "resample_backward_weight: index is out of range",
    }


def by_loops(x, index, weight):
    """The definition, written out; also the sum of the terms' sizes."""
    out = np.zeros((x.shape[0], len(index), x.shape[2]))
    size = np.zeros_like(out)
    for (m, t), source in np.ndenumerate(index):
        if source >= 0:
            out[:, m] += weight[m, t] * x[:, source]
            size[:, m] += np.abs(weight[m, t] * x[:, source])
    return out, size


@given(data=st.data(), drawn=hostile_tables(), C=st.integers(1, 19))
@settings(max_examples=150)
def test_hostile_tables_and_numbers(data, drawn, C):
    """Duplicates, padding, tiny and huge numbers; NaN and inf reach only rows that read them."""
    index, sources = drawn
    x = data.draw(hostile_features(2, sources, C))
    weight = normal(*index.shape, seed=5).float()
    out = ops.resample(x, index, weight).numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        expected, size = by_loops(x.double().numpy(), index.numpy(), weight.double().numpy())
        allowed = SUM_FLOAT32 * size + TINY_FLOAT32
        close = (out == expected) | (np.abs(out - expected) <= allowed) | np.isnan(expected)
    assert np.array_equal(np.isnan(out), np.isnan(expected))
    assert close.all()


@given(drawn=hostile_tables(), C=st.sampled_from([1, 3, 8, 16]))
@settings(max_examples=60)
def test_nan_gradients_reach_only_the_sources_of_their_row(drawn, C):
    """A NaN sent back to row 0 stays out of every vertex that row 0 does not read."""
    index, sources = drawn
    x = normal(1, sources, C).float().requires_grad_()
    weight = normal(*index.shape).float().requires_grad_()
    upstream = torch.ones(1, len(index), C)
    upstream[0, 0, 0] = float("nan")
    ops.resample(x, index, weight).backward(upstream)
    reached = torch.zeros(sources, dtype=torch.bool)
    reached[index[0][index[0] >= 0]] = True
    assert torch.equal(x.grad[0].isnan().any(-1), reached)
    assert not weight.grad[1:].isnan().any()


def test_order_of_terms():
    """``weight[m, t]`` belongs to ``index[m, t]``, and -1 adds nothing, whatever its weight."""
    x = torch.tensor([[1.0], [10.0], [100.0]])
    index = torch.tensor([[0, 2, -1], [-1, 1, 1]])
    weight = torch.tensor([[2.0, 3.0, float("inf")], [9.0, 0.5, 0.25]])
    expected = torch.tensor([[302.0], [7.5]])
    assert torch.equal(ops.resample(x, index, weight), expected)


def test_selection_is_exact():
    """One term of weight 1 copies, bit for bit: down-sampling by selection."""
    x = normal(2, 50, 7).float()
    keep = torch.tensor([4, 0, 49, 17])
    out = ops.resample(x, keep[:, None], torch.ones(4, 1))
    assert torch.equal(out, x[:, keep])


def test_weights_that_sum_to_one_keep_constants():
    """Barycentric up-sampling leaves a constant function as it is, within rounding."""
    index = table(40, 3, 9, missing=0)
    weight = normal(40, 3).abs()
    weight = weight / weight.sum(1, keepdim=True)
    out = ops.resample(torch.full((9, 2), 3.0, dtype=torch.float64), index, weight)
    torch.testing.assert_close(out, torch.full_like(out, 3.0), rtol=1e-15, atol=0)
