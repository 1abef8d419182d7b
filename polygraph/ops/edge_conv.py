"""EdgeConv: edge values that are a sum of a target's and a source's, aggregated; none is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops import _common
from polygraph.ops._autograd import (
    Dims,
    apart,
    only_batched,
    register_autograd,
    side_by_side,
)
from polygraph.ops._common import autocast_dtype, cast, check_devices, unrecorded, wide
from polygraph.ops.graph import Graph, targets_of, transpose_graph
from polygraph.ops.transpose_table import transpose_table

_load.load_libraries()
_ops = torch.ops.polygraph

AGGREGATIONS = ("max", "min", "sum", "mean")
ANY_NODES = 2**62  # of nodes that only say that a slot is not empty


def edge_conv(
    u: Tensor,
    v: Tensor,
    graph: Graph,
    aggr: str = "max",
    slope: float = 1.0,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    """``out_i = aggr_j weight_ij act(u_i + v_j)`` over the neighbours j of every target i.

    EdgeConv's edge value act(Wψ x_i + Wφ (x_j - x_i) + b) is of this form, with the node products
    ``u = x (Wψ - Wφ)ᵀ + b`` and ``v = x Wφᵀ``: K times fewer operations than a product per edge,
    and nothing of size E x D is stored, forwards or backwards.

    Source: Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", ACM TOG 2019, eq. 7 and
    8; for sums with edge weights, Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image
    Denoising", IEEE TIP 2020.

    Args:
        u: targets' part ``[M, D]``; float32, float64, float16 or bfloat16 (half types are computed
            in float32 and rounded once, at the end), any strides.
        v: sources' part ``[N, D]``, dtype of ``u``.
        graph: M targets and N sources.
        aggr: ``"max"``, ``"min"``, ``"sum"`` or ``"mean"``.
        slope: of the activation where its argument is not positive: 1 is no activation, 0 is ReLU,
            others leaky ReLU. For a maximum or minimum not negative.
        weight: ``[E]``, a factor of each edge; for sums and means.

    Returns:
        ``[M, D]``; 0 for a target without neighbours. Among equals the first neighbour takes the
        gradient of a maximum. Deterministic, also for any number of threads; differentiable any
        number of times in ``u``, ``v`` and ``weight``.

        What is not finite: sums and means add up what their edges have. A maximum or minimum is
        taken of the ``v_j`` alone, of which NaN is the largest and the smallest, and ``u_i`` is
        added to it: NaN where ``u_i`` or any ``v_j`` is, or where ``u_i`` and the chosen ``v_j``
        are opposite infinities. ReLU of a negative infinity is 0.

    Raises:
        ValueError: ``aggr`` is none of the four, or does not go with ``weight`` or ``slope``.
        RuntimeError: a shape, dtype, device or entry of the graph is wrong (the message names it).
            On CUDA an entry out of range is a device-side assertion.
    """
    _check("edge_conv", aggr)
    check_devices("edge_conv", "u", u, v=v, weight=weight, **graph._asdict())
    if v.dim() != 2 or u.shape != (graph.num_targets, v.shape[1]):
        raise RuntimeError(
            f"edge_conv: u and v must have shape [M, D] and [N, D] with M = {graph.num_targets}, "
            f"got {list(u.shape)} and {list(v.shape)}"
        )
    dtype = autocast_dtype(u)
    u, v, weight = cast(u, dtype), cast(v, dtype), cast(weight, dtype)
    result = u.dtype
    if aggr in ("sum", "mean"):
        if aggr == "mean":
            u, v, weight = wide(u), wide(v), wide(weight)
        masks = (None, None) if slope == 1 else (u, v)
        out = _edge_sum(masks, u, v, None, weight, slope, graph, v.shape[0])
        return (out / _count(graph, out)).to(result) if aggr == "mean" else out
    if weight is not None:
        raise ValueError(f"edge_conv: weight goes with sum and mean, not with {aggr}")
    if slope < 0:
        raise ValueError(f"edge_conv: {aggr} needs a slope that is not negative, got {slope}")
    sign = None if aggr == "max" else v.new_full((v.shape[1],), -1)
    value, arg, _ = edge_max(v, graph, sign)
    found = activate(wide(u) + wide(value), slope)
    return torch.where(arg >= 0, found, 0).to(result)


def edge_conv_in_place(u: Tensor, v: Tensor, graph: Graph, aggr: str, slope: float) -> Tensor:
    """`edge_conv` for one who needs ``u`` no more: on the CPU and without gradients, the result.

    A sum of fresh memory costs as much as adding it up. ``u`` must not share memory with ``v``.
    """
    if aggr in ("sum", "mean") and _is_disposable(u) and unrecorded(v):
        _ops.edge_sum_(u, v, slope, graph.ptr, graph.source)
        return u / _count(graph, u) if aggr == "mean" else u
    return edge_conv(u, v, graph, aggr, slope)


def _is_disposable(u: Tensor) -> bool:
    """Whether nothing that records or traces operations would miss that ``u`` was overwritten."""
    return (
        _common.takes_cpu_kernels(u)
        and u.dtype in (torch.float32, torch.float64)
        and u.is_contiguous()
        and not u.requires_grad
        and not torch.is_autocast_enabled("cpu")
        and unrecorded(u)
    )


def edge_values(u: Tensor, v: Tensor, graph: Graph, slope: float = 1.0) -> Tensor:
    """``[E, D]``: act(u_i + v_j) of every edge, for what comes behind it edge by edge.

    Arguments as of `edge_conv`. The row of an edge is that of its features; rows of empty slots
    are 0. Differentiable any number of times.
    """
    check_devices("edge_values", "u", u, v=v, **graph._asdict())
    dtype = autocast_dtype(u)
    u, v = cast(u, dtype), cast(v, dtype)
    masks = (None, None) if slope == 1 else (u, v)
    rows = graph.num_slots
    found: Tensor = _ops.edge_values(*masks, u, v, None, slope, v.shape[0], rows, *_forward(graph))
    return found


def edge_aggregate(values: Tensor, graph: Graph, aggr: str = "max") -> Tensor:
    """``[M, D]``: edge features ``[E, D]`` aggregated over the edges of each target.

    Arguments and result otherwise as of `edge_conv`; differentiable any number of times.
    """
    _check("edge_aggregate", aggr)
    check_devices("edge_aggregate", "values", values, **graph._asdict())
    if aggr in ("sum", "mean"):
        result = values.dtype
        values = wide(values) if aggr == "mean" else values
        out = _edge_sum((None, None), None, None, values, None, 1.0, graph, ANY_NODES)
        return (out / _count(graph, out)).to(result) if aggr == "mean" else out
    if graph.edge is None:
        rows = torch.arange(graph.num_slots, device=graph.source.device)
    else:  # a negative row is refused, too; as an empty slot it would be left out
        rows = torch.where(graph.edge < 0, graph.num_slots, graph.edge)
    rows = torch.where(graph.source < 0, -1, rows)
    sign = None if aggr == "max" else values.new_full((values.shape[1],), -1)
    return edge_max(values, Graph(graph.ptr, rows), sign)[0]


def edge_sum(v: Tensor, graph: Graph, weight: Tensor | None = None) -> Tensor:
    """``[M, D]``: ``Σ_j weight_ij v_j`` over the neighbours of each target.

    Args:
        v: sources ``[N, D]``.
        graph: M targets and N sources.
        weight: ``[E]``, a factor of each edge.

    Deterministic; differentiable any number of times in ``v`` and ``weight``.
    """
    return _edge_sum((None, None), None, v, None, weight, 1.0, graph, v.shape[0])


def edge_dist2(x: Tensor, graph: Graph) -> Tensor:
    """``[E]``: ``|x_j - x_i|²`` of every edge, in the rows of edge features; 0 for empty slots.

    Args:
        x: nodes ``[N, C]``, sources and targets alike.
        graph: N targets and N sources.

    Differences are formed first, so they are as exact far from the origin as near it. Nothing of
    size E x C is stored. Deterministic; differentiable any number of times.
    """
    opposite = -x
    options = (None, None, x, opposite, 1.0, x.shape[0], graph.num_slots)
    found: Tensor = _ops.edge_dot(x, opposite, *options, *_forward(graph))
    return found


def edge_max(
    v: Tensor, graph: Graph, sign: Tensor | None = None, *, with_sum: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of ``sign * v`` among each target's neighbours, channel by channel.

    Args:
        v: sources ``[N, D]``.
        graph: M targets and N sources.
        sign: ``[D]``, of 1 (maximum) and -1 (minimum); None: maxima.
        with_sum: also add up the neighbours, in the same pass.

    Returns:
        The value of ``v`` ``[M, D]`` (0 without neighbours), its slot int32 ``[M, D]`` (-1), and
        the sum ``[M, D]`` (``[0, D]`` if not wanted). Value and sum are differentiable any number
        of times.
    """
    transposed = (graph.target, graph.t_ptr, graph.t_slot)
    value, arg, total = _ops.edge_max(v, sign, with_sum, graph.ptr, graph.source, *transposed)
    return value, arg, total


