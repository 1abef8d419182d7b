"""EdgeConv and DynamicEdgeConv: PyG's layers, to rounding."""

import copy
from typing import ClassVar

import pytest
import torch
import torch_geometric.nn as pyg
from support.layer_calls import Case
from support.layer_contract import LayerContract
from support.tolerances import LAYER_FLOAT32, assert_close
from torch.nn import ELU, BatchNorm1d, LayerNorm, LeakyReLU, Linear, ReLU, Sequential
from torch_geometric import EdgeIndex

from polygraph import nn
from polygraph.nn import message_passing

C, D, N, E = 5, 6, 30, 150

NETWORKS = {
    "linear layer": lambda: Linear(2 * C, D),
    "linear": lambda: Sequential(Linear(2 * C, D)),
    "ReLU": lambda: Sequential(Linear(2 * C, D), ReLU()),
    "BatchNorm": lambda: Sequential(Linear(2 * C, D, bias=False), BatchNorm1d(D)),
    "DGCNN": lambda: Sequential(Linear(2 * C, D), BatchNorm1d(D), LeakyReLU(0.2)),
    "no affine": lambda: Sequential(Linear(2 * C, D), BatchNorm1d(D, affine=False), ReLU()),
    "cumulative": lambda: Sequential(Linear(2 * C, D), BatchNorm1d(D, momentum=None)),
    "untracked": lambda: Sequential(
        Linear(2 * C, D), BatchNorm1d(D, track_running_stats=False), ReLU()
    ),
    "deep": lambda: Sequential(
        Sequential(Linear(2 * C, 8), BatchNorm1d(8), ReLU()), Linear(8, D), BatchNorm1d(D)
    ),
    "MLP": lambda: pyg.MLP([2 * C, 8, D]),
    "MLP, activation first": lambda: pyg.MLP(
        [2 * C, 8, D], act="leaky_relu", act_first=True, plain_last=False
    ),
    "ELU": lambda: Sequential(Linear(2 * C, D), ELU()),
    "begins otherwise": lambda: Sequential(LayerNorm(2 * C), Linear(2 * C, D)),
}


def layers(network, aggr, **options):
    """Ours and PyG's with the same weights, in float64."""
    torch.manual_seed(0)
    made = NETWORKS[network]().double()
    for module in made.modules():
        if isinstance(module, BatchNorm1d) and module.affine:
            torch.nn.init.normal_(module.weight)  # some are negative
            torch.nn.init.normal_(module.bias)
    theirs = pyg.EdgeConv(copy.deepcopy(made), aggr, **options)
    theirs.nn.load_state_dict(made.state_dict())
    ours = nn.EdgeConv(copy.deepcopy(made), aggr, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def require_same(ours, theirs, x, edge_index, tolerance=1e-9):
    """Outputs, all gradients, and what training leaves in the state."""
    leaves = [part.requires_grad_() for part in (x if isinstance(x, tuple) else (x,))]
    found = []
    for layer in (ours, theirs):
        out = layer(x, edge_index)
        wanted = [*leaves, *layer.parameters()]
        grads = torch.autograd.grad(out.sin().sum(), wanted, materialize_grads=True)
        found.append([out, *grads])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


@pytest.mark.filterwarnings("ignore:EdgeConv")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("aggr", ["max", "add", "mean", "min"])
@pytest.mark.parametrize("network", NETWORKS)
def test_same_as_pyg(network, aggr, training):
    """Any network, far from the origin, with isolated nodes, self-loops and multi-edges."""
    ours, theirs = layers(network, aggr)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, C, generator=generator).double() + 3
    edge_index = torch.randint(N - 2, (2, E), generator=generator)
    edge_index[:, 0] = edge_index[:, 1]
    for layer in (ours, theirs):
        layer.train(training)
    require_same(ours, theirs, x, edge_index)
    require_same(ours, theirs, x, edge_index)  # running statistics move on
    bipartite = (x, torch.randn(N - 5, C, generator=generator).double())
    edge_index[1] %= N - 5
    require_same(ours, theirs, bipartite, edge_index)
    if training:
        for layer in (ours, theirs):
            layer.eval()
        require_same(ours, theirs, x, edge_index)


