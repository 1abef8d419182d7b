"""Every layer on a GPU: the CPU's outputs and gradients, from the same weights."""

import copy
import io
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch_geometric
from support.calls import on_device, upstream_like
from support.devices import GPU, capture
from support.tolerances import (
    LAYER_BFLOAT16,
    LAYER_FLOAT32,
    LAYER_GRADIENT_BFLOAT16,
    assert_close,
    distance,
)
from torch.nn import BatchNorm1d, Conv2d, LeakyReLU, Linear, ReLU, Sequential
from torch_geometric.data import Batch, Data

from polygraph import nn
from polygraph.nn import mesh_conv
from polygraph.transforms import KNNGraph

pytestmark = pytest.mark.gpu

V, C, D, F, E = 30, 16, 8, 4, 150


def normal(*shape, seed=0):
    """Normal numbers in float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(low, high, *shape, seed=0):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def torus(rings=6, sides=5):
    """Vertices and faces of a closed mesh with V = 30 vertices."""
    ring, side = np.mgrid[:rings, :sides].reshape(2, -1)
    around, along = 2 * np.pi * ring / rings, 2 * np.pi * side / sides
    radius = 2 + 0.7 * np.cos(along)
    vertices = [radius * np.cos(around), radius * np.sin(around), 0.7 * np.sin(along)]

    def place(r, s):
        return (ring + r) % rings * sides + (side + s) % sides

    here, right, up, both = place(0, 0), place(0, 1), place(1, 0), place(1, 1)
    faces = [np.stack([here, right, both], 1), np.stack([here, both, up], 1)]
    return np.stack(vertices, 1), np.concatenate(faces)


SPIRALS = integers(-1, V, V, 9)
EDGES = integers(0, V, 2, E, seed=1)
KEEP = torch.arange(0, V, 3)
MESH, IMAGES, NODES = normal(3, V, C), normal(2, C, 6, 5), normal(V, C)


def spiral(in_channels, out_channels, bias=True):
    """A factory of operators for polynomial blocks."""
    return nn.SpiralConv(in_channels, out_channels, SPIRALS, bias)


def mesh_layer(name, keep=None):
    """A convolution on the edges of the torus."""
    vertices, faces = torus()
    graph = mesh_conv.MeshGraph(faces, vertices, None if keep is None else keep.numpy())
    return mesh_conv.MESH_CONVS[name](C, D, mesh=graph)


def norm(kind):
    """A norm of terms ``[B, V, C]``."""
    return nn.SecondOrderNorm(C, kind, num_vertices=V)


def edge_network(channels=2 * C):
    """DGCNN's: what it takes before the maximum."""
    return Sequential(Linear(channels, D, bias=False), BatchNorm1d(D), LeakyReLU(0.2))


def edge_matrices():
    """The network of an edge-conditioned convolution."""
    return Sequential(Linear(F, 7), ReLU(), Linear(7, C * D))


def prod_poly():
    """Two blocks."""
    return nn.ProdPoly(nn.NCP(spiral, C, C, 2, activation="elu"), nn.Simple(spiral, C, D, 2))


def on_graph():
    """A graph convolution as a map of features, made of edges in no order."""
    return nn.OnGraph(nn.EdgeConv(Linear(2 * C, D), "add"), EDGES)


