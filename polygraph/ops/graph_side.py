"""A graph as the edge operators read it: from one side, with what reads it from the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from polygraph.ops.graph import Graph, targets_of
from polygraph.ops.transpose_table import transpose_table

ANY_NODES = 2**62  # other nodes, where they only say that a slot is not empty


class GraphSide(NamedTuple):
    """The tables of a graph as an operator takes them.

    An operator goes from segment to segment, and along the slots of each: the segments are the
    targets (`GraphSide.of`) or the sources (`turned`). Seen from a slot, the segment is the near
    node and the node at the other end the far one. ``ptr``, ``slot``, ``other`` and ``edge`` are
    what a kernel reads (csrc/common/graph.h); the last three are the graph from the other side,
    which derivatives read: in `turned` they change places with the first three. Operators
    take all of them as two arguments, `packed`.
    """

    ptr: Tensor  #: int64 ``[S + 1]``: segment s has the positions ``ptr[s]:ptr[s + 1]``
    slot: Tensor | None  #: int64 ``[E]``: the slot at each position; None: the position itself
    other: Tensor  #: int64 ``[E]``: the node at the other end of each slot; -1: the slot is empty
    edge: Tensor | None  #: int64 ``[E]``: the row of edge features of each slot; None: its own
    t_ptr: Tensor | None  #: int64 ``[O + 1]``: ``ptr`` from the other side
    t_slot: Tensor | None  #: int64 ``[E]``: ``slot`` from the other side
    t_other: Tensor | None  #: int64 ``[E]``: the segment of each slot

    @classmethod
    def of(cls, graph: Graph) -> GraphSide:
        """From the targets."""
        ptr, source, edge, target, t_ptr, t_slot = graph
        return cls(ptr, None, source, edge, t_ptr, t_slot, target)

    @classmethod
    def unpacked(cls, graph: Sequence[Tensor], tables: int) -> GraphSide:
        """What `packed` gave to an operator."""
        ptr, other, *optional = graph
        rest = iter(optional)
        slot, edge, t_ptr, t_slot, t_other = (
            next(rest) if tables & 1 << place else None for place in range(5)
        )
        return cls(ptr, slot, other, edge, t_ptr, t_slot, t_other)

    def packed(self) -> tuple[list[Tensor], int]:
        """The arguments ``graph`` and ``tables`` of an operator.

        ``graph`` has ``ptr`` and ``other``, and those that there are of ``slot``, ``edge``,
        ``t_ptr``, ``t_slot`` and ``t_other``, in this order: the five lowest bits of ``tables``,
        from 1 to 16, say which. A list of optional tensors would do, but `torch.jit.trace` knows
        none.
        """
        ptr, slot, other, edge, t_ptr, t_slot, t_other = self
        graph, tables = [ptr, other], 0
        if slot is not None:
            graph.append(slot)
            tables = 1
        if edge is not None:
            graph.append(edge)
            tables |= 2
        if t_ptr is not None:
            graph.append(t_ptr)
            tables |= 4
        if t_slot is not None:
            graph.append(t_slot)
            tables |= 8
        if t_other is not None:
            graph.append(t_other)
            tables |= 16
        return graph, tables

    @property
    def num_segments(self) -> int:
        """S."""
        return self.ptr.shape[0] - 1

    def turned(self, others: int) -> GraphSide:
        """From the other side, of ``others`` nodes; it is made where it is not given."""
        ptr, slot, other, edge, t_ptr, t_slot, t_other = self
        if t_ptr is None or t_other is None:
            t_ptr, t_slot = transpose_table(other[:, None], others)
            t_other = targets_of(ptr, other.shape[0])
        return GraphSide(t_ptr, t_slot, t_other, edge, ptr, slot, other)

    def with_both(self, others: int) -> GraphSide:
        """From the same side, the tables of the other one made where they are not given."""
        back = self.turned(others)
        return self._replace(t_ptr=back.ptr, t_slot=back.slot, t_other=back.other)
