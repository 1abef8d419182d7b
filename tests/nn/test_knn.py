"""Graphs of nearest neighbours: what torch-cluster means by them, computed the long way."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.knn_graphs import BATCHES, GAPS, graph, lattice, nearest, points
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

from polygraph.nn import DynamicEdgeConv as DynamicEdgeConvOfNodes
from polygraph.nn import NonLocalGraphConv2d, knn, knn_graph, pixel_knn
from polygraph.nn.knn import knn_neighbors
from polygraph.ops import common
from polygraph.transforms import KNNGraph


@pytest.mark.parametrize("make", [points, lattice])
@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_graph_is_the_definition(batch, loop, flow, make):
    x = make(29, 3)
    for k in (1, 6, 8, 9, 40):
        edges = knn_graph(x, k, batch, loop, flow)
        assert torch.equal(edges, graph(x, k, batch, loop, flow)), k


@settings(max_examples=100)
@given(
    sizes=st.lists(st.integers(0, 9), max_size=6),
    k=st.integers(1, 11),
    channels=st.integers(1, 10),
    loop=st.booleans(),
    ties=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_sizes(sizes, k, channels, loop, ties, seed):
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
    x = (lattice if ties else points)(len(batch), channels, seed=seed)
    assert torch.equal(knn_graph(x, k, batch, loop), graph(x, k, batch, loop))


@settings(max_examples=100)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=5),
    named=st.tuples(st.booleans(), st.booleans()),
    k=st.integers(1, 8),
    seed=st.integers(0, 100),
)
def test_pairs_of_two_sets(sizes, named, k, seed):
    batches = [
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(column, dtype=torch.int64)) * 3
        for column in ([n for n, _ in sizes], [m for _, m in sizes])
    ]
    x, y = lattice(len(batches[0]), 2, seed=seed), lattice(len(batches[1]), 2, seed=seed + 1)
    found = knn(x, y, k, *(b if use else None for b, use in zip(batches, named, strict=True)))
    # Without a batch vector all rows are of sample 0.
    batches = [b if use else b * 0 for b, use in zip(batches, named, strict=True)]
    assert torch.equal(found, nearest(x, y, k, *batches))


@pytest.fixture(params=["cpu", "cuda"])
def way(request, monkeypatch):
    """Samples found as on the CPU, and as on CUDA; both run here."""
    if request.param == "cuda":
        monkeypatch.setattr(common, "takes_cuda_kernels", lambda tensor: True)
    return request.param


# Samples without points in front, in the middle and at the end; one smaller than k.
SIZES = [(0, 2), (9, 7), (0, 0), (3, 5), (7, 0), (12, 1), (0, 3), (0, 0)]


@pytest.mark.parametrize("k", [1, 3, 9])
def test_number_of_samples(way, k):
    """The same with it and without, whichever samples are empty."""
    batch_x, batch_y = (
        torch.arange(len(SIZES)).repeat_interleave(torch.tensor(column, dtype=torch.int64))
        for column in zip(*SIZES, strict=True)
    )
    x, y = lattice(31, 2), lattice(18, 2, seed=1)
    expected = nearest(x, y, k, batch_x, batch_y)
    assert torch.equal(knn(x, y, k, batch_x, batch_y), expected)
    for loop in (False, True):
        edges = graph(x, k, batch_x, loop)
        assert torch.equal(knn_graph(x, k, batch_x, loop), edges)
        assert torch.equal(knn_graph(x, k, batch_x, loop, batch_size=len(SIZES)), edges)
    for count in (len(SIZES), 100):
        assert torch.equal(knn(x, y, k, batch_x, batch_y, batch_size=count), expected)
    found = knn(x, y, k, batch_x, None, batch_size=8)
    assert torch.equal(found, nearest(x, y, k, batch_x, batch_y * 0))
    # Nothing to find: no points, no queries, neither.
    for n, m in ((0, 18), (31, 0), (0, 0)):
        batches = batch_x[:n], batch_y[:m]
        for options in ({}, {"batch_size": 8}):
            assert knn(x[:n], y[:m], k, *batches, **options).shape == (2, 0)


def test_wide_gaps_between_samples(way):
    """Numbers that are left out cost nothing."""
    x = points(29, 3)
    for k in (3, 8):
        assert torch.equal(knn_graph(x, k, GAPS), graph(x, k, GAPS))
        assert torch.equal(
            knn(x, x[:20], k, GAPS, GAPS[:20]), nearest(x, x[:20], k, GAPS, GAPS[:20])
        )


def test_one_sample_of_one(way):
    x, batch = points(9, 2), torch.zeros(9, dtype=torch.int64)
    assert torch.equal(knn_graph(x, 3, batch, batch_size=1), knn_graph(x, 3))
    assert torch.equal(knn_graph(x, 30, batch, batch_size=1), knn_graph(x, 8))
    assert torch.equal(knn_graph(x, 3, batch_size=1), knn_graph(x, 3))
    with pytest.raises((ValueError, RuntimeError), match=r"batch must lie in \[0, 1\)"):
        knn_graph(x, 3, batch + 1, batch_size=1)


def with_recorded_reads(monkeypatch, call, *tensors):
    """How often ``call`` reads values: run on them, then without any, with what was read first."""
    module = sys.modules["polygraph.nn._samples"]
    read, values = module.read, []
    with monkeypatch.context() as patch:
        patch.setattr(module, "read", lambda t: values.append(read(t)) or values[-1])
        call(*tensors)
        answers = iter(values)
        patch.setattr(module, "read", lambda t: next(answers))
        with FakeTensorMode() as mode:
            call(*(mode.from_tensor(t) for t in tensors))
    return len(values)


def test_waits_for_a_device(monkeypatch):
    """Tensors without values refuse whatever would wait, but the one function that is counted."""
    monkeypatch.setattr(common, "takes_cuda_kernels", lambda tensor: True)
    x, batch = points(29, 3), torch.tensor([0] * 9 + [1] * 8 + [4] * 12)
    calls = {
        "no batch": (0, lambda x, b: knn_graph(x, 3)),
        "one sample": (0, lambda x, b: knn_graph(x, 3, b, batch_size=1)),
        "how many samples": (1, lambda x, b: knn_graph(x, 3, b, batch_size=6)),
        "samples to be found": (1, lambda x, b: knn_graph(x, 3, b)),
        "two sets": (1, lambda x, b: knn(x, x[:20], 3, b, b[:20])),
        "two sets, how many": (1, lambda x, b: knn(x, x[:20], 3, b, b[:20], batch_size=5)),
        "a layer's": (1, lambda x, b: knn_neighbors("", x, x, 3, b, b)),
        "a small sample": (2, lambda x, b: knn_graph(x, 8, b)),
        "a small sample, how many": (1, lambda x, b: knn_graph(x, 8, b, batch_size=6)),
    }
    for name, (most, call) in calls.items():
        zeros = batch if most else batch * 0
        assert with_recorded_reads(monkeypatch, call, x, zeros) == most, name
    with pytest.raises(DataDependentOutputException):
        with_recorded_reads(monkeypatch, lambda x, b: int(b.max()), x, batch)


def test_more_points_in_one_place_than_neighbours():
    """A point is never its own neighbour, and has k, also among k + 5 that coincide with it."""
    edges = knn_graph(torch.zeros(8, 2), 3)
    assert edges[0].reshape(8, 3).tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3]] + [[0, 1, 2]] * 5


def test_one_channel_without_its_dimension():
    x = points(12)
    assert torch.equal(knn_graph(x, 3), knn_graph(x[:, None], 3))
    assert torch.equal(knn(x, x[:5], 3), knn(x[:, None], x[:5, None], 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    x = points(20, 5, dtype=dtype)
    wide = x if dtype == torch.float64 else x.float()
    assert torch.equal(knn_graph(x, 4, cosine=True), knn_graph(wide, 4, cosine=True))
    assert torch.equal(knn_graph(x, 4), graph(wide, 4))


def test_edges_carry_no_graph():
    x = points(9, 2).requires_grad_()
    assert not knn_graph(x, 2).requires_grad
    assert not knn_graph(x, 2, torch.zeros(9, dtype=torch.int64), cosine=True).requires_grad


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_cosine(scale):
    """Directions, however long: also where a square would overflow or vanish."""
    x = points(30, 4) * scale
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    near = (2 - 2 * unit @ unit.T).fill_diagonal_(9).topk(5, largest=False).indices
    assert torch.equal(knn_graph(x, 5, cosine=True)[0], near.flatten())
    pairs = knn(x, x[:4], 5, cosine=True)
    assert torch.equal(pairs[1].reshape(4, 5)[:, 1:], near[:4, :4])
    assert knn_graph(x[:, :0], 2, cosine=True).shape == (2, 60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_cosine_without_a_direction(way, dtype):
    """As of torch's cosine_similarity: 0 with every point, itself too; ties go by index."""
    x = points(30, 9).double()
    x[[3, 12, 28]] = 0
    x[5] *= 1e-30 if dtype != torch.float16 else 1
    x = x.to(dtype)
    wide = x.double() * 1e30  # short, but not without a direction
    similar = torch.nn.functional.cosine_similarity(wide[:, None], wide[None], dim=-1)
    for batch in (None, torch.arange(30) // 15):
        for loop in (False, True):
            for k in (4, 14):
                allowed = torch.ones_like(similar, dtype=torch.bool)
                if batch is not None:
                    allowed = batch[:, None] == batch
                if not loop:
                    allowed = allowed.fill_diagonal_(False)
                order = (-similar).masked_fill(~allowed, 9).sort(dim=1, stable=True).indices
                found = knn_graph(x, k, batch, loop, cosine=True)[0].view(30, k)
                assert torch.equal(found, order[:, :k]), (batch is None, loop, k)


def test_integers_of_other_kinds():
    """NumPy's count as Python's do, and batch vectors may be of any dtype."""
    x, batch = points(29, 3), torch.arange(29) // 10
    image = points(1, 2, 6, 5)
    for k in (np.int64(3), np.uint8(3), torch.tensor(3)):
        assert torch.equal(knn_graph(x, k, batch), knn_graph(x, 3, batch))
        assert torch.equal(knn_graph(x, k, batch, batch_size=np.int32(3)), knn_graph(x, 3, batch))
        assert torch.equal(knn(x, x[:5], k), knn(x, x[:5], 3))
        assert torch.equal(pixel_knn(image, k)[0], pixel_knn(image, 3)[0])
        assert torch.equal(KNNGraph(k)(Data(pos=x)).edge_index, knn_graph(x, 3))
        layer = DynamicEdgeConvOfNodes(torch.nn.Linear(6, 2), k)
        assert layer.k == 3
        assert type(layer.k) is int
        assert NonLocalGraphConv2d(2, 3, k)(image).shape == (1, 3, 6, 5)
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(knn_graph(x, 3, batch.to(dtype)), knn_graph(x, 3, batch))
        found = layer(x, batch.to(dtype))
        assert torch.equal(found, layer(x, batch))
    for wrong in (0, -1, 2.0, np.float64(2), True, None, "3", torch.tensor(2.0)):
        with pytest.raises(ValueError, match="k must be a positive integer"):
            knn_graph(x, wrong)


def test_what_changes_nothing():
    x, batch = points(29, 3), BATCHES["gaps"]
    more = {"num_workers": 4}
    assert torch.equal(knn_graph(x, 3, batch, **more), knn_graph(x, 3, batch))
    assert torch.equal(knn(x, x, 3, batch, batch, **more), knn(x, x, 3, batch, batch))


@pytest.mark.parametrize(
    ("flow", "order"), [("source_to_target", "col"), ("target_to_source", "row")]
)
def test_edge_index(flow, order):
    x, batch = points(29, 3), BATCHES["gaps"]
    edges = knn_graph(x, 4, batch, flow=flow, as_edge_index=True)
    assert isinstance(edges, EdgeIndex)
    assert (edges.sort_order, edges.sparse_size()) == (order, (29, 29))
    edges.validate()
    assert torch.equal(edges.as_tensor(), knn_graph(x, 4, batch, flow=flow))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: knn_graph(x, 0), "knn_graph: k must be a positive integer, got 0"),
        (lambda x: knn_graph(x, 2, flow="target"), "knn_graph: flow must be one of .*did you mean"),
        (lambda x: knn_graph(x[None], 2), r"knn_graph: x must have shape \[N, C\] or \[N\]"),
        (lambda x: knn(x, x[None], 2), r"knn: y must have shape .*got \[1, 5, 3\]"),
        (lambda x: knn(x, x, -1), "knn: k must be a positive integer, got -1"),
        (
            lambda x: knn_graph(x, 2, torch.zeros(4, dtype=torch.int64)),
            r"batch must be int64 of shape \[5\], got torch.int64 of shape \[4\]",
        ),
        (
            lambda x: knn_graph(x, 2, torch.zeros(5)),
            r"batch must be int64 of shape \[5\], got torch.float32 of shape \[5\]",
        ),
        (
            lambda x: knn_graph(x, 2, torch.tensor([0, 0, 3, 1, 1])),
            "knn_graph: batch must not fall, got 1 after 3 at position 3",
        ),
        (
            lambda x: knn(x, x, 2, None, torch.tensor([0, 0, 3, 3, 1])),
            "knn: batch_y must not fall, got 1 after 3 at position 4",
        ),
        (
            lambda x: knn_graph(x, 2, torch.tensor([0, 0, 2, 1, 3]), batch_size=3),
            "knn_graph: batch must not fall, got 1 after 2 at position 3",
        ),
        (
            lambda x: knn_graph(x, 2, torch.tensor([0, 0, 1, 3, 4]), batch_size=3),
            r"knn_graph: batch must lie in \[0, 3\), got 3 at position 3",
        ),
        (
            lambda x: knn(x, x, 2, None, torch.tensor([-1, 0, 1, 1, 1]), batch_size=2),
            r"knn: batch_y must lie in \[0, 2\), got -1 at position 0",
        ),
        (
            lambda x: knn_graph(x, 2, batch_size=0),
            "knn_graph: batch_size must be a positive integer, got 0",
        ),
        (
            lambda x: knn_graph(x, 2, torch.zeros(5, dtype=torch.int64, device="meta")),
            "knn_graph: batch must be on the device of the points .cpu., got meta",
        ),
        (lambda x: pixel_knn(x, 2), r"pixel_knn: x must have shape \[B, C, H, W\], got \[5, 3\]"),
        (lambda x: KNNGraph(0), "KNNGraph: k must be a positive integer, got 0"),
        (lambda x: KNNGraph(flow="both"), "KNNGraph: flow must be one of"),
        (lambda x: KNNGraph()(Data(x=x)), "KNNGraph: data needs pos"),
        (
            lambda x: pixel_knn(x[None, None], 1, exclude_radius=-1),
            "exclude_radius must not be negative, got -1",
        ),
    ],
)
def test_bad_arguments(way, call, message):
    with pytest.raises(ValueError, match=message):
        call(points(5, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: knn_graph(x.long(), 2), "knn: x must be"),
        (lambda x: knn(x, x[:, :2], 2), r"knn: y must have shape"),
        (lambda x: knn(x, x.double(), 2), "knn: y must"),
        (lambda x: knn_graph(x / 0, 2), "knn: "),
        (lambda x: knn_graph(x * float("nan"), 2, cosine=True), "knn: "),
        # In the corner of a 3 x 5 image 15 - 4 pixels are candidates, with a window 4 - 4.
        (lambda x: pixel_knn(x[None, None].mT, 12), "11 candidates"),
        (lambda x: pixel_knn(x[None, None].mT, 1, 1, 1), "0 candidates"),
    ],
)
def test_errors_of_the_operator(call, message):
    with pytest.raises(RuntimeError, match=message):
        call(points(5, 3))


# ---- images ----


# ---- in a network ----


# ---- the transform ----


def test_library_does_not_import_pyg():
    """It takes seconds; what needs it imports it."""
    program = "import sys, polygraph, polygraph.nn; assert 'torch_geometric' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
