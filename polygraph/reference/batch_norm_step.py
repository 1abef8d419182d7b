"""The end of a polynomial residual block with BatchNorm in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def batch_norm_step(
    a: Tensor,
    s: Tensor | None = None,
    term: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
) -> Tensor:
    """``act(a + s + N(t))``, ``act(a · N(t))``; as `polygraph.ops.batch_norm_step` has it."""
    if term is None:
        assert s is not None
        term = a * s
    dims = tuple(range(term.dim() - 1))
    away = term - term.mean(dims)
    term = away / (away.square().mean(dims) + eps).sqrt()
    term = term if weight is None else weight * term
    term = term if bias is None else term + bias
    out = a * term if s is None else a + s + term
    return F.relu(out) if activation == "relu" else out
