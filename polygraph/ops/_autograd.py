"""Derivatives of operators, with as little as possible between Python and a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

Formula = Callable[..., Any]

_library = torch.library.Library("polygraph", "IMPL")
_BelowAutograd = torch._C._AutoDispatchBelowAutograd
_BACKENDS = torch._C._after_autograd_keyset


def recording() -> bool:
    """Whether what is computed now may be differentiated, in reverse or in forward mode."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


def register_autograd(
    name: str,
    backward: Formula,
    *,
    save: Formula,
    jvp: Formula | None = None,
    vmap: Formula | None = None,
    composite: Formula | None = None,
    records: bool = False,
) -> None:
    """Register the derivatives of ``polygraph::name``, in both directions, and its batching.

    On small meshes and batches a call costs more than its kernel. In reverse mode it goes through a
    `torch.autograd.Function` and nothing else: our operators have neither keyword-only arguments
    nor defaults nor lists of tensors, for which PyTorch reads the schema again at every call. And
    where no graph is recorded, operators in a formula go to their kernels at once. Transforms of
    `torch.func` take another Function, which they can take apart.

    Args:
        name: of the operator.
        backward: ``(ctx, saved, *grads)`` to the gradient of every argument, a tuple. ``saved``
            are the saved tensors: they are unpacked once, where operations are still recorded, as
            `torch.utils.checkpoint` requires.
        save: ``(ctx, inputs, output)``: saves what ``backward`` needs.
        jvp: ``(inputs, output, tangents)`` to the tangent of every output (one, or a tuple; None
            of an output without derivative). ``tangents`` are None where there is none.
        vmap: ``(size, dims, *inputs)``: the outputs for a whole batch at once, with the batch in
            front, or None where that cannot be done; ``dims`` is the batch dimension of every
            argument, or None. Without it, samples are taken one after the other.
        composite: the operator in differentiable PyTorch, which forward mode and transforms take
            instead of ``jvp`` and ``vmap``.
        records: whether ``backward`` itself records operations and differentiates them.
    """
    op = getattr(torch.ops.polygraph, name).default
    arguments = op._schema.arguments
    assert not any(a.kwarg_only or a.has_default_value() for a in arguments), op._schema
    assert (jvp is None) == (composite is not None), name

    # What comes last is not the operator's: `ctx.needs_input_grad` starts with its own arguments.
    def forward(ctx: Any, *given: Any) -> Any:
        *inputs, (keyset, has_tangent) = given
        with _BelowAutograd():
            output = op.redispatch(keyset & _BACKENDS, *inputs)
        save(ctx, inputs, output)
        if has_tangent is not None:
            ctx.of_jvp = inputs, output, has_tangent
        return output

    def reverse(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        if records or recording():
            return *backward(ctx, saved, *grads), None
        with _BelowAutograd():
            return *backward(ctx, saved, *grads), None

    def forward_mode(ctx: Any, *tangents: Tensor | None) -> Any:
        assert jvp is not None
        inputs, output, has_tangent = ctx.of_jvp
        del ctx.of_jvp  # the output refers to ctx
        given = [t if has else None for t, has in zip(tangents, has_tangent, strict=False)]
        return jvp(inputs, output, given)

    function: Any = type(
        f"{name}_autograd",
        (torch.autograd.Function,),
        {
            "forward": staticmethod(forward),
            "backward": staticmethod(reverse),
            "jvp": staticmethod(forward_mode),
        },
    )

    def call(keyset: Any, *inputs: Any) -> Any:
        has_tangent = None
        if forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled():
            has_tangent = [_has_tangent(t) for t in inputs]
            has_tangent = has_tangent if any(has_tangent) else None
            if has_tangent is not None and composite is not None:
                return composite(*inputs)
        if has_tangent is not None or (
            torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs)
        ):
            return function.apply(*inputs, (keyset, has_tangent))
        with _BelowAutograd():
            return op.redispatch(keyset & _BACKENDS, *inputs)

    _library.impl(name, call, "Autograd", with_keyset=True)
    transformed = _transformable(op, backward, save, jvp, vmap).apply
    _library.impl(name, composite or transformed, "FuncTorchDynamicLayerFrontMode")


def _has_tangent(value: Any) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None


def _transformable(
    op: Any, backward: Formula, save: Formula, jvp: Formula | None, vmap: Formula | None
) -> Any:
    """A Function for the transforms of `torch.func`, of which each takes what it needs."""

    def forward(*inputs: Any) -> Any:
        return op(*inputs)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        save(ctx, inputs, output)
        outputs = output if isinstance(output, tuple) else (output,)
        # An undefined gradient stays apart from a tangent of zeros, which costs an operation.
        ctx.set_materialize_grads(False)
        ctx.zeros = [t.new_zeros(()).expand(t.shape) for t in outputs]
        tensors = [t if isinstance(t, Tensor) else None for t in inputs]
        ctx.constants = [None if isinstance(t, Tensor) else t for t in inputs]
        ctx.save_for_forward(*tensors, *outputs)

    def reverse(ctx: Any, *grads: Tensor | None) -> Any:
        given = [zero if g is None else g for g, zero in zip(grads, ctx.zeros, strict=True)]
        return backward(ctx, ctx.saved_tensors, *given)

    def forward_mode(ctx: Any, *tangents: Tensor | None) -> Any:
        assert jvp is not None
        saved, constants = ctx.saved_tensors, ctx.constants
        inputs = [
            c if t is None else t for t, c in zip(saved[: len(constants)], constants, strict=True)
        ]
        outputs = saved[len(constants) :]
        return jvp(inputs, outputs[0] if len(outputs) == 1 else outputs, tangents)

    def batched(info: Any, dims: tuple[Any, ...], *inputs: Any) -> Any:
        dims = tuple(d if isinstance(d, int) else None for d in dims)
        found = None if vmap is None else vmap(info.batch_size, dims, *inputs)
        if found is None:
            found = one_by_one(op, info.batch_size, dims, inputs)
        return found, (0,) * len(found) if isinstance(found, tuple) else 0

    return type(
        f"{op._schema.name.split('::')[1]}_transformable",
        (torch.autograd.Function,),
        {
            "forward": staticmethod(forward),
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(reverse),
            "jvp": staticmethod(forward_mode),
            "vmap": staticmethod(batched),
        },
    )


# ---- batching ----

Dims = Sequence[int | None]


def one_by_one(op: Any, size: int, dims: Dims, inputs: Sequence[Any]) -> Any:
    """The samples of a batch, one after the other."""
    found = [
        op(*(a if d is None else a.select(d, i) for a, d in zip(inputs, dims, strict=True)))
        for i in range(size)
    ]
    if isinstance(found[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))
    return torch.stack(found)


def only_batched(dims: Dims, *places: int) -> bool:
    """Whether no arguments but these have a batch dimension."""
    return all(d is None for place, d in enumerate(dims) if place not in places)


def in_front(value: Any, dim: int | None, size: int) -> Any:
    """A tensor with its batch dimension in front; repeated, without copying, where it has none."""
    if value is None:
        return None
    return value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)


def side_by_side(value: Any, dim: int | None, size: int) -> Any:
    """Rows ``[N, D]`` of every sample as one, ``[N, size * D]``."""
    if value is None:
        return None
    return in_front(value, dim, size).transpose(0, 1).flatten(1)


def apart(value: Tensor, size: int) -> Tensor:
    """``[N, size * D]`` as ``[size, N, D]``: what `side_by_side` joined."""
    return value.unflatten(1, (size, value.shape[1] // size)).transpose(0, 1)
