"""LightECConv."""

from typing import ClassVar

import pytest
import torch
from support.edge_features import C, D, E, F, N, edges
from support.layer_calls import Case
from support.layer_contract import LayerContract
from torch.nn import Linear, ReLU, Sequential

from polygraph import nn, ops, reference

DYNAMIC = torch.export.Dim.DYNAMIC


def test_light_filter():
    """Every row of a circulant block is the one above it, rolled by one; the rest by definition."""
    torch.manual_seed(0)
    layer = nn.LightECConv(6, 4, hidden=5, rank=3, blocks=2).double()
    left, right, kappa = layer.filter()
    for matrix, base, channels in (
        (left, layer.filter.left_weight, 4),
        (right, layer.filter.right_weight, 6),
    ):
        rows = matrix[..., :-1].reshape(2, 3 * channels // 2, 5)
        for block in range(2):
            for row in range(rows.shape[1]):
                assert torch.equal(rows[block, row], base[block].roll(row))
    x = torch.randn(N, 6).double()
    edge_index, _ = edges()
    graph = ops.graph_from_coo(*edge_index, N, N)
    label = x[edge_index[0]] - x[edge_index[1]]
    phi = torch.nn.functional.leaky_relu(layer.nn.lin(label), 0.2)
    layer.delta = 7.0
    gamma = torch.exp(-label.square().sum(1) / 7.0)
    expected = reference.light_ecc(x, phi, left, right, kappa, graph, edge_weight=gamma)
    torch.testing.assert_close(layer(x, edge_index), expected + layer.bias)


@pytest.mark.parametrize(
    ("sizes", "left", "right"),
    [
        ((8, 8, 8, 11, 1), (0,) * 11, (0,) * 11),
        ((8, 8, 8, 6, 2), (0, 0, 0, 3, 3, 3), (0, 0, 0, 3, 3, 3)),
        ((8, 4, 8, 4, 2), (0, 1, 2, 3), (0, 0, 2, 2)),
        ((6, 6, 6, 4, 3), (0, 1, 2, 3), (0, 1, 2, 3)),
        ((8, 8, 8, 3, None), (0, 1, 2), (0, 1, 2)),
    ],
)
def test_light_filter_repeats(sizes, left, right):
    """Ranks of one block start anew after H rows; what repeats is the matrix of the first."""
    torch.manual_seed(0)
    layer = nn.LightECConv(sizes[0], sizes[1], *sizes[2:])
    assert layer.filter.repeats == (left, right)
    for matrix, firsts in zip(layer.filter(), (left, right), strict=False):
        assert torch.equal(matrix[..., :-1], matrix[list(firsts), :, :-1])


@pytest.mark.parametrize("blocks", [None, 3])
@pytest.mark.parametrize("channels", [16, 32, 66, 132, 264])
def test_light_starts_at_the_scale_of_its_input(channels, blocks):
    """Output and gradient have 0.3 to 3 times the deviation of what goes in."""
    scales = []
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(300, channels, requires_grad=True)
        layer = nn.LightECConv(channels, channels, rank=12, blocks=blocks)
        out = layer(x, nn.knn_graph(x, 8))
        (grad,) = torch.autograd.grad(out, x, torch.randn_like(out))
        scales.append([out.std(), grad.std()])
    for scale in torch.tensor(scales).mean(0).tolist():
        assert 0.3 < scale < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 5, "blocks": 3}, r"blocks must divide rank \* in_channels = 20, got 3"),
        ({"rank": 3, "blocks": 4, "in_channels": 8}, r"blocks must divide .* out_channels = 15"),
        ({"rank": 0}, "rank must be a positive integer"),
        ({"aggr": "max", "blocks": None}, "aggr must be one of"),
    ],
)
def test_light_refuses(options, message):
    """Sizes that do not divide."""
    with pytest.raises(ValueError, match=message):
        nn.LightECConv(**({"in_channels": 4, "out_channels": 5} | options))


def test_light_with_edge_features():
    """A network of given features; they are needed then."""
    edge_index, edge_attr = edges()
    layer = nn.LightECConv(C, D, hidden=7, nn=Sequential(Linear(F, 7), ReLU()), rank=2, blocks=None)
    assert layer(torch.randn(N, C), edge_index, edge_attr.float()).shape == (N, D)
    with pytest.raises(ValueError, match="edge_attr is needed"):
        layer(torch.randn(N, C), edge_index)


def points(count, channels=C, seed=0):
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)).double()


def graph(nodes, count):
    """Nodes, edges among all but the last two of them, and features."""
    generator = torch.Generator().manual_seed(1)
    edge_index = torch.randint(max(1, nodes - 2), (2, count), generator=generator)
    return points(nodes), edge_index, points(count, F, seed=2)


class TestLightECConv(LayerContract):
    kinds = (nn.LightECConv,)
    reads_edges = reads_differences = True
    cases: ClassVar = {
        "circulant": Case(
            lambda: nn.LightECConv(C, 6, hidden=4, rank=6, blocks=3, delta=5.0),
            lambda: graph(N, E)[:2],
        ),
        "full": Case(
            lambda: nn.LightECConv(C, D, rank=2, blocks=None, aggr="sum", bias=False),
            lambda: graph(N, E)[:2],
        ),
        "edge features": Case(
            lambda: nn.LightECConv(C, D, 7, 2, blocks=None, nn=Sequential(Linear(F, 7), ReLU())),
            lambda: graph(N, E),
        ),
    }
    dynamic = ({0: DYNAMIC}, {1: DYNAMIC})

    @staticmethod
    def graph(nodes, count):
        return graph(nodes, count)[:2]

    @staticmethod
    def sized(size):
        return graph(size, 3 * size + 1)[:2]
