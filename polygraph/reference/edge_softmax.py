"""Softmax of edge scores in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from polygraph.ops.graph import Graph
from polygraph.reference.edge_conv import activated, ends


def edge_softmax(
    u: Tensor, v: Tensor, graph: Graph, slope: float = 1.0, over: str = "neighbours"
) -> Tensor:
    """``[E, H]``: softmax of act(u_i + v_j) over the neighbours j of i, or over the columns.

    Arguments and result as in `polygraph.ops.edge_softmax`.
    """
    target, source, row = ends(graph)
    score = activated(u[target] + v[source], slope)
    out = score.new_zeros(graph.num_slots, score.shape[1]) + score[:0].sum(0)
    if over == "features":
        return out.index_copy(0, row, score.softmax(1))
    for i in range(graph.num_targets):
        mine = target == i
        out = out.index_copy(0, row[mine], score[mine].softmax(0))
    return out
