"""Modules that layers look into, and those that they must call."""

import pytest
import torch
import torch_geometric.nn as pyg
from torch.nn import BatchNorm1d, Linear, ReLU, Sequential
from torch.nn.utils import parametrizations, prune, weight_norm

from polygraph import nn
from polygraph.models.points.dgcnn import DGCNNSegmenter, DGCNNSegmenterConfig
from polygraph.nn import mesh_conv
from polygraph.nn.ordinary import is_linear, is_ordinary, is_sequence, slope_of

C, D, F, N, E = 5, 6, 4, 30, 150


def points(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()


EDGES = torch.randint(N, (2, E), generator=torch.Generator().manual_seed(1))


def edge_conv(kind, network):
    """Ours or PyG's around a network, which their constructors would reset."""
    layer = kind(lambda x: network(x), "max")
    if isinstance(network, torch.nn.Module):
        del layer.nn
        layer.nn = network
    return layer.double(), (points(N, C), EDGES)


def nn_conv(kind, network):
    layer = kind(C, D, lambda x: network(x), "mean", root_weight=False, bias=False)
    if isinstance(network, torch.nn.Module):
        del layer.nn
        layer.nn = network
    return layer.double(), (points(N, C), EDGES, points(E, F))


LAYERS = {
    "EdgeConv": (edge_conv, nn.EdgeConv, pyg.EdgeConv, lambda: Linear(2 * C, D)),
    "NNConv": (nn_conv, nn.NNConv, pyg.NNConv, lambda: Linear(F, C * D)),
}


class Doubled(Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Reversed(Sequential):
    def forward(self, x):
        for step in reversed(self):
            x = step(x)
        return x


class LowRank(torch.nn.Module):
    """What adapters put in the place of a linear layer."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.more = linear, Linear(linear.in_features, linear.out_features)

    def forward(self, x):
        return self.linear(x) + self.more(x)


CHANGES = {
    "spectral norm": lambda lin: Sequential(parametrizations.spectral_norm(lin)),
    "weight norm": lambda lin: Sequential(parametrizations.weight_norm(lin)),
    "weight norm by hooks": lambda lin: Sequential(weight_norm(lin)),
    "pruned": lambda lin: Sequential(prune.random_unstructured(lin, "weight", 0.5)),
    "descendant": lambda lin: Sequential(copy_into(Doubled, lin)),
    "adapter": lambda lin: Sequential(LowRank(lin)),
    "sequence of its own": lambda lin: Reversed(ReLU(), lin),
    "a function": lambda lin: lambda x: lin(x).sin(),
}


def copy_into(kind, lin):
    made = kind(lin.in_features, lin.out_features)
    made.load_state_dict(lin.state_dict())
    return made


@pytest.mark.filterwarnings(
    "ignore:.*computed edge by edge", "ignore:.*weight_norm.* is deprecated:FutureWarning"
)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layer", LAYERS)
def test_changed_linear_layers(layer, change):
    """As by PyG, in training: what a computed weight remembers moves on as often."""
    build, ours, theirs, linear = LAYERS[layer]
    found = []
    for kind in (ours, theirs):
        torch.manual_seed(0)
        made, inputs = build(kind, CHANGES[change](linear().double()))
        inputs[0].requires_grad_()
        outs = [made(*inputs) for _ in range(3)]
        grads = torch.autograd.grad(outs[-1].sin().sum(), [inputs[0], *made.parameters()])
        found.append([*outs, *grads, *made.state_dict().values()])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.filterwarnings("ignore:.*computed edge by edge")
def test_class_that_got_another_forward(monkeypatch):
    """Whoever patches torch's class wants to be called."""
    layer, inputs = edge_conv(nn.EdgeConv, Linear(2 * C, D))
    expected = layer(*inputs)
    old = Linear.forward
    monkeypatch.setattr(Linear, "forward", lambda self, x: 3 * old(self, x))
    torch.testing.assert_close(layer(*inputs), 3 * expected)


@pytest.mark.parametrize("aggr", ["max", "min", "sum", "mean", "std", ["max", "mean"]])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", [BatchNorm1d, pyg.BatchNorm])
def test_batch_norm_of_other_channels(aggr, training, norm):
    """Refused by name, as PyTorch refuses it, whatever comes behind."""
    layer = nn.EdgeConv(Sequential(Linear(2 * C, 3), norm(1)), aggr).train(training)
    with pytest.raises(ValueError, match=r"must have num_features = 3, .* got num_features = 1"):
        layer(torch.randn(N, C), EDGES)


def test_lazy_layers(recwarn):
    """Channels that the first call tells; no warning, for the second call is split."""
    for linear in (lambda: torch.nn.LazyLinear(D), lambda: pyg.Linear(-1, D)):
        layer = nn.EdgeConv(Sequential(linear(), ReLU()))
        x = torch.randn(N, C)
        first = layer(x, EDGES)
        torch.testing.assert_close(layer(x, EDGES), first)
        assert is_linear(layer.nn[0])
    assert not [w for w in recwarn if "edge by edge" in str(w.message)]


@pytest.mark.filterwarnings("ignore:.*computed edge by edge")
@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("edges", [0, 1, 2])
@pytest.mark.parametrize("aggr", ["max", "mean", "std"])
def test_batch_norm_of_few_edges(aggr, edges, allow):
    """In training, as PyG: none leave the statistics alone, one is refused, or allowed."""
    found = []
    for kind in (nn.EdgeConv, pyg.EdgeConv):
        torch.manual_seed(0)
        norm = {"allow_single_element": allow}
        layer = kind(pyg.MLP([2 * C, 3, D], norm_kwargs=norm, plain_last=False), aggr).double()
        inputs = points(N, C).requires_grad_(), EDGES[:, :edges]
        if edges == 1 and not allow:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                layer(*inputs)
            continue
        out = layer(*inputs)
        grads = torch.autograd.grad(
            out.sin().sum(), [inputs[0], *layer.parameters()], materialize_grads=True
        )
        found.append([out, *grads, *layer.state_dict().values()])
    for actual, expected in zip(*found, strict=True) if found else ():
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_what_is_ordinary():
    """Of each kind."""
    assert is_ordinary(ReLU())
    assert is_ordinary(ReLU(), ReLU, Linear)
    assert not is_ordinary(ReLU(), Linear)
    assert not is_ordinary(torch.relu)
    assert is_linear(Linear(2, 3))
    assert is_linear(pyg.Linear(2, 3))
    assert not is_linear(Doubled(2, 3))
    assert is_sequence(Sequential())
    assert is_sequence(nn.ProdPoly(nn.FirstOrder(Linear, 2, 2)))
    assert not is_sequence(Reversed())
    assert [slope_of(f) for f in (ReLU(), torch.relu, torch.nn.LeakyReLU(0.3), torch.nn.ELU())] == [
        0.0,
        0.0,
        0.3,
        None,
    ]


def test_segmenter_hears_its_head():
    """Its first linear layer is taken apart, unless somebody listens."""
    torch.manual_seed(0)
    config = DGCNNSegmenterConfig(
        num_parts=4, k=4, edge_channels=((6,), (6,)), embedding_channels=8, head_channels=(7, 5)
    )
    model = DGCNNSegmenter(config).double().eval()
    cloud = points(2, 20, 3)
    expected, seen = model(cloud), []
    for part in (model.head, model.head[0], model.edge[0][0], model.edge[1]):
        handle = part.register_forward_hook(lambda *a: seen.append(a))
        torch.testing.assert_close(model(cloud), expected)
        handle.remove()
    assert len(seen) == 4


def test_mesh_layer_with_an_adapter():
    """A linear layer of PyG's that was replaced is called."""
    faces = torch.tensor([[0, 1, 2], [1, 2, 3]]).numpy()
    layer = mesh_conv.GATMeshConv(C, D, mesh=mesh_conv.MeshGraph(faces, points(4, 3).numpy()))
    x = torch.randn(2, 4, C)
    before = layer(x)
    layer.layer.lin = LowRank(copy_into(Linear, as_torch(layer.layer.lin)))
    after = layer(x)
    assert not torch.allclose(after, before)
    layer.layer.lin.more.weight.data.zero_()
    layer.layer.lin.more.bias.data.zero_()
    torch.testing.assert_close(layer(x), before)


def as_torch(linear):
    made = Linear(linear.in_channels, linear.out_channels, bias=False)
    made.load_state_dict(linear.state_dict())
    made.bias = torch.nn.Parameter(torch.zeros(linear.out_channels))
    return made
