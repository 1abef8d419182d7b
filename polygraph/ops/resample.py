"""Mesh resampling: every target vertex is a weighted sum of a few source vertices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops._common import autocast_dtype, cast, check_devices
from polygraph.ops.transpose_table import table_or_transpose

_load.load_libraries()
_ops = torch.ops.polygraph


def resample(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    *,
    transposed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Resample vertex features: ``out_m = Σ_t weight[m, t] x[index[m, t]]``.

    Up-sampling a mesh takes three terms a row (barycentric coordinates on a coarse face),
    down-sampling one. It replaces the product with a dense or sparse resampling matrix.

    Source: Ranjan et al., "Generating 3D Faces using Convolutional Mesh Autoencoders", ECCV 2018,
    section 3.2 (the matrices Q_u and Q_d).

    Args:
        x: features ``[B, V, C]`` or ``[V, C]``; float32, float64, float16 or bfloat16 (half types
            accumulate in float32), any strides.
        index: int64 ``[M, T]``, entries in ``[-1, V)``; ``-1`` adds nothing.
        weight: ``[M, T]``, dtype of ``x``.
        transposed: ``transpose_table(index, V)``, if it has been made already; it is needed for
            the gradient of ``x`` and made on the fly otherwise.

    Returns:
        ``[B, M, C]`` (or ``[M, C]``). Deterministic, also for any number of threads;
        differentiable any number of times in ``x`` and ``weight``.

    Raises:
        RuntimeError: a shape, dtype, device or table entry is wrong (the message names it). On
            CUDA an entry out of range is a device-side assertion.
    """
    dtype = autocast_dtype(x)
    x, weight = cast(x, dtype), cast(weight, dtype)
    ptr, entry = (None, None) if transposed is None else transposed
    if x.dim() == 2:
        return _ops.resample(x[None], index, weight, ptr, entry)[0]
    return _ops.resample(x, index, weight, ptr, entry)


@torch.library.register_fake("polygraph::resample")
def _(
    x: Tensor, index: Tensor, weight: Tensor, t_ptr: Tensor | None, t_entry: Tensor | None
) -> Tensor:
    check_devices("resample", "x", x, index=index, weight=weight)
    return x.new_empty(x.shape[0], index.shape[0], x.shape[2])


@torch.library.register_fake("polygraph::resample_backward_x")
def _(grad: Tensor, index: Tensor, weight: Tensor, t_ptr: Tensor, t_entry: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[0], t_ptr.shape[0] - 1, grad.shape[2])


@torch.library.register_fake("polygraph::resample_backward_weight")
def _(
    grad: Tensor, x: Tensor, index: Tensor, t_ptr: Tensor | None, t_entry: Tensor | None
) -> Tensor:
    return x.new_empty(index.shape)


# As in the spiral convolution, the three operators are the partial derivatives of one trilinear
# form, and derivatives of any order stay among them.


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, index, weight, ptr, entry = ctx.saved_tensors
    needs_x, _, needs_weight, *_ = ctx.needs_input_grad
    grad_x = grad_weight = None
    if needs_x:
        table = table_or_transpose(index, x.shape[1], ptr, entry)
        grad_x = _ops.resample_backward_x(grad, index, weight, *table)
    if needs_weight:
        grad_weight = _ops.resample_backward_weight(grad, x, index, ptr, entry)
    return grad_x, None, grad_weight, None, None


def _backward_x_backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
    grad, index, weight, ptr, entry = ctx.saved_tensors
    needs_grad, _, needs_weight, *_ = ctx.needs_input_grad
    to_grad = to_weight = None
    if needs_grad:
        to_grad = _ops.resample(grad_x, index, weight, ptr, entry)
    if needs_weight:
        to_weight = _ops.resample_backward_weight(grad, grad_x, index, ptr, entry)
    return to_grad, None, to_weight, None, None


def _backward_weight_backward(ctx: Any, grad_weight: Tensor) -> tuple[Tensor | None, ...]:
    grad, x, index, ptr, entry = ctx.saved_tensors
    needs_grad, needs_x, *_ = ctx.needs_input_grad
    to_grad = to_x = None
    if needs_grad:
        to_grad = _ops.resample(x, index, grad_weight, ptr, entry)
    if needs_x:
        table = table_or_transpose(index, x.shape[1], ptr, entry)
        to_x = _ops.resample_backward_x(grad, index, grad_weight, *table)
    return to_grad, to_x, None, None, None


for _name, _formula in (
    ("resample", _backward),
    ("resample_backward_x", _backward_x_backward),
    ("resample_backward_weight", _backward_weight_backward),
):
    torch.library.register_autograd(f"polygraph::{_name}", _formula, setup_context=_save)
