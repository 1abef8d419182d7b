"""LightECConv."""

from typing import ClassVar

import pytest
import torch
from support.edge_features import C, D, E, F, N, edges
from support.layer_calls import Case
from support.layer_contract import LayerContract
from torch.nn import Linear, ReLU, Sequential

from polygraph import nn
from polygraph.nn.light_ecc import LightEdgeFilter, PartialCirculant

DYNAMIC = torch.export.Dim.DYNAMIC


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_the_source():
    """F = H = 132, r = 11, p = 3: the thesis's section 3.2.2."""
    layer = nn.LightECConv(132, 132, bias=False)
    for side in (layer.filter.left, layer.filter.right):
        assert side.weight.numel() == 132 * 44 * 11 == 63_888
        assert side.bias.numel() == 1_452
    assert count(LightEdgeFilter(132, 132, 132, 11, replicas=1).left) == 191_664 + 1_452
    assert layer.filter.kappa_weight.numel() == 1_452
    assert layer.filter.kappa_bias.numel() == 11
    assert count(layer) == 149_699
    image = nn.NonLocalGraphConv2d(132, 132, 16, "light", coordinates=False)
    assert count(image) == 306_647


def theta(phi, weight, bias, replicas, roll):
    """``[R, C]`` from one φ [H]: every replica is M times φ, rolled further."""
    rank, rows, _ = weight.shape
    found = torch.zeros(rank, replicas * rows, dtype=phi.dtype)
    for b in range(replicas):
        rolled = torch.roll(phi, b * roll)
        for r in range(rank):
            for i in range(rows):
                found[r, b * rows + i] = rolled @ weight[r, i]
    return found + bias


@pytest.mark.parametrize("shift", ["stride", "row"])
def test_formula(shift):
    """Σ_r κ_r θL_r (θR_r · x_j), written out for every edge; gradients."""
    torch.manual_seed(0)
    layer = nn.LightECConv(6, 4, hidden=12, rank=3, replicas=(2, 3), delta=7.0, shift=shift)
    layer.double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(N, 6).double().requires_grad_()
    edge_index, _ = edges()
    f = layer.filter
    degree = torch.bincount(edge_index[1], minlength=N).clamp(min=1)
    expected = torch.zeros(N, 4).double()
    for j, i in edge_index.T.tolist():
        d = x[j] - x[i]
        phi = torch.nn.functional.leaky_relu(layer.nn.lin(d), 0.2)
        left = theta(phi, f.left.weight, f.left.bias, 2, 6 if shift == "stride" else 1)
        right = theta(phi, f.right.weight, f.right.bias, 3, 4 if shift == "stride" else 1)
        kappa = f.kappa_weight @ phi + f.kappa_bias[:, 0]
        message = (kappa * (right @ x[j])) @ left * torch.exp(-d.square().sum() / 7)
        row = torch.nn.functional.one_hot(torch.tensor(i), N)[:, None]
        expected = expected + row * message / degree[i]
    expected = expected + layer.bias
    actual = layer(x, edge_index)
    torch.testing.assert_close(actual, expected)
    leaves = [x, *layer.parameters()]
    for got, wanted in zip(
        torch.autograd.grad(actual.sin().sum(), leaves),
        torch.autograd.grad(expected.sin().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def published(C, D, rank, p, generator):
    """Weights of a layer as the paper's public code lays them out."""
    shapes = {
        "hidden": (C, C),
        "hidden_bias": (C,),
        "right": (C, rank * C // p),
        "right_bias": (rank * C,),
        "left": (C, rank * D // p),
        "left_bias": (rank * D,),
        "kappa": (C, rank),
        "kappa_bias": (rank,),
    }
    return {name: torch.randn(s, generator=generator).double() for name, s in shapes.items()}


def published_theta(phi, matrix, bias, rank, p):
    """The public code's: rolls of 0, 2, 3 ... strides; rows of replicas cut into ranks."""
    stride = len(phi) // p
    rolls = [0] + [(b + 1) * stride for b in range(1, p)]
    rows = [torch.roll(phi, n) @ matrix for n in rolls]
    return (torch.cat(rows) + bias).view(rank, -1)


def test_published_layer():
    """Weights of the public code give its values; of three replicas the third repeats the first."""
    generator = torch.Generator().manual_seed(0)
    C, D, rank, p = 6, 9, 5, 3
    given = published(C, D, rank, p, generator)
    layer = nn.LightECConv(C, D, rank=rank, replicas=p, delta=10.0, compat="gcdn", bias=False)
    layer.double().load_gcdn(**given)
    x = torch.randn(N, C, generator=generator).double()
    edge_index, _ = edges()
    expected = torch.zeros(N, D).double()
    for j, i in edge_index.T.tolist():
        d = x[j] - x[i]
        phi = torch.nn.functional.leaky_relu(d @ given["hidden"] + given["hidden_bias"], 0.2)
        right = published_theta(phi, given["right"], given["right_bias"], rank, p)
        left = published_theta(phi, given["left"], given["left_bias"], rank, p)
        kappa = phi @ given["kappa"] + given["kappa_bias"]
        expected[i] += left.T @ (kappa * (right @ x[j])) * torch.exp(-d.square().sum() / 10)
    degree = torch.bincount(edge_index[1], minlength=N).clamp(min=1)
    torch.testing.assert_close(layer(x, edge_index), expected / degree[:, None])


def test_published_layer_refuses():
    """Shapes of another layer; a layer that does not compute what the public code does."""
    generator = torch.Generator().manual_seed(0)
    given = published(6, 9, 5, 3, generator)
    layer = nn.LightECConv(6, 6, rank=5, compat="gcdn")
    with pytest.raises(ValueError, match=r"left must be \[6, 10\], got \[6, 15\]"):
        layer.load_gcdn(**given)
    with pytest.raises(ValueError, match="compat='gcdn'"):
        nn.LightECConv(6, 9, rank=5).load_gcdn(**given)


def test_tail():
    """Channels beyond those of the replicas have rows of their own."""
    torch.manual_seed(0)
    matrix = PartialCirculant(6, 6, 2, 3, tail=2)
    for parameter in matrix.parameters():
        torch.nn.init.normal_(parameter)
    made, phi = matrix(), torch.randn(6)
    expected = torch.cat(
        [
            theta(phi, matrix.weight, matrix.bias[:, :6], 3, 2),
            matrix.tail @ phi + matrix.bias[:, 6:],
        ],
        1,
    )
    torch.testing.assert_close(made @ torch.cat([phi, torch.ones(1)]), expected)


@pytest.mark.parametrize("channels", [15, 16, 32, 66, 132, 264])
def test_light_starts_at_the_scale_of_its_input(channels):
    """Output and gradient have 0.3 to 3 times the deviation of what goes in."""
    scales = []
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(300, channels, requires_grad=True)
        layer = nn.LightECConv(channels, channels, replicas=1 if channels % 3 else 3)
        out = layer(x, nn.knn_graph(x, 8))
        (grad,) = torch.autograd.grad(out, x, torch.randn_like(out))
        scales.append([out.std(), grad.std()])
    for scale in torch.tensor(scales).mean(0).tolist():
        assert 0.3 < scale < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 6}, r"replicas must divide out_channels = 5, got 3; replicas=1"),
        (
            {"out_channels": 6, "in_channels": 4, "hidden": 6},
            r"replicas must divide in_channels = 4, got 3",
        ),
        ({"out_channels": 6, "in_channels": 6, "hidden": 7}, r"must divide hidden = 7, got 3"),
        ({"replicas": (1, 2, 3)}, "one number or two"),
        ({"replicas": 0}, "replicas_of_left must be a positive integer"),
        ({"rank": 0}, "rank must be a positive integer"),
        ({"aggr": "max", "replicas": 1}, "aggr must be one of"),
        ({"shift": "column"}, "shift must be one of stride, row"),
        ({"compat": "gcn"}, "compat must be None or 'gcdn'"),
        ({"blocks": None}, "blocks is no more.* replicas=1 what blocks=None was"),
    ],
)
def test_light_refuses(options, message):
    """Sizes that do not divide, and what is no option."""
    with pytest.raises(ValueError, match=message):
        nn.LightECConv(**({"in_channels": 4, "out_channels": 5} | options))
    with pytest.raises(TypeError, match="unexpected arguments 'block'"):
        nn.LightECConv(6, 6, block=3)


