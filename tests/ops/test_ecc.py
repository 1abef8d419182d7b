"""Edge-conditioned convolutions: no matrix per edge, and the same numbers."""

from functools import partial

import pytest
import torch
from support.calls import convert, leaves, require_same, run, upstream_like
from support.devices import GPU
from support.edges import random_edges
from support.faults import put, with_value
from support.products import WithProducts
from support.tables import normal
from support.tolerances import KERNEL, assert_close

from polygraph import ops, reference
from polygraph.ops import Graph, common
from polygraph.ops.ecc import EdgeLayer, choice, chunks
from polygraph.ops.graph_side import GraphSide


def ecc(x, phi, weight, source, ptr, edge=None, aggr="sum", edge_weight=None, side=None):
    """The operator with its graph in parts."""
    graph = Graph(ptr, source, edge)
    return ops.ecc(x, phi, weight, graph, aggr, edge_weight=edge_weight, side=side)


def ecc_reference(x, phi, weight, source, ptr, edge=None, aggr="sum", edge_weight=None, side=None):
    """The definition likewise."""
    graph = Graph(ptr, source, edge)
    return reference.ecc(x, phi, weight, graph, aggr, edge_weight=edge_weight)


def call(M, N, E, C, D, H, *, seed=0, edge=False, ones=False, gamma=False, holes=False, **options):
    """One call's arguments."""
    inputs = {
        "x": normal(N, C, seed=seed),
        "phi": normal(E, H, seed=seed + 1),
        "weight": normal(H + ones, C, D, seed=seed + 2) / max(1, C * H) ** 0.5,
    } | random_edges(M, N, E, seed, holes)
    if edge:
        inputs["edge"] = torch.randperm(E, generator=torch.Generator().manual_seed(seed))
    if gamma:
        inputs["edge_weight"] = normal(E, seed=seed + 3)
    return inputs | options


TARGET = {"side": "target"}
SOURCE = {"side": "source"}
CASES = {
    "target": partial(call, 6, 7, 23, 4, 2, 3, ones=True, **TARGET),
    "source": partial(call, 6, 7, 23, 4, 2, 3, ones=True, **SOURCE),
    "weights in another order": partial(
        call, 6, 7, 23, 3, 5, 4, edge=True, gamma=True, ones=True, aggr="mean", **TARGET
    ),
    "the same from the sources": partial(
        call, 6, 7, 23, 3, 5, 4, edge=True, gamma=True, aggr="mean", **SOURCE
    ),
    "empty slots": partial(call, 6, 7, 23, 4, 4, 5, holes=True, **TARGET),
    "empty slots, source": partial(call, 6, 7, 23, 4, 4, 5, holes=True, ones=True, **SOURCE),
    "wide": partial(call, 5, 6, 30, 19, 33, 17, ones=True, **TARGET),
    "wide, source": partial(call, 5, 6, 30, 33, 19, 17, ones=True, **SOURCE),
    "many neighbours": partial(call, 2, 50, 90, 8, 6, 7, ones=True, **TARGET),
    "many rows": partial(call, 700, 600, 3000, 12, 10, 9, ones=True, gamma=True),
}
EMPTY = {
    "no targets": partial(call, 0, 3, 0, 4, 2, 3),
    "no sources": partial(call, 4, 0, 0, 4, 2, 3, ones=True, **TARGET),
    "no edges": partial(call, 4, 3, 0, 4, 2, 3, ones=True, **SOURCE),
    "no channels": partial(call, 4, 3, 9, 0, 2, 3, **TARGET),
    "no channels, source": partial(call, 4, 3, 9, 0, 2, 3, ones=True, **SOURCE),
    "no channels out, source": partial(call, 4, 3, 9, 2, 0, 3, ones=True, **SOURCE),
    "no hidden features, source": partial(call, 4, 3, 9, 2, 5, 0, ones=True, **SOURCE),
    "nothing but empty slots": lambda: call(3, 2, 6, 4, 2, 3) | {"source": torch.full((6,), -1)},
}
BROKEN = {
    "aggr": (put("aggr", lambda _: "max"), ValueError, "aggr must be sum or mean"),
    "side": (put("side", lambda _: "left"), ValueError, "side must be target or source"),
    "weight": (put("weight", lambda t: t[1:, 1:]), RuntimeError, r"weight must have shape \[H, C"),
    "hidden": (put("weight", lambda t: t[2:]), RuntimeError, r"weight must have shape \[H, C"),
    "phi": (put("phi", lambda t: t[1:]), RuntimeError, "phi must have|slots"),
    "phi dtype": (put("phi", lambda t: t.double()), RuntimeError, "phi must be float32"),
    "x": (put("x", lambda t: t[:, 1:]), RuntimeError, "weight must have shape"),
    "source": (
        put("source", with_value(5, 7)),
        RuntimeError,
        r"other must lie in \[-1, 7\), got 7",
    ),
    "ptr": (put("ptr", with_value(2, 23)), RuntimeError, "ptr must rise from 0 to E"),
    "elsewhere": (put("source", lambda t: t.to("meta")), RuntimeError, "on the device of x"),
    "edge weights elsewhere": (
        put("edge_weight", lambda _: torch.ones(23, device="meta")),
        RuntimeError,
        r"ecc: edge_weight must be on the device of x \(cpu\), got meta",
    ),
}


