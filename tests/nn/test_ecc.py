"""NNConv, LightECConv and the graph convolution on images."""

from typing import ClassVar

import pytest
import torch
import torch_geometric.nn as pyg
from support.edge_features import C, D, E, F, N, edges
from support.layer_calls import Case
from support.layer_contract import LayerContract
from torch.nn import Linear, ReLU, Sequential

from polygraph import nn, ops
from polygraph.nn.ecc import DifferenceHidden

NETWORKS = {
    "two layers": lambda: Sequential(Linear(F, 7), ReLU(), Linear(7, C * D)),
    "without bias": lambda: Sequential(Linear(F, 7), ReLU(), Linear(7, C * D, bias=False)),
    "one layer": lambda: Linear(F, C * D),
    "MLP": lambda: pyg.MLP([F, 7, 6, C * D]),
    "ends otherwise": lambda: Sequential(Linear(F, C * D), ReLU()),
}


@pytest.mark.filterwarnings("ignore:NNConv")
@pytest.mark.parametrize("aggr", ["add", "mean", "max"])
@pytest.mark.parametrize("network", NETWORKS)
def test_same_as_pyg(network, aggr):
    """Values and gradients, with and without root weight and bias, bipartite too."""
    edge_index, edge_attr = edges()
    for options in ({}, {"root_weight": False, "bias": False}, {"flow": "target_to_source"}):
        theirs = pyg.NNConv(C, D, NETWORKS[network](), aggr, **options).double()
        ours = nn.NNConv(C, D, NETWORKS[network](), aggr, **options).double()
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(N, C).double().requires_grad_()
        pair = (x, torch.randn(N, C).double().requires_grad_())
        for nodes in (x, pair, (x, None)):
            leaves = [x, edge_attr.requires_grad_()]
            found = []
            for layer in (ours, theirs):
                size = (N, N) if isinstance(nodes, tuple) and nodes[1] is None else None
                out = layer(nodes, edge_index, edge_attr, size)
                wanted = [*leaves, *layer.parameters()]
                grads = torch.autograd.grad(
                    out.sin().sum(), wanted, allow_unused=True, materialize_grads=True
                )
                found.append([out, *grads])
            for actual, expected in zip(*found, strict=True):
                torch.testing.assert_close(actual, expected)


def test_alias():
    """ECConv is NNConv."""
    assert nn.ECConv is nn.NNConv


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(N, 4)}, "x must have 5 channels, got 4"),
        ({"edge_attr": torch.randn(E - 1, F)}, "edge_attr must have one row per edge, 150"),
        ({"edge_attr": torch.randn(E, F + 1)}, r"edge_attr must have shape \[E, 4\]"),
        ({"edge_index": torch.full((2, E), N)}, r"edge_index must lie in \[0, 30\) in row 0"),
    ],
)
def test_bad_input(change, message):
    """Refused with what was wanted and what was got."""
    edge_index, edge_attr = edges()
    good = {"x": torch.randn(N, C), "edge_index": edge_index, "edge_attr": edge_attr.float()}
    layer = nn.NNConv(C, D, NETWORKS["two layers"]())
    layer(**good)
    with pytest.raises(ValueError, match=message):
        layer(**(good | change))


def test_bad_edge_network():
    """One whose output is no C x D matrix."""
    edge_index, edge_attr = edges()
    layer = nn.NNConv(C, D, Sequential(Linear(F, 7), ReLU(), Linear(7, C * D + 1)))
    with pytest.raises(ValueError, match=r"nn must make 5 \* 6 = 30 features, .* 31"):
        layer(torch.randn(N, C), edge_index, edge_attr.float())


