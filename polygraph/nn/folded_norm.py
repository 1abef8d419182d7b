"""BatchNorms of evaluation mode as the affine maps that they are, within the maps before them."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polygraph.nn.layout import Layout
from polygraph.nn.norm import SecondOrderNorm
from polygraph.nn.ordinary import is_ordinary
from polygraph.ops import common

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class AffineMap(NamedTuple):
    """``weight x + shift`` of rows of channels.

    Attributes:
        weight: ``[C, D]``.
        shift: ``[C]``, or None for none.
    """

    weight: Tensor
    shift: Tensor | None


def affine_of(norm: nn.Module) -> tuple[Tensor | None, Tensor | None] | None:
    """Scale and shift ``[C]`` of a normalisation that is affine now; None of one that is not."""
    if is_ordinary(norm, nn.Identity):
        return None, None
    if not is_ordinary(norm, SecondOrderNorm):
        return None
    found = cast(SecondOrderNorm, norm).batch_norm
    if found is None or not is_ordinary(found, *_BATCH_NORMS) or found.training:
        return None
    weight: Tensor | None = found.weight
    bias: Tensor | None = found.bias
    mean, var = found.running_mean, found.running_var
    if weight is None or bias is None or mean is None or var is None:
        return None
    scale = weight * (var + found.eps).rsqrt()
    return scale, bias - mean * scale


def matrix_of(linear: nn.Module, layout: Layout) -> Tensor | None:
    """``[C, D]`` of a map of channels without bias; None where it does anything else.

    Such maps are 1 x 1 convolutions of images, and Linear layers of everything else.
    """
    if layout.name != "images":
        known = is_ordinary(linear, nn.Linear)
        layer = cast(nn.Linear, linear)
        return layer.weight if known and layer.bias is None else None
    if not is_ordinary(linear, nn.Conv2d):
        return None
    conv = cast(nn.Conv2d, linear)
    shape = (conv.out_channels, conv.in_channels, 1, 1)
    plain = (conv.bias, conv.stride, conv.padding) == (None, (1, 1), (0, 0))
    return conv.weight.flatten(1) if plain and conv.weight.shape == shape else None


def folded_map(
    linear: nn.Module, norm: nn.Module, layout: Layout, factor: Tensor | None = None
) -> AffineMap | None:
    """``factor · norm(linear(x))``; None where it is not known to be affine now, or of two dtypes.

    Half types are multiplied in float32 and rounded once.
    """
    weight, affine = matrix_of(linear, layout), affine_of(norm)
    if weight is None or affine is None:
        return None
    scale, shift = affine
    if scale is not None and scale.dtype != weight.dtype:
        return None
    if scale is not None:
        weight = (common.wide(scale)[:, None] * common.wide(weight)).to(weight.dtype)
    if factor is not None:
        weight, shift = factor * weight, None if shift is None else factor * shift
    return AffineMap(weight, shift)


def residual_of_maps(
    before: AffineMap | None, after: AffineMap, a: Tensor, s: Tensor, *, bounded: bool
) -> Tensor:
    """``a + s + W₂ b(a * (W₁ s + c₁)) + c₂``, b the identity or tanh, of rows ``[..., C]``.

    What is made on the way is overwritten where nothing is differentiated or traced.

    Args:
        before: W₁ and c₁; None for s itself.
        after: W₂ and c₂.
        a: ``[..., C]``.
        s: the same shape.
        bounded: whether b is tanh.
    """
    in_place = common.unrecorded(a, s, *after, *(before or ()))
    factor = s if before is None else F.linear(s, *before)
    product = factor.mul_(a) if in_place and before is not None else a * factor
    if bounded:
        product = torch.tanh_(product) if in_place else product.tanh()
    return F.linear(product, *after).add_(a).add_(s)
