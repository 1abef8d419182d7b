"""Graphs of nearest neighbours in networks, compiled, and as a transform of PyG."""

import pytest
import torch
from support.knn_graphs import points
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose, NormalizeScale
from torch_geometric.utils import is_undirected

from polygraph.nn import EdgeConv, NNConv, knn_graph, pixel_knn
from polygraph.ops import knn as knn_table
from polygraph.transforms import KNNGraph


def test_gradients_through_distances():
    x = points(1, 2, 4, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pixel_knn(x, 3)[1], x)
    assert torch.autograd.gradgradcheck(lambda x: pixel_knn(x, 3)[1].sin(), x)
    index, dist2 = pixel_knn(x, 3)
    flat = x.flatten(2).transpose(1, 2)[0]
    by_hand = (flat[:, None] - flat[index[0]]).square().sum(-1)
    weight = points(20, 3, seed=5, dtype=torch.float64)
    (ours,) = torch.autograd.grad((dist2[0] * weight).sum(), x)
    (theirs,) = torch.autograd.grad((by_hand * weight).sum(), x)
    torch.testing.assert_close(ours, theirs)


class DynamicEdgeConv(nn.Module):
    """DGCNN's layer: edges from the features themselves, in every forward pass."""

    def __init__(self, channels, out, k):
        super().__init__()
        self.k, self.linear = k, nn.Linear(2 * channels, out)

    def forward(self, x):
        index, _ = knn_table(x, self.k, exclude_self=True)
        near = x.gather(1, index.flatten(1)[..., None].expand(-1, -1, x.shape[2]))
        near = near.unflatten(1, index.shape[1:])
        centre = x[:, :, None].expand_as(near)
        return self.linear(torch.cat([centre, near - centre], -1)).relu().amax(2)


class PixelMean(nn.Module):
    """A pixel's neighbours, weighted by how near they are."""

    def forward(self, x):
        index, dist2 = pixel_knn(x, 4, 1, 3)
        flat = x.flatten(2).transpose(1, 2)
        near = flat.gather(1, index.flatten(1)[..., None].expand(-1, -1, x.shape[1]))
        weight = torch.softmax(-dist2, -1)
        return (near.unflatten(1, index.shape[1:]) * weight[..., None]).sum(2)


class Edges(nn.Module):
    """One sample, as PyG has it."""

    def forward(self, x):
        row, column = knn_graph(x, 5)
        return torch.zeros_like(x).index_add(0, column, (x[row] - x[column]).square())


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (lambda: DynamicEdgeConv(6, 4, 5), (2, 20, 6)),
        (PixelMean, (2, 3, 8, 8)),
        (Edges, (30, 3)),
    ],
)
def test_compiles_as_one_graph(module, shape):
    torch.manual_seed(0)
    net = module()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = points(*shape).requires_grad_()
    out = net(x)
    (grad,) = torch.autograd.grad(out.sin().sum(), x)
    torch.testing.assert_close(compiled(x), out)
    (found,) = torch.autograd.grad(compiled(x).sin().sum(), x)
    torch.testing.assert_close(found, grad)
    assert grad.abs().max() > 0


@pytest.mark.parametrize("layer", ["NNConv", "EdgeConv", "EdgeConv with BatchNorm"])
def test_layers_compile_on_ragged_clouds(layer):
    """The number of edges depends on values: one graph all the same, with gradients."""
    torch.manual_seed(0)
    linear = nn.Linear(8, 6)
    made = {
        "NNConv": lambda: NNConv(4, 6, nn.Linear(4, 24)),
        "EdgeConv": lambda: EdgeConv(nn.Sequential(linear, nn.ReLU()), "sum"),
        "EdgeConv with BatchNorm": lambda: EdgeConv(
            nn.Sequential(linear, nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), "max"
        ),
    }[layer]().double()

    def run(x, batch):
        edge_index = knn_graph(x, 3, batch)
        features = [x[edge_index[0]] - x[edge_index[1]]] if layer == "NNConv" else []
        return made(x, edge_index, *features)

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for count in (11, 17, 30):
        x, batch = points(count, 4, dtype=torch.float64).requires_grad_(), torch.arange(count) // 7
        results = []
        for call in (run, compiled):
            out = call(x, batch)
            results.append((out, *torch.autograd.grad(out.sin().sum(), x)))
        torch.testing.assert_close(results[1], results[0])
        counts.append(counter.frame_count)
    assert len(set(counts)) == 1


def clouds():
    """Three clouds, one smaller than k."""
    return [Data(pos=points(n, 3, seed=n), edge_attr=torch.ones(1)) for n in (12, 4, 9)]


def test_transform():
    data = clouds()[0]
    out = KNNGraph(k=5)(data)
    assert torch.equal(out.edge_index, knn_graph(data.pos, 5))
    assert out.edge_attr is None
    assert data.edge_index is None
    assert data.edge_attr is not None
    assert repr(KNNGraph(k=5)) == "KNNGraph(k=5)"


@pytest.mark.parametrize(
    "options",
    [{"loop": True}, {"flow": "target_to_source"}, {"cosine": True}, {"num_workers": 3}],
)
def test_transform_passes_options_on(options):
    data = clouds()[0]
    assert torch.equal(KNNGraph(4, **options)(data).edge_index, knn_graph(data.pos, 4, **options))


def test_transform_keeps_samples_apart():
    transform = Compose([NormalizeScale(), KNNGraph(k=6)])
    together = KNNGraph(k=6)(Batch.from_data_list([NormalizeScale()(c) for c in clouds()]))
    apart = Batch.from_data_list([transform(c) for c in clouds()])
    assert torch.equal(together.edge_index, apart.edge_index)
    assert together.edge_index.shape[1] == 12 * 6 + 4 * 3 + 9 * 6
    assert together.num_graphs == 3


def test_transform_of_empty_clouds():
    """Clouds without points, in front, within and at the end, have no edges."""
    sizes = (0, 12, 0, 0, 4, 9, 0)
    made = [Data(pos=points(n, 3, seed=n)) for n in sizes]
    together = KNNGraph(k=6)(Batch.from_data_list(made))
    apart = Batch.from_data_list([KNNGraph(k=6)(c) for c in made])
    assert torch.equal(together.edge_index, apart.edge_index)
    assert together.num_graphs == 7
    nothing = KNNGraph(k=6)(Batch.from_data_list([Data(pos=points(0, 3))] * 2))
    assert nothing.edge_index.shape == (2, 0)


def test_transform_makes_edges_undirected():
    data = clouds()[0]
    directed = KNNGraph(3)(data).edge_index
    edges = KNNGraph(3, force_undirected=True)(data).edge_index
    assert not is_undirected(directed)
    assert is_undirected(edges)
    both = {tuple(e) for e in torch.cat([directed, directed.flip(0)], 1).T.tolist()}
    assert {tuple(e) for e in edges.T.tolist()} == both
