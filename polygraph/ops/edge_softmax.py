"""Attention over the edges of a graph: softmax of scores that are made of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
from polygraph.ops.common import HALF_TYPES, autocast_dtype, cast, check_devices, wide
from polygraph.ops.edge_sum import masks_of, sum_along, values_along
from polygraph.ops.graph import Graph
from polygraph.ops.graph_side import GraphSide

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

    Example:
        >>> import torch
        >>> from polygraph.ops import edge_softmax, graph_from_table
        >>> graph = graph_from_table(torch.tensor([[1, 2], [0, 2], [0, 1]]), 3)
        >>> u, v = torch.zeros(3, 1), torch.tensor([[0.0], [0.0], [1.0]])
        >>> edge_softmax(u, v, graph).view(3, 2)  # of each target, two shares
        tensor([[0.2689, 0.7311],
                [0.2689, 0.7311],
                [0.5000, 0.5000]])

    See Also:
        `ecc`, which takes the result as the hidden features of edges: together they are graph
        attention (`polygraph.nn.GATMeshConv`).
    """
    check_tensors("edge_softmax", u=u, v=v)
    if over not in OVER:
        raise ValueError(f"edge_softmax: over must be one of {', '.join(OVER)}, got {over!r}")
    check_devices("edge_softmax", "u", u, v=v, **graph._asdict())
    dtype = autocast_dtype(u)
    u, v = cast(u, dtype), cast(v, dtype)
    options = (slope, over == "features", graph.num_slots)
    found: Tensor = _ops.edge_softmax(u, v, *options, *GraphSide.of(graph).packed())
    return found


@torch.library.register_fake("polygraph::edge_softmax")
def _(
    u: Tensor,
    v: Tensor,
    slope: float,
    over_features: bool,
    rows: int,
    graph: Sequence[Tensor],
    tables: int,
) -> Tensor:
    return u.new_empty(rows, u.shape[1])


@torch.library.register_fake("polygraph::edge_softmax_backward")
def _(grad: Tensor, p: Tensor, *rest: Any) -> Tensor:
    return p.new_empty(p.shape)


class _Shares(NamedTuple):
    """What the shares of edges are shares of."""

    side: GraphSide
    others: int
    over_features: bool

    def backward(
        self, grad: Tensor, p: Tensor, u: Any = None, v: Any = None, slope: float = 1.0
    ) -> Tensor:
        """``m p (grad - T(p grad))``; m is 1 without u and v."""
        options = (u, v, slope, self.over_features, self.others)
        found: Tensor = _ops.edge_softmax_backward(grad, p, *options, *self.side.packed())
        return found

    def totals(self, values: Tensor) -> Tensor:
        """T: for every edge the sum over those that its share is a share of."""
        if self.over_features:
            return values.sum(1, keepdim=True)
        graph = (self.side, self.others, values.shape[0])
        return values_along(*graph, near=sum_along(*graph, per_edge=values))

    def masked(self, values: Tensor, u: Any, v: Any, slope: float) -> Tensor:
        """What arrives at edges, times the slope m of the activation there."""
        if u is None:
            return values
        graph = (self.side, self.others, values.shape[0])
        return values_along(*graph, per_edge=values, masks=(u, v), slope=slope)


def _save(ctx: Any, given: Any, output: Tensor) -> None:
    ctx.slope, ctx.over_features = given.slope, given.over_features
    ctx.rows, ctx.tables = given.rows, given.tables
    ctx.save_for_backward(output, given.u, given.v, *given.graph)


