"""The transposed neighbour table."""

import pytest
import torch
from devices import GPU
from hypothesis import given
from tables import hostile_tables, table

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
