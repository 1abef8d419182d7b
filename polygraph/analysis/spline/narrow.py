"""The gradient of a convolution of few channels: the one that every image network begins with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from polygraph.analysis.spline.sites import Call

_MOST = 4  # channels: with more of them the library's own gradient is as fast


class NarrowConvolutions(TorchFunctionMode):
    """Convolutions of float32 images of up to four channels get a faster gradient on the CPU.

    The library computes the gradient of 16 channels at once, of which three are wanted. Here it is
    one matrix product for all places of the kernel, and a sum of shifted images.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a call; a convolution of few channels with the gradient of this module."""
        call = Call(getattr(func, "__name__", ""), func, args, kwargs or {})
        if call.name != "conv2d":
            return call.run()
        x, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
        sizes = [call.get(3, "stride", 1), call.get(4, "padding", 0), call.get(5, "dilation", 1)]
        if (
            call.get(6, "groups", 1) != 1
            or x.dim() != 4
            or x.shape[1] > _MOST
            or x.dtype != torch.float32
            or x.device.type != "cpu"
            or not x.requires_grad
            or any(p is not None and p.requires_grad for p in (weight, bias))
            or isinstance(sizes[1], str)
        ):
            return call.run()
        pairs = [(s, s) if isinstance(s, int) else tuple(s) * (3 - len(s)) for s in sizes]
        found: Tensor = _NarrowConvolution.apply(x, weight, bias, *pairs)  # type: ignore[no-untyped-call]
        return found


class _NarrowConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.sizes = x.shape, (stride, padding, dilation)
        return F.conv2d(x, weight, bias, stride, padding, dilation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        found = input_gradient(gradient, weight, ctx.shape, *ctx.sizes)
        return found, None, None, None, None, None


def input_gradient(
    gradient: Tensor,
    weight: Tensor,
    shape: torch.Size,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Of ``gradient`` ``[B, O, h, w]`` and ``weight`` ``[O, C, k, l]``, ``[B, C, H, W]``."""
    (batch, outputs, rows, columns), (_, channels, height, width) = gradient.shape, weight.shape
    kernel = weight.permute(2, 3, 1, 0).reshape(-1, outputs)
    parts = (kernel @ gradient.flatten(2).to(kernel.dtype)).view(
        batch, height, width, channels, rows, columns
    )
    whole = [size + 2 * pad for size, pad in zip(shape[2:], padding, strict=True)]
    found = gradient.new_zeros(batch, channels, *whole)
    for i in range(height):
        for j in range(width):
            down, right = i * dilation[0], j * dilation[1]
            place = found[
                :,
                :,
                down : down + stride[0] * (rows - 1) + 1 : stride[0],
                right : right + stride[1] * (columns - 1) + 1 : stride[1],
            ]
            place += parts[:, i, j]
    return found[:, :, padding[0] : whole[0] - padding[0], padding[1] : whole[1] - padding[1]]
