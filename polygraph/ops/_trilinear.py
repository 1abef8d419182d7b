"""Derivatives of operators, linear in x and in a weight, that gather along a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polygraph.ops._autograd import Gradients, in_front, only_batched, register_autograd
from polygraph.ops.transpose_table import table_or_transpose


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

    def save(ctx: Any, given: Any, output: Tensor) -> None:
        ctx.save_for_backward(given.x, given.index, given.weight, given.t_ptr, given.t_entry)

    def backward(ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor) -> Gradients:
        x, index, weight, ptr, entry = saved
        found: Gradients = {}
        if needs.x:
            table = table_or_transpose(index, x.shape[1], ptr, entry)
            found["x"] = backward_x(grad, index, weight, *table)
        if needs.weight:
            found["weight"] = backward_weight(grad, x, index, ptr, entry)
        if bias and needs.bias:
            found["bias"] = grad.sum((0, 1))
        return found

    def save_x(ctx: Any, given: Any, output: Tensor) -> None:
        ctx.save_for_backward(given.grad, given.index, given.weight, given.t_ptr, given.t_entry)

    def backward_x_backward(
        ctx: Any, saved: tuple[Any, ...], needs: Any, grad_x: Tensor
    ) -> Gradients:
        grad, index, weight, ptr, entry = saved
        found: Gradients = {}
        if needs.grad:
            found["grad"] = apply(grad_x, index, weight, ptr, entry)
        if needs.weight:
            found["weight"] = backward_weight(grad, grad_x, index, ptr, entry)
        return found

    def save_weight(ctx: Any, given: Any, output: Tensor) -> None:
        ctx.save_for_backward(given.grad, given.x, given.index, given.t_ptr, given.t_entry)

    def backward_weight_backward(
        ctx: Any, saved: tuple[Any, ...], needs: Any, grad_weight: Tensor
    ) -> Gradients:
        grad, x, index, ptr, entry = saved
        found: Gradients = {}
        if needs.grad:
            found["grad"] = apply(x, index, grad_weight, ptr, entry)
        if needs.x:
            table = table_or_transpose(index, x.shape[1], ptr, entry)
            found["x"] = backward_x(grad, index, grad_weight, *table)
        return found

    def jvp(given: Any, output: Tensor, tangents: Any) -> Tensor:
        # Of the two products, the first brings the bias's tangent along.
        shift = {"bias": tangents.bias} if bias else {}
        found = None
        if tangents.x is not None:
            found = forward(*given._replace(x=tangents.x, **shift))
            shift = {"bias": None} if bias else {}
        if tangents.weight is not None:
            part = forward(*given._replace(weight=tangents.weight, **shift))
            found = part if found is None else found + part
        return tangents.bias.expand(output.shape).clone() if found is None else found

    def jvp_of_x(given: Any, output: Tensor, tangents: Any) -> Tensor:
        parts = []
        if tangents.grad is not None:
            parts.append(backward_x(*given._replace(grad=tangents.grad)))
        if tangents.weight is not None:
            parts.append(backward_x(*given._replace(weight=tangents.weight)))
        return total(parts)

    def jvp_of_weight(given: Any, output: Tensor, tangents: Any) -> Tensor:
        parts = []
        if tangents.grad is not None:
            parts.append(backward_weight(*given._replace(grad=tangents.grad)))
        if tangents.x is not None:
            parts.append(backward_weight(*given._replace(x=tangents.x)))
        return total(parts)

    def batched(operator: Any, name: str) -> Callable[..., Any]:
        """Samples of a batch of x, or of its gradient, are more samples of x."""

        def rule(size: int, dims: Any, given: Any) -> Tensor | None:
            if not only_batched(dims, name):
                return None
            x = in_front(getattr(given, name), getattr(dims, name), size).flatten(0, 1)
            out: Tensor = operator(*given._replace(**{name: x}))
            return out.unflatten(0, (size, out.shape[0] // size))

        return rule

    def stacked(size: int, dims: Any, given: Any) -> Tensor | None:
        """Of weights ``[D, S*C]`` with a bias, outputs side by side."""
        if only_batched(dims, "x"):
            return batched(forward, "x")(size, dims, given)
        if not only_batched(dims, "weight", "bias"):
            return None
        weight = in_front(given.weight, dims.weight, size).flatten(0, 1)
        shift = in_front(given.bias, dims.bias, size)
        shift = None if shift is None else shift.flatten()
        out: Tensor = forward(*given._replace(weight=weight, bias=shift))
        return out.unflatten(2, (size, out.shape[2] // size)).movedim(2, 0)

    register_autograd(
        stem, backward, save=save, jvp=jvp, vmap=stacked if bias else batched(forward, "x")
    )
    register_autograd(
        f"{stem}_backward_x",
        backward_x_backward,
        save=save_x,
        jvp=jvp_of_x,
        vmap=batched(backward_x, "grad"),
    )
    register_autograd(
        f"{stem}_backward_weight", backward_weight_backward, save=save_weight, jvp=jvp_of_weight
    )


def total(parts: list[Tensor]) -> Tensor:
    """The sum of what there is, at least one."""
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found
