"""Attention over edges: softmax over neighbours or columns, without stored scores."""

from functools import partial

import pytest
import torch
from support.contract import OperatorContract
from support.edges import call, random_edges
from support.faults import at, put, with_value
from support.tables import normal

from polygraph import ops, reference
from polygraph.ops import Graph
from polygraph.ops.graph_side import GraphSide


def edge_softmax(u, v, source, ptr, edge=None, slope=1.0, over="neighbours"):
    """The operator with its graph in parts."""
    return ops.edge_softmax(u, v, Graph(ptr, source, edge), slope, over)


def edge_softmax_reference(u, v, source, ptr, edge=None, slope=1.0, over="neighbours"):
    """The definition likewise."""
    return reference.edge_softmax(u, v, Graph(ptr, source, edge), slope, over)


FEATURES = {"over": "features"}
CASES = {
    "neighbours": partial(call, 6, 7, 23, 5, slope=0.2),
    "features": partial(call, 6, 7, 23, 5, **FEATURES),
    "in another order": partial(call, 6, 7, 23, 9, edge=True, slope=0.2),
    "features in another order": partial(call, 6, 7, 23, 9, edge=True, slope=0.3, **FEATURES),
    "empty slots": partial(call, 6, 7, 23, 4, holes=True, slope=0.0),
    "empty slots, features": partial(call, 6, 7, 23, 4, holes=True, **FEATURES),
    "one column": partial(call, 6, 7, 23, 1, slope=0.2),
    "one column, features": partial(call, 6, 7, 23, 1, **FEATURES),
    "many columns": partial(call, 9, 9, 40, 35, slope=0.1),
    "many columns, features": partial(call, 9, 9, 40, 70, slope=0.1, **FEATURES),
    "many neighbours": partial(call, 2, 50, 90, 8, slope=0.2),
    "many neighbours, features": partial(call, 2, 50, 90, 8, slope=0.2, **FEATURES),
    "hubs": partial(call, 2, 50, 700, 9, slope=0.2, edge=True),
    "hubs, few columns": partial(call, 2, 50, 2400, 3, holes=True, slope=0.2),
    "hubs, features": partial(call, 2, 50, 700, 9, slope=0.2, **FEATURES),
    "many rows": partial(call, 900, 700, 9000, 9, slope=0.2),
}
EMPTY = {
    "no targets": partial(call, 0, 3, 0, 4),
    "no sources": partial(call, 4, 0, 0, 4, **FEATURES),
    "no edges": partial(call, 4, 3, 0, 4),
    "no columns": partial(call, 4, 3, 9, 0),
    "nothing but empty slots": lambda: call(3, 2, 6, 4) | {"source": torch.full((6,), -1)},
}
BROKEN = {
    "over": (put("over", lambda _: "heads"), ValueError, "over must be one of neighbours, feat"),
    "u of rank 1": (put("u", lambda t: t[0]), RuntimeError, r"must have shape \[\*, H\]"),
    "u": (put("u", lambda t: t[1:]), RuntimeError, r"u must have shape \[S, H\] = \[6, 5\]"),
    "v": (put("v", lambda t: t[:, 1:]), RuntimeError, r"v must have shape \[O, H\] = \[7, 5\]"),
    "v dtype": (put("v", lambda t: t.double()), RuntimeError, "v must be float32"),
    "integers": (put("u", lambda t: t.long()), RuntimeError, "scores must be float"),
    "ptr": (put("ptr", with_value(2, 23)), RuntimeError, "ptr must rise from 0 to E"),
    "source": (
        put("source", with_value(5, 7)),
        RuntimeError,
        r"other must lie in \[-1, 7\), got 7",
    ),
    "elsewhere": (put("v", lambda t: t.to("meta")), RuntimeError, "on the device of u"),
}

