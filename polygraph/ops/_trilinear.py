"""Derivatives of operators, linear in x and in a weight, that gather along a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polygraph.ops._autograd import register_autograd
from polygraph.ops.transpose_table import table_or_transpose

Gradients = tuple[Tensor | None, ...]


def register_trilinear(stem: str, apply: Callable[..., Tensor], *, bias: bool) -> None:
    """Register the derivatives of ``stem``, ``stem_backward_x`` and ``stem_backward_weight``.

    The three are the partial derivatives of one trilinear form ``<grad, stem(x, weight)>``: the
    derivative of each is made of the other two, so derivatives of any order stay in the family.

    Args:
        stem: the forward operator, with arguments x, index, weight, the bias if it has one, and
            the transposed table (t_ptr, t_entry), perhaps None.
        apply: the forward operator without its bias, of (x, index, weight, t_ptr, t_entry).
        bias: whether ``stem`` has a bias, added to every row.
    """
    backward_x = getattr(torch.ops.polygraph, f"{stem}_backward_x")
    backward_weight = getattr(torch.ops.polygraph, f"{stem}_backward_weight")

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        # The bias is not needed: x, index, weight, t_ptr, t_entry.
        ctx.save_for_backward(*inputs[:3], *inputs[-2:])

    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, index, weight, ptr, entry = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad_x = grad_weight = None
        if needs[0]:
            table = table_or_transpose(index, x.shape[1], ptr, entry)
            grad_x = backward_x(grad, index, weight, *table)
        if needs[2]:
            grad_weight = backward_weight(grad, x, index, ptr, entry)
        if not bias:
            return grad_x, None, grad_weight, None, None
        grad_bias = grad.sum((0, 1)) if needs[3] else None
        return grad_x, None, grad_weight, grad_bias, None, None

    def backward_x_backward(ctx: Any, grad_x: Tensor) -> Gradients:
        grad, index, weight, ptr, entry = ctx.saved_tensors
        needs = ctx.needs_input_grad
        to_grad = apply(grad_x, index, weight, ptr, entry) if needs[0] else None
        to_weight = backward_weight(grad, grad_x, index, ptr, entry) if needs[2] else None
        return to_grad, None, to_weight, None, None

    def backward_weight_backward(ctx: Any, grad_weight: Tensor) -> Gradients:
        grad, x, index, ptr, entry = ctx.saved_tensors
        needs = ctx.needs_input_grad
        to_grad = apply(x, index, grad_weight, ptr, entry) if needs[0] else None
        to_x = None
        if needs[1]:
            table = table_or_transpose(index, x.shape[1], ptr, entry)
            to_x = backward_x(grad, index, grad_weight, *table)
        return to_grad, to_x, None, None, None

    for name, formula in (
        (stem, backward),
        (f"{stem}_backward_x", backward_x_backward),
        (f"{stem}_backward_weight", backward_weight_backward),
    ):
        register_autograd(name, formula, setup_context=save)
