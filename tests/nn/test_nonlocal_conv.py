"""The graph convolution on images."""

from typing import ClassVar

import pytest
import torch
from support.layer_calls import Case
from support.layer_contract import LayerContract
from torch.nn import functional

from polygraph import nn

CASES = [(kind, None) for kind in ("edge-sum", "edge-max", "edge-mean", "ecc", "light")]
CASES += [("ecc", 4.0), ("light", 4.0)]


def with_coordinates(x):
    row, column = torch.meshgrid(
        *(torch.linspace(-1, 1, n, dtype=x.dtype) for n in x.shape[2:]), indexing="ij"
    )
    return torch.cat([x, torch.stack([row, column]).expand(len(x), -1, -1, -1)], 1)


def message(layer, x_i, x_j):
    """Of one edge, by the formula of its kind, without γ."""
    if layer.kind.startswith("edge"):
        made = layer.lin(torch.cat([x_i, x_j - x_i]))
        return made if layer.kind == "edge-mean" else made.relu()
    phi = functional.leaky_relu(layer.hidden.lin(x_j - x_i), 0.2)
    phi = torch.cat([phi, torch.ones(1).double()])
    if layer.kind == "ecc":
        return torch.einsum("h,hcd,c->d", phi, layer.weight, x_j)
    left, right, kappa = layer.filter()
    return torch.einsum("r,rd,rc,c->d", kappa @ phi, left @ phi, right @ phi, x_j)


def by_definition(layer, x, table, dist2):
    """The non-local part, edge by edge; -1 is no neighbor."""
    wide = with_coordinates(x) if layer.coordinates else x
    nodes, out = wide.flatten(2).mT, []
    for b in range(len(x)):
        for i in range(nodes.shape[1]):
            found = []
            for j, d in zip(table[b, i], dist2[b, i], strict=True):
                gamma = 1 if layer.delta is None else torch.exp(-d / layer.delta)
                if j >= 0:
                    found.append(gamma * message(layer, nodes[b, i], nodes[b, j]))
            if not found:
                out.append(torch.zeros(layer.out_channels).double())
            elif layer.kind == "edge-max":
                out.append(torch.stack(found).amax(0))
            else:
                total = torch.stack(found).sum(0)
                out.append(total if layer.kind == "edge-sum" else total / len(found))
    return torch.stack(out).view(len(x), -1, layer.out_channels).mT.reshape(-1, 4, *x.shape[2:])


@pytest.mark.parametrize(("kind", "delta"), CASES)
def test_formula(kind, delta):
    """Against its formula, edge by edge; gradients of first and second order."""
    torch.manual_seed(0)
    layer = nn.NonLocalGraphConv2d(3, 4, 5, kind, delta=delta, rank=2, hidden=6, replicas=(2, 3))
    layer.double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 6, 7).double().requires_grad_()
    out = layer(x)
    near, dist2 = nn.pixel_knn(x.detach(), 5)
    found = by_definition(layer, x, near, dist2)
    local = functional.conv2d(with_coordinates(x), layer.local.weight, padding=1)
    expected = (found + local) / 2 + layer.bias[:, None, None]
    torch.testing.assert_close(out, expected)
    if delta is None:  # with it the wanted gradient also flows through the distances
        leaves = [x, *layer.parameters()]
        grads = torch.autograd.grad(out.sin().sum(), leaves, retain_graph=True)
        wanted = torch.autograd.grad(expected.sin().sum(), leaves)
        for actual, other in zip(grads, wanted, strict=True):
            torch.testing.assert_close(actual, other)
    (grad,) = torch.autograd.grad(layer(x).sin().sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["edge-sum", "edge-max", "edge-mean", "ecc", "light"])