EDGE_ATTR = normal(E, F, seed=2)
# name -> the layer, and the arguments of a call
LAYERS = {
    "spiral": (partial(spiral, C, D), (MESH,)),
    "spiral, 3 coordinates": (partial(spiral, 3, C), (normal(3, V, 3),)),
    "resample": (
        lambda: nn.Resample(integers(0, V, 50, 3), normal(50, 3, seed=3).numpy(), V),
        (MESH,),
    ),
    "select": (lambda: nn.SelectVertices(KEEP, V), (MESH,)),
    "first order": (lambda: nn.FirstOrder(spiral, C, D, activation="elu"), (MESH,)),
    "simple": (lambda: nn.Simple(spiral, C, D, 3, activation="elu"), (MESH,)),
    "ccp": (lambda: nn.CCP(spiral, C, D, 3, activation="relu"), (MESH,)),
    "ncp": (lambda: nn.NCP(spiral, C, D, 3, activation="leaky_relu"), (MESH,)),
    "ncp, rank": (lambda: nn.NCP(spiral, C, D, 2, rank=8), (MESH,)),
    "ncp, scales of vertices": (lambda: nn.NCP(spiral, C, C, 2, norm="vertex_rms"), (MESH,)),
    "ncp of images": (lambda: nn.NCP(partial(Conv2d, kernel_size=3), C, D, 2), (IMAGES,)),
    "skip": (lambda: nn.NCPSkip(spiral, C, C, 3, activation="elu"), (MESH,)),
    "product": (prod_poly, (MESH,)),
    **{f"norm {kind}": (partial(norm, kind), (MESH,)) for kind in nn.NORMS},
    **{f"mesh {name}": (partial(mesh_layer, name), (MESH,)) for name in mesh_conv.MESH_CONVS},
    **{
        f"mesh {name}, some targets": (partial(mesh_layer, name, KEEP), (MESH,))
        for name in mesh_conv.MESH_CONVS
    },
    "EdgeConv, max": (lambda: nn.EdgeConv(edge_network()), (NODES, EDGES)),
    "EdgeConv, mean": (lambda: nn.EdgeConv(edge_network(), "mean"), (NODES, EDGES)),
    "DynamicEdgeConv": (
        lambda: nn.DynamicEdgeConv(edge_network(), 6),
        (NODES, torch.arange(V) // 10),
    ),
    "NNConv": (lambda: nn.NNConv(C, D, edge_matrices(), "mean"), (NODES, EDGES, EDGE_ATTR)),
    "NNConv, max by PyG": (
        lambda: nn.NNConv(C, D, edge_matrices(), "max"),
        (NODES, EDGES, EDGE_ATTR),
    ),
    "LightECConv": (lambda: nn.LightECConv(C, D, rank=6, replicas=1, delta=10.0), (NODES, EDGES)),
    "LightECConv of edge features": (
        lambda: nn.LightECConv(C, D, 7, 5, replicas=1, nn=Linear(F, 7), aggr="sum"),
        (NODES, EDGES, EDGE_ATTR),
    ),
    **{
        f"non-local {kind}, delta {delta}": (
            partial(nn.NonLocalGraphConv2d, C, D, 4, kind, rank=4, delta=delta),
            (IMAGES,),
        )
        for kind, delta in (("edge-sum", None), ("ecc", None), ("ecc", 10.0), ("light", 10.0))
    },
    "on a graph": (on_graph, (MESH,)),
}
# Samples of a batch are counted; PyG's own way.
WAIT = ("DynamicEdgeConv", "NNConv, max by PyG")


def made(name):
    """The layer, no parameter or statistic of which hides by being 0 or 1."""
    torch.manual_seed(0)
    layer = LAYERS[name][0]()
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point() and tensor.shape and "Resample" not in repr(layer):
                tensor.add_(0.1 * torch.rand_like(tensor))
    return layer


def outcome(layer, arguments, upstream=None):
    """Output, gradients of arguments and parameters, and what is left in the buffers, by name."""
    arguments = [t.requires_grad_() if t.is_floating_point() else t for t in arguments]
    out = layer(*arguments)
    wanted = {f"argument {n}": t for n, t in enumerate(arguments) if t.requires_grad}
    wanted |= dict(layer.named_parameters())
    upstream = upstream_like(out) if upstream is None else upstream
    grads = torch.autograd.grad(
        out, list(wanted.values()), upstream, allow_unused=True, materialize_grads=True
    )
    found = {"out": out.detach()}
    found |= {f"grad of {name}": g for name, g in zip(wanted, grads, strict=True)}
    return found | {f"buffer {name}": b.clone() for name, b in layer.named_buffers()}


def exact(name):
    """What the CPU computes in float64, from the same numbers."""
    arguments = [t.double() if t.is_floating_point() else t for t in LAYERS[name][1]]
    return outcome(made(name).double(), on_device(arguments, "cpu"))


@pytest.fixture(autouse=True)
def float32_is_float32():
    """Convolutions of cuDNN in float32, whose default on a GPU is TF32 with 11 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.filterwarnings("ignore:NNConv")
@pytest.mark.parametrize("name", LAYERS)
def test_gpu_layer(name):
    """In float32: output, all gradients, running statistics."""
    actual = outcome(made(name).to(GPU), on_device(LAYERS[name][1], GPU))
    for what, value in exact(name).items():
        assert actual[what].device.type == GPU, what
        if value.is_floating_point():
            assert_close(actual[what], value, LAYER_FLOAT32, what)
        else:
            assert torch.equal(actual[what].cpu(), value), what


@pytest.mark.filterwarnings("ignore:NNConv")
@pytest.mark.parametrize("name", LAYERS)
def test_gpu_layer_autocast(name):
    """Under autocast to bfloat16; gradients of float32 parameters are in float32."""
    layer, arguments = made(name).to(GPU), on_device(LAYERS[name][1], GPU)
    with torch.autocast(GPU, dtype=torch.bfloat16):
        actual = outcome(layer, arguments)
    for what, value in exact(name).items():
        if what == "out":
            assert_close(actual[what], value, LAYER_BFLOAT16, what)
        elif what.startswith("grad"):
            assert actual[what].dtype == torch.float32, what
            assert distance(actual[what], value) <= LAYER_GRADIENT_BFLOAT16, what


@pytest.mark.filterwarnings("ignore:NNConv")
@pytest.mark.parametrize("name", LAYERS)
def test_gpu_layer_moves(name):
    """A layer that has been used goes to the GPU and back, tables, kept graphs and state."""
    layer, arguments = made(name).eval(), LAYERS[name][1]
    before = outcome(layer, on_device(arguments, "cpu"))
    there = outcome(layer.to(GPU), on_device(arguments, GPU))
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    loaded = LAYERS[name][0]().eval()
    loaded.load_state_dict(torch.load(stored, map_location="cpu", weights_only=True))
    with torch.no_grad():  # buffers that belong to the mesh are not saved
        saved = loaded.state_dict()
        for key, buffer in made(name).named_buffers():
            if key not in saved:
                loaded.get_buffer(key).copy_(buffer)
    back = outcome(layer.cpu(), on_device(arguments, "cpu"))
    again = outcome(loaded, on_device(arguments, "cpu"))
    for what, value in before.items():
        assert torch.equal(back[what], value), what
        assert torch.equal(again[what], value), what
        if value.is_floating_point():
            assert_close(there[what], value, LAYER_FLOAT32, what)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in WAIT])
def test_gpu_layer_replays(name):
    """Forward and backward from a CUDA graph, on numbers that come later: nothing waits."""
    layer, arguments = made(name).to(GPU), on_device(LAYERS[name][1], GPU)
    upstream = upstream_like(layer(*arguments))
    replayed, replay = capture(lambda: outcome(layer, arguments, upstream))
    arguments[0].data.mul_(0.9)
    replay()
    for what, value in outcome(layer, arguments, upstream).items():
        if not what.startswith("buffer"):  # statistics have gone on
            assert_close(replayed[what], value, LAYER_FLOAT32, what)


def test_gpu_every_layer_is_listed():
    """No layer of polygraph.nn, and none on the edges of a mesh, is left out."""
    public = {name: getattr(nn, name) for name in nn.__all__} | mesh_conv.MESH_CONVS
    listed = {type(module) for name in LAYERS for module in made(name).modules()}
    listed |= {nn.PolynomialBlock, nn.Layout, *FUNCTIONS.values()}
    listed |= {nn.layout_of, nn.polynomial_step}  # called by every block
    assert not [n for n, v in public.items() if callable(v) and v not in listed]


# ---- functions ----


def knn(device):
    batch = torch.arange(V) // 10
    x, y, batch_x = on_device([NODES, normal(12, C, seed=4), batch], device)
    return [nn.knn(x, y, 5, batch_x, batch_x[:12], cosine) for cosine in (False, True)]


def knn_graph(device):
    x, batch = on_device([NODES, torch.tensor([0] * 3 + [2] * 20 + [3] * 7)], device)
    whole = nn.knn_graph(x, 6, as_edge_index=True)
    return [whole.as_tensor(), nn.knn_graph(x, 6, batch, loop=True), nn.knn_graph(x, 40)]


def pixel_knn(device):
    x = on_device([IMAGES], device)[0]
    return [*nn.pixel_knn(x, 4), *nn.pixel_knn(x.half(), 5, None, 3)]


def transform(device):
    data = Data(pos=NODES[:, :3], x=NODES).to(device)
    return [KNNGraph(k=4)(data).edge_index]


# what calls a function -> the function
FUNCTIONS = {knn: nn.knn, knn_graph: nn.knn_graph, pixel_knn: nn.pixel_knn, transform: KNNGraph}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_gpu_function(function):
    """Graphs are the same lists, and stay on the GPU."""
    for actual, expected in zip(function(GPU), function("cpu"), strict=True):
        assert actual.device.type == GPU
        assert torch.equal(actual.cpu(), expected)


# ---- PyG's containers ----


def clouds():
    """Three graphs with edges in no order, features and edge features."""
    sizes = (7, 1, 12)
    return [
        Data(
            x=normal(n, C, seed=n),
            edge_index=integers(0, n, 2, 4 * n, seed=n),
            edge_attr=normal(4 * n, F, seed=n + 1),
        )
        for n in sizes
    ]


@pytest.mark.parametrize("sort_order", [None, "col", "row"])
def test_gpu_batch_of_graphs(sort_order):
    """A batch of PyG, moved whole, through three layers; its edges in no order, and sorted."""
    torch.manual_seed(0)
    parts = SimpleNamespace(
        edge=nn.EdgeConv(edge_network()),
        ecc=nn.NNConv(D, C, Sequential(Linear(F, 7), ReLU(), Linear(7, D * C))),
        dynamic=nn.DynamicEdgeConv(edge_network(), 3),
    )
    found = []
    for device in ("cpu", GPU):
        layers = [copy.deepcopy(layer).to(device) for layer in vars(parts).values()]
        batch = Batch.from_data_list(clouds()).to(device)
        edges, attr = batch.edge_index, batch.edge_attr
        if sort_order is not None:
            size = (batch.num_nodes, batch.num_nodes)
            plain = torch_geometric.EdgeIndex(edges, sparse_size=size)
            edges, order = plain.sort_by(sort_order)
            attr = attr[order]
        x = batch.x.requires_grad_()
        out = layers[2](layers[1](layers[0](x, edges), edges, attr), batch.batch)
        out.backward(upstream_like(out))
        grads = [p.grad for layer in layers for p in layer.parameters()]
        found.append([out.detach(), x.grad, *grads])
    for number, (expected, actual) in enumerate(zip(*found, strict=True)):
        assert actual.device.type == GPU
        assert_close(actual, expected, LAYER_FLOAT32, f"result {number}")
