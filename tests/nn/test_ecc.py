"""NNConv, and the hidden features of edges."""

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
