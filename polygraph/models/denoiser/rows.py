"""What a layer makes of a picture, some rows at a time: the features of all need not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polygraph.ops import graph_from_table, light_ecc
from polygraph.ops.edge_sum import dot_along
from polygraph.ops.graph_side import GraphSide

if TYPE_CHECKING:
    from polygraph.nn.nonlocal_conv import NonLocalGraphConv2d

_PIXELS = 1 << 15  # of the rows that are made at a time, at least


def by_rows(call: Any, *inputs: Tensor, halo: int, near: Tensor | None = None) -> Tensor:
    """The same as ``call(*inputs)``, for a call that sees ``halo`` rows far.

    Padding is the business of the call. At the picture's border it is where the rows end; what it
    adds at other borders does not reach the rows that are kept.

    Args:
        call: maps ``[B, C, h, W]`` to ``[B, D, h, W]``; with a graph it is called with
            ``near=`` and ``first=``, the neighbours of the rows from ``first`` on, counted from the
            first pixel that it sees, and returns these rows alone. ``first`` is None for all.
        *inputs: ``[B, C, H, W]``, alike in all but C.
        halo: rows above and below that decide about a row.
        near: int64 ``[B, H W, k]``, neighbours at most ``halo`` rows away, -1 for none.
    """
    batch, _, height, width = inputs[0].shape
    step = max(_PIXELS // width, 2 * halo, 1)
    if step + halo >= height:
        whole: Tensor = call(*inputs) if near is None else call(*inputs, near=near, first=None)
        return whole
    out: Tensor | None = None
    for first in range(0, height, step):
        last = min(first + step, height)
        low, high = max(first - halo, 0), min(last + halo, height)
        seen = [x[:, :, low:high] for x in inputs]
        if near is None:
            made = call(*seen)[:, :, first - low : last - low]
        else:
            mine = near[:, first * width : last * width]
            mine = torch.where(mine < 0, mine, mine - low * width)
            made = call(*seen, near=mine, first=first - low)
        if out is None:
            out = made.new_empty(batch, made.shape[1], height, width)
        out[:, :, first:last] = made
    assert out is not None
    return out


def graph_rows(
    layer: NonLocalGraphConv2d, x: Tensor, local: Tensor, near: Tensor, first: int
) -> Tensor:
    """A graph convolution of some rows, whose neighbours may lie in others.

    Args:
        layer: with euclidean distances and without coordinates.
        x: ``[B, C, h, W]``.
        local: what the local convolution reads, ``[B, C, h, W]``.
        near: int64 ``[B, M W, k]`` of the rows from ``first`` to ``first + M``, -1 for none.
        first: of the rows.

    Returns:
        ``[B, D, M, W]``.
    """
    height, width = x.shape[2:]
    last = first + near.shape[1] // width
    low, high = max(first - 1, 0), min(last + 1, height)
    around = layer.local(local[:, :, low:high])[:, :, first - low : last - low]
    nodes = x.permute(0, 2, 3, 1).flatten(1, 2)
    chosen = slice(first * width, last * width)
    found = _light(layer, nodes, near, chosen) if layer.kind == "light" else None
    if found is None:
        table = near.new_full((near.shape[0], height * width, near.shape[2]), -1)
        table[:, chosen] = near
        dist2 = None if layer.delta is None else layer.graph.distances(x, table)
        found = layer.aggregated(nodes, table, dist2).view(*nodes.shape[:2], -1)[:, chosen]
    found = found.reshape(x.shape[0], last - first, width, -1).permute(0, 3, 1, 2)
    return layer.joined(found, around)


def _light(layer: NonLocalGraphConv2d, nodes: Tensor, near: Tensor, chosen: slice) -> Tensor | None:
    """Lightweight ECC of the chosen nodes alone ``[B, M, D]``; None where it is not that simple."""
    batch, count = nodes.shape[:2]
    flat, targets = nodes.flatten(0, 1), nodes[:, chosen].flatten(0, 1)
    graph = graph_from_table(near, count).with_transposed(batch * count)
    assert layer.hidden is not None
    phi = layer.hidden(flat, graph)
    if isinstance(phi, Tensor):
        return None
    u, v, slope = phi
    u = u.view(batch, count, -1)[:, chosen].flatten(0, 1)
    gamma = None
    if layer.delta is not None:
        ends = (GraphSide.of(graph), batch * count, graph.num_slots)
        opposite = -flat
        dist2 = dot_along(*ends, targets, opposite, near=targets, far=opposite)
        gamma = torch.exp(dist2 / -layer.delta)
    left, right, kappa = layer.filter()
    out = light_ecc(flat, (u, v, slope), left, right, kappa, graph, "mean", edge_weight=gamma)
    return out.view(batch, near.shape[1], -1)
