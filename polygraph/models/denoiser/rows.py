"""What a layer makes of a picture, some rows at a time: the features of all need not exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PIXELS = 1 << 15  # of the rows that are made at a time, at least


def by_rows(call: Any, *inputs: Tensor, halo: int, near: Tensor | None = None) -> Tensor:
    """The same as ``call(*inputs, near=near)``, for a call that sees ``halo`` rows far.

    Rows beyond the picture are the business of the call, whose padding is at the picture's border
    where the rows are; what padding adds at other borders does not reach the rows that are kept.

    Args:
        call: maps ``[B, C, h, W]``, and with a graph ``near=``, to ``[B, D, h, W]``.
        *inputs: ``[B, C, H, W]``, alike in all but C.
        halo: rows above and below that decide about a row.
        near: int64 ``[B, H W, k]``, neighbours at most ``halo`` rows away, -1 for none.
    """
    batch, _, height, width = inputs[0].shape
    step = max(_PIXELS // width, 2 * halo, 1)
    given: dict[str, Any] = {}
    if step + halo >= height:
        return _tensor(call(*inputs, near=near) if near is not None else call(*inputs))
    out: Tensor | None = None
    for first in range(0, height, step):
        last = min(first + step, height)
        low, high = max(first - halo, 0), min(last + halo, height)
        if near is not None:
            given["near"] = _of_rows(near, width, (first, last), (low, high))
        made = _tensor(call(*(x[:, :, low:high] for x in inputs), **given))
        if out is None:
            out = made.new_empty(batch, made.shape[1], height, width)
        out[:, :, first:last] = made[:, :, first - low : last - low]
    assert out is not None
    return out


def _of_rows(near: Tensor, width: int, kept: tuple[int, int], seen: tuple[int, int]) -> Tensor:
    """The table of the rows that are seen, counted from the first; the halo's rows are empty."""
    (first, last), (low, high) = kept, seen
    table = near.new_full((near.shape[0], (high - low) * width, near.shape[2]), -1)
    mine = near[:, first * width : last * width]
    moved = torch.where(mine < 0, mine, mine - low * width)
    table[:, (first - low) * width : (last - low) * width] = moved
    return table


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
