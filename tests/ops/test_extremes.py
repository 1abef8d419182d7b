"""Edge operators at the ends of their numbers: what is not finite, what overflows, half types."""

import pytest
import torch
from support.devices import GPU
from support.edges import random_edges
from support.tables import NOT_FINITE, normal

from polygraph import ops, reference
from polygraph.ops import Graph, graph_from_table
from polygraph.ops.ecc import EdgeLayer
from polygraph.ops.edge_conv import edge_conv_in_place

DEVICES = ["cpu", pytest.param(GPU, marks=pytest.mark.gpu, id="gpu")]
AGGREGATIONS = ["max", "min", "sum", "mean"]
HALF_TYPES = [torch.float16, torch.bfloat16]
SLOPES = [1.0, 0.0, 0.2]
SEEDS = range(8)


def spoiled(shape, seed, count=2):
    """Normal numbers in float32, of which a few are not finite."""
    generator = torch.Generator().manual_seed(seed)
    x = normal(*shape, seed=seed).float()
    for value in torch.tensor(NOT_FINITE)[torch.randint(3, (count,), generator=generator)]:
        x.view(-1)[torch.randint(x.numel(), (), generator=generator)] = value
    return x


def random_graph(seed, device="cpu"):
    """From 7 sources to 6 targets; slots without an edge, and a target without edges."""
    edges = random_edges(6, 7, 23, seed, holes=True)
    return Graph(edges["ptr"].to(device), edges["source"].to(device))