def sides():
    """A graph as the compiled operators take it."""
    graph = Graph(**random_edges(6, 7, 23)).with_transposed(7)
    return GraphSide.of(graph).packed()


def arguments():
    """For ecc: φ per edge and from nodes, either side."""
    x, phi, weight, bias = normal(7, 4), normal(23, 3), normal(3, 4, 2), normal(4, 2)
    u, v = normal(6, 3), normal(7, 3)
    features, layer, shift = normal(23, 5), normal(3, 5), normal(3)
    return [
        [x, phi, None, None, 1.0, None, None, weight, bias, False, *sides()],
        [x, None, u, v, 0.2, None, None, weight, None, True, *sides()],
        [x, features, None, None, 0.2, layer, shift, weight, bias, False, *sides()],
    ]


def backward_arguments():
    """For ecc_backward: everything wanted, and one thing."""
    start = [normal(6, 2), normal(7, 4), normal(23, 3), 1.0, None, None, normal(3, 4, 2)]
    every = [True] * 5
    return [
        [*start, normal(4, 2), False, every, *sides()],
        [*start, normal(4, 2), True, every, *sides()],
        [*start[:6], normal(4, 2, 3).permute(2, 0, 1), None, False, every, *sides()],
        [*start, None, False, [False, True, False, False, False], *sides()],
    ]


class TestEcc(WithProducts):
    """The contract."""

    stem = "ecc"
    op = staticmethod(ecc)
    reference = staticmethod(ecc_reference)
    cases = CASES
    small = ("target", "source", "weights in another order", "empty slots, source")
    empty = EMPTY
    threaded = "many rows"
    broken = BROKEN
    apart = ("ecc_tile", "ecc_lane")
    raw = {"ecc": arguments, "ecc_backward": backward_arguments}  # noqa: RUF012
    vectors = ("many neighbours",)
    gpu_asserts = {  # noqa: RUF012
        "source": "graph: other must lie in [-1, O)",
        "ptr": "ecc: ptr must rise from 0 to E",
    }


@pytest.fixture
def small_chunks(monkeypatch):
    """Few nodes, and few columns of φ, at a time."""
    monkeypatch.setitem(chunks.CHUNK_NODES, "cpu", 4)
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", 4 * 8 * 4 * 2)
    monkeypatch.setattr(chunks, "SMALL_BYTES", 0)
    monkeypatch.setattr(choice, "FEW", 0)
    monkeypatch.setattr(choice, "LANE_SHARE", 0.0)


