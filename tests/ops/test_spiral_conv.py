"""The spiral convolution against the contract, and what is its own."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.contract import OperatorContract
from support.faults import at, put, table_faults, transposed_faults
from support.tables import hostile_features, hostile_tables, normal, table, with_table
from support.tolerances import SUM_FLOAT32, TINY_FLOAT32

from polygraph import ops, reference

raw = torch.ops.polygraph


def call(B, V, C, M, S, D, *, bias=True, transposed=True, index=None, missing=0.2):
    """One call's arguments; every random number is different from call to call."""
    seed = hash((B, V, C, M, S, D)) % 1000
    index = table(M, S, V, seed=seed, missing=missing) if index is None else index
    inputs = {
        "x": normal(B, V, C, seed=seed),
        "index": index,
        "weight": normal(D, S * C, seed=seed + 1) / max(1, S * C) ** 0.5,
        "bias": normal(D, seed=seed + 2) if bias else None,
    }
    return with_table(inputs, V) if transposed else inputs


def spiral_like(vertices, slots):
    """Each vertex and the ones after it: what a mesh without boundary gives."""
    return (torch.arange(vertices)[:, None] + torch.arange(slots)) % vertices


WIDTHS = (1, 3, 7, 16, 33)
SAMPLES = {1: 3, 3: 5, 7: 6, 16: 7, 33: 9}  # for a remainder of every size of the register tiles

CASES = {
    "plain": partial(call, 2, 11, 3, 7, 4, 5),
    "no bias, no table": partial(call, 2, 11, 3, 7, 4, 5, bias=False, transposed=False),
    "three coordinates to a vector": partial(call, 3, 9, 3, 9, 3, 16),
    "more targets than sources": partial(call, 2, 5, 4, 19, 3, 6),
    "one slot": partial(call, 2, 9, 5, 8, 1, 6),
    "as many slots as vertices": partial(call, 2, 6, 4, 6, 6, 5, index=spiral_like(6, 6)),
    "one vertex": partial(call, 2, 1, 4, 3, 3, 5),
    "nothing but padding": partial(call, 2, 5, 4, 6, 3, 5, missing=1.1),
    "every entry the same": partial(
        call, 2, 5, 4, 6, 3, 5, index=torch.full((6, 3), 2, dtype=torch.int64)
    ),
    "wide": partial(call, 1, 6, 70, 5, 2, 70),
    "8 to 24 channels": partial(call, 5, 40, 8, 30, 4, 24),
    "many rows": partial(call, 3, 700, 16, 900, 5, 16),
    "many rows, narrow": partial(call, 3, 700, 3, 900, 5, 3),
    # CUDA's tiles: 32 rows, and 128 rows of 16, 32 and 64 columns.
    "many samples": partial(call, 16, 60, 16, 60, 9, 16),
    "many samples, 16 columns": partial(call, 16, 1030, 16, 1030, 3, 16),
    "many samples, 32 columns": partial(call, 16, 1030, 32, 1030, 2, 24),
    "many samples, 64 columns": partial(call, 16, 1030, 64, 1030, 2, 64),
    "many samples, more than 32 slots": partial(call, 8, 20, 16, 20, 70, 16),
    "many samples, thousands of entries a source": partial(call, 8, 5, 16, 2000, 9, 16),
} | {
    f"{C} to {D} channels": partial(call, SAMPLES[C], 13, C, 11, 4, D)
    for C in WIDTHS
    for D in WIDTHS
}

EMPTY = {
    "no samples": partial(call, 0, 5, 3, 4, 2, 6),
    "no targets": partial(call, 2, 5, 3, 0, 2, 6),
    "no sources": partial(call, 2, 0, 3, 4, 2, 6),
    "no channels in": partial(call, 2, 5, 0, 4, 2, 6),
    "no channels out": partial(call, 2, 5, 3, 4, 2, 0),
}


def raw_forward():
    """Arguments of the compiled operator: with the optional ones, and strided without them."""
    i = call(2, 11, 3, 7, 4, 5)
    x, weight, bias = (i[n].float().requires_grad_() for n in ("x", "weight", "bias"))
    yield x, i["index"], weight, bias, *i["transposed"]
    yield x.detach().mT.contiguous().mT.requires_grad_(), i["index"], weight, None, None, None


def raw_backward_x():
    """Arguments of the derivative in x."""
    i = call(2, 11, 3, 7, 4, 5)
    grad, weight = normal(2, 7, 5).float().requires_grad_(), i["weight"].float().requires_grad_()
    yield grad, i["index"], weight, *i["transposed"]