GRAPH = Graph(**random_edges(6, 7, 23)).with_transposed(7)
SIDE = GraphSide.of(GRAPH)
U, V, EDGES = normal(6, 4), normal(7, 4, seed=1), normal(23, 4, seed=2)
RAW = {
    "edge_softmax": lambda: [[U, V, 0.3, over, 23, *SIDE.packed()] for over in (False, True)],
    "edge_softmax_backward": lambda: [
        [EDGES, EDGES.abs(), *masks, 0.3, over, 7, *SIDE.packed()]
        for over in (False, True)
        for masks in ((U, V), (None, None))
    ],
}
RAW_BROKEN = {
    "rows": ("edge_softmax", at(4, lambda _: 22), "23 slots and 22 rows of edges"),
    "one mask": ("edge_softmax_backward", at(3, lambda _: None), "u and v come together"),
    "grad": ("edge_softmax_backward", at(0, lambda t: t[1:]), r"grad must have shape \[E, H\]"),
    "backward: ptr": (
        "edge_softmax_backward",
        at(7, lambda g: [with_value(2, 24)(g[0]), *g[1:]]),
        "ptr must rise from 0",
    ),
    "backward: source": (
        "edge_softmax_backward",
        at(7, lambda g: [g[0], with_value(3, 7)(g[1]), *g[2:]]),
        r"other must lie in \[-1, 7\)",
    ),
    "grad dtype": ("edge_softmax_backward", at(0, lambda t: t.float()), "grad must be float64"),
}


class TestEdgeSoftmax(OperatorContract):
    """The contract."""

    stem = "edge_softmax"
    op = staticmethod(edge_softmax)
    reference = staticmethod(edge_softmax_reference)
    cases = CASES
    small = ("neighbours", "features", "in another order", "empty slots", "empty slots, features")
    vectors = ("many neighbours", "many neighbours, features")
    empty = EMPTY
    threaded = "many rows"
    broken = BROKEN
    raw = RAW
    raw_broken = RAW_BROKEN
    gpu_asserts = {  # noqa: RUF012
        "ptr": "edge_softmax: ptr must rise from 0 to E",
        "source": "graph: other must lie in [-1, O)",
        "backward: ptr": "edge_softmax_backward: ptr must rise from 0 to E",
        "backward: source": "graph: other must lie in [-1, O)",
    }

    test_without_batch = None  # there is no batch dimension
    test_gpu_more_than_2_31_elements = None


@pytest.mark.parametrize("over", ["neighbours", "features"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_scores(over, dtype):
    """Scores of any size: no overflow, shares add up to 1, and exp is right to rounding."""
    graph = Graph(**random_edges(40, 50, 300, seed=3))
    u, v = 200 * normal(40, 9, seed=1).to(dtype), 200 * normal(50, 9, seed=2).to(dtype)
    found = ops.edge_softmax(u, v, graph, over=over)
    wanted = reference.edge_softmax(u, v, graph, over=over)
    # Scores are rounded to their last bit, exp multiplies that by their size; what is not a normal
    # number is 0.
    rounding, least = (1e-3, 1e-37) if dtype == torch.float32 else (1e-11, 1e-306)
    torch.testing.assert_close(found, wanted, rtol=rounding, atol=least)
    assert found.max() <= 1
    small = ops.edge_softmax(u / 1000, v / 1000, graph, over=over)
    exact = reference.edge_softmax((u / 1000).double(), (v / 1000).double(), graph, over=over)
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(small.double(), exact, rtol=rounding, atol=0)


@pytest.mark.parametrize("over", ["neighbours", "features"])
def test_what_is_not_finite(over):
    """Minus infinity takes no share; NaN and infinity spread to whom they are compared with."""
    ptr, source = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 1, 2])
    u = torch.zeros(2, 9)
    for value in (float("-inf"), float("inf"), float("nan")):
        v = torch.zeros(3, 9)
        v[0, 4] = value
        found = ops.edge_softmax(u, v, Graph(ptr, source), over=over)
        wanted = reference.edge_softmax(u, v, Graph(ptr, source), over=over)
        torch.testing.assert_close(found, wanted, equal_nan=True)
        assert found[2:].isfinite().all()