def activate(x: Tensor, slope: float) -> Tensor:
    """``slope x`` where x is not positive; with a slope of 0 that is 0 for infinity, too."""
    if slope == 1:
        return x
    return torch.relu(x) if slope == 0 else torch.nn.functional.leaky_relu(x, slope)


def _check(op: str, aggr: str) -> None:
    if aggr not in AGGREGATIONS:
        raise ValueError(f"{op}: aggr must be one of {', '.join(AGGREGATIONS)}, got {aggr!r}")


def _count(graph: Graph, like: Tensor) -> Tensor:
    return graph.degree().clamp(min=1)[:, None].to(like.dtype)


def _forward(graph: Graph) -> tuple[Tensor | None, ...]:
    """The graph as the raw operators take it, seen from the targets."""
    return (
        graph.ptr,
        None,
        graph.source,
        graph.edge,
        graph.t_ptr,
        graph.t_slot,
        graph.target,
    )


def _edge_sum(
    masks: tuple[Tensor | None, Tensor | None],
    seg_val: Tensor | None,
    oth_val: Tensor | None,
    edge_val: Tensor | None,
    weight: Tensor | None,
    slope: float,
    graph: Graph,
    others: int,
) -> Tensor:
    values = (seg_val, oth_val, edge_val, weight)
    out: Tensor = _ops.edge_sum(*masks, *values, slope, others, graph.num_slots, *_forward(graph))
    return out


