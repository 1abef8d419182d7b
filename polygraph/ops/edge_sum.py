"""Sums, values and products over edges whose values are sums of a target's and a source's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops._autograd import (
    Gradients,
    apart,
    only_batched,
    register_autograd,
    side_by_side,
)
from polygraph.ops.common import autocast_dtype, cast, check_devices
from polygraph.ops.graph import Graph, transpose_graph
from polygraph.ops.graph_side import GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph

Masks = tuple[Tensor | None, Tensor | None]  #: near ``[S, D]`` and far ``[O, D]``, or neither
NO_MASKS: Masks = (None, None)


def edge_sum(v: Tensor, graph: Graph, weight: Tensor | None = None) -> Tensor:
    """``[M, D]``: ``Σ_j weight_ij v_j`` over the neighbours of each target.

    Args:
        v: sources ``[N, D]``.
        graph: M targets and N sources.
        weight: ``[E]``, a factor of each edge.

    Deterministic; differentiable any number of times in ``v`` and ``weight``.

    Example:
        >>> import torch
        >>> from polygraph.ops import edge_sum, graph_from_table
        >>> graph = graph_from_table(torch.tensor([[1, 2], [0, 2], [0, 1]]), 3)
        >>> edge_sum(torch.tensor([[1.0], [2.0], [3.0]]), graph).T
        tensor([[5., 4., 3.]])

    See Also:
        `edge_max`; `edge_conv` for other aggregations.
    """
    check_tensors("edge_sum", v=v, weight=weight)
    return sum_along(GraphSide.of(graph), v.shape[0], graph.num_slots, far=v, weight=weight)


def edge_values(u: Tensor, v: Tensor, graph: Graph, slope: float = 1.0) -> Tensor:
    """``[E, D]``: act(u_i + v_j) of every edge, for what comes after it edge by edge.

    Arguments as of `edge_conv`. The row of an edge is that of its features; rows of empty slots
    are 0. Differentiable any number of times.

    Example:
        >>> import torch
        >>> from polygraph.ops import edge_values, graph_from_table
        >>> graph = graph_from_table(torch.tensor([[1, 2], [0, 2], [0, 1]]), 3)
        >>> u, v = torch.tensor([[0.0], [10.0], [20.0]]), torch.tensor([[1.0], [2.0], [3.0]])
        >>> edge_values(u, v, graph).view(3, 2)
        tensor([[ 2.,  3.],
                [11., 13.],
                [21., 22.]])

    See Also:
        `edge_aggregate` aggregates them; `edge_conv` does both, and stores none.
    """
    check_tensors("edge_values", u=u, v=v)
    check_devices("edge_values", "u", u, v=v, **graph._asdict())
    dtype = autocast_dtype(u)
    u, v = cast(u, dtype), cast(v, dtype)
    masks = masks_of(u, v, slope)
    side, rows = GraphSide.of(graph), graph.num_slots
    return values_along(side, v.shape[0], rows, near=u, far=v, masks=masks, slope=slope)


def edge_dist2(x: Tensor, graph: Graph) -> Tensor:
    """``[E]``: ``|x_j - x_i|²`` of every edge, in the rows of edge features; 0 for empty slots.

    Args:
        x: nodes ``[N, C]``, sources and targets alike.
        graph: N targets and N sources.

    Differences are formed first, so they are as exact far from the origin as near it. Nothing of
    size E x C is stored. Deterministic; differentiable any number of times.

    Example:
        >>> import torch
        >>> from polygraph.ops import edge_dist2, graph_from_table
        >>> graph = graph_from_table(torch.tensor([[1], [2], [0]]), 3)
        >>> edge_dist2(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]]), graph)
        tensor([25., 16.,  9.])

    See Also:
        `knn`, which gives the distances of the neighbours that it finds.
    """
    check_tensors("edge_dist2", x=x)
    opposite = -x
    side = GraphSide.of(graph)
    return dot_along(side, x.shape[0], graph.num_slots, x, opposite, near=x, far=opposite)


def activate(x: Tensor, slope: float) -> Tensor:
    """``slope x`` where x is not positive; with a slope of 0 that is 0 for infinity, too."""
    if slope == 1:
        return x
    return torch.relu(x) if slope == 0 else torch.nn.functional.leaky_relu(x, slope)


# ---- the compiled operators, their arguments by name ----
#
# Arguments of all three: the side of a graph, the number of its other nodes O, and the number of
# rows of edge features E'. ``near [S, D]`` belongs to segments, ``far [O, D]`` to other nodes,
# ``per_edge [E', D]`` to edges; ``masks`` are near and far sums under whose zeros a factor
# ``slope`` stands (csrc/edge_conv/edge_conv.h).


def masks_of(near: Tensor, far: Tensor, slope: float) -> Masks:
    """Where an activation of this slope bends: nowhere, if it is none."""
    return NO_MASKS if slope == 1 else (near, far)


def sum_along(
    side: GraphSide,
    others: int,
    rows: int,
    *,
    near: Tensor | None = None,
    far: Tensor | None = None,
    per_edge: Tensor | None = None,
    weight: Tensor | None = None,
    masks: Masks = NO_MASKS,
    slope: float = 1.0,
) -> Tensor:
    """``[S, D]``: sums over the slots of each segment; ``weight [E']``."""
    values = (near, far, per_edge, weight)
    out: Tensor = _ops.edge_sum(*masks, *values, slope, others, rows, *side.packed())
    return out


def values_along(
    side: GraphSide,
    others: int,
    rows: int,
    *,
    near: Tensor | None = None,
    far: Tensor | None = None,
    per_edge: Tensor | None = None,
    masks: Masks = NO_MASKS,
    slope: float = 1.0,
) -> Tensor:
    """``[E', D]``: the value of each edge."""
    out: Tensor = _ops.edge_values(*masks, near, far, per_edge, slope, others, rows, *side.packed())
    return out


def dot_along(
    side: GraphSide,
    others: int,
    rows: int,
    grad: Tensor,
    far_grad: Tensor | None = None,
    *,
    near: Tensor | None = None,
    far: Tensor | None = None,
    masks: Masks = NO_MASKS,
    slope: float = 1.0,
) -> Tensor:
    """``[E']``: products of the edges' values with ``grad [S, D] + far_grad [O, D]``."""
    out: Tensor = _ops.edge_dot(
        grad, far_grad, *masks, near, far, slope, others, rows, *side.packed()
    )
    return out


def sum_to_others(
    side: GraphSide,
    others: int,
    rows: int,
    *,
    near: Tensor | None = None,
    far: Tensor | None = None,
    per_edge: Tensor | None = None,
    weight: Tensor | None = None,
    masks: Masks = NO_MASKS,
    slope: float = 1.0,
) -> Tensor:
    """``[O, D]``: as `sum_along`, but the sums over the slots of each other node."""
    if (
        side.slot is None
        and side.t_ptr is None
        and per_edge is None
        and weight is None
        and others > 0
    ):
        # No row of features: slots may be numbered anew, in the order in which they are read.
        t_ptr, t_other = transpose_graph(side.ptr, side.other, others)
        back = GraphSide(t_ptr, None, t_other, None, side.ptr, None, side.other)
        rows = side.other.shape[0]
    else:
        back = side.turned(others)
    return sum_along(
        back,
        side.num_segments,
        rows,
        near=far,
        far=near,
        per_edge=per_edge,
        weight=weight,
        masks=masks[::-1],
        slope=slope,
    )


# ---- shapes ----


def _first_given(*values: Tensor | None) -> Tensor:
    return next(value for value in values if value is not None)


@torch.library.register_fake("polygraph::edge_sum")
def _(
    near_mask: Tensor | None,
    far_mask: Tensor | None,
    near: Tensor | None,
    far: Tensor | None,
    per_edge: Tensor | None,
    weight: Tensor | None,
    slope: float,
    others: int,
    rows: int,
    graph: Sequence[Tensor],
    tables: int,
) -> Tensor:
    like = _first_given(near, far, per_edge)
    return like.new_empty(graph[0].shape[0] - 1, like.shape[1])


@torch.library.register_fake("polygraph::edge_sum_")
def _(u: Tensor, v: Tensor, slope: float, ptr: Tensor, other: Tensor) -> None:
    pass


@torch.library.register_fake("polygraph::edge_values")
def _(
    near_mask: Tensor | None,
    far_mask: Tensor | None,
    near: Tensor | None,
    far: Tensor | None,
    per_edge: Tensor | None,
    slope: float,
    others: int,
    rows: int,
    graph: Sequence[Tensor],
    tables: int,
) -> Tensor:
    like = _first_given(near, far, per_edge)
    return like.new_empty(rows, like.shape[1])


@torch.library.register_fake("polygraph::edge_dot")
def _(
    grad: Tensor,
    far_grad: Tensor | None,
    near_mask: Tensor | None,
    far_mask: Tensor | None,
    near: Tensor | None,
    far: Tensor | None,
    slope: float,
    others: int,
    rows: int,
    graph: Sequence[Tensor],
    tables: int,
) -> Tensor:
    return grad.new_empty(rows)


# ---- derivatives: partial derivatives of one form, so they are made of the three again ----


def _keep_numbers(ctx: Any, given: Any) -> None:
    ctx.slope, ctx.others = given.slope, given.others
    ctx.rows, ctx.tables = given.rows, given.tables


def _sum_save(ctx: Any, given: Any, output: Tensor) -> None:
    _keep_numbers(ctx, given)
    values = (given.near, given.far, given.weight)
    ctx.save_for_backward(given.near_mask, given.far_mask, *values, *given.graph)


def _sum_backward(ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor) -> Gradients:
    near_mask, far_mask, near, far, weight, *tables = saved
    graph = (GraphSide.unpacked(tables, ctx.tables), ctx.others, ctx.rows)
    bend: Any = {"masks": (near_mask, far_mask), "slope": ctx.slope}
    found: Gradients = {}
    if needs.near:
        found["near"] = sum_along(*graph, near=grad, weight=weight, **bend)
    if needs.far:
        found["far"] = sum_to_others(*graph, near=grad, weight=weight, **bend)
    if needs.per_edge:
        found["per_edge"] = values_along(*graph, near=grad, **bend)
    if needs.weight:
        found["weight"] = dot_along(*graph, grad, near=near, far=far, **bend)
    return found


def _values_save(ctx: Any, given: Any, output: Tensor) -> None:
    _keep_numbers(ctx, given)
    ctx.save_for_backward(given.near_mask, given.far_mask, *given.graph)


def _values_backward(ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor) -> Gradients:
    near_mask, far_mask, *tables = saved
    graph = (GraphSide.unpacked(tables, ctx.tables), ctx.others, ctx.rows)
    bend: Any = {"masks": (near_mask, far_mask), "slope": ctx.slope}
    found: Gradients = {}
    if needs.near:
        found["near"] = sum_along(*graph, per_edge=grad, **bend)
    if needs.far:
        found["far"] = sum_to_others(*graph, per_edge=grad, **bend)
    if needs.per_edge:
        found["per_edge"] = values_along(*graph, per_edge=grad, **bend)
    return found


def _dot_save(ctx: Any, given: Any, output: Tensor) -> None:
    _keep_numbers(ctx, given)
    masks, values = (given.near_mask, given.far_mask), (given.near, given.far)
    ctx.save_for_backward(given.grad, given.far_grad, *masks, *values, *given.graph)


def _dot_backward(ctx: Any, saved: tuple[Any, ...], needs: Any, weight: Tensor) -> Gradients:
    grad, far_grad, near_mask, far_mask, near, far, *tables = saved
    side = GraphSide.unpacked(tables, ctx.tables)
    if needs.far_grad or needs.far:  # both read the graph from its other side: made once
        side = side.with_both(ctx.others)
    graph = (side, ctx.others, ctx.rows)
    by: Any = {"weight": weight, "masks": (near_mask, far_mask), "slope": ctx.slope}
    found: Gradients = {}
    if needs.grad:
        found["grad"] = sum_along(*graph, near=near, far=far, **by)
    if needs.far_grad:
        found["far_grad"] = sum_to_others(*graph, near=near, far=far, **by)
    if needs.near:
        found["near"] = sum_along(*graph, near=grad, far=far_grad, **by)
    if needs.far:
        found["far"] = sum_to_others(*graph, near=grad, far=far_grad, **by)
    return found


# Tangents: each operator is linear in the values together, and `edge_sum` in the weight.


def _moved(tangents: Any, *names: str) -> dict[str, Any] | None:
    """The tangents of these arguments, which take their places together; None: there is none."""
    moved = {name: getattr(tangents, name) for name in names}
    return moved if any(t is not None for t in moved.values()) else None


def _sum_jvp(given: Any, output: Tensor, tangents: Any) -> Tensor:
    parts = []
    values = _moved(tangents, "near", "far", "per_edge")
    if values is not None:
        parts.append(_ops.edge_sum(*given._replace(**values)))
    if tangents.weight is not None:
        parts.append(_ops.edge_sum(*given._replace(weight=tangents.weight)))
    return _total(parts, output)


def _values_jvp(given: Any, output: Tensor, tangents: Any) -> Tensor:
    values = _moved(tangents, "near", "far", "per_edge")
    return _total([] if values is None else [_ops.edge_values(*given._replace(**values))], output)


def _dot_jvp(given: Any, output: Tensor, tangents: Any) -> Tensor:
    parts = []
    grads = _moved(tangents, "grad", "far_grad")
    if grads is not None:
        if grads["grad"] is None:
            grads["grad"] = torch.zeros_like(given.grad)
        parts.append(_ops.edge_dot(*given._replace(**grads)))
    values = _moved(tangents, "near", "far")
    if values is not None:
        parts.append(_ops.edge_dot(*given._replace(**values)))
    return _total(parts, output)


def _total(parts: list[Tensor], like: Tensor) -> Tensor:
    return sum(parts[1:], parts[0]) if parts else torch.zeros_like(like)


# Batches: channels do not meet, so the samples lie side by side. `edge_dot` adds channels up.

_ROWS = ("near_mask", "far_mask", "near", "far", "per_edge")


def _batched(operator: Any) -> Any:
    def vmap(size: int, dims: Any, given: Any) -> Tensor | None:
        if not only_batched(dims, *_ROWS):
            return None
        rows = {n: side_by_side(getattr(given, n), getattr(dims, n), size) for n in _ROWS}
        return apart(operator(*given._replace(**rows)), size)

    return vmap


register_autograd(
    "edge_sum", _sum_backward, save=_sum_save, jvp=_sum_jvp, vmap=_batched(_ops.edge_sum)
)
register_autograd(
    "edge_values",
    _values_backward,
    save=_values_save,
    jvp=_values_jvp,
    vmap=_batched(_ops.edge_values),
)
register_autograd("edge_dot", _dot_backward, save=_dot_save, jvp=_dot_jvp)
