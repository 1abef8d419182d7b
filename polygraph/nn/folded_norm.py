"""BatchNorms of evaluation mode as the affine maps that they are, within the maps before them."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from polygraph.nn.norm import SecondOrderNorm
from polygraph.nn.ordinary import is_ordinary

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def affine_of(norm: nn.Module) -> tuple[Tensor | None, Tensor | None] | None:
    """Scale and shift ``[C]`` of a normalisation that is affine now; None of one that is not."""
    if is_ordinary(norm, nn.Identity):
        return None, None
    if not is_ordinary(norm, SecondOrderNorm):
        return None
    batch_norm = cast(SecondOrderNorm, norm).batch_norm
    known = is_ordinary(batch_norm, *_BATCH_NORMS)
    if batch_norm is None or not known or batch_norm.training or batch_norm.running_var is None:
        return None
    assert batch_norm.running_mean is not None
    scale = batch_norm.weight * (batch_norm.running_var + batch_norm.eps).rsqrt()
    return scale, batch_norm.bias - batch_norm.running_mean * scale


def matrix_of(linear: nn.Module) -> Tensor | None:
    """``[C, D]`` of a map of channels without bias; None where it does anything else.

    Such maps are Linear layers, and 1 x 1 convolutions, which multiply each pixel's channels.
    """
    if is_ordinary(linear, nn.Linear):
        layer = cast(nn.Linear, linear)
        return layer.weight if layer.bias is None else None
    if not is_ordinary(linear, nn.Conv2d):
        return None
    conv = cast(nn.Conv2d, linear)
    shape = (conv.out_channels, conv.in_channels, 1, 1)
    plain = (conv.bias, conv.stride, conv.padding) == (None, (1, 1), (0, 0))
    return conv.weight.flatten(1) if plain and conv.weight.shape == shape else None


def folded_map(linear: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Matrix and shift of ``norm(linear(x))``; None where it is not known to be affine now."""
    weight, affine = matrix_of(linear), affine_of(norm)
    if weight is None or affine is None:
        return None
    scale, shift = affine
    return (weight if scale is None else scale[:, None] * weight), shift


def residual_of_maps(
    before: tuple[Tensor, Tensor | None] | None,
    after: tuple[Tensor, Tensor | None],
    a: Tensor,
    s: Tensor,
    *,
    bounded: bool,
    in_place: bool,
) -> Tensor:
    """``a + s + W₂ b(a * (W₁ s + c₁)) + c₂``, b the identity or tanh, of rows ``[..., C]``.

    Args:
        before: W₁ and c₁; None for s itself.
        after: W₂ and c₂.
        a: ``[..., C]``.
        s: the same shape.
        bounded: whether b is tanh.
        in_place: whether what is made within may be overwritten: nothing is differentiated.
    """
    factor = s if before is None else F.linear(s, *before)
    product = factor.mul_(a) if in_place and before is not None else a * factor
    if bounded:
        product = product.tanh_() if in_place else product.tanh()
    return F.linear(product, *after).add_(a).add_(s)