# ---- the raw operators: shapes and derivatives ----
#
# A graph is seven arguments: (ptr, slot, other, edge), by which an operator reads it, and (t_ptr,
# t_slot, t_other), by which its derivatives read it from the other side. The first three and the
# last three change places on the way.

Sides = tuple[Tensor | None, ...]


def turned(sides: Sides, others: int) -> Sides:
    """The graph seen from the other side; made from this side where it is not given."""
    ptr, slot, other, edge, t_ptr, t_slot, t_other = sides
    if t_ptr is None or t_other is None:
        assert ptr is not None
        assert other is not None
        t_ptr, t_slot = transpose_table(other[:, None], others)
        t_other = targets_of(ptr, other.shape[0])
    return t_ptr, t_slot, t_other, edge, ptr, slot, other


def complete(sides: Sequence[Tensor | None], others: int) -> Sides:
    """The graph with its other side."""
    back = turned(tuple(sides), others)
    return (*back[4:], back[3], *back[:3])


def _rows_like(*values: Tensor | None) -> Tensor:
    return next(value for value in values if value is not None)


@torch.library.register_fake("polygraph::edge_sum")
def _(
    seg_mask: Tensor | None,
    oth_mask: Tensor | None,
    seg_val: Tensor | None,
    oth_val: Tensor | None,
    edge_val: Tensor | None,
    weight: Tensor | None,
    slope: float,
    others: int,
    rows: int,
    ptr: Tensor,
    *sides: Tensor | None,
) -> Tensor:
    like = _rows_like(seg_val, oth_val, edge_val)
    return like.new_empty(ptr.shape[0] - 1, like.shape[1])


@torch.library.register_fake("polygraph::edge_sum_")
def _(u: Tensor, v: Tensor, slope: float, ptr: Tensor, other: Tensor) -> None:
    pass


