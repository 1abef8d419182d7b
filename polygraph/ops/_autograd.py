"""Derivatives of operators, with as little as possible between Python and a kernel."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

Formula = Callable[..., Any]
Gradients = dict[str, Tensor | None]  #: of an operator's arguments, by their names in its schema

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
    nor defaults, for which PyTorch reads the schema again at every call. A list of tensors is a
    constant, such as the tables of a graph: autograd does not see into it. Where no graph is
    recorded, operators in a formula go to their kernels at once. Transforms of `torch.func` take
    another Function, which they can take apart.

    Formulas know arguments by their names in the operator's schema: ``given`` below is a named
    tuple of the arguments, and ``needs``, ``tangents`` and ``dims`` are named tuples of one thing
    for each argument.

    Args:
        name: of the operator.
        backward: ``(ctx, saved, needs, *grads)`` to a dictionary of gradients by argument; those
            left out are None. ``saved`` are the saved tensors: they are unpacked once, where
            operations are still recorded, as `torch.utils.checkpoint` requires. ``needs`` says
            whether an argument's gradient is wanted.
        save: ``(ctx, given, output)``: saves what ``backward`` needs.
        jvp: ``(given, output, tangents)`` to the tangent of every output (one, or a tuple; None
            of an output without derivative). ``tangents`` are None where there is none.
        vmap: ``(size, dims, given)``: the outputs for a whole batch at once, with the batch in
            front, or None where that cannot be done; ``dims`` is the batch dimension of every
            argument (a list of them where one in a list has one), or None. Without it, samples are
            taken one after the other.
        composite: the operator in differentiable PyTorch, which forward mode and transforms take
            instead of ``jvp`` and ``vmap``.
        records: whether ``backward`` itself records operations and differentiates them.
    """
    op = getattr(torch.ops.polygraph, name).default
    arguments = op._schema.arguments
    assert not any(a.kwarg_only or a.has_default_value() for a in arguments), op._schema
    assert (jvp is None) == (composite is not None), name
    named = _named_tuple(name, [a.name for a in arguments])
    order = {a.name: place for place, a in enumerate(arguments)}

    # What comes last is not the operator's: `ctx.needs_input_grad` starts with its own arguments.
    def forward(ctx: Any, *all_inputs: Any) -> Any:
        *inputs, (keyset, has_tangent) = all_inputs
        with _BelowAutograd():
            output = op.redispatch(keyset & _BACKENDS, *inputs)
        given = named(inputs)
        save(ctx, given, output)
        if has_tangent is not None:
            ctx.of_jvp = given, output, named(has_tangent)
        return output

    def reverse(ctx: Any, *grads: Tensor | None) -> Any:
        saved, needs = ctx.saved_tensors, named(ctx.needs_input_grad[:-1])
        if records or recording():
            found = backward(ctx, saved, needs, *grads)
        else:
            with _BelowAutograd():
                found = backward(ctx, saved, needs, *grads)
        return *_in_order(found, order), None

    def forward_mode(ctx: Any, *tangents: Tensor | None) -> Any:
        assert jvp is not None
        given, output, has_tangent = ctx.of_jvp
        del ctx.of_jvp  # the output refers to ctx
        moved = [t if has else None for t, has in zip(tangents, has_tangent, strict=False)]
        return jvp(given, output, named(moved))

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
    transformed = _transformable(op, named, order, backward, save, jvp, vmap).apply
    _library.impl(name, composite or transformed, "FuncTorchDynamicLayerFrontMode")
    if any(str(a.type) == "List[Tensor]" for a in arguments):
        _library.impl(name, partial(_grads_batched, op), "Batched")


def _named_tuple(name: str, fields: Sequence[str]) -> Callable[[Sequence[Any]], Any]:
    """Makes named tuples of sequences: quicker than the class, which looks at every keyword."""
    return partial(tuple.__new__, namedtuple(name, fields))


def _in_order(found: Gradients, order: dict[str, int]) -> list[Tensor | None]:
    """Gradients by name as a list in the order of the arguments."""
    gradients: list[Tensor | None] = [None] * len(order)
    for name, gradient in found.items():
        gradients[order[name]] = gradient
    return gradients


def _has_tangent(value: Any) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None