def test_checkpoints_of_before():
    """Full matrices are the same layer; circulant blocks are refused by name."""
    layer = nn.LightECConv(4, 5, replicas=1, rank=2, hidden=3)
    state = layer.state_dict()
    old = {k.replace("left.", "left_").replace("right.", "right_"): v for k, v in state.items()}
    for side, channels in (("left", 5), ("right", 4)):
        old[f"filter.{side}_weight"] = old[f"filter.{side}_weight"].view(2 * channels, 3)
        old[f"filter.{side}_bias"] = old[f"filter.{side}_bias"].view(2, channels, 1)
    other = nn.LightECConv(4, 5, replicas=1, rank=2, hidden=3)
    other.load_state_dict(dict(old))
    assert all(
        torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True)
    )
    old["filter.left_weight"] = torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match=r"filter.left_weight has shape \[2, 3\].* train anew"):
        other.load_state_dict(old)


def test_light_with_edge_features():
    """A network of given features; they are needed then."""
    edge_index, edge_attr = edges()
    layer = nn.LightECConv(C, D, hidden=7, nn=Sequential(Linear(F, 7), ReLU()), rank=2, replicas=1)
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
            lambda: nn.LightECConv(C, 6, hidden=6, rank=4, replicas=(3, 1), delta=5.0),
            lambda: graph(N, E)[:2],
        ),
        "full": Case(
            lambda: nn.LightECConv(C, D, rank=2, replicas=1, aggr="sum", bias=False),
            lambda: graph(N, E)[:2],
        ),
        "edge features": Case(
            lambda: nn.LightECConv(C, D, 7, 2, replicas=1, nn=Sequential(Linear(F, 7), ReLU())),
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