def test_flow_and_sorted_edges():
    """The other direction; an EdgeIndex that is sorted by target is taken as it is."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, C, generator=generator).double()
    edge_index = torch.randint(N, (2, E), generator=generator)
    for flow, order in (("source_to_target", "col"), ("target_to_source", "row")):
        ours, theirs = layers("ReLU", "max", flow=flow)
        require_same(ours, theirs, x, edge_index)
        ordered = EdgeIndex(edge_index, sparse_size=(N, N)).sort_by(order)[0]
        assert torch.equal(ours(x, ordered), ours(x, ordered.as_tensor()))
        other = EdgeIndex(edge_index, sparse_size=(N, N)).sort_by(
            "row" if order == "col" else "col"
        )
        torch.testing.assert_close(ours(x, other[0]), ours(x, edge_index))


def test_what_is_left_to_pyg():
    """Other aggregations, other kinds of graphs, hooks: PyG's own way, with its result."""
    ours, theirs = layers("ReLU", "median")
    x = torch.randn(N, C).double()
    edge_index = torch.randint(N, (2, E))
    torch.testing.assert_close(ours(x, edge_index), theirs(x, edge_index))
    ours, theirs = layers("ReLU", "max")
    sparse = torch.sparse_coo_tensor(edge_index.flip(0), torch.ones(E).double(), (N, N)).coalesce()
    torch.testing.assert_close(ours(x, sparse), theirs(x, sparse))
    message_passing._WARNED.clear()
    seen = []
    ours.nn[0].register_forward_hook(lambda *arguments: seen.append(arguments))
    with pytest.warns(UserWarning, match="or has hooks; computed edge by edge"):
        torch.testing.assert_close(ours(x, edge_index), theirs(x, edge_index))
    assert len(seen) == 1


def test_warns_once(recwarn):
    """A network that cannot be split: one warning in a process."""
    message_passing._WARNED.clear()
    ours, _ = layers("begins otherwise", "max")
    for _ in range(3):
        ours(torch.randn(N, C).double(), torch.randint(N, (2, E)))
    assert len(recwarn) == 1
    assert "does not begin with a linear layer" in str(recwarn[0].message)


@pytest.mark.parametrize(
    ("edge_index", "message"),
    [
        (torch.tensor([[0, 30], [1, 2]]), r"edge_index must lie in \[0, 30\) in row 0, got 30"),
        (torch.tensor([[0, 1], [-1, 2]]), r"edge_index must lie in \[0, 30\) in row 1, got -1"),
        (torch.zeros(3, 2, dtype=torch.int64), r"edge_index must be int64 of shape \[2, E\]"),
        (torch.zeros(2, 2), "got torch.float32"),
    ],
)
def test_bad_edges(edge_index, message):
    """Refused with what was wanted and what was got."""
    ours, _ = layers("ReLU", "max")
    with pytest.raises(ValueError, match=message):
        ours(torch.randn(N, C).double(), edge_index)


def test_bad_width():
    """A network for other features."""
    ours, _ = layers("ReLU", "max")
    with pytest.raises(ValueError, match=r"nn must take 2 \* 4 = 8 features, .* takes 10"):
        ours(torch.randn(N, 4).double(), torch.randint(N, (2, E)))


@pytest.mark.parametrize("network", ["ReLU", "DGCNN", "deep", "begins otherwise"])
@pytest.mark.filterwarnings("ignore:DynamicEdgeConv", "ignore:EdgeConv")
def test_dynamic(network):
    """EdgeConv over the neighbours that `knn` finds, samples of a batch apart, small ones too."""
    torch.manual_seed(0)
    dynamic = nn.DynamicEdgeConv(NETWORKS[network](), k=6, aggr="max").double()
    static = nn.EdgeConv(NETWORKS[network](), "max").double()
    static.load_state_dict(dynamic.state_dict())
    x, y = torch.randn(40, C).double(), torch.randn(20, C).double()
    for batch in (None, torch.arange(4).repeat_interleave(10), torch.tensor([0] * 37 + [2] * 3)):
        edge_index = nn.knn(x, x, 6, batch, batch).flip(0)
        torch.testing.assert_close(dynamic(x, batch), static(x, edge_index))
    pair = (torch.arange(4).repeat_interleave(10), torch.arange(4).repeat_interleave(5))
    edge_index = nn.knn(x, y, 6, *pair).flip(0)
    torch.testing.assert_close(dynamic((x, y), pair), static((x, y), edge_index))


