"""Edge-conditioned convolutions in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph.ops.graph import Graph
from polygraph.reference.edge_conv import aggregate, ends


def with_ones(phi: Tensor) -> Tensor:
    """``[E, H + 1]``: a column of ones behind the hidden features, which carries the biases."""
    return torch.cat([phi, phi.new_ones(phi.shape[0], 1)], 1)


def ecc(
    x: Tensor,
    phi: Tensor,
    weight: Tensor,
    graph: Graph,
    aggr: str = "sum",
    *,
    edge_weight: Tensor | None = None,
) -> Tensor:
    """``out_i = Σ_j γ_ij Θ_ijᵀ x_j`` with every matrix ``Θ_ij = Σ_h φ_ij,h W_h`` made, E x C x D.

    Arguments and result as in `polygraph.ops.ecc`.
    """
    target, source, row = ends(graph)
    hidden = phi if weight.shape[0] == phi.shape[1] else with_ones(phi)
    theta = torch.einsum("eh,hcd->ecd", hidden[row], weight)
    message = torch.einsum("ec,ecd->ed", x[source], theta)
    if edge_weight is not None:
        message = edge_weight[row, None] * message
    return aggregate(message, target, graph.num_targets, aggr)
