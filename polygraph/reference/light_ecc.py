"""Lightweight edge-conditioned convolution in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph.ops.graph import Graph
from polygraph.reference.ecc import with_ones
from polygraph.reference.edge_conv import aggregate, ends


def light_ecc(
    x: Tensor,
    phi: Tensor,
    left: Tensor,
    right: Tensor,
    kappa: Tensor,
    graph: Graph,
    aggr: str = "mean",
    *,
    edge_weight: Tensor | None = None,
) -> Tensor:
    """``out_i = Σ_j γ_ij Σ_r κ_ij,r θL_ij,r (θR_ij,r · x_j)`` with θL and θR made, E x R x (C + D).

    Arguments and result as in `polygraph.ops.light_ecc`.
    """
    target, source, row = ends(graph)
    hidden = with_ones(phi)[row]
    theta_left = torch.einsum("eh,rdh->erd", hidden, left)
    theta_right = torch.einsum("eh,rch->erc", hidden, right)
    factor = torch.einsum("eh,rh->er", hidden, kappa)
    factor = factor * torch.einsum("erc,ec->er", theta_right, x[source])
    message = torch.einsum("er,erd->ed", factor, theta_left)
    if edge_weight is not None:
        message = edge_weight[row, None] * message
    return aggregate(message, target, graph.num_targets, aggr)