def raw_backward_weight():
    """Arguments of the derivative in the weight."""
    i = call(2, 11, 3, 7, 4, 5)
    grad, x = normal(2, 7, 5).float().requires_grad_(), i["x"].float().requires_grad_()
    yield grad, x, i["index"], *i["transposed"]
    yield grad, x, i["index"], None, None


BROKEN = table_faults("spiral_conv", 11) | {
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
    "weight with a column too many": (
        put("weight", lambda w: torch.cat([w, w[:, :1]], 1)),
        RuntimeError,
        r"weight must have shape \[D, S\*C\] = \[\*, 12\], got \[5, 13\]",
    ),
    "weight of rank 3": (
        put("weight", lambda w: w.view(5, 4, 3)),
        RuntimeError,
        r"weight must have shape \[D, S\*C\] = \[\*, 12\], got \[5, 4, 3\]",
    ),
    "weight of another dtype": (
        put("weight", lambda w: w.double()),
        RuntimeError,
        r"weight must be float32, got float64: x is float32; weight.to\(x.dtype\) or x.to\(",
    ),
    "bias of another length": (
        put("bias", lambda b: b[:4]),
        RuntimeError,
        r"bias must have shape \[D\] = \[5\], got \[4\]",
    ),
    "bias of rank 2": (
        put("bias", lambda b: b[None]),
        RuntimeError,
        r"bias must have shape \[D\] = \[5\], got \[1, 5\]",
    ),
    "bias of another dtype": (
        put("bias", lambda b: b.half()),
        RuntimeError,
        "bias must be float32, got float16",
    ),
    "weight on another device": (
        put("weight", lambda t: t.to("meta")),
        RuntimeError,
        "weight must be on the device of x",
    ),
    "bias on another device": (
        put("bias", lambda t: t.to("meta")),
        RuntimeError,
        "bias must be on the device of x",
    ),
}


X, W = "spiral_conv_backward_x", "spiral_conv_backward_weight"
RAW_BROKEN = transposed_faults(X, 3, 4, 28) | {
    "x: grad of rank 2": (X, at(0, lambda g: g[0]), r"grad must have shape \[B, M, D\]"),
    "x: grad of integers": (X, at(0, lambda g: g.long()), "grad must be float32"),
    "x: a row too few in grad": (
        X,
        at(0, lambda g: g[:, :-1]),
        r"index must have shape \[M, S\] = \[6, 4\], got \[7, 4\]",
    ),
    "x: a channel too few in grad": (
        X,
        at(0, lambda g: g[..., :-1]),
        r"weight must have shape \[D, S\*C\] = \[4, \*\], got \[5, 12\]",
    ),
    "x: weight of another dtype": (X, at(2, lambda w: w.double()), "weight must be float32"),
    "x: weight not a multiple of S": (
        X,
        at(2, lambda w: w[:, :-1]),
        "weight must have a multiple of S = 4 columns, got 11",
    ),
    "x: index int32": (X, at(1, lambda t: t.int()), "index must be int64"),
    "weight: x of rank 2": (W, at(1, lambda x: x[0]), r"x must have shape \[B, V, C\]"),
    "weight: x of integers": (W, at(1, lambda x: x.long()), "x must be float32"),
    "weight: grad of another dtype": (W, at(0, lambda g: g.half()), "grad must be float32"),
    "weight: a sample too few in grad": (
        W,
        at(0, lambda g: g[1:]),
        r"grad must have shape \[B, M, D\] = \[2, 7, \*\], got \[1, 7, 5\]",
    ),
    "weight: index int32": (W, at(2, lambda t: t.int()), "index must be int64"),
    "weight: entry V": (W, at(2, lambda t: t + 20), r"index must lie in \[-1, 11\)"),
    "weight: entry -2": (W, at(2, lambda t: t - 20), r"index must lie in \[-1, 11\)"),
}


RAW = {
    "spiral_conv": lambda: list(raw_forward()),
    X: lambda: list(raw_backward_x()),
    W: lambda: list(raw_backward_weight()),
}


class TestSpiralConv(OperatorContract):
    """The contract."""

    stem = "spiral_conv"
    op = staticmethod(ops.spiral_conv)
    reference = staticmethod(reference.spiral_conv)
    batched = ("x",)
    cases = CASES
    small = ("plain", "no bias, no table", "three coordinates to a vector", "one slot")
    vectors = ("16 to 16 channels", "8 to 24 channels")
    empty = EMPTY
    threaded = "many rows"
    broken = BROKEN
    raw = RAW
    raw_broken = RAW_BROKEN
    torch_sums = ("grad of bias",)
    gpu_asserts = {  # noqa: RUF012
        "entry 11": "spiral_conv: index is out of range",
        "entry -2": "spiral_conv: index is out of range",
        "x: t_ptr falls": "spiral_conv_backward_x: t_ptr must rise",
        "x: t_ptr beyond the end": "spiral_conv_backward_x: t_ptr must rise",
        "x: t_entry too large": "spiral_conv_backward_x: t_entry must lie in",
        "x: t_entry negative": "spiral_conv_backward_x: t_entry must lie in",
        "weight: entry V": "spiral_conv_backward_weight: index is out of range",
        "weight: entry -2": "spiral_conv_backward_weight: index is out of range",
    }