@pytest.mark.parametrize("delta", [None, 4.0])
@pytest.mark.parametrize("kind", ["edge", "ecc", "light"])
def test_graph_convolution_on_images(kind, delta):
    """Against its formula, edge by edge; gradients of first and second order."""
    torch.manual_seed(0)
    layer = nn.NonLocalGraphConv2d(3, 4, 5, kind, delta=delta, rank=2, hidden=6).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 6, 7).double().requires_grad_()
    out = layer(x)
    assert out.shape == (2, 4, 6, 7)
    near, dist2 = nn.pixel_knn(x.detach(), 5)
    row, column = torch.meshgrid(
        torch.linspace(-1, 1, 6, dtype=torch.float64),
        torch.linspace(-1, 1, 7, dtype=torch.float64),
        indexing="ij",
    )
    wide = torch.cat([x, torch.stack([row, column]).expand(2, -1, -1, -1)], 1)
    nodes = wide.flatten(2).mT
    found = torch.zeros(2, 42, 4).double()
    for b in range(2):
        for i in range(42):
            for j, d in zip(near[b, i], dist2[b, i], strict=True):
                x_i, x_j = nodes[b, i], nodes[b, j]
                gamma = 1 if delta is None or kind == "edge" else torch.exp(-d / delta)
                if kind == "edge":
                    message = layer.lin(torch.cat([x_i, x_j - x_i]))
                else:
                    phi = torch.nn.functional.leaky_relu(layer.hidden.lin(x_j - x_i), 0.2)
                    phi = torch.cat([phi, torch.ones(1).double()])
                    if kind == "ecc":
                        theta = torch.einsum("h,hcd->dc", phi, layer.weight)
                    else:
                        left, right, kappa = layer.filter()
                        theta = torch.einsum("r,rd,rc->dc", kappa @ phi, left @ phi, right @ phi)
                    message = theta @ x_j
                found[b, i] = found[b, i] + gamma * message / 5
    local = torch.nn.functional.conv2d(wide, layer.local.weight, padding=1)
    expected = (found.mT.view(2, 4, 6, 7) + local) / 2 + layer.bias[:, None, None]
    torch.testing.assert_close(out, expected)
    parameters = [x, *layer.parameters()]
    if kind != "edge":
        grads = torch.autograd.grad(out.sum(), parameters, retain_graph=True)
        if delta is None:  # with it the wanted gradient also flows through the distances
            wanted = torch.autograd.grad(expected.sum(), parameters)
            for actual, other in zip(grads, wanted, strict=True):
                torch.testing.assert_close(actual, other)
    (grad,) = torch.autograd.grad(layer(x).sin().sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert x.grad.isfinite().all()


def test_graph_convolution_refuses():
    """What is no image, and kinds that do not exist."""
    with pytest.raises(ValueError, match="kind must be one of edge, ecc, light"):
        nn.NonLocalGraphConv2d(3, 4, kind="ecx")
    with pytest.raises(ValueError, match=r"x must have shape \[B, 3, H, W\]"):
        nn.NonLocalGraphConv2d(3, 4)(torch.randn(1, 4, 8, 8))
    with pytest.raises(RuntimeError, match="candidates"):
        nn.NonLocalGraphConv2d(3, 4, k=60)(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("called", [False, True])
def test_difference_hidden(called):
    """From nodes as from differences, which the linear layer sees where it must be called."""
    hidden = DifferenceHidden(C, 7).double()
    x = torch.randn(N, C).double() + 1e4
    edge_index, _ = edges()
    graph = ops.graph_from_coo(*edge_index, N, N)
    label = x[edge_index[0]] - x[edge_index[1]]
    expected = torch.nn.functional.leaky_relu(hidden.lin(label), 0.2)
    if called:
        hidden.lin.register_forward_hook(lambda *_: None)
        phi = hidden(x, graph)
    else:
        u, v, slope = hidden(x, graph)
        phi = ops.edge_values(u, v, graph, slope)
    torch.testing.assert_close(phi, expected)


# ---- what every layer promises ----

DYNAMIC = torch.export.Dim.DYNAMIC


def points(count, channels=C, seed=0):
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)).double()


def graph(nodes, count):
    """Nodes, edges among all but the last two of them, and features."""
    generator = torch.Generator().manual_seed(1)
    edge_index = torch.randint(max(1, nodes - 2), (2, count), generator=generator)
    return points(nodes), edge_index, points(count, F, seed=2)


def case(network, aggr, **options):
    """Ours, and PyG's."""

    def make(kind):
        return lambda: kind(C, D, NETWORKS[network](), aggr, **options)

    return Case(make(nn.NNConv), lambda: graph(N, E), make(pyg.NNConv))


def message(base):
    class M(base):
        def message(self, x_j, edge_attr):
            return 2 * base.message(self, x_j, edge_attr) + x_j[:, :1]

    return M


def aggregate(base):
    class M(base):
        def aggregate(self, inputs, index, ptr=None, dim_size=None):
            return 0 * pyg.MessagePassing.aggregate(self, inputs, index, ptr, dim_size)

    return M


def update(base):
    class M(base):
        def update(self, inputs):
            return inputs.exp()

    return M


class TestNNConv(LayerContract):
    kinds = (nn.NNConv, nn.ECConv)
    foreign = ("maximum", "ends otherwise", "two aggregations", "standard deviation", "softmax")
    reads_edges = True
    overrides: ClassVar = {f.__name__: f for f in (message, aggregate, update)}
    cases: ClassVar = {
        "two layers": case("two layers", "mean"),
        "without bias": case("without bias", "add", root_weight=False, bias=False),
        "one layer": case("one layer", "sum", flow="target_to_source"),
        "MLP": case("MLP", "mean"),
        "maximum": case("two layers", "max"),
        "ends otherwise": case("ends otherwise", "mean"),
        "two aggregations": case("two layers", ["max", "mean"], root_weight=False, bias=False),
        "standard deviation": case("two layers", "std"),
        "softmax": case("two layers", pyg.SoftmaxAggregation(learn=True)),
    }
    without_meta = ("softmax",)
    dynamic = ({0: DYNAMIC}, {1: DYNAMIC}, {0: DYNAMIC})
    graph = staticmethod(graph)

    @staticmethod
    def sized(size):
        return graph(size, 3 * size + 1)


def images(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 3, 6, 7, generator=generator).double(),)


class TestNonLocalGraphConv2d(LayerContract):
    kinds = (nn.NonLocalGraphConv2d,)
    reads_differences = True
    cases: ClassVar = {
        name: Case(lambda options=options: nn.NonLocalGraphConv2d(3, 4, 5, **options), images)
        for name, options in {
            "edge": {"kind": "edge"},
            "light": {"kind": "light", "rank": 2, "hidden": 6, "delta": 4.0},
            "ecc": {"kind": "ecc", "hidden": 6, "exclude_radius": 0, "coordinates": False},
            "ecc, delta": {"kind": "ecc", "hidden": 6, "delta": 4.0, "search_radius": 3},
        }.items()
    }
    dynamic = ({0: DYNAMIC},)
    # The first equals none of the other sizes; PyTorch has another convolution from 16 on.
    sizes = (9, 5, 4, 8, 3, 2, 11, 13, 15, 10)

    @staticmethod
    def sized(size):
        return images(size)
