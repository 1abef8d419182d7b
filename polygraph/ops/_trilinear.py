"""Derivatives of operators, linear in x and in a weight, that gather along a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polygraph.ops._autograd import Dims, in_front, only_batched, register_autograd
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
    forward = getattr(torch.ops.polygraph, stem)
    backward_x = getattr(torch.ops.polygraph, f"{stem}_backward_x")
    backward_weight = getattr(torch.ops.polygraph, f"{stem}_backward_weight")

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        # The bias is not needed: x, index, weight, t_ptr, t_entry.
        ctx.save_for_backward(*inputs[:3], *inputs[-2:])

    def backward(ctx: Any, saved: tuple[Any, ...], grad: Tensor) -> Gradients:
        x, index, weight, ptr, entry = saved
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

    def backward_x_backward(ctx: Any, saved: tuple[Any, ...], grad_x: Tensor) -> Gradients:
        grad, index, weight, ptr, entry = saved
        needs = ctx.needs_input_grad
        to_grad = apply(grad_x, index, weight, ptr, entry) if needs[0] else None
        to_weight = backward_weight(grad, grad_x, index, ptr, entry) if needs[2] else None
        return to_grad, None, to_weight, None, None

    def backward_weight_backward(
        ctx: Any, saved: tuple[Any, ...], grad_weight: Tensor
    ) -> Gradients:
        grad, x, index, ptr, entry = saved
        needs = ctx.needs_input_grad
        to_grad = apply(x, index, grad_weight, ptr, entry) if needs[0] else None
        to_x = None
        if needs[1]:
            table = table_or_transpose(index, x.shape[1], ptr, entry)
            to_x = backward_x(grad, index, grad_weight, *table)
        return to_grad, to_x, None, None, None

    def jvp(inputs: Any, output: Tensor, tangents: Any) -> Tensor:
        x, index, weight, *given, ptr, entry = inputs
        for_x, _, for_weight, *for_bias, _, _ = tangents
        shift = for_bias[0] if for_bias else None
        found = None
        if for_x is not None:
            rest = (shift, ptr, entry) if given else (ptr, entry)
            found = forward(for_x, index, weight, *rest)
            shift = None
        if for_weight is not None:
            rest = (shift, ptr, entry) if given else (ptr, entry)
            part = forward(x, index, for_weight, *rest)
            found, shift = part if found is None else found + part, None
        if found is None:
            assert shift is not None
            found = shift.expand(output.shape).clone()
        return found

    def jvp_of_x(inputs: Any, output: Tensor, tangents: Any) -> Tensor:
        grad, index, weight, *table = inputs
        for_grad, _, for_weight, *_ = tangents
        parts = []
        if for_grad is not None:
            parts.append(backward_x(for_grad, index, weight, *table))
        if for_weight is not None:
            parts.append(backward_x(grad, index, for_weight, *table))
        return total(parts)

    def jvp_of_weight(inputs: Any, output: Tensor, tangents: Any) -> Tensor:
        grad, x, *table = inputs
        parts = []
        if tangents[0] is not None:
            parts.append(backward_weight(tangents[0], x, *table))
        if tangents[1] is not None:
            parts.append(backward_weight(grad, tangents[1], *table))
        return total(parts)

    def batched(operator: Any) -> Callable[..., Any]:
        """Samples of a batch of x, or of its gradient, are more samples of x."""

        def rule(size: int, dims: Dims, x: Tensor, *rest: Any) -> Tensor | None:
            if not only_batched(dims, 0):
                return None
            out: Tensor = operator(in_front(x, dims[0], size).flatten(0, 1), *rest)
            return out.unflatten(0, (size, out.shape[0] // size))

        return rule

    def stacked(size: int, dims: Dims, x: Tensor, index: Tensor, *rest: Any) -> Tensor | None:
        """Of weights ``[D, S*C]`` with a bias, outputs side by side."""
        if only_batched(dims, 0):
            return batched(forward)(size, dims, x, index, *rest)
        if not only_batched(dims, 2, 3):
            return None
        weight, shift, *table = rest
        weight = in_front(weight, dims[2], size).flatten(0, 1)
        shift = None if shift is None else in_front(shift, dims[3], size).flatten()
        out: Tensor = forward(x, index, weight, shift, *table)
        return out.unflatten(2, (size, out.shape[2] // size)).movedim(2, 0)

    register_autograd(
        stem, backward, save=save, jvp=jvp, vmap=stacked if bias else batched(forward)
    )
    register_autograd(
        f"{stem}_backward_x",
        backward_x_backward,
        save=save,
        jvp=jvp_of_x,
        vmap=batched(backward_x),
    )
    register_autograd(
        f"{stem}_backward_weight", backward_weight_backward, save=save, jvp=jvp_of_weight
    )


def total(parts: list[Tensor]) -> Tensor:
    """The sum of what there is, at least one."""
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found
