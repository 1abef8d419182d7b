"""EdgeConv's operators: sums, means and maxima over edges that are not stored."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.contract import OperatorContract
from support.devices import GPU
from support.edges import call, random_edges
from support.faults import at, put, with_value
from support.raw_edges import HERE, RAW, RAW_BROKEN, U, V
from support.tables import normal
from support.tolerances import KERNEL, SUM_FLOAT32, assert_close
from torch.utils import _pytree as pytree

from polygraph import ops, reference
from polygraph.ops import Graph, graph_from_coo, graph_from_table
from polygraph.ops.edge_conv import edge_conv_in_place
from polygraph.reference.edge_conv import ends


def edge_conv(u, v, source, ptr, edge=None, aggr="max", slope=1.0, weight=None):
    """The operator with its graph in parts."""
    return ops.edge_conv(u, v, Graph(ptr, source, edge), aggr, slope, weight=weight)


def edge_conv_reference(u, v, source, ptr, edge=None, aggr="max", slope=1.0, weight=None):
    """The definition likewise."""
    return reference.edge_conv(u, v, Graph(ptr, source, edge), aggr, slope, weight=weight)


CASES = {
    "max": partial(call, 6, 7, 23, 5, slope=0.2),
    "min": partial(call, 6, 7, 23, 5, aggr="min", slope=0.0),
    "sum": partial(call, 6, 7, 23, 5, aggr="sum", slope=0.3),
    "weights in another order": partial(
        call, 6, 7, 23, 5, edge=True, weight=True, aggr="sum", slope=0.3
    ),
    "mean of ReLU": partial(call, 6, 7, 23, 9, aggr="mean", slope=0.0, weight=True),
    "linear": partial(call, 5, 3, 20, 33, aggr="sum"),
    "empty slots": partial(call, 6, 7, 23, 8, aggr="mean", slope=0.1, holes=True, weight=True),
    "empty slots, max": partial(call, 6, 7, 23, 8, slope=0.1, holes=True),
    "many channels": partial(call, 9, 9, 40, 70, aggr="mean", slope=0.1),
    "many channels, max": partial(call, 9, 9, 40, 70, slope=0.1),
    "40 channels": partial(call, 9, 9, 40, 40, aggr="sum", slope=0.3, weight=True),
    "one edge": partial(call, 2, 1, 1, 3, aggr="sum", slope=0.1),
    "many rows": partial(call, 900, 700, 9000, 40, aggr="sum", slope=0.2, weight=True),
}
EMPTY = {
    "no targets": partial(call, 0, 3, 0, 4, aggr="sum"),
    "no sources": partial(call, 4, 0, 0, 4, aggr="sum"),
    "no edges, max": partial(call, 4, 3, 0, 4),
    "no channels": partial(call, 4, 3, 9, 0, aggr="sum"),
    "nothing but empty slots": lambda: call(3, 2, 6, 4) | {"source": torch.full((6,), -1)},
}


def runtime(name, change, message):
    """A fault that the operator itself refuses."""
    return {name: (change, RuntimeError, message)}


def value(name, change, message):
    """A fault that the function refuses."""
    return {name: (change, ValueError, message)}


BROKEN = (
    value("aggr", put("aggr", lambda _: "median"), "aggr must be one of max, min, sum, mean")
    | value("weights of a maximum", put("weight", lambda _: torch.ones(23)), "weight goes with sum")
    | value("slope of a maximum", put("slope", lambda _: -0.5), "needs a slope that is not neg")
    | runtime("u of rank 1", put("u", lambda t: t[0]), "must have shape")
    | runtime("v of another width", put("v", lambda t: t[:, 1:]), "size of tensor|must have shape")
    | runtime("v of integers", put("v", lambda t: t.long()), "v must be float32")
    | runtime("ptr int32", put("ptr", lambda t: t.int()), "ptr must be int64, got int32")
    | runtime("ptr falls", put("ptr", with_value(2, 23)), "ptr must rise from 0 to E = 23")
    | runtime("ptr ends early", put("ptr", with_value(-1, 22)), "ptr must rise from 0 to E = 23")
    | runtime("ptr empty", put("ptr", lambda t: t[:0]), r"must have shape .* with M = -1")
    | runtime(
        "source too large",
        put("source", with_value(5, 7)),
        r"other must lie in \[-1, 7\), got 7 at position 5",
    )
    | runtime("source too small", put("source", with_value(5, -2)), r"got -2 at position 5")
    | runtime("source int32", put("source", lambda t: t.int()), "other must be int64")
    | runtime(
        "source elsewhere", put("source", lambda t: t.to("meta")), "must be on the device of u"
    )
)


class TestEdgeConv(OperatorContract):
    """The contract."""

    stem = "edge"
    apart = ("edge_softmax",)
    op = staticmethod(edge_conv)
    reference = staticmethod(edge_conv_reference)
    cases = CASES
    small = ("max", "sum", "weights in another order", "empty slots", "empty slots, max")
    vectors = ("empty slots", "empty slots, max", "40 channels")
    empty = EMPTY
    threaded = "many rows"
    broken = BROKEN
    raw = RAW
    raw_broken = RAW_BROKEN
    gpu_asserts = {  # noqa: RUF012
        "ptr falls": "edge_max: ptr must rise from 0 to E",
        "source too large": "graph: other must lie in [-1, O)",
        "source too small": "graph: other must lie in [-1, O)",
        "arg": "edge_take: arg must name slots that hold an edge",
        "edge_sum: ptr": "edge_sum: ptr must rise from 0 to E",
        "edge_sum: slot": "graph: slot must lie in [0, E)",
        "edge_sum: other": "graph: other must lie in [-1, O)",
        "edge_sum: edge": "graph: edge must lie in the rows of features",
        "edge_values: ptr": "edge_values: ptr must rise from 0 to E",
        "edge_dot: ptr": "edge_dot: ptr must rise from 0 to E",
        "edge_outer_: ptr": "ecc: ptr must rise from 0 to E",
        "edge_outer_: other": "graph: other must lie in [-1, O)",
    }
    gpu_broken = {  # noqa: RUF012
        f"edge_max_backward: {name}": ("edge_max_backward", at(place, change), message)
        for name, place, change, message in (
            ("target", 4, with_value(2, 6), "edge_max_backward: target is out of range"),
            ("t_ptr", 5, with_value(2, 24), "edge_max_backward: ptr must rise from 0 to E"),
            ("t_slot", 6, with_value(2, 23), "edge_max_backward: t_slot is out of range"),
        )
    }

    test_without_batch = None  # there is no batch dimension
    test_gpu_more_than_2_31_elements = None


@pytest.mark.parametrize("device", ["cpu", pytest.param(GPU, marks=pytest.mark.gpu, id="gpu")])
@pytest.mark.parametrize("name", ["edge_outer_", "edge_inner_"])
def test_features_made_within_the_kernel(name, device):
    """Rows act(seg_x + x) of edges, made where they are used, as those that were stored."""
    at_x, outs = (2, [-1]) if name == "edge_outer_" else (3, [-3, -2])
    made = RAW[name]()[1]
    of_segments, x = made[at_x]
    stored = reference.edge_values(of_segments, x, Graph(HERE.ptr, HERE.other), 0.3)
    plain = [*made[:at_x], [stored], True, *made[at_x + 2 :]]

    def moved(value):
        return value.to(device, copy=True) if isinstance(value, torch.Tensor) else value

    for arguments in (plain, made):
        arguments[:] = pytree.tree_map(moved, arguments)
        getattr(torch.ops.polygraph, name)(*arguments)
    for out in outs:
        torch.testing.assert_close(made[out], plain[out])
        assert made[out].abs().sum() > 0


@given(
    M=st.integers(1, 9),
    N=st.integers(1, 9),
    K=st.integers(0, 6),
    D=st.integers(1, 20),
    aggr=st.sampled_from(["max", "min", "sum", "mean"]),
    slope=st.sampled_from([1.0, 0.0, 0.2]),
    seed=st.integers(0, 10**6),
)
def test_any_table(M, N, K, D, aggr, slope, seed):
    """Neighbour tables with holes, dense batches of them too, against the definition."""
    generator = torch.Generator().manual_seed(seed)
    graph = graph_from_table(torch.randint(-1, N, (2, M, K), generator=generator), N)
    u, v = normal(2 * M, D, seed=seed), normal(2 * N, D, seed=seed + 1)
    expected = reference.edge_conv(u, v, graph, aggr, slope)
    torch.testing.assert_close(ops.edge_conv(u, v, graph, aggr, slope), expected)


@given(E=st.integers(0, 40), seed=st.integers(0, 10**6))
def test_any_order_of_edges(E, seed):
    """COO edges in any order: features of edges stay in their rows."""
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randint(5, (2, E), generator=generator)
    graph = graph_from_coo(source, target, 5, 5)
    into, out_of, row = ends(graph)
    assert torch.equal(target[row], into)
    assert torch.equal(source[row], out_of)
    assert torch.equal(graph.degree(), torch.bincount(target, minlength=5))
    assert torch.equal(graph.source_degree(5), torch.bincount(source, minlength=5))
    values, weight = normal(E, 3, seed=seed), normal(E, seed=seed + 1)
    expected = torch.zeros(5, 3).double().index_add(0, target, values)
    torch.testing.assert_close(ops.edge_aggregate(values, graph, "sum"), expected)
    u, v = normal(5, 3, seed=seed), normal(5, 3, seed=seed + 2)
    expected = torch.zeros(5, 3).double()
    expected.index_add_(0, target, weight[:, None] * torch.relu(u[target] + v[source]))
    torch.testing.assert_close(ops.edge_conv(u, v, graph, "sum", 0.0, weight=weight), expected)
    made = ops.edge_values(u, v, graph, 0.0)
    torch.testing.assert_close(made, torch.relu(u[target] + v[source]))
    distance = (u[target] - u[source]).square().sum(1)
    torch.testing.assert_close(ops.edge_dist2(u, graph), distance)
    if E > 0:
        ordered = target.sort(stable=True)
        known = graph_from_coo(source[ordered.indices], ordered.values, 5, 5, sorted_by_target=True)
        assert torch.equal(known.ptr, graph.ptr)
        assert torch.equal(known.source, graph.source)


@pytest.mark.parametrize("aggr", ["max", "min", "sum", "mean"])
def test_edge_aggregate(aggr):
    """Values, first and second derivatives of what is aggregated edge by edge."""
    inputs = random_edges(6, 7, 23, holes=True)
    graph = Graph(**inputs)._replace(edge=torch.randperm(23))
    values = normal(23, 4).requires_grad_()
    expected = reference.edge_aggregate(values, graph, aggr)
    torch.testing.assert_close(ops.edge_aggregate(values, graph, aggr), expected)
    function = partial(ops.edge_aggregate, graph=graph, aggr=aggr)
    assert torch.autograd.gradcheck(function, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


@pytest.mark.parametrize("aggr", ["max", "min", "sum", "mean"])
@pytest.mark.parametrize("row", [-1, -7, 4])
def test_edge_aggregate_row_out_of_range(row, aggr):
    """-1 is an empty slot among sources, and nothing among rows."""
    edge = torch.tensor([0, 1, row, 3])
    graph = Graph(torch.tensor([0, 2, 4]), torch.tensor([0, 1, 1, -1]), edge)
    with pytest.raises(RuntimeError, match=r"must lie in .* at position 2"):
        ops.edge_aggregate(torch.ones(4, 2), graph, aggr)


def test_maximum_and_sum_in_one_pass():
    """Signs choose maxima and minima; the sum has its own gradient."""
    graph = Graph(**random_edges(6, 7, 23))
    sign = torch.tensor([1, -1, 1, -1]).double()
    v = normal(7, 4).requires_grad_()

    def both(v):
        value, _, total = ops.edge_max(v, graph, sign, with_sum=True)
        return value, total

    zero = torch.zeros(6, 4).double()
    found = both(v)
    most = reference.edge_conv(zero, sign * v, graph, "max") * sign
    torch.testing.assert_close(found[0], most)
    torch.testing.assert_close(found[1], reference.edge_conv(zero, v, graph, "sum"))
    assert torch.autograd.gradcheck(both, v, fast_mode=True)
    assert torch.autograd.gradgradcheck(both, v, fast_mode=True)


def test_dots_with_gradients_of_both_ends():
    """Values and all derivatives of the dots of sums; masks are constant."""
    graph, (grad, value) = Graph(HERE.ptr, HERE.other), (normal(13, 4, seed=s) for s in (4, 5))
    into, out_of, row = ends(graph)
    mask = torch.where(U[into] + V[out_of] > 0, 1.0, 0.3)
    sums = [t[:6][into] + t[6:][out_of] for t in (grad, value)]
    expected = torch.zeros(23).double().index_copy(0, row, (sums[0] * mask * sums[1]).sum(1))
    for side in (HERE, HERE._replace(t_ptr=None, t_slot=None, t_other=None)):
        graph = side.packed()

        def dots(grad, far_grad, near, far, graph=graph):
            values = (U, V, near, far)
            return torch.ops.polygraph.edge_dot(grad, far_grad, *values, 0.3, 7, 23, *graph)

        parts = [p.clone().requires_grad_() for t in (grad, value) for p in (t[:6], t[6:])]
        torch.testing.assert_close(dots(*parts), expected)
        assert torch.autograd.gradcheck(dots, parts)
        assert torch.autograd.gradgradcheck(dots, parts)


@pytest.mark.parametrize("device", ["cpu", pytest.param(GPU, marks=pytest.mark.gpu, id="gpu")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_far_from_the_origin(dtype, device):
    """Clusters a millionth of the cloud wide: distances and gradients keep all their digits."""
    x = (1e3 * normal(20, 3)).repeat_interleave(5, 0) + 1e-3 * normal(100, 3, seed=1)
    x = x.to(device, dtype)
    neighbours = torch.arange(100).view(20, 5).repeat_interleave(5, 0).to(device)
    graph = graph_from_table(neighbours, 100)
    weight = normal(500, seed=2).to(device, dtype)
    found = x.clone().requires_grad_()
    distances = ops.edge_dist2(found, graph)
    (gradient,) = torch.autograd.grad(distances, found, weight)
    exact = x.double().requires_grad_()
    difference = exact.repeat_interleave(5, 0) - exact[neighbours.flatten()]
    expected = difference.square().sum(1)
    (wanted,) = torch.autograd.grad(expected, exact, weight.double())
    assert_close(distances, expected, KERNEL[dtype], "distances")
    apart = distances.detach() > 0  # each to itself but those
    error = (distances.double() / expected - 1)[apart].abs().max()
    assert error <= SUM_FLOAT32 if dtype == torch.float32 else error <= KERNEL[dtype]
    assert_close(gradient, wanted, KERNEL[dtype], "gradient")


def test_first_of_equals_takes_the_gradient():
    """Among equal maxima: the first slot."""
    graph = graph_from_table(torch.tensor([[2, 0, 1]]), 3)
    v = torch.ones(3, 1).requires_grad_()
    ops.edge_conv(torch.zeros(1, 1), v, graph).sum().backward()
    assert v.grad.flatten().tolist() == [0, 0, 1]


def test_nan_is_not_hidden():
    """A NaN among the neighbours comes out, wherever it stands."""
    for place in range(3):
        v = torch.arange(3.0)[:, None].clone()
        v[place] = float("nan")
        graph = graph_from_table(torch.tensor([[0, 1, 2]]), 3)
        for aggr in ("max", "min", "sum", "mean"):
            assert ops.edge_conv(torch.zeros(1, 1), v, graph, aggr).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sum_in_place(dtype):
    """The same bits as into memory of its own, for rows of every number of blocks and lengths."""
    for D in (1, 2, 3, 4, 5, 7, 8, 9, 12, 17, 31, 33, 64, 66, 71, 72, 73, 80, 132, 145, 300):
        u, v = normal(6, D).to(dtype), normal(7, D, seed=1).to(dtype)
        graph = Graph(**random_edges(6, 7, 23, holes=True))
        expected = ops.edge_conv(u, v, graph, "sum", 0.2)
        torch.testing.assert_close(expected, reference.edge_conv(u, v, graph, "sum", 0.2))
        assert edge_conv_in_place(u, v, graph, "sum", 0.2) is u
        assert torch.equal(u, expected)


def test_sum_in_place_leaves_what_is_asked_for_again():
    """Where gradients, dual numbers or half types are about, a result of its own."""
    u, v = normal(6, 5), normal(7, 5, seed=1)
    graph = Graph(**random_edges(6, 7, 23))
    expected = ops.edge_conv(u, v, graph, "mean", 0.2)
    before = u.clone()
    with_gradient = edge_conv_in_place(u, v.clone().requires_grad_(), graph, "mean", 0.2)
    assert with_gradient.requires_grad
    assert edge_conv_in_place(u.half(), v.half(), graph, "sum", 0.2).dtype == torch.float16
    strided = u.t().contiguous().t()
    assert torch.equal(edge_conv_in_place(strided, v, graph, "mean", 0.2), expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(u, torch.ones_like(u))
        edge_conv_in_place(dual, v, graph, "sum", 0.2)
    assert torch.equal(u, before)
    assert torch.equal(strided, before)
    assert torch.equal(edge_conv_in_place(u, v, graph, "mean", 0.2), expected)


def test_given_transpose_changes_nothing():
    """The same bits with the transposed graph made before."""
    inputs = call(6, 7, 23, 5, weight=True)
    graph = Graph(inputs["ptr"], inputs["source"])
    for aggr, weight in (("max", None), ("sum", inputs["weight"])):
        grads = []
        for g in (graph, graph.with_transposed(7)):
            v = inputs["v"].clone().requires_grad_()
            out = ops.edge_conv(inputs["u"], v, g, aggr, 0.1, weight=weight)
            grads.append(torch.autograd.grad(out.sin().sum(), v)[0])
        assert torch.equal(*grads)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graph_from_table(torch.zeros(3, dtype=torch.int64), 2), r"\[M, K\] or \[B, M, K"),
        (lambda: graph_from_table(torch.zeros(3, 2), 2), "got torch.float32"),
        (lambda: graph_from_coo(torch.zeros(3), torch.zeros(3), 2, 2), "source must be int64"),
        (
            lambda: graph_from_coo(*torch.zeros(2, 3, dtype=torch.int64).int(), 2, 2),
            "source must be int64",
        ),
    ],
)
def test_bad_graphs(make, message):
    """Refused with what was wanted and what was got."""
    with pytest.raises(ValueError, match=message):
        make()
