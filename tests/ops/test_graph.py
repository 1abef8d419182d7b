"""Graphs from lists of edges, and seen from the other side."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.devices import GPU, capture
from support.paths import environment

from polygraph import ops, reference
from polygraph.ops.graph import (
    Graph,
    graph_from_coo,
    scan_edges,
    targets_of,
    transpose_graph,
)

_ops = torch.ops.polygraph


def edges(E, N=7, M=6, seed=0):
    """Sources and targets in no order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(N, (E,), generator=generator), torch.randint(M, (E,), generator=generator)


def slots(M, N, E, seed=0, lowest=-1):
    """``ptr`` and ``other`` of slots, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(M, (E,), generator=generator).sort().values
    other = torch.randint(lowest, N, (E,), generator=generator)
    return torch.searchsorted(target, torch.arange(M + 1)), other


def expected_order(source, target, M):
    """What sort_coo returns, from PyTorch's stable sort."""
    order = target.argsort(stable=True)
    return torch.searchsorted(target[order], torch.arange(M + 1)), source[order], order


@given(E=st.integers(0, 60), M=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_sorts_edges_by_target(E, M, seed):
    """Those of a target keep their order, with and without a list of where they were."""
    source, target = edges(E, M=M, seed=seed)
    ptr, ordered, order = expected_order(source, target, M)
    for with_edge in (True, False):
        graph = graph_from_coo(source, target, 7, M, with_edge=with_edge)
        assert torch.equal(graph.ptr, ptr)
        assert torch.equal(graph.source, ordered)
        assert graph.edge is None if not with_edge else torch.equal(graph.edge, order)


@given(E=st.integers(0, 60), M=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_scan_finds_sorted_edges(E, M, seed):
    """The list is the graph exactly where targets do not fall."""
    source, target = edges(E, M=M, seed=seed)
    graph, wrong = scan_edges(source, target, 7, M)
    assert wrong is None
    assert (graph is not None) == bool((target.diff() >= 0).all())
    target = target.sort().values
    graph, wrong = scan_edges(source, target, 7, M)
    assert wrong is None
    assert torch.equal(graph.ptr, torch.searchsorted(target, torch.arange(M + 1)))
    assert torch.equal(graph.source, source)


@given(M=st.integers(0, 9), E=st.integers(0, 60), seed=st.integers(0, 10**6))
def test_segments_of_slots(M, E, seed):
    """Each slot's segment; segments without slots are passed over."""
    ptr = slots(M, 7, E, seed)[0] if M > 0 else torch.zeros(1, dtype=torch.int64)
    expected = torch.repeat_interleave(torch.arange(M), ptr.diff())
    assert torch.equal(targets_of(ptr, len(expected)), expected)
    assert torch.equal(targets_of(ptr.repeat_interleave(2)[::2], len(expected)), expected)


FALLS = (
    *([0, high, 1] for high in (2, 3000, 2**40, 2**63 - 1, -1)),
    [-1, 0, 1],
    [1, 1, 1],
)


@pytest.mark.parametrize("ptr", FALLS, ids=str)
def test_pointers_that_do_not_rise(ptr):
    """Refused by whatever reads a graph first, whichever side that is."""
    x, features = torch.ones(2, 3), torch.ones(1, 4)
    graph = Graph(torch.tensor(ptr), torch.zeros(1, dtype=torch.int64))
    matrices = (torch.ones(2, 3, 5), torch.ones(2, 3, 5), torch.ones(2, 5))
    calls = (
        lambda: graph.with_transposed(2),
        lambda: targets_of(graph.ptr, 1),
        lambda: transpose_graph(graph.ptr, graph.source, 2),
        lambda: ops.edge_dist2(x, graph),
        lambda: ops.edge_sum(x, graph),
        lambda: ops.edge_max(x, graph),
        lambda: ops.light_ecc(x, features, *matrices, graph),
        lambda: ops.ecc(x, features, torch.ones(4, 3, 5), graph, side="source"),
        lambda: ops.ecc(x, features, torch.ones(4, 3, 5), graph, side="target"),
        lambda: reference.edge_aggregate(features, graph, "sum"),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match="ptr must rise from 0 to E = 1"):
            call()


@pytest.mark.parametrize("threads", [1, 2])
def test_long_lists(threads, set_threads):
    """Lists that are shared by threads, one descent at any place included."""
    set_threads(threads)
    E, M = 300_000, 500
    source, target = edges(E, M=M)
    ptr, ordered, order = expected_order(source, target, M)
    graph = graph_from_coo(source, target, 7, M)
    for found, wanted in zip(graph[:3], (ptr, ordered, order), strict=True):
        assert torch.equal(found, wanted)
    rising = target[order]
    assert torch.equal(scan_edges(ordered, rising, 7, M)[0].ptr, ptr)
    for place in (1, E // 2, E // 2 + 1, E - 1):
        fallen = rising.clone()
        fallen[place] = 0
        fallen[place - 1] = 1
        assert scan_edges(ordered, fallen, 7, M) == (None, None)
    assert torch.equal(targets_of(ptr, E), rising)
    t_ptr, t_other = transpose_graph(ptr, ordered, 7)
    back = expected_order(targets_of(ptr, E), ordered, 7)
    assert torch.equal(t_ptr, back[0])
    assert torch.equal(t_other, back[1])


@pytest.mark.parametrize(
    ("row", "place", "entry"), [(0, 3, 7), (0, 0, -1), (1, 11, 6), (1, 5, -3), (0, 11, 2**40)]
)
def test_scan_names_the_first_bad_entry(row, place, entry):
    """Its row and its value."""
    ends = edges(12)
    ends[row][place] = entry
    assert scan_edges(*ends, 7, 6) == (None, (row, entry))


@given(M=st.integers(1, 9), N=st.integers(1, 9), E=st.integers(0, 60), seed=st.integers(0, 10**6))
def test_transpose_lists_segments(M, N, E, seed):
    """Node by node the segments that name it, in order; then one -1 for each empty slot."""
    ptr, other = slots(M, N, E, seed)
    t_ptr, t_other = transpose_graph(ptr, other, N)
    assert t_ptr[0] == 0
    assert t_ptr[-1] == E
    target = targets_of(ptr, E)
    for node in range(N):
        wanted = target[other == node]
        if node == N - 1:
            wanted = torch.cat([wanted, torch.full((int((other < 0).sum()),), -1)])
        assert torch.equal(t_other[t_ptr[node] : t_ptr[node + 1]], wanted)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("scan_coo", (*edges(12), 7, 6)),
        ("sort_coo", (*edges(12), 6, True)),
        ("sort_coo", (*edges(12), 6, False)),
        ("transpose_graph", (*slots(6, 7, 23), 7)),
        ("targets_of", (slots(6, 7, 23)[0], 23)),
    ],
)
def test_opcheck(name, arguments):
    """Schema, fake kernel and tracing agree with what runs."""
    torch.library.opcheck(getattr(_ops, name).default, arguments)


def test_compiles_without_graph_break():
    """Sorting and transposing trace: no shape depends on a value."""

    def both(source, target):
        graph = graph_from_coo(source, target, 7, 6)
        whole = graph.with_transposed(7)
        return (*graph[:3], *transpose_graph(graph.ptr, graph.source, 7), *whole[3:])

    torch.compiler.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(compiled(*edges(12)), both(*edges(12)), strict=True):
        assert torch.equal(found, wanted)


BAD = {
    "source dtype": ("scan_coo", (edges(5)[0].int(), edges(5)[1], 7, 6), "source must be int64"),
    "target dtype": ("scan_coo", (edges(5)[0], edges(5)[1].int(), 7, 6), "target must be int64"),
    "lengths": ("sort_coo", (edges(5)[0], edges(6)[1], 6, True), r"target must have shape \[E\]"),
    "shape": ("scan_coo", (edges(5)[0][None], edges(5)[1], 7, 6), r"source must have shape \[E\]"),
    "sources": ("scan_coo", (*edges(5), -1, 6), "num_sources must not be negative, got -1"),
    "targets": ("sort_coo", (*edges(5), -2, True), "num_targets must not be negative, got -2"),
    "all sources": ("scan_coo", (*edges(5), 2**63 - 1, 6), "num_sources is too large, got 9223"),
    "all targets": ("sort_coo", (*edges(5), 2**63 - 1, True), "num_targets is too large, got 9223"),
    "all others": ("transpose_graph", (*slots(6, 7, 9), 2**63 - 1), "others is too large, got 922"),
    "target": ("sort_coo", (*edges(50), 3, True), r"target must lie in \[0, 3\)"),
    "others": ("transpose_graph", (*slots(6, 7, 9), -1), "others must not be negative, got -1"),
    "no others": ("transpose_graph", (*slots(6, 0, 9), 0), "others must be at least 1"),
    "other": ("transpose_graph", (*slots(6, 7, 50, lowest=0), 3), r"other must lie in \[-1, 3\)"),
    "ptr": ("transpose_graph", (slots(6, 7, 9)[0] + 1, slots(6, 7, 9)[1], 7), "ptr must rise"),
    "ptr late": ("targets_of", (slots(6, 7, 9)[0], 10), "ptr must rise from 0 to E = 10"),
    "ptr int32": ("targets_of", (slots(6, 7, 9)[0].int(), 9), "ptr must be int64, got int32"),
    "ptr empty": ("targets_of", (slots(6, 7, 9)[0][:0], 0), r"ptr must have shape \[S\+1\]"),
    "ptr shape": ("targets_of", (slots(6, 7, 9)[0][None], 9), r"ptr must have shape \[S\+1\]"),
    "slots": ("targets_of", (slots(6, 7, 9)[0], -1), "slots must not be negative, got -1"),
    "2^31 slots": ("targets_of", (slots(6, 7, 9)[0], 2**31), "at most 2\\^31 - 1 slots"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_arguments(fault):
    """Refused with what was wanted and what was got."""
    name, arguments, message = BAD[fault]
    with pytest.raises(RuntimeError, match=message):
        getattr(_ops, name)(*arguments)


def test_is_a_graph_again():
    """A graph transposed twice has the edges that it had."""
    ptr, other = slots(6, 7, 23, lowest=0)
    graph = Graph(ptr, other)
    t_ptr, t_other = transpose_graph(graph.ptr, graph.source, 7)
    again, source = transpose_graph(t_ptr, t_other, 6)
    assert torch.equal(again, ptr)
    assert torch.equal(
        source, torch.cat([part.sort().values for part in other.split(ptr.diff().tolist())])
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("E", "N", "M"), [(700, 7, 6), (400, 1, 1), (0, 7, 6), (900, 300, 2)])
def test_gpu_graphs(E, N, M):
    """Sorted and transposed on a GPU: hubs, empty slots, no edges, one node, two digits of keys."""
    source, target = edges(E, N, M)
    for with_edge in (True, False):
        found = _ops.sort_coo(source.to(GPU), target.to(GPU), M, with_edge)
        ptr, ordered, order = expected_order(source, target, M)
        for f, w in zip(found, (ptr, ordered, order if with_edge else order[:0]), strict=True):
            assert torch.equal(f.cpu(), w)
        assert torch.equal(targets_of(ptr.to(GPU), E).cpu(), target.sort().values)
    ptr, other = slots(M, N, E)
    t_ptr, slot = reference.transpose_table(other[:, None], N)
    t_other = torch.where(other < 0, -1, targets_of(ptr, E))[slot]
    t_ptr[N] = E
    for f, w in zip(
        _ops.transpose_graph(ptr.to(GPU), other.to(GPU), N), (t_ptr, t_other), strict=True
    ):
        assert torch.equal(f.cpu(), w)


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [(40, 7, 6), (30_000, 900, 5), (30_000, 3, 700)], ids=str)
def test_gpu_graphs_replayed(sizes):
    """Edges are sorted and transposed as on the CPU, those copied into a CUDA graph later, too."""
    E, N, M = sizes
    ends = [t.to(GPU) for t in edges(E, N, M)]

    def build(source, target):
        graph = graph_from_coo(source, target, N, M)
        whole = graph.with_transposed(N)
        rising = graph_from_coo(graph.source, whole.target, N, M, sorted_by_target=True)
        degrees = graph.degree(), graph.source_degree(N)
        back = transpose_graph(graph.ptr, graph.source, N)
        return dict(enumerate([*whole, rising.ptr, *degrees, *back]))

    replayed, replay = capture(lambda: build(*ends))
    for seed in (1, 2):
        fresh = edges(E, N, M, seed)
        for place, values in zip(ends, fresh, strict=True):
            place.copy_(values)
        replay()
        ptr, source, order = expected_order(*fresh, M)
        for number, value in enumerate((ptr, source, order)):
            assert torch.equal(replayed[number].cpu(), value)
        for number, value in build(*fresh).items():
            assert torch.equal(replayed[number].cpu(), value)
            assert torch.equal(build(*ends)[number], replayed[number])


@pytest.mark.gpu
@pytest.mark.parametrize("ptr", [[0, 0, 1], *FALLS], ids=str)
def test_gpu_assert(ptr):
    """A pointer that does not rise from 0 to the number of slots stops the kernel."""
    program = (
        "import torch; from support.devices import GPU, prepare, synchronize; prepare();"
        "from polygraph.ops.graph import Graph;"
        f"graph = Graph(torch.tensor({ptr}).to(GPU), torch.zeros(1, dtype=torch.int64).to(GPU));"
        "graph.with_transposed(2); synchronize()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (done.returncode == 0) == (ptr == [0, 0, 1]), done.stderr
    if done.returncode:
        assert "targets_of: ptr must rise from 0 to E" in done.stderr
