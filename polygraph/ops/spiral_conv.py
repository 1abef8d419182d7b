"""Spiral convolution: gather along each vertex's spiral and multiply, fused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops._common import autocast_dtype, cast, check_devices
from polygraph.ops.transpose_table import table_or_transpose

_load.load_libraries()
_ops = torch.ops.polygraph


def spiral_conv(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    transposed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Spiral convolution ``out_m = W · concat_s x[index[m, s]] + b``.

    The gathered features, ``[B, M, S*C]``, are never stored: they are read while they are
    multiplied. Several operators on the same input are one call with their weights stacked along
    the first dimension. Rows of ``index`` may be any subset of the vertices: a convolution followed
    by a selection of vertices is ``spiral_conv(x, index[keep], ...)``.

    Source: Bouritsas et al., "Neural 3D Morphable Models", ICCV 2019, eq. 4; Gong et al.,
    "SpiralNet++", ICCVW 2019, eq. 3.

    Args:
        x: features ``[B, V, C]`` or ``[V, C]``; float32, float64, float16 or bfloat16 (half types
            accumulate in float32), any strides.
        index: int64 ``[M, S]``, entries in ``[-1, V)``; ``-1`` reads zeros.
        weight: ``[D, S*C]``, dtype of ``x``; column ``s*C + c`` meets channel c of slot s.
        bias: ``[D]`` or None.
        transposed: ``transpose_table(index, V)``, if it has been made already; it is needed for
            the gradient of ``x`` and made on the fly otherwise.

    Returns:
        ``[B, M, D]`` (or ``[M, D]``). Deterministic, also for any number of threads;
        differentiable any number of times in ``x``, ``weight`` and ``bias``.

    Raises:
        RuntimeError: a shape, dtype, device or table entry is wrong (the message names it). On
            CUDA an entry out of range is a device-side assertion.
    """
    dtype = autocast_dtype(x)
    x, weight, bias = cast(x, dtype), cast(weight, dtype), cast(bias, dtype)
    ptr, entry = (None, None) if transposed is None else transposed
    if x.dim() == 2:
        return _ops.spiral_conv(x[None], index, weight, bias, ptr, entry)[0]
    return _ops.spiral_conv(x, index, weight, bias, ptr, entry)


@torch.library.register_fake("polygraph::spiral_conv")
def _(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t_ptr: Tensor | None,
    t_entry: Tensor | None,
) -> Tensor:
    check_devices("spiral_conv", "x", x, index=index, weight=weight, bias=bias)
    return x.new_empty(x.shape[0], index.shape[0], weight.shape[0])


@torch.library.register_fake("polygraph::spiral_conv_backward_x")
def _(grad: Tensor, index: Tensor, weight: Tensor, t_ptr: Tensor, t_entry: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[0], t_ptr.shape[0] - 1, weight.shape[1] // index.shape[1])


@torch.library.register_fake("polygraph::spiral_conv_backward_weight")
def _(
    grad: Tensor, x: Tensor, index: Tensor, t_ptr: Tensor | None, t_entry: Tensor | None
) -> Tensor:
    return x.new_empty(grad.shape[2], index.shape[1] * x.shape[2])


# The three operators are the partial derivatives of one trilinear form <grad, conv(x, weight)>: the
# derivative of each is made of the other two, so derivatives of any order stay in the family.


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, index, weight, _, ptr, entry = inputs
    ctx.save_for_backward(x, index, weight, ptr, entry)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, index, weight, ptr, entry = ctx.saved_tensors
    needs_x, _, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    grad_x = grad_weight = grad_bias = None
    if needs_x:
        table = table_or_transpose(index, x.shape[1], ptr, entry)
        grad_x = _ops.spiral_conv_backward_x(grad, index, weight, *table)
    if needs_weight:
        grad_weight = _ops.spiral_conv_backward_weight(grad, x, index, ptr, entry)
    if needs_bias:
        grad_bias = grad.sum((0, 1))
    return grad_x, None, grad_weight, grad_bias, None, None


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_x_backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
    grad, index, weight, ptr, entry = ctx.saved_tensors
    needs_grad, _, needs_weight, *_ = ctx.needs_input_grad
    to_grad = to_weight = None
    if needs_grad:
        to_grad = _ops.spiral_conv(grad_x, index, weight, None, ptr, entry)
    if needs_weight:
        to_weight = _ops.spiral_conv_backward_weight(grad, grad_x, index, ptr, entry)
    return to_grad, None, to_weight, None, None


def _backward_weight_backward(ctx: Any, grad_weight: Tensor) -> tuple[Tensor | None, ...]:
    grad, x, index, ptr, entry = ctx.saved_tensors
    needs_grad, needs_x, *_ = ctx.needs_input_grad
    to_grad = to_x = None
    if needs_grad:
        to_grad = _ops.spiral_conv(x, index, grad_weight, None, ptr, entry)
    if needs_x:
        table = table_or_transpose(index, x.shape[1], ptr, entry)
        to_x = _ops.spiral_conv_backward_x(grad, index, grad_weight, *table)
    return to_grad, to_x, None, None, None


for _name, _formula, _setup in (
    ("spiral_conv", _backward, _save),
    ("spiral_conv_backward_x", _backward_x_backward, _save_all),
    ("spiral_conv_backward_weight", _backward_weight_backward, _save_all),
):
    torch.library.register_autograd(f"polygraph::{_name}", _formula, setup_context=_setup)
