"""EdgeConv: edge values that are a sum of a target's and a source's, aggregated; none is stored."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops import common
from polygraph.ops.common import autocast_dtype, cast, check_devices, unrecorded, wide
from polygraph.ops.edge_max import edge_max
from polygraph.ops.edge_sum import activate, masks_of, sum_along
from polygraph.ops.graph import Graph
from polygraph.ops.graph_side import ANY_NODES, GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph

AGGREGATIONS = ("max", "min", "sum", "mean")


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

    Example:
        >>> import torch
        >>> from polygraph.ops import edge_conv, graph_from_table
        >>> graph = graph_from_table(torch.tensor([[1, 2], [0, 2], [0, 1]]), 3)
        >>> u, v = torch.tensor([[0.0], [-5.0], [0.0]]), torch.tensor([[1.0], [2.0], [3.0]])
        >>> edge_conv(u, v, graph, "max", slope=0.0).T  # ReLU of the sums, their maximum
        tensor([[3., 0., 2.]])
        >>> edge_conv(u, v, graph, "mean").T
        tensor([[ 2.5000, -3.0000,  1.5000]])

    See Also:
        `polygraph.nn.EdgeConv`, the layer; `edge_values` keeps the value of every edge,
        `edge_aggregate` aggregates values of edges.
    """
    check_tensors("edge_conv", u=u, v=v, weight=weight)
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
        ends = (GraphSide.of(graph), v.shape[0], graph.num_slots)
        masks = masks_of(u, v, slope)
        out = sum_along(*ends, near=u, far=v, weight=weight, masks=masks, slope=slope)
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
        common.takes_cpu_kernels(u)
        and u.dtype in (torch.float32, torch.float64)
        and u.is_contiguous()
        and not u.requires_grad
        and not torch.is_autocast_enabled("cpu")
        and unrecorded(u)
    )


def edge_aggregate(values: Tensor, graph: Graph, aggr: str = "max") -> Tensor:
    """``[M, D]``: edge features ``[E, D]`` aggregated over the edges of each target.

    Arguments and result otherwise as of `edge_conv`; differentiable any number of times.

    Example:
        >>> import torch
        >>> from polygraph.ops import edge_aggregate, graph_from_table
        >>> graph = graph_from_table(torch.tensor([[1, 2], [0, 2], [0, 1]]), 3)
        >>> edge_aggregate(torch.arange(6.0)[:, None], graph, "sum").T
        tensor([[1., 5., 9.]])

    See Also:
        `edge_conv`, which needs no values of edges; `edge_values`.
    """
    check_tensors("edge_aggregate", values=values)
    _check("edge_aggregate", aggr)
    check_devices("edge_aggregate", "values", values, **graph._asdict())
    if aggr in ("sum", "mean"):
        result = values.dtype
        values = wide(values) if aggr == "mean" else values
        out = sum_along(GraphSide.of(graph), ANY_NODES, graph.num_slots, per_edge=values)
        return (out / _count(graph, out)).to(result) if aggr == "mean" else out
    if graph.edge is None:
        rows = torch.arange(graph.num_slots, device=graph.source.device)
    else:  # a negative row is refused, too; as an empty slot it would be left out
        rows = torch.where(graph.edge < 0, graph.num_slots, graph.edge)
    rows = torch.where(graph.source < 0, -1, rows)
    sign = None if aggr == "max" else values.new_full((values.shape[1],), -1)
    return edge_max(values, Graph(graph.ptr, rows), sign)[0]


def _check(op: str, aggr: str) -> None:
    if aggr not in AGGREGATIONS:
        raise ValueError(f"{op}: aggr must be one of {', '.join(AGGREGATIONS)}, got {aggr!r}")


def _count(graph: Graph, like: Tensor) -> Tensor:
    return graph.degree().clamp(min=1)[:, None].to(like.dtype)