@pytest.mark.parametrize("side", ["target", "source"])
@pytest.mark.parametrize("ones", [False, True])
def test_chunks_change_nothing(small_chunks, side, ones):
    """Nodes and columns of φ in pieces: values and all derivatives."""
    inputs = call(7, 6, 24, 3, 3, 5, ones=ones, edge=True)
    names = ("x", "phi", "weight")
    leaves = [inputs[n].requires_grad_() for n in names]

    def function(*values):
        return ecc(**(inputs | dict(zip(names, values, strict=True)) | {"side": side}))

    torch.testing.assert_close(function(*leaves), ecc_reference(**inputs))
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("side", ["target", "source"])
@pytest.mark.parametrize("slope", [0.2, 1.0])
def test_hidden_features_made_on_the_fly(side, slope):
    """As with the features of edges stored; first and second derivatives."""
    inputs = call(6, 7, 23, 4, 2, 3, ones=True)
    graph = Graph(inputs["ptr"], inputs["source"])
    x, weight = inputs["x"].requires_grad_(), inputs["weight"].requires_grad_()
    u, v = normal(6, 3, seed=5).requires_grad_(), normal(7, 3, seed=6).requires_grad_()

    def function(x, u, v, weight):
        return ops.ecc(x, (u, v, slope), weight, graph, side=side)

    stored = reference.ecc(x, reference.edge_values(u, v, graph, slope), weight, graph)
    torch.testing.assert_close(function(x, u, v, weight), stored)
    assert torch.autograd.gradcheck(function, (x, u, v, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, u, v, weight), fast_mode=True)
    with pytest.raises(ValueError, match="edge_weight needs phi per edge"):
        ops.ecc(x, (u, v, slope), weight, graph, edge_weight=torch.ones(23))


def layered(M, N, E, C, D, H, F, *, edge=False, holes=False, seed=0):
    """Arguments of a call with an `EdgeLayer`, its graph, and whether rows are in another order."""
    values = {
        "x": normal(N, C, seed=seed),
        "features": normal(E, F, seed=seed + 1),
        "layer": normal(H, F, seed=seed + 2) / F**0.5,
        "shift": normal(H, seed=seed + 3),
        "weight": normal(H, C, D, seed=seed + 4) / (C * H) ** 0.5,
        "bias": normal(C, D, seed=seed + 5),
    }
    graph = random_edges(M, N, E, seed, holes)
    row = torch.randperm(E, generator=torch.Generator().manual_seed(seed)) if edge else None
    return values, Graph(graph["ptr"], graph["source"], row)


def with_layer(values, graph, slope, side=None, aggr="sum"):
    """The operator with a layer."""
    x, features, layer, shift, weight, bias = values
    made = EdgeLayer(features, layer, shift, slope)
    return ops.ecc(x, made, weight, graph, aggr, bias=bias, side=side)


def layer_apart(values, graph, slope, aggr="sum"):
    """Its definition."""
    x, features, layer, shift, weight, bias = values
    phi = torch.nn.functional.leaky_relu(torch.nn.functional.linear(features, layer, shift), slope)
    return reference.ecc(x, phi, torch.cat([weight, bias[None]]), graph, aggr)


@pytest.mark.parametrize("path", ["lanes", "tiles", "pieces"])
@pytest.mark.parametrize("side", ["target", "source"])
@pytest.mark.parametrize(("slope", "edge", "holes"), [(0.0, True, False), (0.2, False, True)])
def test_layer_of_hidden_features(monkeypatch, side, slope, edge, holes, path):
    """As with the hidden features stored: values, first and second derivatives; all CPU paths."""
    monkeypatch.setattr(choice, "LANE_SHARE", 100.0 if path == "lanes" else 0.0)
    monkeypatch.setattr(choice, "FEW", 0 if path == "pieces" else choice.FEW)
    monkeypatch.setitem(chunks.CHUNK_NODES, "cpu", 5)
    inputs, graph = layered(11, 5, 24, 3, 2, 3, 2, edge=edge, holes=holes)
    values = [t.requires_grad_() for t in inputs.values()]
    function = partial(with_layer, graph=graph, slope=slope, side=side)
    out = function(values)
    torch.testing.assert_close(out, layer_apart(values, graph, slope))
    assert torch.autograd.gradcheck(lambda *v: function(v), values, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *v: function(v), values, fast_mode=True)


