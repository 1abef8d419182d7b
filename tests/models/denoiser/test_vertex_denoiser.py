"""The denoiser of vertices: values against dense lines, symmetries, and what is refused."""

import numpy as np
import pytest
import torch
from support.mesh_shapes import grid, sphere
from torch.nn import functional

from polygraph.mesh import spiral_table
from polygraph.models import VertexDenoiser, VertexDenoiserConfig
from polygraph.models.denoiser.vertices import GRAPHS, VERTEX_PRESETS

SMALL = {"width": 6, "blocks": 2, "k": 4, "rank": 2, "spiral_length": 9, "local_k": 5}


def model_of(kind, graph, vertices=None, faces=None, seed=0):
    """A small one in float64, its last layer no longer zero."""
    torch.manual_seed(seed)
    config = VertexDenoiserConfig(kind, graph=graph, **SMALL)
    tables = ()
    if kind == "mesh":
        tables = spiral_table(vertices, faces, hops=2, length=9), np.array(faces, np.int64)
    model = VertexDenoiser(config, *tables).double()
    torch.nn.init.normal_(model.last.weight)
    return model


def nearest(x, k):
    """``[V, k]``, itself excluded."""
    distance = torch.cdist(x, x).fill_diagonal_(torch.inf)
    return distance.topk(k, largest=False).indices


def edge_max(layer, x, near):
    pairs = torch.cat([x[:, None].expand(-1, near.shape[1], -1), x[near] - x[:, None]], -1)
    return (pairs @ layer.nn.weight.T + layer.nn.bias).amax(1)


def alike(layer, x, near, graph):
    """A graph convolution, by a matrix for every edge."""
    if graph == "edge-max":
        return edge_max(layer, x, near)
    difference = x[near] - x[:, None]
    if graph == "ecc":
        theta = layer.nn(difference.flatten(0, 1)).view(*near.shape, x.shape[1], -1)
        out = torch.einsum("vkc,vkcd->vd", x[near], theta) / near.shape[1]
        return out + layer.lin(x) + layer.bias
    hidden = functional.leaky_relu(difference @ layer.nn.lin.weight.T + layer.nn.lin.bias, 0.2)
    made = layer.filter

    def parts(part):
        ones = torch.ones_like(hidden[..., :1])
        return torch.einsum("rch,vkh->vkrc", part(), torch.cat([hidden, ones], -1))

    right, left = parts(made.right), parts(made.left)
    kappa = hidden @ made.kappa_weight.T + made.kappa_bias[:, 0]
    inner = torch.einsum("vkrc,vkc->vkr", right, x[near]) * kappa
    return torch.einsum("vkr,vkrd->vkd", inner, left).mean(1) + layer.bias


def dense(model, y):
    """What is noise of one shape ``[V, 3]``, with loops and distances of all pairs."""
    if model.spirals is None:
        near = nearest(y, SMALL["local_k"])
        offsets = y[near] - y[:, None]
        unit = offsets.norm(dim=-1).mean()
        both = torch.cat([offsets, offsets.mean(1, keepdim=True).expand_as(offsets)], -1) / unit
        x = (both @ model.first.weight.T + model.first.bias).amax(1)
    else:
        rows = []
        lengths = []
        for v, spiral in enumerate(model.spirals.tolist()):
            row = [y[n] - y[v] if n >= 0 else torch.zeros(3).double() for n in spiral[1:]]
            lengths += [o.norm() for o, n in zip(row, spiral[1:], strict=True) if n >= 0]
            rows.append(torch.cat(row))
        unit = torch.stack(lengths).mean()
        x = torch.stack(rows) / unit @ model.first.weight.T + model.first.bias
    x = functional.leaky_relu(x, 0.2)
    for block in model.blocks:
        if model.spirals is None:
            found = edge_max(block.local, x, near)
        else:
            padded = torch.cat([x, torch.zeros(1, x.shape[1]).double()])
            found = padded[model.spirals].flatten(1) @ block.local.weight.T + block.local.bias
        if block.graph is not None:
            other = alike(block.graph, x, nearest(x, SMALL["k"]), model.config.graph)
            found = (found + other) / 2
        x = x + functional.leaky_relu(found, 0.2)
    return unit * (x @ model.last.weight.T + model.last.bias)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("kind", ["mesh", "cloud"])
