"""Networks that are convex by their weights: layers, first weights, conversion, structure."""

import copy
import itertools
import math

import pytest
import torch
from support.mesh_shapes import grid
from torch import nn
from torch_geometric.nn import MLP
from torch_geometric.nn import EdgeConv as PyGEdgeConv

from polygraph.analysis import check_convex
from polygraph.mesh import spiral_table
from polygraph.nn import (
    DynamicEdgeConv,
    EdgeConv,
    EdgeMeshConv,
    MeshGraph,
    Resample,
    SelectVertices,
    SpiralConv,
    to_maso,
)
from polygraph.nn.convex import (
    KINDS,
    ConvexConv2d,
    ConvexLinear,
    InputSkips,
    convex_,
    is_input_convex,
    principled_,
)
from polygraph.nn.convex.initial import principled_moments


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mlp(*widths, activation=nn.ReLU):
    parts = [
        part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), activation())
    ]
    return nn.Sequential(*parts[:-1])


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(4, 3),
    )  # fmt: skip


def test_first_weights_of_relu_are_those_of_the_paper():
    """f(n) as printed, for ReLU."""
    n, rho = 37, 0.5
    root = math.sqrt(1 - rho**2) + rho * math.acos(-rho)
    f = n * (math.pi - n + (n - 1) * root) / (2 * math.pi)
    mean, variance, bias = principled_moments(n)
    assert mean**2 == pytest.approx(rho / f, rel=1e-12)
    assert variance == pytest.approx(2 * (1 - rho) / n, rel=1e-12)
    assert bias == pytest.approx(-n * math.sqrt(rho / f / (2 * math.pi)), rel=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_moments_of_first_weights_keep_signals(slope):
    """Mean 0, variance 1, correlation 1/2, with normal weights of those moments.

    Log-normal ones have tails so heavy that a sample does not show its variance.
    """
    width, units, found = 30, 600, []
    mean, variance, bias = principled_moments(width, slope)
    for _ in range(6):
        h = math.sqrt(0.5) * (torch.randn(2000, 1) + torch.randn(2000, width))
        weight = mean + math.sqrt(variance) * torch.randn(units, width)
        h = nn.functional.leaky_relu(h, slope) @ weight.T + bias
        found.append(torch.stack([h.mean(), h.square().mean(), h.mean(1).square().mean()]))
    # 12,000 signals with half their variance in common scatter by 2 %.
    assert torch.stack(found).mean(0).tolist() == pytest.approx([0, 1, 0.5], abs=0.06)


def test_first_weights_have_these_moments():
    weight, bias = torch.empty(2000, 30), torch.empty(2000)
    assert principled_(weight, bias, slope=0.1) is weight
    mean, variance, shift = principled_moments(30, 0.1)
    assert bool((bias == shift).all())
    logs = weight.log()
    m, s2 = logs.mean(), logs.var()  # those of a log-normal distribution, from 60,000 draws
    assert (m + s2 / 2).exp().item() == pytest.approx(mean, rel=0.05)
    assert (s2.expm1() * (2 * m + s2).exp()).item() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_non_negative_and_can_be_assigned(kind):
    layer = ConvexLinear(5, 3, kind=kind)
    assert bool((layer.weight >= 0).all())
    wanted = torch.rand(3, 5) + 0.01
    layer.weight = wanted
    torch.testing.assert_close(layer.weight.detach(), wanted, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"a weight must be 0 or more, got one of -1"):
        layer.weight = -torch.ones(3, 5)
    conv = ConvexConv2d(2, 4, 3, kind=kind)
    assert bool((conv.weight >= 0).all())
    for made in (layer, conv):
        assert len(repr(made).splitlines()) == 1
    x = torch.randn(2, 5, requires_grad=True)
    raw = layer.parametrizations.weight.original

    def value(x, raw):
        weights = {"parametrizations.weight.original": raw, "bias": layer.bias}
        return torch.func.functional_call(layer, weights, (x,))

    assert torch.autograd.gradcheck(value, (x, raw), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(value, (x, raw))


def test_layers_are_reset():
    for layer in (ConvexLinear(30, 20, slope=0.2), ConvexConv2d(3, 4, 3)):
        before = layer.weight.detach().clone()
        torch.nn.init.zeros_(layer.bias)
        layer.reset_parameters()
        assert not torch.equal(layer.weight, before)
        assert bool((layer.weight >= 0).all() & (layer.bias < 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_convex_function_is_learned(kind):
    """The largest magnitude of two numbers; the network is convex all the way."""
    model, x = convex_(mlp(2, 16, 16, 1), kind=kind), torch.randn(200, 2)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(150):
        loss = (model(x)[:, 0] - x.abs().amax(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    assert bool(is_input_convex(model))
    assert bool(check_convex(model, x, chords=100))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_compile_to_one_graph(kind):
    model, x = convex_(mlp(3, 4, 2), kind=kind), torch.randn(5, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    found = [torch.autograd.grad(f(x).sum(), list(model.parameters())) for f in (compiled, model)]
    torch.testing.assert_close(*found)


def test_a_clipped_weight_comes_back():
    """As after a projection: at 0 a gradient that lowers it further is dropped, others pass."""
    layer = ConvexLinear(2, 1, bias=False, kind="clip")
    raw = layer.parametrizations.weight.original
    with torch.no_grad():
        raw.copy_(torch.tensor([[-0.1, -0.1]]))
    layer(torch.tensor([[1.0, -1.0]])).sum().backward()
    assert raw.grad.tolist() == [[0.0, -1.0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("initial", ["principled", "keep"])
@pytest.mark.parametrize("make", [lambda: mlp(3, 8, 8, 2), cnn], ids=["mlp", "cnn"])
def test_networks_become_convex(kind, initial, make):
    model = make().eval()
    shape = (3,) if isinstance(model[0], nn.Linear) else (2, 4, 4)
    assert not check_convex(model, shape)
    assert not is_input_convex(model)
    names = [name for name, _ in model.named_children()]
    assert convex_(model, kind=kind, initial=initial) is model
    assert [name for name, _ in model.named_children()] == names
    assert bool(is_input_convex(model))
    assert bool(check_convex(model, shape, samples=64, chords=256))


def test_kept_weights_are_those_that_were_there():
    model = mlp(3, 4, 2)
    before = copy.deepcopy(model)
    convex_(model, kind="clip", initial="keep")
    assert torch.equal(model[0].weight, before[0].weight)
    assert torch.equal(model[2].weight, before[2].weight.clamp(min=0))
    assert torch.equal(model[2].bias, before[2].bias)


def test_states_are_loaded():
    """Those of convex networks, and of plain ones with weights >= 0; negative ones are refused."""
    model, other = (convex_(mlp(3, 4, 4, 2)) for _ in range(2))
    x = torch.randn(5, 3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    plain = mlp(3, 4, 4, 2)
    with pytest.raises(RuntimeError, match=r"2\.weight: convex: a weight must be 0 or more"):
        other.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for n in (2, 4):
            plain[n].weight.abs_().add_(0.01)
    for made in (other, copy.deepcopy(other)):
        made.load_state_dict(plain.state_dict())
        torch.testing.assert_close(made(x), plain(x), rtol=1e-12, atol=1e-12)


REFUSED = {
    "tanh": (lambda: mlp(2, 3, 1, activation=nn.Tanh), r"1 \(Tanh\) is not known to be convex"),
    "steep": (lambda: mlp(2, 3, 1, activation=lambda: nn.LeakyReLU(2)), "above 1: it is concave"),
    "abs": (lambda: mlp(2, 3, 3, 1, activation=lambda: nn.LeakyReLU(-1)), "below 0: it is decr"),
    "elu": (lambda: mlp(2, 3, 1, activation=lambda: nn.ELU(1.5)), "slope of 1.5, above 1"),
    "batch": (lambda: nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), "of a batch"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(2)), "has not seen an input yet"),
    "dynamic": (lambda: [DynamicEdgeConv(nn.Linear(4, 2), k=2)], "finds its graph anew"),
    "min": (lambda: [EdgeConv(nn.Linear(4, 2), aggr="min")], "aggregates by 'min', not by max"),
    "edges": (lambda: [EdgeConv(nn.ReLU())], "does not begin with a linear layer"),
    "resample": (
        lambda: [nn.ReLU(), Resample(torch.tensor([[0, 1]]), torch.tensor([[1.5, -0.5]]), 2)],
        r"1 \(Resample\) has negative entries \(the least is -0\.5\), as least-squares",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_convex_is_refused_with_its_reason(case):
    make, reason = REFUSED[case]
    model = make()
    assert not is_input_convex(model)
    with pytest.raises(ValueError, match=reason):
        convex_(model)


def test_hooks_training_and_nan_are_noticed():
    hooked = mlp(2, 3, 1)
    hooked[1].register_forward_hook(lambda *_: None)
    assert "1 (ReLU) has hooks" in is_input_convex(hooked).reason
    model = convex_(cnn())
    assert is_input_convex(model).reason == "1 (BatchNorm2d) is in training mode: call eval() first"
    model.eval()[1].weight.data[0] = math.nan
    assert "weights that are not finite" in is_input_convex(model).reason


def test_what_convex_refuses_leaves_everything():
    """A parametrisation, a layer that is applied twice, a slope that is learned, bad names."""
    model = convex_(mlp(2, 3, 1))
    with pytest.raises(ValueError, match=r"the weight of 2 has a parametrisation already"):
        convex_(model)
    shared = nn.Linear(2, 2)
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    before = shared.weight.clone()
    with pytest.raises(ValueError, match="2 is applied twice: copy it first"):
        convex_(twice)
    assert torch.equal(shared.weight, before)
    with pytest.raises(ValueError, match=r"1 \(PReLU\) learns its slope"):
        convex_(mlp(2, 3, 1, activation=nn.PReLU))
    with pytest.raises(ValueError, match="kind must be one of softplus, exp, clip"):
        convex_(mlp(2, 3, 1), kind="relu")
    with pytest.raises(ValueError, match="initial must be one of principled, keep"):
        convex_(mlp(2, 3, 1), initial="kept")
    with pytest.raises(ValueError, match="kind must be one of"):
        ConvexLinear(2, 3, kind="none")
    with pytest.raises(ValueError, match=r"slope must be in \[0, 1\], got 2"):
        principled_(torch.empty(2, 2), slope=2)
    with pytest.raises(ValueError, match=r"weight must have shape \[D, ...\], got \[2\]"):
        principled_(torch.empty(2))


def test_a_descendant_with_another_forward_is_not_trusted():
    class Negated(nn.Linear):
        def forward(self, x):
            return -super().forward(x)

    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), Negated(3, 1))
    assert "2 (Negated) is not known" in is_input_convex(model).reason


def ring(n=6):
    ends = torch.arange(n)
    return torch.stack([torch.cat([ends, ends]), torch.cat([(ends + 1) % n, (ends - 1) % n])])


@pytest.mark.parametrize("aggr", ["max", "sum", "mean"])
@pytest.mark.parametrize("layer", [EdgeConv, PyGEdgeConv], ids=["ours", "pyg"])
def test_edge_convolutions_become_convex(aggr, layer):
    """Both layers of the second network, and both ends of its edges."""
    steps = [
        layer(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4)), aggr=aggr),
        nn.LeakyReLU(0.2),
        layer(nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2)), aggr=aggr),
    ]

    def fn(x):
        offsets = 6 * torch.arange(len(x)).view(-1, 1, 1)
        edges = (ring() + offsets).transpose(0, 1).flatten(1)  # of one graph
        return steps[2](steps[1](steps[0](x.flatten(0, 1), edges)), edges).view(len(x), 12)

    options = {"samples": 24, "chords": 200}
    assert not check_convex(fn, (6, 2), **options)
    assert not is_input_convex(steps)
    convex_(steps)
    assert bool(is_input_convex(steps))
    assert bool(check_convex(fn, (6, 2), **options))
    # Weights >= 0 on [x_i, x_j - x_i] are not enough: x_i has the difference of both.
    steps[2].nn[0].parametrizations.weight[0].forward = lambda raw: torch.ones_like(raw).cumsum(1)
    assert bool((steps[2].nn[0].weight > 0).all())
    assert "2.nn.0 (Linear) has negative weights in the form U x_i + V x_j" in (
        is_input_convex(steps).reason
    )


def test_networks_of_pyg_in_edge_convolutions():
    """A `torch_geometric.nn.MLP`, whose linear layers are PyG's own."""
    steps = [EdgeConv(MLP([4, 5, 4], norm=None)), nn.ReLU(), EdgeConv(MLP([8, 5, 2], norm=None))]
    x = torch.randn(6, 2)
    assert "0.nn.3 (Linear) has negative weights" in is_input_convex(steps).reason
    convex_(steps)
    assert bool(is_input_convex(steps))
    first, last = (PyGEdgeConv(step.nn) for step in (steps[0], steps[2]))
    torch.testing.assert_close(
        steps[2](steps[0](x, ring()), ring()), last(first(x, ring()), ring())
    )
    steps[2].nn.register_forward_hook(lambda *_: None)
    assert "does not begin with a linear layer" in is_input_convex(steps).reason


def test_mesh_networks_become_convex():
    vertices, faces = grid(4, 4)
    mesh, spirals = MeshGraph(faces, vertices), spiral_table(vertices, faces)
    keep = torch.arange(0, 16, 2)
    means = torch.full((16, 2), 0.5)
    index = torch.stack([torch.arange(16) // 2, torch.arange(16).add(1) // 2 % 8], 1)
    model = nn.Sequential(
        SpiralConv(2, 3, spirals), nn.ReLU(), EdgeMeshConv(3, 3, mesh=mesh), nn.Softplus(),
        SelectVertices(keep, 16), Resample(index, means, 8), SpiralConv(3, 1, spirals),
    )  # fmt: skip
    options = {"samples": 40, "chords": 400}
    assert not check_convex(model, (16, 2), **options)
    assert "2.layer (Linear) has negative weights in the form" in is_input_convex(model).reason
    convex_(model)
    assert bool(is_input_convex(model))
    assert bool(check_convex(model, (16, 2), **options))


def test_skips_from_the_input():
    plain = mlp(3, 4, 4, 2)
    model = InputSkips(copy.deepcopy(plain))
    assert list(model.skips) == ["2", "4"]
    x = torch.randn(5, 3)
    h = plain[1](plain[0](x))
    h = plain[3](plain[2](h) + model.skips["2"](x))
    torch.testing.assert_close(model(x), plain[4](h) + model.skips["4"](x))
    free = {name: skip.weight.clone() for name, skip in model.skips.items()}
    convex_(model)
    assert bool(is_input_convex(model))
    assert bool(check_convex(model, (3,), samples=64, chords=256))
    assert all(torch.equal(model.skips[name].weight, free[name]) for name in free)
    model.skips["2"] = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4))
    assert "skips.2.2 (Linear) has negative weights" in is_input_convex(model).reason
    for skips in ({}, {9: nn.Identity()}):
        with pytest.raises(ValueError, match="skips must name some of 5 steps"):
            InputSkips(plain, skips)


def nested_maximum(layers, x):
    """Equation 11: the maximum, over all choices of regions of all layers, of what is affine."""
    masos = [m for m in to_maso(layers, x.shape[1:]).children() if hasattr(m, "B")]
    choices = [
        itertools.product(range(m.B.shape[1]), repeat=m.B.shape[0]) for m in masos
    ]  # a region for each unit
    best = torch.full((len(x), masos[-1].B.shape[0]), -math.inf)
    for regions in itertools.product(*choices):
        h = x
        for maso, region in zip(masos, regions, strict=True):
            units = torch.arange(len(region))
            h = h @ maso.A[units, region].T + maso.B[units, region]
        best = torch.maximum(best, h)
    return best


@pytest.mark.parametrize("widths", [(2, 3, 1), (3, 3, 3, 2)], ids=["one", "two"])
def test_nested_maxima_are_the_global_maximum(widths):
    """Equation 11, which one negative weight breaks."""
    layers = convex_(mlp(*widths))
    x = 3 * torch.randn(40, widths[0])
    torch.testing.assert_close(nested_maximum(layers, x), layers(x), rtol=0, atol=1e-12)
    last = nn.Linear(*widths[-2:])
    with torch.no_grad():
        last.weight.copy_(layers[-1].weight)
        last.weight[0, 0] = -1.0
        last.bias.copy_(layers[-1].bias)
        layers[-1] = last
        assert (nested_maximum(layers, x) - layers(x)).max().item() > 0.1