@pytest.mark.parametrize("graph", ["mutual", "radius", "dilated"])
def test_pixels_with_fewer_neighbors(kind, graph):
    """Empty slots are no edges: the mean is over those that are there."""
    torch.manual_seed(0)
    options = {"radius": 1.5} if graph == "radius" else {}
    layer = nn.NonLocalGraphConv2d(
        3, 4, 8, kind, rank=2, hidden=6, replicas=(2, 3), graph=graph, **options
    ).double()
    x = torch.randn(2, 3, 5, 6).double().requires_grad_()
    table, _ = layer.graph.find(x)
    assert (table < 0).any()
    found, _ = layer.parts(x)
    expected = by_definition(layer, x, table, torch.zeros(table.shape))
    torch.testing.assert_close(found, expected)
    leaves = [
        x,
        *(p for p in layer.parameters() if p is not layer.local.weight and p is not layer.bias),
    ]
    for got, wanted in zip(
        torch.autograd.grad(found.sin().sum(), leaves),
        torch.autograd.grad(expected.sin().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("kind", ["edge-sum", "edge-max", "light"])
@pytest.mark.parametrize("k", [8, 32])
@pytest.mark.parametrize("channels", [33, 66])
def test_starts_at_the_scale_of_its_input(kind, k, channels):
    """The non-local part and its gradient have 0.3 to 3 times the scale of what goes in."""
    torch.manual_seed(0)
    x = torch.randn(2, channels, 12, 12, requires_grad=True)
    layer = nn.NonLocalGraphConv2d(channels, channels, k, kind, coordinates=False)
    found, _ = layer.parts(x)
    (grad,) = torch.autograd.grad(found, x, torch.randn_like(found))
    scale = found.detach().square().mean().sqrt(), grad.square().mean().sqrt()
    assert all(0.3 < s < 3 for s in scale), scale


@pytest.mark.parametrize("merge", ["sum", "gate", "concat", "max"])
def test_merges(merge):
    """Each way in which the two parts meet."""
    torch.manual_seed(0)
    layer = nn.NonLocalGraphConv2d(3, 4, merge=merge, bias=False)
    x = torch.randn(1, 3, 6, 7)
    found, local = layer.parts(x)
    if merge == "gate":
        assert torch.equal(layer(x), local + 0.5 * (found - local))
        torch.nn.init.normal_(layer.gate)
        g = torch.sigmoid(layer.gate)[:, None, None]
        expected = g * found + (1 - g) * local
    elif merge == "concat":
        weight = layer.joint.weight[..., 0, 0]
        both = torch.einsum("dc,bchw->bdhw", weight[:, :4], found)
        expected = both + torch.einsum("dc,bchw->bdhw", weight[:, 4:], local)
    else:
        expected = found + local if merge == "sum" else torch.maximum(found, local)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ecx"}, "kind must be one of edge-sum, edge-max, edge-mean, ecc, light"),
        ({"kind": "edge"}, "'edge' was the mean without ReLU, which is 'edge-mean' now"),
        ({"delta": 3.0}, "delta is for ecc and light, not for 'edge-sum'"),
        ({"kind": "light", "blocks": 3}, "NonLocalGraphConv2d: blocks is no more"),
        ({"kind": "light"}, "replicas must divide out_channels = 4, got 3"),
        ({"merge": "min"}, "merge must be one of mean, sum, gate, concat, max"),
        ({"graph": "grid"}, "graph must be one of knn"),
        ({"metric": "manhattan"}, "metric must be one of euclidean, cosine, projected"),
        ({"kind": "ecc", "metric": "projected"}, "metric 'projected' needs delta"),
        ({"graph": "radius"}, "radius must be positive with graph 'radius'"),
        ({"radius": 2.0}, "None otherwise, got 2.0 with 'knn'"),
        ({"graph": "random", "search_radius": 3}, "search_radius is not for graph 'random'"),
    ],
)
def test_refuses(options, message):
    """Options that do not exist or do not go together."""
    with pytest.raises(ValueError, match=message):
        nn.NonLocalGraphConv2d(3, 4, **options)


def test_refuses_input():
    """What is no image, or too small a one."""
    with pytest.raises(ValueError, match=r"x must have shape \[B, 3, H, W\]"):
        nn.NonLocalGraphConv2d(3, 4)(torch.randn(1, 4, 8, 8))
    with pytest.raises(RuntimeError, match="candidates"):
        nn.NonLocalGraphConv2d(3, 4, k=60)(torch.randn(1, 3, 8, 8))


# ---- the graph of pixels ----


