"""Spiral convolution in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def spiral_conv(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    transposed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Gather, concatenate, multiply: ``out_m = W · concat_s x[index[m, s]] + b``.

    Stores the gathered ``[B, M, S*C]`` features, which the kernel never does. Arguments and
    result as in `polygraph.ops.spiral_conv`; ``transposed`` is accepted and not needed.
    """
    if index.numel() == 0:
        gathered = x.new_zeros((*x.shape[:-2], index.shape[0], index.shape[1] * x.shape[-1]))
    else:
        padded = torch.cat([x, x.new_zeros((*x.shape[:-2], 1, x.shape[-1]))], dim=-2)
        slots = torch.where(index < 0, x.shape[-2], index)
        gathered = padded[..., slots, :].flatten(-2)
    out = gathered @ weight.t()
    return out if bias is None else out + bias
