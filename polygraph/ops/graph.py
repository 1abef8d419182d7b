"""Graphs as the edge operators read them: slots in the order of their targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops.transpose_table import transpose_table

_load.load_libraries()
_ops = torch.ops.polygraph


class Graph(NamedTuple):
    """A graph of E slots, each of which holds an edge from a source to a target, or nothing.

    A gather over the neighbours of a target reads ``source`` in order. A gradient that flows to the
    sources gathers through the transposed graph, so no sum is contended and results repeat bit
    for bit; `with_transposed` makes it once for all layers that share the graph, and an operator
    that needs it makes it for itself otherwise. A plain tuple of tensors, it goes through
    `torch.compile` as it is.

    Example:
        >>> import torch
        >>> from polygraph.ops import graph_from_table
        >>> graph = graph_from_table(torch.tensor([[1, 2], [0, 2], [-1, 1]]), 3)
        >>> graph
        Graph(3 targets, 6 slots)
        >>> graph.degree(), graph.source_degree(3)
        (tensor([2, 2, 1]), tensor([1, 2, 2]))
        >>> graph.with_transposed(3)
        Graph(3 targets, 6 slots, transposed over 3 sources)

    See Also:
        `graph_from_table` and `graph_from_coo` make one.
    """

    ptr: Tensor  #: int64 ``[M + 1]``: target i has the slots ``ptr[i]:ptr[i + 1]``
    source: Tensor  #: int64 ``[E]``: the source of each slot; -1: the slot is empty
    edge: Tensor | None = (
        None  #: int64 ``[E]``: the row of edge features of each slot, none twice; None: its own
    )
    target: Tensor | None = None  #: int64 ``[E]``: the target of each slot
    t_ptr: Tensor | None = (
        None  #: int64 ``[N + 1]``: source j has ``t_slot[t_ptr[j]:t_ptr[j + 1]]``
    )
    t_slot: Tensor | None = (
        None  #: int64 ``[E]``: slots by source, ascending; empty ones at the end
    )

    def __repr__(self) -> str:
        """One line: targets, slots, and whether the transpose is there."""
        transposed = (
            "" if self.t_ptr is None else f", transposed over {len(self.t_ptr) - 1} sources"
        )
        return f"Graph({self.num_targets} targets, {self.num_slots} slots{transposed})"

    @property
    def num_targets(self) -> int:
        """M."""
        return self.ptr.shape[0] - 1

    @property
    def num_slots(self) -> int:
        """E."""
        return self.source.shape[0]

    def degree(self) -> Tensor:
        """int64 ``[M]``: edges into each target."""
        filled = torch.nn.functional.pad((self.source >= 0).cumsum(0), (1, 0))
        return filled[self.ptr[1:]] - filled[self.ptr[:-1]]

    def source_degree(self, num_sources: int) -> Tensor:
        """int64 ``[N]``: edges out of each source."""
        count = self.source.new_zeros(num_sources + 1)
        count.scatter_add_(0, self.source + 1, torch.ones_like(self.source))
        return count[1:]

    def with_transposed(self, num_sources: int) -> Graph:
        """The same graph, its transpose made where it was not."""
        if self.t_ptr is not None:
            return self
        t_ptr, t_slot = transpose_table(self.source[:, None], num_sources)
        return self._replace(
            target=targets_of(self.ptr, self.num_slots), t_ptr=t_ptr, t_slot=t_slot
        )


def targets_of(ptr: Tensor, slots: int) -> Tensor:
    """int64 ``[slots]``: the segment of ``ptr`` that each slot lies in.

    Raises:
        RuntimeError: ``ptr`` is not int64 of one dimension, or does not rise from 0 to ``slots``
            (on CUDA: a device-side assertion).
    """
    target: Tensor = _ops.targets_of(ptr, slots)
    return target


@torch.library.register_fake("polygraph::targets_of")
def _(ptr: Tensor, slots: int) -> Tensor:
    return ptr.new_empty(slots)


def graph_from_coo(
    source: Tensor,
    target: Tensor,
    num_sources: int,
    num_targets: int,
    *,
    sorted_by_target: bool = False,
    with_edge: bool = True,
) -> Graph:
    """A graph from its edges in any order.

    The edges of a target keep their order, and edge features stay where they are.

    Args:
        source: int64 ``[E]``, entries in ``[0, num_sources)``.
        target: int64 ``[E]``, entries in ``[0, num_targets)``.
        num_sources: N.
        num_targets: M.
        sorted_by_target: ``target`` is known not to fall, as in a `torch_geometric.EdgeIndex` that
            is sorted by it: nothing is sorted, nothing is looked up.
        with_edge: False: edge features will lie in the order of the slots, and the graph does not
            say where they were.

    Raises:
        ValueError: the two are not int64 of the same one dimension.
        RuntimeError: an entry of ``target`` is out of range (on CUDA: a device-side assertion;
            ``source`` is checked at use).

    Example:
        >>> import torch
        >>> from polygraph.ops import graph_from_coo
        >>> source, target = torch.tensor([[2, 0, 1], [1, 0, 0]])  # PyG's edge_index
        >>> graph = graph_from_coo(source, target, num_sources=3, num_targets=2)
        >>> graph, graph.ptr, graph.source
        (Graph(2 targets, 3 slots), tensor([0, 2, 3]), tensor([0, 1, 2]))

    See Also:
        `graph_from_table`, for tables of neighbours.
    """
    check_tensors("graph_from_coo", source=source, target=target)
    for name, ends in (("source", source), ("target", target)):
        if ends.dim() != 1 or ends.dtype != torch.int64 or ends.shape != source.shape:
            raise ValueError(
                f"graph_from_coo: {name} must be int64 of shape [E], got {ends.dtype} "
                f"{list(ends.shape)}"
            )
    if sorted_by_target:
        bounds = torch.arange(num_targets + 1, device=target.device)
        return Graph(torch.searchsorted(target.contiguous(), bounds), source)
    ptr, ordered, order = _ops.sort_coo(source, target, num_targets, with_edge)
    return Graph(ptr, ordered, order if with_edge else None)


def scan_edges(
    source: Tensor, target: Tensor, num_sources: int, num_targets: int
) -> tuple[Graph | None, tuple[int, int] | None]:
    """On the CPU, one look at a list of edges int64 ``[E]``.

    Returns:
        The graph, where ``target`` never falls, else None; and where an entry is out of range, the
        row that it is in (0: ``source``) and the entry, else None.
    """
    ptr, found = _ops.scan_coo(source, target, num_sources, num_targets)
    rises, row, entry = found.tolist()
    return Graph(ptr, source) if rises else None, (row, entry) if row >= 0 else None


@torch.library.register_fake("polygraph::scan_coo")
def _(source: Tensor, target: Tensor, num_sources: int, num_targets: int) -> tuple[Tensor, Tensor]:
    return target.new_empty(num_targets + 1), target.new_empty(3)


@torch.library.register_fake("polygraph::sort_coo")
def _(
    source: Tensor, target: Tensor, num_targets: int, with_edge: bool
) -> tuple[Tensor, Tensor, Tensor]:
    edges = source.shape[0]
    return (
        target.new_empty(num_targets + 1),
        source.new_empty(edges),
        source.new_empty(edges if with_edge else 0),
    )


def transpose_graph(ptr: Tensor, other: Tensor, others: int) -> tuple[Tensor, Tensor]:
    """A graph from its other side, where nothing belongs to a slot but its two ends.

    Args:
        ptr: int64 ``[S + 1]``.
        other: int64 ``[E]``, entries in ``[-1, others)``.
        others: O; not 0 where there are slots.

    Returns:
        ``t_ptr`` int64 ``[O + 1]`` and ``t_other`` int64 ``[E]``: the segments that name each other
        node, in their order. Empty slots follow those of the last node, as -1.
    """
    t_ptr, t_other = _ops.transpose_graph(ptr, other, others)
    return t_ptr, t_other


@torch.library.register_fake("polygraph::transpose_graph")
def _(ptr: Tensor, other: Tensor, others: int) -> tuple[Tensor, Tensor]:
    return ptr.new_empty(others + 1), other.new_empty(other.shape[0])


def graph_from_table(index: Tensor, num_sources: int) -> Graph:
    """A graph from a neighbour table, such as `polygraph.ops.knn` returns.

    Args:
        index: int64 ``[M, K]``, entries in ``[-1, num_sources)``, or ``[B, M, K]``: then target m
            and source n of sample b are the nodes ``b * M + m`` and ``b * num_sources + n``.
        num_sources: N, of each sample.

    Raises:
        ValueError: ``index`` has another shape or dtype.

    Example:
        >>> import torch
        >>> from polygraph.ops import graph_from_table, knn
        >>> index, _ = knn(torch.randn(100, 3), 8)
        >>> graph_from_table(index, 100)
        Graph(100 targets, 800 slots)

    See Also:
        `graph_from_coo`, for lists of edges.
    """
    check_tensors("graph_from_table", index=index)
    if index.dim() not in (2, 3) or index.dtype != torch.int64:
        raise ValueError(
            "graph_from_table: index must be int64 of shape [M, K] or [B, M, K], got "
            f"{index.dtype} {list(index.shape)}"
        )
    source = index
    if index.dim() == 3:
        offset = torch.arange(index.shape[0], device=index.device)[:, None, None] * num_sources
        source = torch.where(index < 0, index, index + offset)
    neighbours = index.shape[-1]
    # Not `index.shape[:-1].numel()`, which tracing without dynamo takes for a constant.
    targets = index.shape[0] if index.dim() == 2 else index.shape[0] * index.shape[1]
    ptr = torch.arange(targets + 1, device=index.device) * neighbours
    return Graph(ptr, source.flatten())