def test_distances_of_graphs():
    """Squared distances of the features that the metric compares, differentiable."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 6).double().requires_grad_()
    for metric in ("euclidean", "cosine", "projected"):
        for graph in ("knn", "random"):
            layer = nn.NonLocalGraphConv2d(
                16, 4, 4, "ecc", delta=4.0, graph=graph, metric=metric
            ).double()
            features = x if layer.projection is None else layer.projection(x)
            assert features.shape[1] == (2 if metric == "projected" else 16)
            table, dist2 = layer.graph.find(features, True)
            if metric == "cosine":
                features = x / x.norm(dim=1, keepdim=True)
            pixels = features.flatten(2).mT
            batch = torch.arange(2)[:, None, None]
            wanted = (pixels[:, :, None] - pixels[batch, table]).square().sum(3)
            torch.testing.assert_close(dist2, wanted)
            (grad,) = torch.autograd.grad(dist2.sin().sum(), x, retain_graph=True)
            torch.testing.assert_close(grad, torch.autograd.grad(wanted.sin().sum(), x)[0])


def test_mutual_neighbors():
    """An edge is kept where it is there in both directions."""
    x = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    near, _ = nn.pixel_knn(x, 6)
    table, _ = nn.PixelGraph(6, "mutual").find(x)
    for b in range(2):
        for i in range(42):
            wanted = [j if i in near[b, j] else -1 for j in near[b, i].tolist()]
            assert table[b, i].tolist() == wanted


@pytest.mark.parametrize("excluded", [None, 0, 1, 2])
def test_random_neighbors(excluded):
    """Every pixel outside of the window is drawn, alike often, and no other."""
    torch.manual_seed(0)
    height, width = 5, 6
    graph = nn.PixelGraph(4000, "random", exclude_radius=excluded)
    (table,), _ = graph.find(torch.zeros(1, 3, height, width))
    for i in range(height * width):
        row, column = divmod(i, width)
        allowed = [
            j
            for j in range(height * width)
            if excluded is None or max(abs(j // width - row), abs(j % width - column)) > excluded
        ]
        counts = torch.bincount(table[i], minlength=height * width)
        assert counts.nonzero()[:, 0].tolist() == allowed
        expected = 4000 / len(allowed)
        assert (counts[allowed] - expected).abs().max() < 6 * expected**0.5


def test_random_neighbors_need_a_place():
    """A window that covers the image."""
    with pytest.raises(RuntimeError, match="no pixel lies outside"):
        nn.PixelGraph(2, "random", exclude_radius=3).find(torch.zeros(1, 1, 4, 4))


def test_dilated_neighbors():
    """Two pixels away, then four; the border has fewer."""
    (table,), _ = nn.PixelGraph(16, "dilated").find(torch.zeros(1, 1, 9, 9))
    center = 4 * 9 + 4
    far = [(r, c) for n in (2, 4) for r in (-n, 0, n) for c in (-n, 0, n) if (r, c) != (0, 0)]
    assert table[center].tolist() == [center + 9 * r + c for r, c in far]
    in_corner = [j for j in table[0].tolist() if j >= 0]
    assert in_corner == [2, 2 * 9, 2 * 9 + 2, 4, 4 * 9, 4 * 9 + 4]


# ---- what every layer promises ----

DYNAMIC = torch.export.Dim.DYNAMIC


def images(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 3, 6, 7, generator=generator).double(),)


class TestNonLocalGraphConv2d(LayerContract):
    kinds = (nn.NonLocalGraphConv2d,)
    reads_differences = True
    cases: ClassVar = {
        name: Case(lambda options=options: nn.NonLocalGraphConv2d(3, 4, 5, **options), images)
        for name, options in {
            "edge-sum": {"kind": "edge-sum"},
            "edge-max": {"kind": "edge-max", "graph": "mutual", "merge": "gate"},
            "edge-mean": {"kind": "edge-mean"},
            "projected": {"kind": "ecc", "hidden": 6, "delta": 4.0, "metric": "projected"},
            "light": {"kind": "light", "rank": 2, "hidden": 6, "replicas": (2, 3), "delta": 4.0},
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