@torch.library.register_fake("polygraph::edge_values")
def _(
    seg_mask: Tensor | None,
    oth_mask: Tensor | None,
    seg_val: Tensor | None,
    oth_val: Tensor | None,
    edge_val: Tensor | None,
    slope: float,
    others: int,
    rows: int,
    *sides: Tensor | None,
) -> Tensor:
    like = _rows_like(seg_val, oth_val, edge_val)
    return like.new_empty(rows, like.shape[1])


@torch.library.register_fake("polygraph::edge_dot")
def _(grad: Tensor, *arguments: Any) -> Tensor:
    return grad.new_empty(arguments[7])


def _edge_sum_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6], *inputs[9:])
    ctx.slope, ctx.others, ctx.rows = inputs[6:9]


def _edge_sum_backward(ctx: Any, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    seg_mask, oth_mask, seg_val, oth_val, _, weight, *sides = saved
    masks, numbers = (seg_mask, oth_mask), (ctx.slope, ctx.others, ctx.rows)
    needs = ctx.needs_input_grad
    to_seg = to_oth = to_edge = to_weight = None
    if needs[2]:
        to_seg = _ops.edge_sum(*masks, grad, None, None, weight, *numbers, *sides)
    if needs[3]:
        to_oth = _to_others(masks, grad, None, weight, ctx.slope, ctx.others, ctx.rows, sides)
    if needs[4]:
        to_edge = _ops.edge_values(*masks, grad, None, None, *numbers, *sides)
    if needs[5]:
        to_weight = _ops.edge_dot(grad, None, *masks, seg_val, oth_val, *numbers, *sides)
    return None, None, to_seg, to_oth, to_edge, to_weight, *(None,) * 10


def _to_others(
    masks: Sequence[Tensor | None],
    value: Tensor | None,
    edge_val: Tensor | None,
    weight: Tensor | None,
    slope: float,
    others: int,
    rows: int,
    sides: Sequence[Tensor | None],
    own: Tensor | None = None,
) -> Tensor:
    """The sum of what flows along the edges to the other nodes, ``[others, D]``.

    ``value`` is the segments', ``edge_val`` the edges', ``own`` the other nodes'.
    """
    seg_mask, oth_mask = masks
    ptr, slot, other, _, t_ptr, *_ = sides
    assert ptr is not None
    assert other is not None
    if slot is None and t_ptr is None and edge_val is None and weight is None and others > 0:
        # No row of features: slots may be numbered anew, in the order in which they are read.
        t_ptr, t_other = transpose_graph(ptr, other, others)
        back: Sides = (t_ptr, None, t_other, None, ptr, None, other)
        rows = other.shape[0]
    else:
        back = turned(tuple(sides), others)
    numbers = (slope, ptr.shape[0] - 1, rows)
    out: Tensor = _ops.edge_sum(oth_mask, seg_mask, own, value, edge_val, weight, *numbers, *back)
    return out


def _edge_values_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2], *inputs[8:])
    ctx.slope, ctx.others, ctx.rows = inputs[5:8]


def _edge_values_backward(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    seg_mask, oth_mask, *sides = saved
    masks, numbers = (seg_mask, oth_mask), (ctx.slope, ctx.others, ctx.rows)
    needs = ctx.needs_input_grad
    to_seg = to_oth = to_edge = None
    if needs[2]:
        to_seg = _ops.edge_sum(*masks, None, None, grad, None, *numbers, *sides)
    if needs[3]:
        to_oth = _to_others(masks, None, grad, None, ctx.slope, ctx.others, ctx.rows, sides)
    if needs[4]:
        to_edge = _ops.edge_values(*masks, None, None, grad, *numbers, *sides)
    return None, None, to_seg, to_oth, to_edge, *(None,) * 10


def _edge_dot_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6], *inputs[9:])
    ctx.slope, ctx.others, ctx.rows = inputs[6:9]


