"""Attention over the edges of a graph: softmax of scores that are made of nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops._autograd import (
    Dims,
    apart,
    only_batched,
    register_autograd,
    side_by_side,
)
from polygraph.ops._common import autocast_dtype, cast, check_devices
from polygraph.ops.edge_conv import turned
from polygraph.ops.graph import Graph

_load.load_libraries()
_ops = torch.ops.polygraph

OVER = ("neighbours", "features")


def edge_softmax(
    u: Tensor, v: Tensor, graph: Graph, slope: float = 1.0, over: str = "neighbours"
) -> Tensor:
    """Softmax of the scores ``act(u_i + v_j)`` of every edge, column by column or row by row.

    Over the neighbours j of each target i it is GAT's attention, with a column per head; over the
    columns it is FeaStNet's assignment of an edge to weight matrices. Scores, maxima and sums are
    not stored.

    Source: Veličković et al., "Graph Attention Networks", ICLR 2018, eq. 3; Verma, Boyer and
    Verbeek, "FeaStNet: Feature-Steered Graph Convolutions for 3D Shape Analysis", CVPR 2018, eq. 4.

    Args:
        u: targets' part ``[M, H]``; float32, float64, float16 or bfloat16 (half types compute in
            float32), any strides.
        v: sources' part ``[N, H]``, dtype of ``u``.
        graph: M targets and N sources.
        slope: of the activation where its argument is not positive: 1 is no activation, 0 is ReLU,
            others leaky ReLU.
        over: ``"neighbours"`` or ``"features"``: what adds up to 1.

    Returns:
        ``[E, H]``, the row of an edge being that of its features; rows of empty slots are 0.
        Deterministic, also for any number of threads; differentiable any number of times in ``u``
        and ``v``. A score of minus infinity has no share; where one is NaN or infinite, or all are
        minus infinity, all shares of what is compared are NaN. ReLU of minus infinity is 0.

    Raises:
        ValueError: ``over`` is neither of the two.
        RuntimeError: a shape, dtype, device or entry of the graph is wrong (the message names it).
            On CUDA an entry out of range is a device-side assertion.
    """
    if over not in OVER:
        raise ValueError(f"edge_softmax: over must be one of {', '.join(OVER)}, got {over!r}")
    check_devices("edge_softmax", "u", u, v=v, **graph._asdict())
    dtype = autocast_dtype(u)
    u, v = cast(u, dtype), cast(v, dtype)
    graph_ = (graph.ptr, None, graph.source, graph.edge, graph.t_ptr, graph.t_slot, graph.target)
    found: Tensor = _ops.edge_softmax(u, v, slope, over == "features", graph.num_slots, *graph_)
    return found


@torch.library.register_fake("polygraph::edge_softmax")
def _(
    u: Tensor, v: Tensor, slope: float, over_features: bool, rows: int, *sides: Tensor | None
) -> Tensor:
    return u.new_empty(rows, u.shape[1])


@torch.library.register_fake("polygraph::edge_softmax_backward")
def _(grad: Tensor, p: Tensor, *rest: Any) -> Tensor:
    return p.new_empty(p.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    u, v, ctx.slope, ctx.over_features, ctx.rows, *sides = inputs
    ctx.save_for_backward(output, u, v, *sides)


def _backward(ctx: Any, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    p, u, v, *sides = saved
    dtype, others = u.dtype, v.shape[0]
    if dtype in (torch.half, torch.bfloat16):
        # Shares and what flows to single edges are not rounded to half a type on the way.
        grad, u, v = grad.float(), u.float(), v.float()
        p = _ops.edge_softmax(u, v, ctx.slope, ctx.over_features, ctx.rows, *sides)
    masks = (None, None) if ctx.slope == 1 else (u, v)
    options = (*masks, ctx.slope, ctx.over_features, others)
    inner = _ops.edge_softmax_backward(grad, p, *options, *sides)
    to_u = to_v = None
    values = (None, None, None, None, inner, None, 1.0)
    if ctx.needs_input_grad[0]:
        to_u = _ops.edge_sum(*values, others, ctx.rows, *sides).to(dtype)
    if ctx.needs_input_grad[1]:
        back = turned(tuple(sides), others)
        to_v = _ops.edge_sum(*values, u.shape[0], ctx.rows, *back).to(dtype)
    return to_u, to_v, *(None,) * 10


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, p, u, v, ctx.slope, ctx.over_features, ctx.others, *sides = inputs
    ctx.save_for_backward(grad, p, u, v, *sides)


def _backward_backward(
    ctx: Any, saved: tuple[Any, ...], upstream: Tensor
) -> tuple[Tensor | None, ...]:
    """Of ``m p (g - T(p g))``, T being the totals, with respect to g and p; m is constant."""
    grad, p, u, v, *sides = saved
    moved = _masked(upstream, u, v, ctx.slope, ctx.others, sides)

    def totals(values: Tensor) -> Tensor:
        return _totals(values, ctx.over_features, ctx.others, sides)

    to_grad = to_p = None
    if ctx.needs_input_grad[0]:
        options = (None, None, 1.0, ctx.over_features, ctx.others)
        to_grad = _ops.edge_softmax_backward(moved, p, *options, *sides)
    if ctx.needs_input_grad[1]:
        to_p = moved * (grad - totals(p * grad)) - grad * totals(p * moved)
    return to_grad, to_p, *(None,) * 12


def _masked(values: Tensor, u: Any, v: Any, slope: float, others: int, sides: Any) -> Tensor:
    """What arrives at edges, times the slope of the activation there."""
    if u is None:
        return values
    options = (None, None, values, slope, others, values.shape[0])
    found: Tensor = _ops.edge_values(u, v, *options, *sides)
    return found


def _totals(values: Tensor, over_features: bool, others: int, sides: Any) -> Tensor:
    """For every edge the sum over those that its share is a share of."""
    if over_features:
        return values.sum(1, keepdim=True)
    numbers = (others, values.shape[0])
    sums = _ops.edge_sum(None, None, None, None, values, None, 1.0, *numbers, *sides)
    spread: Tensor = _ops.edge_values(None, None, sums, None, None, 1.0, *numbers, *sides)
    return spread


# The derivative of a softmax is symmetric: forward mode is backward's formula without the mask,
# which the tangent has gone through already.


def _jvp(inputs: Any, output: Tensor, tangents: Any) -> Tensor:
    u, v, slope, over_features, rows, *sides = inputs
    for_u, for_v = tangents[:2]
    if for_u is None and for_v is None:
        return torch.zeros_like(output)
    dtype, p, others = output.dtype, output, v.shape[0]
    if dtype in (torch.half, torch.bfloat16):
        u, v = u.float(), v.float()
        for_u, for_v = cast(for_u, torch.float32), cast(for_v, torch.float32)
        p = _ops.edge_softmax(u, v, slope, over_features, rows, *sides)
    masks = (None, None) if slope == 1 else (u, v)
    moved = _ops.edge_values(*masks, for_u, for_v, None, slope, others, rows, *sides)
    options = (None, None, 1.0, over_features, others)
    found: Tensor = _ops.edge_softmax_backward(moved, p, *options, *sides)
    return found.to(dtype)


def _backward_jvp(inputs: Any, output: Tensor, tangents: Any) -> Tensor:
    """Of ``m p (g - T(p g))``."""
    grad, p, u, v, slope, over_features, others, *sides = inputs
    for_grad, for_p = tangents[:2]
    found = None
    if for_grad is not None:
        found = _ops.edge_softmax_backward(for_grad, *inputs[1:])
    if for_p is not None:
        inner = for_p * (grad - _totals(p * grad, over_features, others, sides))
        inner = inner - p * _totals(for_p * grad, over_features, others, sides)
        part = _masked(inner, u, v, slope, others, sides)
        found = part if found is None else found + part
    return torch.zeros_like(output) if found is None else found


def _vmap(size: int, dims: Dims, u: Any, v: Any, slope: float, over: bool, *rest: Any) -> Any:
    if over or not only_batched(dims, 0, 1):
        return None
    values = side_by_side(u, dims[0], size), side_by_side(v, dims[1], size)
    return apart(_ops.edge_softmax(*values, slope, over, *rest), size)


def _backward_vmap(size: int, dims: Dims, *inputs: Any) -> Any:
    if inputs[5] or not only_batched(dims, 0, 1, 2, 3):
        return None
    values = [side_by_side(t, d, size) for t, d in zip(inputs[:4], dims[:4], strict=True)]
    return apart(_ops.edge_softmax_backward(*values, *inputs[4:]), size)


register_autograd("edge_softmax", _backward, save=_save, jvp=_jvp, vmap=_vmap)
register_autograd(
    "edge_softmax_backward",
    _backward_backward,
    save=_save_backward,
    jvp=_backward_jvp,
    vmap=_backward_vmap,
)
