"""Adjoints and norms of linear operators that are given as modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polygraph.nn.ordinary import is_ordinary


def adjoint(operator: nn.Module, codes: Tensor, like: Tensor) -> Tensor:
    """``D γ`` for an affine module ``x -> Dᵀ x + b``: the transposed map, without the bias.

    Plain layers of torch are transposed by their own functions, any other module by one backward
    pass at 0, which can be differentiated again.

    Args:
        operator: affine in its input, sample by sample.
        codes: γ, of the shape that it returns.
        like: of the shape that comes in; its values do not matter.

    Returns:
        Of the shape of ``like``.
    """
    if isinstance(operator, nn.Linear) and is_ordinary(operator, nn.Linear):
        return codes @ operator.weight
    if isinstance(operator, nn.Conv2d) and is_ordinary(operator, nn.Conv2d):
        if operator.padding_mode == "zeros" and not isinstance(operator.padding, str):
            return _transposed(operator, operator.padding, codes, like)
    gradients = torch.is_grad_enabled()
    with torch.enable_grad():
        place = torch.zeros_like(like).requires_grad_()
        result = operator(place)
        (found,) = torch.autograd.grad(result, place, codes, create_graph=gradients)
    return found


def _transposed(
    operator: nn.Conv2d, padding: tuple[int, ...], codes: Tensor, like: Tensor
) -> Tensor:
    sizes = zip(
        like.shape[2:], codes.shape[2:], operator.stride, padding, operator.dilation,
        operator.kernel_size, strict=True,
    )  # fmt: skip
    # The rows at the end that no window has seen.
    rest = [
        size - ((count - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1)
        for size, count, stride, pad, dilation, kernel in sizes
    ]
    return nn.functional.conv_transpose2d(
        codes, operator.weight, None, operator.stride, padding, rest, operator.groups,
        operator.dilation,
    )  # fmt: skip


def linear_part(operator: nn.Module, x: Tensor) -> Tensor:
    """``Dᵀ x``: what an affine module returns, less what it returns of zeros."""
    found: Tensor = operator(x) - operator(torch.zeros_like(x[:1]))
    return found


@torch.no_grad()
def squared_norm(
    operator: nn.Module, shape: Sequence[int], vector: Tensor, iterations: int
) -> tuple[float, Tensor]:
    """The largest eigenvalue of ``D Dᵀ``, from below, by power iteration.

    Args:
        operator: affine.
        shape: of one input, without the batch.
        vector: ``[1, *shape]``, where to start.
        iterations: at least 1.

    Returns:
        The estimate, and the vector to go on with, of norm 1 (or 0 where D is).
    """
    value = 0.0
    with torch.autocast(vector.device.type, enabled=False):  # halves would be off by more than 1 %
        for _ in range(iterations):
            vector = vector / vector.norm().clamp(min=1e-30)
            vector = adjoint(operator, linear_part(operator, vector), vector)
            value = float(vector.norm())
    return value, vector / vector.norm().clamp(min=1e-30)