def _edge_dot_backward(
    ctx: Any, saved: tuple[Any, ...], weight: Tensor
) -> tuple[Tensor | None, ...]:
    grad, oth_grad, *masks, seg_val, oth_val = saved[:6]
    sides = saved[6:]
    needs = ctx.needs_input_grad
    if needs[1] or needs[5]:  # both read the graph from its other side: made at most once
        sides = complete(sides, ctx.others)
    numbers = (ctx.slope, ctx.others, ctx.rows)
    to_grad = to_oth_grad = to_seg = to_oth = None
    if needs[0]:
        to_grad = _ops.edge_sum(*masks, seg_val, oth_val, None, weight, *numbers, *sides)
    if needs[1]:
        to_oth_grad = _to_others(masks, seg_val, None, weight, *numbers, sides, oth_val)
    if needs[4]:
        to_seg = _ops.edge_sum(*masks, grad, oth_grad, None, weight, *numbers, *sides)
    if needs[5]:
        to_oth = _to_others(masks, grad, None, weight, *numbers, sides, oth_grad)
    return to_grad, to_oth_grad, None, None, to_seg, to_oth, *(None,) * 10


# Tangents: each operator is linear in the values together, and `edge_sum` in the weight.


def _edge_sum_jvp(inputs: Any, output: Tensor, tangents: Any) -> Tensor:
    masks, values, weight, rest = inputs[:2], inputs[2:5], inputs[5], inputs[6:]
    moved, for_weight = tangents[2:5], tangents[5]
    parts = []
    if any(t is not None for t in moved):
        parts.append(_ops.edge_sum(*masks, *moved, weight, *rest))
    if for_weight is not None:
        parts.append(_ops.edge_sum(*masks, *values, for_weight, *rest))
    return _total(parts, output)


def _edge_values_jvp(inputs: Any, output: Tensor, tangents: Any) -> Tensor:
    moved = tangents[2:5]
    if all(t is None for t in moved):
        return torch.zeros_like(output)
    found: Tensor = _ops.edge_values(*inputs[:2], *moved, *inputs[5:])
    return found


def _edge_dot_jvp(inputs: Any, output: Tensor, tangents: Any) -> Tensor:
    grads, masks, values, rest = inputs[:2], inputs[2:4], inputs[4:6], inputs[6:]
    (for_grad, for_other), moved = tangents[:2], tangents[4:6]
    parts = []
    if for_grad is not None or for_other is not None:
        first = torch.zeros_like(grads[0]) if for_grad is None else for_grad
        parts.append(_ops.edge_dot(first, for_other, *masks, *values, *rest))
    if any(t is not None for t in moved):
        parts.append(_ops.edge_dot(*grads, *masks, *moved, *rest))
    return _total(parts, output)


def _total(parts: list[Tensor], like: Tensor) -> Tensor:
    return sum(parts[1:], parts[0]) if parts else torch.zeros_like(like)


# Batches: channels do not meet, so the samples lie side by side. `edge_dot` adds channels up.


def _edge_sum_vmap(size: int, dims: Dims, *inputs: Any) -> Tensor | None:
    if not only_batched(dims, 0, 1, 2, 3, 4):
        return None
    values = [side_by_side(t, d, size) for t, d in zip(inputs[:5], dims[:5], strict=True)]
    return apart(_ops.edge_sum(*values, *inputs[5:]), size)


def _edge_values_vmap(size: int, dims: Dims, *inputs: Any) -> Tensor | None:
    if not only_batched(dims, 0, 1, 2, 3, 4):
        return None
    values = [side_by_side(t, d, size) for t, d in zip(inputs[:5], dims[:5], strict=True)]
    return apart(_ops.edge_values(*values, *inputs[5:]), size)


register_autograd(
    "edge_sum", _edge_sum_backward, save=_edge_sum_save, jvp=_edge_sum_jvp, vmap=_edge_sum_vmap
)
register_autograd(
    "edge_values",
    _edge_values_backward,
    save=_edge_values_save,
    jvp=_edge_values_jvp,
    vmap=_edge_values_vmap,
)
register_autograd("edge_dot", _edge_dot_backward, save=_edge_dot_save, jvp=_edge_dot_jvp)


# ---- maxima: linear, given the slots ----