def test_dynamic_refuses():
    """Numbers of neighbours that are none, and static graphs."""
    with pytest.raises(ValueError, match="k must be a positive integer, got 0"):
        nn.DynamicEdgeConv(Linear(4, 4), 0)
    with pytest.raises(TypeError, match="flow"):
        nn.DynamicEdgeConv(Linear(4, 4), 3, flow="target_to_source")
    with pytest.raises(ValueError, match="Static graphs"):
        nn.DynamicEdgeConv(Linear(2 * C, 4), 3)(torch.randn(2, 9, C))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_sorted_edges_of_other_integers(dtype):
    """An EdgeIndex of int32, sorted or not."""
    ours, _ = layers("ReLU", "max")
    x = torch.randn(N, C).double()
    edge_index = torch.randint(N, (2, E))
    for order in (None, "row", "col"):
        edges = EdgeIndex(edge_index.to(dtype), sparse_size=(N, N))
        edges = edges if order is None else edges.sort_by(order)[0]
        torch.testing.assert_close(ours(x, edges), ours(x, edge_index))


def test_dynamic_is_one_of_pyg():
    """Code that looks for PyG's class finds ours, and no library is asked for."""
    layer = nn.DynamicEdgeConv(Linear(2 * C, D), 3)
    assert isinstance(layer, pyg.DynamicEdgeConv)
    assert isinstance(layer, pyg.MessagePassing)
    assert repr(layer) == f"DynamicEdgeConv(nn={layer.nn}, k=3)"


def test_clouds_far_apart():
    """Every sample of a batch keeps its digits, wherever it lies."""
    torch.manual_seed(0)
    layer = without_targets(nn.DynamicEdgeConv(Linear(2 * C, D), 6))
    wide = copy.deepcopy(layer).double()
    batch = torch.arange(4).repeat_interleave(10)
    x = torch.randn(40, C) + torch.tensor([0, 1e6, -3e5, 4e6])[batch, None]
    expected = wide(x.double(), batch)
    assert_close(layer(x, batch), expected, LAYER_FLOAT32, "one set")
    pair = (x, x[:20]), (batch, batch[:20])
    assert_close(layer(*pair), expected[:20], LAYER_FLOAT32, "two sets")


@pytest.mark.parametrize("network", ["linear layer", "DGCNN"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_derivatives_far_from_the_origin(offset, network):
    """First and second, by finite differences: the point that is taken away has none."""
    torch.manual_seed(0)
    layer = nn.EdgeConv(NETWORKS[network](), "mean").double()
    x = (torch.randn(6, C).double() + offset).requires_grad_()
    edges = torch.randint(6, (2, 15))
    assert torch.autograd.gradcheck(lambda x: layer(x, edges), x)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, edges), x)


@pytest.mark.parametrize("bad", [1e30, float("inf"), float("nan")])
def test_one_node_far_out(bad):
    """It takes no digits from others, far from the origin, and spoils its neighbours alone."""
    torch.manual_seed(0)
    layer = without_targets(nn.EdgeConv(Linear(2 * C, D)))
    x = torch.randn(N, C) + 1e5
    edges = torch.randint(N, (2, E))
    expected = copy.deepcopy(layer).double()(x.double(), edges)
    for node in (0, 3, N - 1):
        broken = x.clone()
        broken[node] = bad
        near = edges[1, edges[0] == node]
        far = torch.tensor([n for n in range(N) if n != node and n not in near])
        for found in (layer(broken, edges), torch.func.vmap(layer, (0, None))(broken[None], edges)):
            assert_close(found.view(N, D)[far], expected[far], LAYER_FLOAT32, str(node))


def test_statistics_far_from_the_origin():
    """BatchNorm's variance does not cancel where the features are large and nearly equal."""
    torch.manual_seed(0)
    made = Sequential(Linear(2 * C, D), BatchNorm1d(D))
    layer = nn.EdgeConv(made, "max")
    wide = copy.deepcopy(layer).double()
    x = torch.randn(N, C) + 1000
    edge_index = torch.randint(N, (2, E))
    torch.testing.assert_close(
        layer(x, edge_index).double(), wide(x.double(), edge_index), rtol=1e-3, atol=1e-3
    )


# ---- what every layer promises ----


