"""BatchNorm's part of a residual block: fused with what stands around it while it is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polygraph.nn.norm import SecondOrderNorm
from polygraph.nn.ordinary import is_ordinary
from polygraph.ops import common
from polygraph.ops.batch_norm_step import with_statistics

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def batch_statistics(norm: nn.Module) -> BatchNorm | None:
    """The BatchNorm over channels of a `SecondOrderNorm`, if it takes a batch's statistics now.

    None where there is another normalisation, running statistics are used, or a subclass or a hook
    does something of its own. A mean over all batches (``momentum=None``) is left to PyTorch.
    """
    if not isinstance(norm, SecondOrderNorm) or not is_ordinary(norm, SecondOrderNorm):
        return None
    found = norm.batch_norm
    if norm.kind != "batch_channel" or found is None:
        return None
    if not is_ordinary(found, nn.BatchNorm1d, nn.BatchNorm2d):
        return None
    by_batch = found.training or (found.running_mean is None and found.running_var is None)
    return found if by_batch and found.momentum is not None else None


def can_fuse(norm: BatchNorm, *rows: Tensor) -> bool:
    """Whether `normalised_step` computes what PyTorch would: one dtype, no autocast, two rows.

    PyTorch raises an error for one row, mixes dtypes, and takes autocast's where it is on.
    """
    first, weight = rows[0], norm.weight
    count = first.shape[:-1].numel()
    return (
        common.takes_cpu_kernels(first)
        and common.autocast_dtype(first) is None
        and all(x.dtype == first.dtype and x.shape == first.shape for x in rows[1:])
        and (weight is None or weight.dtype == first.dtype)
        and common.decide(count > 1, True)
    )


def normalised_step(
    norm: BatchNorm,
    a: Tensor,
    s: Tensor | None = None,
    term: Tensor | None = None,
    *,
    factor: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """`polygraph.ops.batch_norm_step` with a BatchNorm's parameters; keeps its running statistics.

    Args:
        norm: as `batch_statistics` found it.
        a: ``[..., C]``.
        s: shape of ``a``, or None.
        term: shape of ``a``, or None.
        factor: a number that the normalised term is multiplied with.
        activation: ``none`` or ``relu``.
    """
    weight: Tensor | None = norm.weight
    bias: Tensor | None = norm.bias
    if factor is not None:
        weight = factor.expand(norm.num_features) if weight is None else factor * weight
        bias = None if bias is None else factor * bias
    out, mean, var = with_statistics(
        a, s, term, weight=weight, bias=bias, eps=norm.eps, activation=activation
    )
    if norm.training and norm.track_running_stats:
        _keep(norm, mean, var, a.shape[:-1].numel())
    return out


def _keep(norm: BatchNorm, mean: Tensor, var: Tensor, rows: int) -> None:
    """Move the running statistics, of which the variance is the unbiased one, as PyTorch does."""
    with torch.no_grad():
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        if norm.running_mean is not None and norm.running_var is not None:
            dtype = norm.running_mean.dtype
            assert norm.momentum is not None
            norm.running_mean.lerp_(mean.to(dtype), norm.momentum)
            norm.running_var.lerp_((var * (rows / (rows - 1))).to(dtype), norm.momentum)
