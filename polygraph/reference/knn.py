"""Nearest neighbours in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

LANES = 8


def squared_distance(y: Tensor, x: Tensor) -> Tensor:
    """``|y - x|²`` over the last dimension, summed in the order that every kernel follows.

    Eight lanes: lane ``l`` sums the channels ``l, l + 8, l + 16, ...`` in this order; then
    ``((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))``. Every operation is rounded.
    """
    difference = y - x
    square = difference * difference
    if square.shape[-1] == 0:
        return square.sum(-1)
    padded = torch.nn.functional.pad(square, (0, -square.shape[-1] % LANES))
    lane = padded.new_zeros((*padded.shape[:-1], LANES))
    for first in range(0, padded.shape[-1], LANES):
        lane = lane + padded[..., first : first + LANES]
    half = lane[..., :4] + lane[..., 4:]
    quarter = half[..., :2] + half[..., 2:]
    return quarter[..., 0] + quarter[..., 1]


def _candidates(
    points: int,
    queries: int,
    exclude_self: bool,
    grid: tuple[int, int] | None,
    exclude_radius: int | None,
    search_radius: int | None,
    device: torch.device,
) -> Tensor:
    """Which points each query may take, bool ``[queries, points]``."""
    rows = torch.arange(queries, device=device)[:, None]
    columns = torch.arange(points, device=device)
    allowed = torch.ones(queries, points, dtype=torch.bool, device=device)
    if exclude_self:
        allowed &= rows != columns
    if grid is not None:
        width = grid[1]
        apart = torch.maximum(
            (rows // width - columns // width).abs(), (rows % width - columns % width).abs()
        )
        if exclude_radius is not None:
            allowed &= apart > exclude_radius
        if search_radius is not None and search_radius >= 0:
            allowed &= apart <= search_radius
    return allowed


def _sample(x: Tensor, y: Tensor, k: int, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """One sample: ``x [N, C]``, ``y [M, C]``."""
    if len(y) == 0:
        index = torch.empty((0, k), dtype=torch.int64, device=x.device)
        return index, squared_distance(y[:, None], x[index])
    with torch.no_grad():
        order = squared_distance(y[:, None], x).sort(dim=1, stable=True).indices
        excluded = ~allowed.gather(1, order)
        index = order.gather(1, excluded.to(torch.uint8).sort(dim=1, stable=True).indices[:, :k])
    return index, squared_distance(y[:, None], x[index])


def knn(
    x: Tensor,
    k: int,
    *,
    y: Tensor | None = None,
    ptr: Tensor | None = None,
    y_ptr: Tensor | None = None,
    exclude_self: bool = False,
    grid: tuple[int, int] | None = None,
    exclude_radius: int | None = None,
    search_radius: int | None = None,
) -> tuple[Tensor, Tensor]:
    """All distances, sorted by (distance, index).

    Arguments and results as in `polygraph.ops.knn`. Needs memory for every distance at once.
    """
    queries = x if y is None else y
    if x.dtype in (torch.float16, torch.bfloat16):
        x, queries = x.float(), queries.float()
    settings = (exclude_self, grid, exclude_radius, search_radius, x.device)
    if x.dim() == 3:
        allowed = _candidates(x.shape[1], queries.shape[1], *settings)
        parts = [_sample(a, b, k, allowed) for a, b in zip(x, queries, strict=True)]
        if not parts:
            shape = (0, queries.shape[1], k)
            none = torch.empty(shape, dtype=torch.int64, device=x.device)
            return none, (queries[:, :, :1] * 0).sum(2, keepdim=True).expand(shape) + x.sum()
        return torch.stack([i for i, _ in parts]), torch.stack([d for _, d in parts])
    ends = [0, x.shape[0]] if ptr is None else ptr.tolist()
    y_ends = [0, queries.shape[0]] if ptr is None else (ptr if y_ptr is None else y_ptr).tolist()
    empty_index, empty_dist2 = _sample(x[:0], queries[:0], k, x.new_empty((0, 0), dtype=torch.bool))
    index, dist2 = [empty_index], [empty_dist2]
    for s in range(len(ends) - 1):
        points, mine = x[ends[s] : ends[s + 1]], queries[y_ends[s] : y_ends[s + 1]]
        allowed = _candidates(len(points), len(mine), *settings)
        i, d = _sample(points, mine, k, allowed)
        index.append(i + ends[s])
        dist2.append(d)
    return torch.cat(index), torch.cat(dist2)