def test_values_are_those_of_dense_lines(kind, graph):
    """The grid has a border, and so spirals with gaps."""
    vertices, faces = grid(6, 5)
    model = model_of(kind, graph, vertices, faces)
    y = torch.randn(2, len(vertices), 3, dtype=torch.float64)
    found = model(y)
    wanted = torch.stack([shape - dense(model, shape) for shape in y])
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    found.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("kind", ["mesh", "cloud"])
def test_it_moves_and_grows_with_the_shape(kind):
    vertices, faces = sphere()
    model = model_of(kind, "light", vertices, faces)
    y = torch.from_numpy(np.asarray(vertices, np.float64))[None]
    y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).double()
    found = model(y)
    shift = torch.tensor([3.0, -2.0, 1.0]).double()
    torch.testing.assert_close(model(1000 * (y + shift)), 1000 * (found + shift), rtol=1e-9, atol=0)
    assert (found - y).abs().max() > 1e-4


def test_an_untrained_one_changes_nothing():
    for name, config in VERTEX_PRESETS.items():
        model = VertexDenoiser(VertexDenoiserConfig("cloud", graph=config.graph))
        y = torch.randn(1, 40, 3)
        assert torch.equal(model(y), y), name


def test_sizes_of_the_presets():
    """As docs/denoising.md has them."""
    vertices, faces = grid(6, 5)
    spirals, faces = spiral_table(vertices, faces, hops=2, length=16), np.array(faces, np.int64)
    found = [
        sum(p.numel() for p in VertexDenoiser(config, spirals, faces).parameters())
        for config in VERTEX_PRESETS.values()
    ]
    assert found == [105_563, 27_811, 57_059, 50_819]


def test_the_topology_is_part_of_the_state():
    vertices, faces = grid(6, 5)
    model = model_of("mesh", "none", vertices, faces)
    assert {"spirals", "faces"} <= set(model.state_dict())
    other = model_of("mesh", "none", vertices, faces, seed=1)
    other.load_state_dict(model.state_dict())
    y = torch.randn(1, len(vertices), 3, dtype=torch.float64)
    assert torch.equal(other(y), model(y))


def test_points_that_coincide_stay():
    model = model_of("cloud", "none")
    y = torch.ones(1, 20, 3, dtype=torch.float64)
    torch.testing.assert_close(model(y), y)


def test_what_is_refused():
    vertices, faces = grid(6, 5)
    mesh, cloud = model_of("mesh", "light", vertices, faces), model_of("cloud", "light")
    config = VertexDenoiserConfig(**SMALL)
    spirals = spiral_table(vertices, faces, hops=2, length=9)
    for call, message in (
        (lambda: mesh(torch.zeros(1, 7, 3).double()), r"\[B, 30, 3\], got \[1, 7, 3\]"),
        (lambda: cloud(torch.zeros(5, 3).double()), r"\[B, V, 3\], got \[5, 3\]"),
        (lambda: cloud(torch.zeros(1, 5, 3).double()), "at least 6 vertices"),
        (lambda: cloud(torch.zeros(1, 20, 3)), "y is float32, but this model"),
        (lambda: VertexDenoiser(config), "needs spirals and faces"),
        (lambda: VertexDenoiser(config, spirals[:, :5], faces), r"\[V, 9\], got \[30, 5\]"),
        (lambda: VertexDenoiser(config, spirals + 9, faces), "spirals"),
        (lambda: VertexDenoiser(config, spirals, np.zeros((3, 4), int)), r"faces must be int64"),
        (
            lambda: VertexDenoiser(VertexDenoiserConfig("cloud"), spirals, faces),
            "spirals and faces are of kind 'mesh'",
        ),
        (lambda: VertexDenoiserConfig(spiral_length=1), "spiral_length must be at least 2"),
        (lambda: VertexDenoiserConfig("points"), "kind must be one of mesh, cloud"),
        (lambda: VertexDenoiserConfig(graph="edge-sum"), "graph must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(RuntimeError, match=r"NaN|finite"):
        cloud(torch.full((1, 20, 3), torch.nan).double())