def edges(nodes, count, seed=1):
    """Random edges among all nodes but the last two, which have none."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(max(1, nodes - 2), (2, count), generator=generator)


def points(count, seed=0):
    return torch.randn(count, C, generator=torch.Generator().manual_seed(seed)).double()


def randomized(network):
    """With a BatchNorm whose weights, some negative, and statistics are not the first ones."""
    for module in network.modules():
        if isinstance(module, BatchNorm1d) and module.affine:
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                torch.nn.init.normal_(tensor)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def kept(layer, network):
    """A layer with a network of random weights, which constructors of PyG would reset."""
    layer.nn.load_state_dict(randomized(network).state_dict())
    return layer


def case(network, aggr, **options):
    """Ours, and PyG's."""

    def make(kind):
        return lambda: kept(kind(NETWORKS[network](), aggr, **options), NETWORKS[network]())

    return Case(make(nn.EdgeConv), lambda: (points(N), edges(N, E)), make(pyg.EdgeConv))


def without_targets(layer):
    """The weights of x_i set to zero: only differences are left."""
    next(layer.nn.parameters()).data[:, :C] = 0
    return layer


def message(base):
    class M(base):
        def message(self, x_i, x_j):
            return 2 * base.message(self, x_i, x_j) + x_i[:, :1]

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


def edge_update(base):
    class M(base):
        def edge_update(self):
            return None

    return M


def propagate(base):
    class M(base):
        def propagate(self, edge_index, size=None, **kwargs):
            return 1 - pyg.MessagePassing.propagate(self, edge_index, size, **kwargs)

    return M


OVERRIDES = {f.__name__: f for f in (message, aggregate, update, edge_update, propagate)}


class TestEdgeConv(LayerContract):
    kinds = (nn.EdgeConv,)
    foreign = ("begins otherwise", "two aggregations", "standard deviation", "softmax")
    reads_edges = reads_differences = True
    overrides: ClassVar = OVERRIDES
    cases: ClassVar = {
        "DGCNN": case("DGCNN", "max"),
        "ReLU": case("ReLU", "add", flow="target_to_source"),
        "MLP": case("MLP", "mean"),
        "deep": case("deep", "min"),
        "begins otherwise": case("begins otherwise", "max"),
        "two aggregations": case("linear layer", ["max", "mean"]),
        "standard deviation": case("ReLU", "std"),
        "softmax": case("ReLU", pyg.SoftmaxAggregation(learn=True)),
    }
    without_meta = ("softmax",)
    dynamic = ({0: torch.export.Dim.DYNAMIC}, {1: torch.export.Dim.DYNAMIC})
    of_differences = staticmethod(without_targets)

    @staticmethod
    def graph(nodes, count):
        return points(nodes), edges(nodes, count)

    @staticmethod
    def sized(size):
        return points(size), edges(size, 3 * size + 1)


class Static(pyg.EdgeConv):
    """PyG's EdgeConv on the neighbours that `knn` finds: its DynamicEdgeConv needs pyg-lib."""

    propagate = pyg.MessagePassing.propagate  # else explanations would not reach a descendant

    def __init__(self, nn, k, aggr="max"):
        super().__init__(nn, aggr)
        self.k = k

    def forward(self, x, batch=None):
        return super().forward(x, nn.knn(x, x, self.k, batch, batch).flip(0))

    def __repr__(self):
        return f"DynamicEdgeConv(nn={self.nn}, k={self.k})"


def dynamic_case(network, aggr, *batch):
    def make(kind):
        return lambda: kept(kind(NETWORKS[network](), 6, aggr), NETWORKS[network]())

    return Case(make(nn.DynamicEdgeConv), lambda: (points(N), *batch), make(Static))


class TestDynamicEdgeConv(LayerContract):
    kinds = (nn.DynamicEdgeConv,)
    foreign = ("begins otherwise", "two aggregations", "standard deviation", "softmax")
    reads_differences = True
    overrides: ClassVar = OVERRIDES
    cases: ClassVar = {
        "DGCNN": dynamic_case("DGCNN", "max"),
        "samples": dynamic_case("ReLU", "mean", torch.arange(N) // 4),
        "two aggregations": dynamic_case("ReLU", ["max", "std"], torch.arange(N) // 10),
        "begins otherwise": dynamic_case("begins otherwise", "max"),
    }
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    of_differences = staticmethod(without_targets)

    @staticmethod
    def sized(size):
        return (points(size),)