def _transformable(
    op: Any,
    named: Callable[[Sequence[Any]], Any],
    order: dict[str, int],
    backward: Formula,
    save: Formula,
    jvp: Formula | None,
    vmap: Formula | None,
) -> Any:
    """A Function for the transforms of `torch.func`, of which each takes what it needs."""

    def forward(*inputs: Any) -> Any:
        return op(*inputs)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        save(ctx, named(inputs), output)
        outputs = output if isinstance(output, tuple) else (output,)
        # An undefined gradient stays apart from a tangent of zeros, which costs an operation.
        ctx.set_materialize_grads(False)
        ctx.zeros = [t.new_zeros(()).expand(t.shape) for t in outputs]
        leaves, ctx.structure = pytree.tree_flatten(list(inputs))
        tensors = [t if isinstance(t, Tensor) else None for t in leaves]
        ctx.constants = [None if isinstance(t, Tensor) else t for t in leaves]
        ctx.save_for_forward(*tensors, *outputs)

    def reverse(ctx: Any, *grads: Tensor | None) -> Any:
        given = [zero if g is None else g for g, zero in zip(grads, ctx.zeros, strict=True)]
        found = backward(ctx, ctx.saved_tensors, named(ctx.needs_input_grad), *given)
        return tuple(_in_order(found, order))

    def forward_mode(ctx: Any, *tangents: Tensor | None) -> Any:
        assert jvp is not None
        saved, constants = ctx.saved_tensors, ctx.constants
        leaves = [
            c if t is None else t for t, c in zip(saved[: len(constants)], constants, strict=True)
        ]
        given = named(pytree.tree_unflatten(leaves, ctx.structure))
        outputs = saved[len(constants) :]
        return jvp(given, outputs[0] if len(outputs) == 1 else outputs, named(tangents))

    def batched(info: Any, dims: tuple[Any, ...], *inputs: Any) -> Any:
        dims = tuple(_batch_dimension(d) for d in dims)
        found = None if vmap is None else vmap(info.batch_size, named(dims), named(inputs))
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


def second_derivatives(
    formula: Formula, saved: dict[str, Tensor | None], upstream: Sequence[Tensor]
) -> Gradients:
    """The gradients of a backward operator, from the operator in differentiable PyTorch.

    Args:
        formula: of the values of ``saved``, in order, to a tuple of tensors.
        saved: the operator's tensors by their names in its schema.
        upstream: the gradients of what ``formula`` gives.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views of the saved tensors: derivatives with respect to them alone, still linked to the
        # graph they come from.
        local = {n: None if t is None else t.view_as(t) for n, t in saved.items()}
        wanted = {n: t for n, t in local.items() if t is not None and t.requires_grad}
        if not wanted:
            return {}
        results = formula(*local.values())
        pairs = [(r, u) for r, u in zip(results, upstream, strict=True) if r.requires_grad]
        grads = torch.autograd.grad(
            [r for r, _ in pairs],
            list(wanted.values()),
            [u for _, u in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    return dict(zip(wanted, grads, strict=True))


# ---- batching ----


def _batch_dimension(dim: Any) -> Any:
    """An integer, a list of them and None where a tensor in a list has one, or None."""
    if isinstance(dim, list | tuple):
        each = [_batch_dimension(d) for d in dim]
        return None if all(d is None for d in each) else each
    return dim if isinstance(dim, int) else None


def _sample(value: Any, dim: Any, i: int) -> Any:
    if isinstance(dim, list):
        return [_sample(v, d, i) for v, d in zip(value, dim, strict=True)]
    return value if dim is None else value.select(dim, i)


def one_by_one(op: Any, size: int, dims: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """The samples of a batch, one after the other."""
    found = [
        op(*(_sample(a, d, i) for a, d in zip(inputs, dims, strict=True))) for i in range(size)
    ]
    if isinstance(found[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))
    return torch.stack(found)


def _grads_batched(op: Any, *inputs: Any) -> Any:
    """An operator in a backward pass of several gradients, ``is_grads_batched``.

    Such a batch is not one of `torch.func`, and PyTorch's loop over it takes no lists of tensors.
    """
    leaves, structure = pytree.tree_flatten(inputs)
    for level in range(1, 65):  # of nested batches
        # Of a tensor without a batch at this level, none: `[0, ...]`.
        parts = [
            torch._remove_batch_dim(t, level, 0, 0) if isinstance(t, Tensor) else None
            for t in leaves
        ]
        sizes = [p.shape[0] for p in parts if p is not None and p.shape[0] > 0]
        if sizes:
            break
    else:
        raise RuntimeError(f"{op._schema.name}: a batch of no gradients")
    dims = [None if p is None or p.shape[0] == 0 else 0 for p in parts]
    values = [t if d is None else p for t, p, d in zip(leaves, parts, dims, strict=True)]

    def flat(*values: Any) -> Any:
        return op(*pytree.tree_unflatten(values, structure))

    found = one_by_one(flat, sizes[0], dims, values)
    if isinstance(found, tuple):
        return tuple(torch._add_batch_dim(t, 0, level) for t in found)
    return torch._add_batch_dim(found, 0, level)


def only_batched(dims: Any, *names: str) -> bool:
    """Whether no arguments but these have a batch dimension."""
    return all(d is None for name, d in zip(dims._fields, dims, strict=True) if name not in names)


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