@torch.library.register_fake("polygraph::edge_max")
def _(
    v: Tensor,
    sign: Tensor | None,
    with_sum: bool,
    ptr: Tensor,
    other: Tensor,
    target: Tensor | None,
    t_ptr: Tensor | None,
    t_slot: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (ptr.shape[0] - 1, v.shape[1])
    total = (shape[0] if with_sum else 0, v.shape[1])
    return v.new_empty(shape), v.new_empty(shape, dtype=torch.int32), v.new_empty(total)


@torch.library.register_fake("polygraph::edge_max_backward")
def _(
    grad: Tensor,
    arg: Tensor,
    others: int,
    other: Tensor,
    target: Tensor | None,
    t_ptr: Tensor | None,
    t_slot: Tensor | None,
) -> Tensor:
    return grad.new_empty(others, grad.shape[1])


@torch.library.register_fake("polygraph::edge_take")
def _(v: Tensor, arg: Tensor, *graph: Tensor | None) -> Tensor:
    return v.new_empty(arg.shape)


def _edge_max_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    v, _, ctx.with_sum, *graph = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *graph)
    ctx.others = v.shape[0]


def _edge_max_backward(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor, _: Tensor, grad_sum: Tensor
) -> tuple[Tensor | None, ...]:
    arg, ptr, other, target, t_ptr, t_slot = saved
    # The CPU scatters maxima; CUDA gathers them, by the transpose that sums too can take.
    if t_ptr is None and _common.takes_cuda_kernels(grad):
        t_ptr, t_slot = transpose_table(other[:, None], ctx.others)
        target = targets_of(ptr, other.shape[0])
    back = (target, t_ptr, t_slot)
    out = _ops.edge_max_backward(grad, arg, ctx.others, other, *back)
    if ctx.with_sum:
        sides = [ptr, None, other, None, t_ptr, t_slot, target]
        rows = other.shape[0]
        out = out + _to_others((None, None), grad_sum, None, None, 1.0, ctx.others, rows, sides)
    return out, *(None,) * 7


def _edge_max_jvp(inputs: Any, output: tuple[Tensor, ...], tangents: Any) -> tuple[Any, ...]:
    _, _, with_sum, ptr, other, target, t_ptr, t_slot = inputs
    (moved, *_), arg = tangents, output[1]
    value = _ops.edge_take(moved, arg, other, target, t_ptr, t_slot)
    if not with_sum:
        return value, None, torch.zeros_like(output[2])
    total = edge_sum(moved, Graph(ptr, other, None, target, t_ptr, t_slot))
    return value, None, total


def _edge_max_vmap(size: int, dims: Dims, v: Any, sign: Any, *rest: Any) -> Any:
    if not only_batched(dims, 0, 1):
        return None
    if sign is not None:
        sign = side_by_side(sign[None], None if dims[1] is None else dims[1] + 1, size)[0]
    found = _ops.edge_max(side_by_side(v, dims[0], size), sign, *rest)
    return tuple(apart(part, size) for part in found)


def _linear_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, arg, *rest = inputs
    ctx.others = first.shape[0] if rest[0] is None or isinstance(rest[0], Tensor) else rest.pop(0)
    ctx.save_for_backward(arg, *rest)


def _edge_max_backward_backward(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    return _ops.edge_take(grad, *saved), *(None,) * 6


def _edge_take_backward(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    arg, *graph = saved
    return _ops.edge_max_backward(grad, arg, ctx.others, *graph), *(None,) * 5


def _register_selection(name: str, backward: Any) -> None:
    """Of an operator that is linear in its first argument, given the slots in its second."""
    operator = getattr(_ops, name)

    def jvp(inputs: Any, output: Tensor, tangents: Any) -> Any:
        return operator(tangents[0], *inputs[1:])

    def vmap(size: int, dims: Dims, first: Any, arg: Any, *rest: Any) -> Tensor | None:
        if not only_batched(dims, 0, 1):
            return None
        values = side_by_side(first, dims[0], size), side_by_side(arg, dims[1], size)
        return apart(operator(*values, *rest), size)

    register_autograd(name, backward, save=_linear_save, jvp=jvp, vmap=vmap)


register_autograd(
    "edge_max", _edge_max_backward, save=_edge_max_save, jvp=_edge_max_jvp, vmap=_edge_max_vmap
)
_register_selection("edge_max_backward", _edge_max_backward_backward)
_register_selection("edge_take", _edge_take_backward)
