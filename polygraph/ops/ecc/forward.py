"""The values of `polygraph.ops.ecc`, in the four ways of `polygraph.ops.ecc.choice`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops.ecc.choice import way_of
from polygraph.ops.ecc.chunks import chunks, flat
from polygraph.ops.ecc.hidden import Hidden, widened
from polygraph.ops.edge_sum import sum_along
from polygraph.ops.graph_side import ANY_NODES, GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph


def ecc_values(
    x: Tensor,
    phi: Tensor | None,
    near: Tensor | None,
    far: Tensor | None,
    slope: float,
    layer: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    by_source: bool,
    graph: Sequence[Tensor],
    tables: int,
) -> Tensor:
    """``[M, D]``: the operator ``polygraph::ecc``; arguments as in its schema.

    Of half types in float32: the caller rounds, for a mean after it has divided.
    """
    x, weight, bias = widened(x.contiguous(), weight, bias)
    hidden = Hidden.widened(phi, near, far, slope, layer, shift)
    side = GraphSide.unpacked(graph, tables)
    rows = side.other.shape[0] if phi is None else phi.shape[0]  # of edge features
    way = way_of(
        x,
        weight.shape[0],
        side,
        stored=hidden.stored,
        ones=bias is not None,
        by_source=by_source,
    )
    if way == "lanes":
        return _by_lanes(x, hidden, weight, bias, side)
    hidden = hidden.without_layer()
    weight = weight if bias is None else torch.cat([weight, bias[None]])
    if way == "tiles":
        return _by_tiles(x, hidden, weight, side)
    if way == "targets":
        return _by_targets(x, hidden, weight, side)
    return _by_sources(x, hidden, weight, rows, side)


def _by_lanes(
    x: Tensor, hidden: Hidden, weight: Tensor, bias: Tensor | None, side: GraphSide
) -> Tensor:
    out = x.new_empty(side.num_segments, weight.shape[2])
    _ops.ecc_lane_(*hidden.packed(), x, weight, bias, *side.packed(), out)
    return out


def _by_tiles(x: Tensor, hidden: Hidden, weight: Tensor, side: GraphSide) -> Tensor:
    """``weight [H', C, D]``, of which the last matrix may be that of a column of ones of φ."""
    out = x.new_empty(side.num_segments, weight.shape[2])
    _ops.ecc_tile_(*hidden.packed(), x, weight, *side.packed(), out)
    return out


def _by_targets(x: Tensor, hidden: Hidden, weight: Tensor, side: GraphSide) -> Tensor:
    """Sums of φ ⊗ x for some targets, times W."""
    H, C, D = weight.shape
    targets, sources = side.num_segments, x.shape[0]
    graph = side.packed()
    out = x.new_zeros(targets, D)
    buffer = x.new_empty(0)
    for chunk in chunks(targets, H, C, x):
        z = chunk.part_of(buffer, C)
        buffer = z if buffer.numel() < z.numel() else buffer
        _ops.edge_outer_(*hidden.columns(chunk), [x], False, sources, chunk.first, *graph, z)
        out[chunk.nodes].addmm_(z.flatten(1), flat(weight[chunk.columns]))
    return out


def _by_sources(x: Tensor, hidden: Hidden, weight: Tensor, rows: int, side: GraphSide) -> Tensor:
    """Products of W with some sources, which their edges combine by φ."""
    H, C, D = weight.shape
    targets, sources = side.num_segments, x.shape[0]
    hidden, graph = hidden.turned(), side.turned(sources).packed()
    message = x.new_zeros(rows, D)
    for chunk in chunks(sources, H, D, x):
        matrix = weight[chunk.columns].transpose(0, 1).reshape(C, chunk.shape[1] * D)
        y = torch.mm(x[chunk.nodes], matrix).view(*chunk.shape, D)
        made: tuple[Any, ...] = (*hidden.columns(chunk), [], False)
        _ops.edge_inner_(y, *made, targets, chunk.first, *graph, None, message, True)
    return summed(message, side)


def summed(message: Tensor, side: GraphSide) -> Tensor:
    """Sums over the edges of every node of their messages, a row of ``[rows, C]`` each."""
    return sum_along(side, ANY_NODES, message.shape[0], per_edge=message)
