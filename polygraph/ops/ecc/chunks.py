"""Some nodes at a time: what a node needs for the products exists for a few megabytes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from polygraph.ops import common

# Nodes whose products exist at a time, and the bytes of these: in the cache of a CPU, enough to
# fill a GPU.
CHUNK_NODES = {"cpu": 256, "cuda": 1 << 16}
CHUNK_BYTES = {"cpu": 6 << 20, "cuda": 256 << 20}
# Four times as many nodes, or sixteen, where the products of a node are few and these fit.
SMALL_BYTES = 1 << 20
# MKL takes four times as long for a product of fewer columns, unless they come as rows.
NARROW = 8


class Chunk(NamedTuple):
    """Some nodes, and some columns of φ."""

    first: int
    last: int
    h0: int
    h1: int

    @property
    def nodes(self) -> slice:
        """The rows of the nodes."""
        return slice(self.first, self.last)

    @property
    def columns(self) -> slice:
        """The columns of φ, or rows of W."""
        return slice(self.h0, self.h1)

    @property
    def shape(self) -> tuple[int, int]:
        """Nodes and columns."""
        return self.last - self.first, self.h1 - self.h0

    def part_of(self, buffer: Tensor, columns: int) -> Tensor:
        """``[nodes, columns of φ, columns]`` in the memory of ``buffer``, if it is large enough."""
        shape = (*self.shape, columns)
        size = shape[0] * shape[1] * shape[2]
        return (buffer.view(-1)[:size] if size <= buffer.numel() else buffer.new_empty(size)).view(
            shape
        )


def chunks(segments: int, hidden: int, columns: int, like: Tensor) -> Iterator[Chunk]:
    """Nodes, and of them columns of φ, whose products, ``columns`` elements each, fit the budget.

    Many nodes come before many columns: a product with W must not read W for a few rows.
    """
    device = "cuda" if common.takes_cuda_kernels(like) else "cpu"
    nodes = CHUNK_NODES[device]
    for _ in range(2):
        if 4 * nodes * hidden * columns * like.element_size() <= SMALL_BYTES:
            nodes *= 4
    step = min(max(1, segments), nodes)
    budget = CHUNK_BYTES[device] // (like.element_size() * step * max(1, columns))
    parts = -(-hidden // max(1, min(hidden, budget))) if hidden else 1
    for first in range(0, segments, step):
        for part in range(parts):
            yield Chunk(
                first,
                min(first + step, segments),
                hidden * part // parts,
                hidden * (part + 1) // parts,
            )


def flat(weight: Tensor) -> Tensor:
    """``[H, C, D]`` as a matrix ``[H * C, D]``, whose columns are contiguous where they are few."""
    matrix = weight.flatten(0, 1)
    return matrix.t().contiguous().t() if weight.shape[2] < NARROW else matrix
