"""One step of a polynomial recursion in plain PyTorch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _rms(term: Tensor, eps: float) -> Tensor:
    """``term / sqrt(eps + mean_v term²)``, of terms divided by their largest before any square."""
    if term.size(-2) == 0:
        return term
    root = max(math.sqrt(eps), torch.finfo(term.dtype).tiny)
    largest = term.detach().abs().amax(-2, keepdim=True).clamp_min(root)
    largest = largest.masked_fill(largest.isinf(), 1.0)
    scaled = term / largest
    mean = scaled.square().mean(-2, keepdim=True)
    return scaled * ((root / largest).square() + mean).rsqrt()


def poly_step(
    a: Tensor,
    s: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    norm: str = "rms",
    eps: float = 1.0,
    activation: str = "none",
) -> Tensor:
    """``act(a + scale · N(a * s) + skip + bias)``; arguments as in `polygraph.ops.poly_step`."""
    if s is None:
        a, s = a.chunk(2, dim=-1)
    term = a * s
    if norm == "rms":
        term = _rms(term, eps)
    out = a + (term if scale is None else scale * term)
    if skip is not None:
        out = out + skip
    if bias is not None:
        out = out + bias
    if activation == "elu":
        return F.elu(out)
    if activation == "relu":
        return F.relu(out)
    if activation == "leaky_relu":
        return F.leaky_relu(out, 0.2)
    return out
