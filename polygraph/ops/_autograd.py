"""Derivatives of operators, with as little as possible between Python and a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Formula = Callable[..., Any]

_library = torch.library.Library("polygraph", "IMPL")
_BelowAutograd = torch._C._AutoDispatchBelowAutograd
_BACKENDS = torch._C._after_autograd_keyset


def register_autograd(
    name: str, formula: Formula, *, setup_context: Formula, records: bool = False
) -> None:
    """Register the derivative of ``polygraph::name``, as `torch.library.register_autograd` does.

    On small meshes and batches a call costs more than its kernel. Here it goes through a
    `torch.autograd.Function` and nothing else: our operators have neither keyword-only arguments
    nor defaults nor lists of tensors, for which PyTorch reads the schema again at every call. And
    where no graph is recorded, operators in a formula go to their kernels at once.

    Args:
        name: of the operator.
        formula: ``(ctx, *grads)`` to the gradient of every argument, a tuple.
        setup_context: ``(ctx, inputs, output)``: saves what the formula needs.
        records: whether the formula itself records operations and differentiates them.
    """
    op = getattr(torch.ops.polygraph, name).default
    arguments = op._schema.arguments
    assert not any(a.kwarg_only or a.has_default_value() for a in arguments), op._schema

    # The keyset comes last: `ctx.needs_input_grad` starts with the operator's own arguments.
    def forward(ctx: Any, *given: Any) -> Any:
        *inputs, keyset = given
        with _BelowAutograd():
            output = op.redispatch(keyset & _BACKENDS, *inputs)
        setup_context(ctx, inputs, output)
        return output

    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        if records or torch.is_grad_enabled():
            return *formula(ctx, *grads), None
        with _BelowAutograd():
            return *formula(ctx, *grads), None

    function: Any = type(
        f"{name}_autograd",
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )

    def call(keyset: Any, *inputs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return function.apply(*inputs, keyset)
        with _BelowAutograd():
            return op.redispatch(keyset & _BACKENDS, *inputs)

    _library.impl(name, call, "Autograd", with_keyset=True)
