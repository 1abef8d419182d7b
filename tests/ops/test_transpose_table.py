"""The transposed neighbour table."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from support.devices import GPU, PLACE, capture
from support.paths import environment
from support.tables import hostile_tables, table

from polygraph import ops, reference


@given(drawn=hostile_tables())
def test_lists_every_place_of_every_source(drawn):
    """Source by source the ascending places that name it, then those that hold -1."""
    index, sources = drawn
    for function in (ops.transpose_table, reference.transpose_table):
        ptr, entry = function(index, sources)
        assert ptr.dtype == entry.dtype == torch.int64
        assert ptr.shape == (sources + 1,)
        assert ptr[0] == 0
        for source in range(sources):
            places = (index.flatten() == source).nonzero().flatten()
            assert torch.equal(entry[ptr[source] : ptr[source + 1]], places)
        assert torch.equal(entry[ptr[-1] :], (index.flatten() < 0).nonzero().flatten())


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
def test_empty_tables(shape):
    """No rows or no slots: nobody is named."""
    ptr, entry = ops.transpose_table(torch.zeros(shape, dtype=torch.int64), 5)
    assert torch.equal(ptr, torch.zeros(6, dtype=torch.int64))
    assert entry.shape == (0,)


def test_no_sources():
    """A table of nothing but padding over no sources."""
    ptr, entry = ops.transpose_table(torch.full((2, 3), -1), 0)
    assert torch.equal(ptr, torch.zeros(1, dtype=torch.int64))
    assert torch.equal(entry, torch.arange(6))


def test_strided_table():
    """A table that is a view of another."""
    index = table(8, 6, 9)
    view, copy = index.t()[::2], index.t()[::2].clone(memory_format=torch.contiguous_format)
    for actual, expected in zip(
        ops.transpose_table(view, 9), ops.transpose_table(copy, 9), strict=True
    ):
        assert torch.equal(actual, expected)


def test_traces_without_graph_break():
    """No shape depends on a value, so it compiles whole."""
    index = table(8, 6, 9)
    torch.compiler.reset()
    compiled = torch.compile(ops.transpose_table, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(compiled(index, 9), ops.transpose_table(index, 9), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("index", "num_sources", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), 2, r"shape \[M, S\], got torch.int64 \[3\]"),
        (
            torch.zeros(1, 2, 3, dtype=torch.int64),
            2,
            r"shape \[M, S\], got torch.int64 \[1, 2, 3\]",
        ),
        (torch.zeros(2, 3, dtype=torch.int32), 2, "int64 tensor .* got torch.int32"),
        (torch.zeros(2, 3), 2, "int64 tensor .* got torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int64), -1, "num_sources must not be negative, got -1"),
    ],
)
def test_bad_arguments(index, num_sources, message):
    """Refused with what was wanted and what was got."""
    with pytest.raises(ValueError, match=message):
        ops.transpose_table(index, num_sources)


@pytest.mark.gpu
def test_gpu_table():
    """The same table on a GPU, and it stays there."""
    index = table(50, 6, 9)
    for actual, expected in zip(
        ops.transpose_table(index.to(GPU), 9), ops.transpose_table(index, 9), strict=True
    ):
        assert actual.device.type == GPU
        assert torch.equal(actual.cpu(), expected)


@pytest.mark.gpu
def test_gpu_table_replayed():
    """A CUDA graph sorts another table, one that is a view."""
    wide = table(60, 50, 70).to(GPU)
    index = wide.t()[::2]
    replayed, replay = capture(lambda: dict(enumerate(ops.transpose_table(index, 70))))
    wide.copy_(table(60, 50, 70, seed=1))
    replay()
    for number, expected in enumerate(reference.transpose_table(index.cpu(), 70)):
        assert torch.equal(replayed[number].cpu(), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("entry", [8, 9, -1, -2])
def test_gpu_assert(entry):
    """An entry out of range stops the kernel with a message."""
    program = (
        "import torch; from support.devices import GPU, prepare, synchronize; prepare();"
        "from polygraph import ops;"
        f"ops.transpose_table(torch.full((4, 3), {entry}).to(GPU), 9); synchronize()"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (done.returncode == 0) == (entry in (8, -1)), done.stderr
    if done.returncode:
        said = "must lie in [-1, 9)" if PLACE == "cpu" else "transpose_table: index is out of range"
        assert said in done.stderr
