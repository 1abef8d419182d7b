"""EdgeConv's sums and largest neighbours in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph.ops.graph import Graph, targets_of


def ends(graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """Target, source and row of edge features of every edge, empty slots left out."""
    target = targets_of(graph.ptr, graph.num_slots)
    row = torch.arange(graph.num_slots, device=target.device) if graph.edge is None else graph.edge
    filled = graph.source >= 0
    return target[filled], graph.source[filled], row[filled]


def aggregate(values: Tensor, target: Tensor, num_targets: int, aggr: str) -> Tensor:
    """``[M, D]``: edges' values ``[E, D]`` over their targets; 0 where there are none."""
    out = values.new_zeros(num_targets, values.shape[1]) + values[:0].sum(0)
    if aggr in ("max", "min"):
        # One target after the other: among equals the first edge takes the gradient.
        rows = []
        for i in range(num_targets):
            mine = values[target == i]
            rows.append(getattr(mine, aggr)(0).values if len(mine) else out[i])
        return torch.stack(rows) if rows else out
    out = out.index_add(0, target, values)
    if aggr == "mean":
        count = torch.bincount(target, minlength=num_targets).clamp(min=1)
        out = out / count[:, None].to(out.dtype)
    return out


def activated(value: Tensor, slope: float) -> Tensor:
    """``slope value`` where it is not positive, and there 0 with a slope of 0."""
    return torch.where(value <= 0, slope * value if slope else 0, value)


def edge_values(u: Tensor, v: Tensor, graph: Graph, slope: float = 1.0) -> Tensor:
    """``[E, D]``: act(u_i + v_j) of every edge, in the rows of edge features."""
    target, source, row = ends(graph)
    value = activated(u[target] + v[source], slope)
    return value.new_zeros(graph.num_slots, value.shape[1]).index_copy(0, row, value)


def edge_conv(
    u: Tensor,
    v: Tensor,
    graph: Graph,
    aggr: str = "max",
    slope: float = 1.0,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    """Aggregate ``weight_ij act(u_i + v_j)`` over the neighbours j of i.

    Arguments and result as in `polygraph.ops.edge_conv`. Stores E x D.
    """
    target, source, row = ends(graph)
    if aggr in ("max", "min"):
        # act(u_i + v_j) rises with v_j, but where infinities of both signs meet.
        value = activated(u + aggregate(v[source], target, graph.num_targets, aggr), slope)
        filled = torch.bincount(target, minlength=graph.num_targets) > 0
        return torch.where(filled[:, None], value, 0)
    value = activated(u[target] + v[source], slope)
    if weight is not None:
        value = weight[row, None] * value
    return aggregate(value, target, graph.num_targets, aggr)


def edge_aggregate(values: Tensor, graph: Graph, aggr: str = "max") -> Tensor:
    """Aggregate edge features ``[E, D]`` over the edges of each target: ``[M, D]``."""
    target, _, row = ends(graph)
    return aggregate(values[row], target, graph.num_targets, aggr)