SIZES = [
    (1, 1, 1, 1, 1, 1, 1),
    (37, 20, 37 * 3, 13, 7, 5, 3),
    (70, 33, 70 * 5, 9, 14, 131, 2),
    (33, 40, 33 * 9, 17, 67, 19, 30),
    (20, 6, 20, 5, 3, 2, 4),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
def test_lanes_at_odd_sizes(monkeypatch, set_threads, sizes, dtype):
    """Values and first derivatives; the result is the same to the bit on one thread and on two."""
    monkeypatch.setattr(choice, "LANE_SHARE", 100.0)
    inputs, graph = layered(*sizes)
    exact = [t.clone().requires_grad_() for t in inputs.values()]
    values = [t.to(dtype).requires_grad_() for t in inputs.values()]
    expected = layer_apart(exact, graph, 0.1, "mean")
    found = []
    for threads in (1, 2):
        set_threads(threads)
        found.append(with_layer(values, graph, 0.1, "target", "mean"))
    assert torch.equal(*found)
    assert_close(found[0], expected, KERNEL[dtype], "out")
    upstream = normal(*expected.shape, seed=9)
    wanted = torch.autograd.grad(expected, exact, upstream)
    actual = torch.autograd.grad(found[0], values, upstream.to(dtype))
    for name, a, b in zip(inputs, actual, wanted, strict=True):
        assert_close(a, b, KERNEL[dtype], name)


def wide_sums(made, seed):
    """Arguments in float16 whose sums over neighbours pass 65,504, and whose results do not."""
    E, M, N, C, D, H = 60, 5, 8, 6, 4, 7
    graph = Graph(torch.arange(M + 1) * (E // M), torch.arange(E) * 5 % 7 % N)
    x, weight, bias = normal(N, C, seed=seed), normal(H, C, D, seed=seed + 1), normal(C, D)
    values = {"x": 200 * x.abs(), "weight": 3e-4 * weight, "bias": 1e-2 * bias}
    if made == "stored":
        values["phi"] = 100 * normal(E, H, seed=seed + 2).abs()
    elif made == "nodes":
        values |= {"u": 100 * normal(M, H, seed=seed + 2), "v": 100 * normal(N, H, seed=seed + 3)}
    else:
        values |= {"features": normal(E, 3, seed=seed + 2), "shift": 30 * normal(H)}
        values["layer"] = 50 * normal(H, 3, seed=seed + 3)
    return {name: value.half() for name, value in values.items()}, graph


@pytest.mark.parametrize("way", ["cpu", "cuda", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("side", ["target", "source"])
@pytest.mark.parametrize("made", ["stored", "nodes", "layer"])
def test_half_types_are_rounded_once(monkeypatch, made, side, way):
    """Values and first derivatives in float16: finite, and off by one rounding at most.

    So are those of a graph of derivatives, which are composed of other operators. The way of CUDA
    is run on the CPU, too.
    """
    if way == "cuda":
        monkeypatch.setattr(common, "takes_cuda_kernels", lambda tensor: True)
    inputs, graph = wide_sums(made, 3)
    if way == "gpu":
        inputs, graph = convert(inputs, device=GPU), Graph(graph.ptr.to(GPU), graph.source.to(GPU))

    def function(op, values, **options):
        phi = values.get("phi")
        if made == "nodes":
            phi = values["u"], values["v"], 0.2
        elif made == "layer":
            phi = EdgeLayer(values["features"], values["layer"], values["shift"], 0.2)
        return op(values["x"], phi, values["weight"], graph, bias=values["bias"], **options)

    def definition(x, phi, weight, graph, bias):
        if made == "nodes":
            phi = reference.edge_values(*phi[:2], graph, phi[2])
        elif made == "layer":
            phi = torch.nn.functional.linear(*phi[:3])
            phi = torch.nn.functional.leaky_relu(phi, 0.2)
        # The largest sum over the neighbours of a target.
        ends = x[graph.source][:, None, :] * phi[:, :, None]
        assert ends.view(5, 12, 7, 6).sum(1).abs().max() > 2 * 65504
        return reference.ecc(x, phi, torch.cat([weight, bias[None]]), graph)

    exact = leaves({name: value.double() for name, value in inputs.items()})
    expected = function(definition, exact)
    upstream = 0.01 * upstream_like(expected)
    upstream = upstream.half()
    wanted = torch.autograd.grad(expected, list(exact.values()), upstream.double())
    for again in (False, True):
        given = leaves(inputs)
        out = function(ops.ecc, given, side=side)
        grads = torch.autograd.grad(out, list(given.values()), upstream, create_graph=again)
        for name, actual, value in zip(
            ["out", *given], [out, *grads], [expected, *wanted], strict=True
        ):
            assert actual.dtype == torch.float16, name
            largest = value.abs().max()
            assert 1e-3 < largest < 65504, name
            # Half a step of the result, of subnormal numbers too, and float32's own rounding.
            allowed = 2.0**-11 * value.abs() + 2.0**-25 + KERNEL[torch.float32] * largest
            assert ((actual.double() - value).abs() <= allowed).all(), name


TILES = {
    "a mesh": (2000, 1300, 12000, 16, 3, 9),
    "one of each": (1, 1, 1, 1, 1, 1),
    "long rows": (37, 20, 200, 35, 33, 5),
    "hubs": (3, 40, 290, 9, 17, 13),
    "no hidden features": (5, 6, 20, 4, 3, 0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("sizes", TILES.values(), ids=TILES)
def test_tiles(set_threads, sizes, ones, dtype):
    """Values and first derivatives, which are the same to the bit on one thread and on two."""
    assert (sizes[5] + ones) * sizes[3] <= choice.FEW
    inputs = call(*sizes, ones=ones, edge=True, holes=True, aggr="mean", **TARGET)
    expected = run(ecc_reference, inputs)
    found = []
    for threads in (1, 2):
        set_threads(threads)
        found.append(run(ecc, convert(inputs, dtype=dtype)))
    require_same(*found)
    for name, value in expected.items():
        assert_close(found[0][name], value, KERNEL[dtype], name)


def test_tiles_refuse():
    """The compiled operators name what does not fit."""
    compiled = torch.ops.polygraph
    graph = sides()
    x, phi, weight, grad = normal(7, 4), normal(23, 3), normal(3, 4, 2), normal(6, 2)
    out, a, y, to = normal(6, 2), normal(23, 3), normal(23, 4), normal(3, 4, 2)
    forward = [[phi], 1.0, x, weight, *graph, out]
    compiled.ecc_tile_(*forward)
    backward = [phi, x, grad, weight, *graph, a, y, to]
    compiled.ecc_tile_backward_(*backward)
    for op, arguments, place, value, message in (
        (compiled.ecc_tile_, forward, 0, [], "phi is needed"),
        (compiled.ecc_tile_, forward, 3, weight[:, 1:], r"weight must have shape \[H', C, D\]"),
        (compiled.ecc_tile_, forward, 3, weight[:2], "of H' = 2 hidden features phi must have"),
        (compiled.ecc_tile_, forward, 0, [phi[1:]], "23 slots and 22 rows of edges"),
        (compiled.ecc_tile_, forward, 2, x.half(), "half types are widened"),
        (compiled.ecc_tile_, forward, -1, out[1:], "out must have shape"),
        (compiled.ecc_tile_, forward, -1, normal(2, 6).t(), "out must be contiguous"),
        (compiled.ecc_tile_backward_, backward, 0, phi[0], "phi must have 2 dimensions"),
        (compiled.ecc_tile_backward_, backward, 2, grad[1:], r"grad must have shape \[S, D\]"),
        (compiled.ecc_tile_backward_, backward, 2, grad.float(), "grad must be"),
        (compiled.ecc_tile_backward_, backward, -3, a[1:], "a must have shape"),
        (compiled.ecc_tile_backward_, backward, -2, y.float(), "y must be"),
        (compiled.ecc_tile_backward_, backward, -1, to[1:], "to must have shape"),
    ):
        broken = list(arguments)
        broken[place] = value
        with pytest.raises(RuntimeError, match=message):
            op(*broken)


def test_layer_refuses():
    """What does not fit, named."""
    inputs, graph = layered(6, 7, 23, 4, 2, 3, 5)
    values = list(inputs.values())
    with pytest.raises(ValueError, match="slope of a layer must not be negative"):
        with_layer(values, graph, -0.5)
    with pytest.raises(RuntimeError, match=r"weight \[H, 5\] and bias \[H\]"):
        with_layer([*values[:2], values[2][:, 1:], *values[3:]], graph, 0.0)
    with pytest.raises(RuntimeError, match="bias must be"):
        with_layer([*values[:5], values[5][1:]], graph, 0.0)
    with pytest.raises(RuntimeError, match="features of the layer must be"):
        with_layer([values[0], values[1].float(), *values[2:]], graph, 0.0)