def by_loops(x, index, weight, bias):
    """The definition, written out; also the sum of the terms' sizes."""
    B, _, C = x.shape
    D = len(weight)
    out = np.zeros((B, len(index), D))
    size = np.zeros_like(out)
    for m, row in enumerate(index):
        for s, source in enumerate(row):
            if source >= 0:
                terms = weight[:, s * C : (s + 1) * C] * x[:, source, None, :]  # [B, D, C]
                out[:, m] += terms.sum(-1)
                size[:, m] += np.abs(terms).sum(-1)
    return out + bias, size + np.abs(bias)


@given(data=st.data(), drawn=hostile_tables(), C=st.integers(1, 9), D=st.integers(1, 9))
@settings(max_examples=150)
def test_hostile_tables_and_numbers(data, drawn, C, D):
    """Duplicates, padding, tiny and huge numbers; NaN and inf reach only rows that read them."""
    index, sources = drawn
    x = data.draw(hostile_features(2, sources, C))
    weight = normal(D, index.shape[1] * C, seed=5).float().clamp(-9, 9)
    bias = normal(D, seed=6).float()
    out = ops.spiral_conv(x, index, weight, bias).numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        expected, size = by_loops(
            x.double().numpy(), index.numpy(), weight.double().numpy(), bias.double().numpy()
        )
        allowed = SUM_FLOAT32 * size + TINY_FLOAT32
        same_kind = np.array_equal(np.isnan(out), np.isnan(expected))
        close = (out == expected) | (np.abs(out - expected) <= allowed) | np.isnan(expected)
    assert same_kind
    assert close.all()


@given(drawn=hostile_tables(), C=st.sampled_from([1, 3, 8, 16]), D=st.sampled_from([1, 3, 8, 16]))
@settings(max_examples=60)
def test_nan_gradients_reach_only_the_sources_of_their_row(drawn, C, D):
    """A NaN sent back to row 0 stays out of every vertex that row 0 does not read."""
    index, sources = drawn
    x = normal(1, sources, C).float().requires_grad_()
    weight = normal(D, index.shape[1] * C).float()
    upstream = torch.ones(1, len(index), D)
    upstream[0, 0, 0] = float("nan")
    ops.spiral_conv(x, index, weight).backward(upstream)
    reached = torch.zeros(sources, dtype=torch.bool)
    reached[index[0][index[0] >= 0]] = True
    assert torch.equal(x.grad[0].isnan().any(-1), reached)


def test_column_order():
    """Column s*C + c of the weight meets channel c of slot s."""
    x = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    index = torch.tensor([[1, 0, -1]])
    weight = torch.eye(6)
    expected = torch.tensor([[2.0, 20.0, 1.0, 10.0, 0.0, 0.0]])
    assert torch.equal(ops.spiral_conv(x, index, weight), expected)
    assert torch.equal(reference.spiral_conv(x, index, weight), expected)


def test_stacked_weights_share_one_call():
    """Several operators on one input are one call with their weights stacked."""
    i = call(2, 11, 16, 7, 4, 24)
    whole = ops.spiral_conv(**i)
    for part in (slice(0, 8), slice(8, 24)):
        alone = ops.spiral_conv(i["x"], i["index"], i["weight"][part], i["bias"][part])
        torch.testing.assert_close(whole[..., part], alone, rtol=0, atol=1e-14)


def test_kept_rows_are_the_selected_result():
    """A convolution evaluated on some vertices is the selection of its result, bit for bit."""
    i = call(2, 40, 16, 40, 5, 16, transposed=False)
    keep = torch.tensor([0, 3, 4, 17, 39])
    kept = ops.spiral_conv(i["x"], i["index"][keep], i["weight"], i["bias"])
    assert torch.equal(kept, ops.spiral_conv(**i)[:, keep])


@pytest.mark.parametrize("width", [3, 16])
def test_table_made_beforehand_changes_nothing(width):
    """Gradients with the transposed table given and made on the fly are the same bits."""
    i = call(2, 30, width, 30, 5, 16)
    grads = []
    for transposed in (i["transposed"], None):
        x = i["x"].clone().requires_grad_()
        ops.spiral_conv(**(i | {"x": x, "transposed": transposed})).sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)