# ---- what is not finite ----


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("D", [1, 3, 8, 17, 40])
def test_what_is_not_finite_in_edge_conv(device, seed, D):
    """Infinities and NaN are where the definition has them, whatever the aggregation."""
    graph = random_graph(seed)
    there = random_graph(seed, device)
    u, v = spoiled((6, D), seed), spoiled((7, D), seed + 1)
    for aggr in AGGREGATIONS:
        for slope in SLOPES:
            found = ops.edge_conv(u.to(device), v.to(device), there, aggr, slope).cpu()
            expected = reference.edge_conv(u.double(), v.double(), graph, aggr, slope)
            torch.testing.assert_close(found, expected.float(), equal_nan=True)
        found = ops.edge_aggregate(spoiled((23, D), seed).to(device), there, aggr).cpu()
        expected = reference.edge_aggregate(spoiled((23, D), seed).double(), graph, aggr)
        torch.testing.assert_close(found, expected.float(), equal_nan=True)
    found = ops.edge_values(u.to(device), v.to(device), there, 0.0).cpu()
    torch.testing.assert_close(found, reference.edge_values(u, v, graph, 0.0), equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("H", [1, 3, 9, 40])
def test_what_is_not_finite_in_edge_softmax(device, seed, H):
    """A score of NaN or infinity makes NaN of what it is compared with, and of nothing else."""
    graph = random_graph(seed)
    u, v = spoiled((6, H), seed), spoiled((7, H), seed + 1)
    for over in ("neighbours", "features"):
        for slope in SLOPES:
            there = random_graph(seed, device)
            found = ops.edge_softmax(u.to(device), v.to(device), there, slope, over).cpu()
            expected = reference.edge_softmax(u.double(), v.double(), graph, slope, over)
            torch.testing.assert_close(found, expected.float(), equal_nan=True)


def require_same_where_finite(found, expected):
    """Fail unless both are finite at the same places, and agree there."""
    assert torch.equal(found.isfinite(), expected.isfinite())
    finite = expected.isfinite()
    torch.testing.assert_close(found[finite], expected[finite].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", ["x", "phi", "u", "v"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("D", [1, 3, 17])
def test_what_is_not_finite_in_ecc(device, bad, seed, D):
    """A target is not finite where the definition is not, and no other is."""
    graph = random_graph(seed)
    there = random_graph(seed, device)
    shapes = {"x": (7, 4), "phi": (23, 5), "u": (6, 5), "v": (7, 5)}
    inputs = {n: spoiled(s, seed, 2 if n == bad else 0) for n, s in shapes.items()}
    weight = normal(6, 4, D, seed=seed)
    light = normal(3, D, 6, seed=seed), normal(3, 4, 6, seed=seed + 1), normal(3, 6, seed=seed + 2)
    wide = {name: value.double() for name, value in inputs.items()}
    x, phi, u, v = (value.to(device) for value in inputs.values())
    matrices = [t.float().to(device) for t in (weight, *light)]
    for hidden, made in (
        (phi, wide["phi"]),
        ((u, v, 0.0), reference.edge_values(wide["u"], wide["v"], graph, 0.0)),
    ):
        expected = reference.ecc(wide["x"], made, weight, graph, "mean")
        for side in ("target", "source"):
            found = ops.ecc(x, hidden, matrices[0], there, "mean", side=side)
            require_same_where_finite(found.cpu(), expected)
        expected = reference.light_ecc(wide["x"], made, *light, graph)
        require_same_where_finite(ops.light_ecc(x, hidden, *matrices[1:], there).cpu(), expected)


# ---- ReLU of what overflows ----


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_of_an_overflow(device, dtype):
    """Sums beyond the largest negative number are 0 behind ReLU, and so are their gradients."""
    graph = Graph(*(t.to(device) for t in graph_from_table(torch.tensor([[0, 1], [1, 2]]), 3)[:2]))
    least = 0.9 * torch.finfo(dtype).min
    u, v = (torch.full((n, 9), least, dtype=dtype, device=device) for n in (2, 3))
    u, v = u.requires_grad_(), v.requires_grad_()
    x = normal(3, 4).to(device, dtype).requires_grad_()
    weight = normal(9, 4, 5).to(device, dtype)
    light = [normal(*s).to(device, dtype) for s in ((2, 5, 10), (2, 4, 10), (2, 10))]
    identity = torch.eye(9, device=device, dtype=dtype)
    features = least * torch.ones(4, 9, device=device, dtype=dtype)
    layer = EdgeLayer(features.requires_grad_(), identity, 0.5 * features[0].detach(), 0.0)
    sums = [ops.edge_conv(u, v, graph, aggr, 0.0) for aggr in AGGREGATIONS]
    sums += [ops.edge_values(u, v, graph, 0.0)]
    for side in ("target", "source"):
        sums.append(ops.ecc(x, (u, v, 0.0), weight, graph, side=side))
        sums.append(ops.ecc(x, layer, weight, graph, side=side))
    for out in sums:
        assert torch.equal(out, torch.zeros_like(out))
        leaves = [t for t in (u, v, x, features) if t.requires_grad]
        for grad in torch.autograd.grad(out.sum(), leaves, allow_unused=True):
            assert grad is None or torch.equal(grad, torch.zeros_like(grad))
    with torch.no_grad():
        in_place = edge_conv_in_place(u.clone(), v, graph, "sum", 0.0)
        assert torch.equal(in_place, torch.zeros_like(in_place))
    for over, share in (("neighbours", 1 / 2), ("features", 1 / 9)):
        shares = ops.edge_softmax(u, v, graph, 0.0, over)
        torch.testing.assert_close(shares, torch.full_like(shares, share))
        for grad in torch.autograd.grad(shares.square().sum(), (u, v)):
            assert torch.equal(grad, torch.zeros_like(grad))
    # φ is 0: what is left are the biases.
    constant = [torch.cat([torch.zeros_like(t[..., :-1]), t[..., -1:]], -1) for t in light]
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            found = ops.light_ecc(x, (u, v, 0.0), *light, graph)
            expected = ops.light_ecc(x, x.new_zeros(4, 9), *constant, graph)
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_infinite_gradients_stop_at_relu(device):
    """Where ReLU is 0, an infinite gradient is 0 behind it; elsewhere it passes."""
    graph = Graph(*(t.to(device) for t in graph_from_table(torch.tensor([[0, 1]]), 2)[:2]))
    u = torch.zeros(1, 8, device=device, requires_grad=True)
    v = torch.tensor([[-1.0], [1.0]], device=device).repeat(1, 8).requires_grad_()
    upstream = torch.full((1, 8), float("inf"), device=device)
    for aggr in ("sum", "mean", "max"):
        out = ops.edge_conv(u, v, graph, aggr, 0.0)
        to_u, to_v = torch.autograd.grad(out, (u, v), upstream)
        assert to_u.isposinf().all()
        assert to_v.tolist() == [[0.0] * 8, [float("inf")] * 8]
    values = ops.edge_values(u, v, graph, 0.0)
    (to_v,) = torch.autograd.grad(values, v, upstream.expand(2, 8))
    assert to_v.tolist() == [[0.0] * 8, [float("inf")] * 8]
    a = torch.tensor([-1.0, 1.0], device=device).view(1, 2, 1).repeat(1, 1, 8).requires_grad_()
    out = ops.poly_step(a, torch.ones_like(a), norm="none", activation="relu")
    (to_a,) = torch.autograd.grad(out, a, upstream[None].expand(1, 2, 8))
    assert to_a[0].tolist() == [[0.0] * 8, [float("inf")] * 8]


# ---- half types ----


def require_rounded_once(found, exact):
    """Fail unless every number is the nearest of its dtype, but for float32's own rounding."""
    step = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[found.dtype]
    tiny = torch.finfo(found.dtype).smallest_normal
    error = (found.double() - exact).abs()
    assert bool((error <= exact.abs() * step * (1 + 1e-2) + tiny * step).all())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_means_of_half_types(device, dtype):
    """Sums beyond the largest float16 have means within it, rounded once; gradients likewise."""
    neighbours = torch.randint(50, (30, 40), generator=torch.Generator().manual_seed(0))
    graph = graph_from_table(neighbours, 50)
    there = Graph(graph.ptr.to(device), graph.source.to(device))
    # All positive, so that no sum is smaller than its terms.
    u, v = ((1500 + 300 * normal(n, 9)).abs().to(dtype) for n in (30, 50))
    weight, values = normal(1200).abs().to(dtype), (2000 + normal(1200, 9)).to(dtype)
    upstream = normal(30, 9, seed=3).abs().to(dtype)

    def call(function, *tensors, dtype=dtype, device="cpu", graph=graph):
        leaves = [t.to(device, dtype).requires_grad_() for t in tensors]
        out = function(*leaves, graph)
        return out, *torch.autograd.grad(out, leaves, upstream.to(device, dtype))

    calls = (
        (lambda o: lambda u, v, g: o.edge_conv(u, v, g, "mean", 0.2), (u, v)),
        (lambda o: lambda u, v, w, g: o.edge_conv(u, v, g, "mean", 0.2, weight=w), (u, v, weight)),
        (lambda o: lambda e, g: o.edge_aggregate(e, g, "mean"), (values,)),
    )
    for of, tensors in calls:
        found = call(of(ops), *tensors, device=device, graph=there)
        expected = call(of(reference), *tensors, dtype=torch.float64)
        for actual, exact in zip(found, expected, strict=True):
            assert actual.dtype == dtype
            require_rounded_once(actual.cpu(), exact)
    with torch.no_grad():
        given = (u.to(device), v.to(device), there, "mean", 0.2)
        assert torch.equal(edge_conv_in_place(*given), ops.edge_conv(*given))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("side", ["target", "source"])
def test_mean_of_half_types_of_ecc(device, side):
    """As above: 40 messages of 2,000 are 80,000 in all."""
    graph = graph_from_table(torch.zeros(3, 40, dtype=torch.int64), 2)
    there = Graph(graph.ptr.to(device), graph.source.to(device))
    x = torch.full((2, 1), 2000.0, device=device, dtype=torch.float16).requires_grad_()
    phi = torch.ones(120, 1, device=device, dtype=torch.float16)
    weight = torch.ones(1, 1, 5, device=device, dtype=torch.float16)
    near = torch.zeros(3, 1, device=device, dtype=torch.float16)
    far = torch.ones(2, 1, device=device, dtype=torch.float16)
    for hidden in (phi, (near, far, 0.0)):
        out = ops.ecc(x, hidden, weight, there, "mean", side=side)
        assert out.dtype == torch.float16
        assert torch.equal(out, torch.full_like(out, 2000))
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert grad.flatten().tolist() == [15.0, 0.0]
    assert ops.ecc(x, phi, weight, there, "sum", side=side).isposinf().all()
    ones = [torch.ones(s, device=device, dtype=torch.float16) for s in ((1, 1, 2), (1, 1, 2))]
    kappa = torch.tensor([[0.0, 0.25]], device=device, dtype=torch.float16)
    out = ops.light_ecc(x, phi, *ones, kappa, there, "mean")
    assert torch.equal(out, torch.full_like(out, 2000))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("made", ["phi", "layer"])
def test_weighted_features_of_half_types_of_ecc(device, made):
    """A weight of 128 times a hidden feature of 1,024 is beyond float16; the result is not."""
    graph = Graph(torch.tensor([0, 1], device=device), torch.tensor([0], device=device))

    def full(value, *shape):
        return torch.full(shape, value, device=device, dtype=torch.float16).requires_grad_()

    x, phi, gamma, weight = full(0.125, 1, 1), full(1024, 1, 1), full(128, 1), full(1, 1, 1, 1)
    hidden = phi if made == "phi" else EdgeLayer(phi, full(1, 1, 1), full(0, 1))
    out = ops.ecc(x, hidden, weight, graph, edge_weight=gamma)
    assert out.dtype == torch.float16
    assert out.item() == 16384
    found = torch.autograd.grad(out, (phi, gamma), full(0.5, 1, 1))
    assert [g.item() for g in found] == [8, 64]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("aggr", ["max", "min"])
def test_largest_of_half_types(device, dtype, aggr):
    """The sum u + v is not rounded before the activation; it may be beyond the largest float16."""
    graph = graph_from_table(torch.randint(50, (30, 8)), 50)
    there = Graph(graph.ptr.to(device), graph.source.to(device))
    u, v = ((-44000 + 5000 * normal(n, 9)).to(dtype) for n in (30, 50))
    leaves = [t.to(device).requires_grad_() for t in (u, v)]
    out = ops.edge_conv(*leaves, there, aggr, 0.2)
    exact = [t.double().requires_grad_() for t in (u, v)]
    expected = reference.edge_conv(*exact, graph, aggr, 0.2)
    require_rounded_once(out.cpu(), expected)
    upstream = normal(30, 9, seed=3).to(dtype)
    to_u, _ = torch.autograd.grad(out, leaves, upstream.to(device))
    require_rounded_once(to_u.cpu(), torch.autograd.grad(expected, exact, upstream.double())[0])


def test_the_least_of_two_large_half_numbers():
    """-44,000 twice, a tenth of it kept twice."""
    graph = graph_from_table(torch.tensor([[0]]), 1)
    large = torch.tensor([[-44000.0]], dtype=torch.float16)
    assert ops.edge_conv(large, large, graph, "min", 0.2).item() == -17600