def _backward(ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor) -> Gradients:
    p, u, v, *graph = saved
    side, dtype, others = GraphSide.unpacked(graph, ctx.tables), u.dtype, v.shape[0]
    if dtype in HALF_TYPES:
        # Shares and what flows to single edges are not rounded to half a type on the way.
        grad, u, v = grad.float(), u.float(), v.float()
        p = _ops.edge_softmax(u, v, ctx.slope, ctx.over_features, ctx.rows, *side.packed())
    shares = _Shares(side, others, ctx.over_features)
    inner = shares.backward(grad, p, *masks_of(u, v, ctx.slope), ctx.slope)
    found: Gradients = {}
    if needs.u:
        found["u"] = sum_along(side, others, ctx.rows, per_edge=inner).to(dtype)
    if needs.v:
        back = side.turned(others)
        found["v"] = sum_along(back, u.shape[0], ctx.rows, per_edge=inner).to(dtype)
    return found


def _save_backward(ctx: Any, given: Any, output: Tensor) -> None:
    ctx.slope, ctx.over_features = given.slope, given.over_features
    ctx.others, ctx.tables = given.others, given.tables
    ctx.save_for_backward(given.grad, given.p, given.u, given.v, *given.graph)


def _backward_backward(ctx: Any, saved: tuple[Any, ...], needs: Any, upstream: Tensor) -> Gradients:
    """Of ``m p (g - T(p g))``, T being the totals, with respect to g and p; m is constant."""
    grad, p, u, v, *graph = saved
    shares = _Shares(GraphSide.unpacked(graph, ctx.tables), ctx.others, ctx.over_features)
    moved = shares.masked(upstream, u, v, ctx.slope)
    found: Gradients = {}
    if needs.grad:
        found["grad"] = shares.backward(moved, p)
    if needs.p:
        found["p"] = moved * (grad - shares.totals(p * grad)) - grad * shares.totals(p * moved)
    return found


# The derivative of a softmax is symmetric: forward mode is backward's formula without the mask,
# which the tangent has gone through already.


def _jvp(given: Any, output: Tensor, tangents: Any) -> Tensor:
    u, v, slope, over_features, rows, graph, tables = given
    for_u, for_v = tangents.u, tangents.v
    if for_u is None and for_v is None:
        return torch.zeros_like(output)
    side, others = GraphSide.unpacked(graph, tables), v.shape[0]
    dtype, p = output.dtype, output
    if dtype in HALF_TYPES:
        u, v, for_u, for_v = u.float(), v.float(), wide(for_u), wide(for_v)
        p = _ops.edge_softmax(u, v, slope, over_features, rows, *side.packed())
    masks = masks_of(u, v, slope)
    moved = values_along(side, others, rows, near=for_u, far=for_v, masks=masks, slope=slope)
    return _Shares(side, others, over_features).backward(moved, p).to(dtype)


def _backward_jvp(given: Any, output: Tensor, tangents: Any) -> Tensor:
    """Of ``m p (g - T(p g))``."""
    grad, p = given.grad, given.p
    found = None
    if tangents.grad is not None:
        found = _ops.edge_softmax_backward(*given._replace(grad=tangents.grad))
    if tangents.p is not None:
        side = GraphSide.unpacked(given.graph, given.tables)
        shares = _Shares(side, given.others, given.over_features)
        inner = tangents.p * (grad - shares.totals(p * grad))
        inner = inner - p * shares.totals(tangents.p * grad)
        part = shares.masked(inner, given.u, given.v, given.slope)
        found = part if found is None else found + part
    return torch.zeros_like(output) if found is None else found


def _batched(operator: Any, *names: str) -> Any:
    """Columns do not meet, so the samples lie side by side; but not over features, which do."""

    def vmap(size: int, dims: Any, given: Any) -> Tensor | None:
        if given.over_features or not only_batched(dims, *names):
            return None
        rows = {n: side_by_side(getattr(given, n), getattr(dims, n), size) for n in names}
        return apart(operator(*given._replace(**rows)), size)

    return vmap


register_autograd(
    "edge_softmax", _backward, save=_save, jvp=_jvp, vmap=_batched(_ops.edge_softmax, "u", "v")
)
register_autograd(
    "edge_softmax_backward",
    _backward_backward,
    save=_save_backward,
    jvp=_backward_jvp,
    vmap=_batched(_ops.edge_softmax_backward, "grad", "p", "u", "v"),
)
