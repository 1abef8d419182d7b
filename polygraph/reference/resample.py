"""Mesh resampling in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def resample(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    *,
    transposed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Weighted gather: ``out_m = Σ_t weight[m, t] x[index[m, t]]``, ``-1`` adds nothing.

    Arguments and result as in `polygraph.ops.resample`; ``transposed`` is accepted and not needed.
    """
    padded = torch.cat([x, x.new_zeros((*x.shape[:-2], 1, x.shape[-1]))], dim=-2)
    slots = torch.where(index < 0, x.shape[-2], index)
    return (padded[..., slots, :] * weight[..., None]).sum(-2)
