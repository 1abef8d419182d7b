"""What EdgeConv's network does to edges, with its first steps taken on nodes instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from polygraph.nn._choices import check_choice
from polygraph.ops.edge_conv import (
    AGGREGATIONS,
    activate,
    edge_aggregate,
    edge_conv_in_place,
    edge_max,
    edge_sum,
    edge_values,
)
from polygraph.ops.graph import Graph

Step = Callable[[Tensor], Tensor]
AGGREGATION_NAMES = {name: name for name in AGGREGATIONS} | {"add": "sum"}


def steps_of(network: Any) -> list[Step] | None:
    """The modules of a `torch.nn.Sequential`, a `torch_geometric.nn.MLP` or a single layer.

    None where the network is something else, or where somebody listens in with hooks, so that it
    must be called as it is.
    """
    if not isinstance(network, torch.nn.Module) or _has_hooks(network):
        return None
    if isinstance(network, torch.nn.Sequential):
        found: list[Step] = []
        for part in network:
            inner = steps_of(part)
            if inner is None:
                return None
            found += inner
        return found
    kind = type(network)
    if kind.__module__.startswith("torch_geometric.nn") and kind.__name__ == "MLP":
        return _steps_of_pyg_mlp(network)
    return [network]


def _has_hooks(module: torch.nn.Module) -> bool:
    return any(
        getattr(module, name)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    )


def _steps_of_pyg_mlp(mlp: Any) -> list[Step] | None:
    """In the order of its own forward."""
    found: list[Step] = []
    for i, lin in enumerate(mlp.lins):
        found.append(lin)
        if i < len(mlp.norms):
            norm = getattr(mlp.norms[i], "module", mlp.norms[i])
            steps = [norm] if mlp.act is None else [norm, mlp.act]
            found += steps[::-1] if mlp.act_first else steps
        if mlp.dropout[i] > 0:
            found.append(_Dropout(mlp, i))
    if any(isinstance(step, torch.nn.Module) and _has_hooks(step) for step in found):
        return None
    return found


class _Dropout:
    """A PyG MLP's dropout, which follows the MLP's mode."""

    def __init__(self, mlp: Any, place: int) -> None:
        self.mlp, self.place = mlp, place

    def __call__(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.mlp.dropout[self.place], self.mlp.training)


def is_linear(step: Any) -> bool:
    """Torch's or PyG's linear layer, and not a descendant that may do something else."""
    kind = type(step)
    return kind is torch.nn.Linear or (
        kind.__name__ == "Linear" and kind.__module__ == "torch_geometric.nn.dense.linear"
    )


def slope_of(step: Any) -> float | None:
    """Of what is max(x, slope x); None for everything else."""
    if type(step) is torch.nn.ReLU or step in (torch.relu, functional.relu):
        return 0.0
    if type(step) is torch.nn.LeakyReLU:
        return float(step.negative_slope)
    return 1.0 if type(step) is torch.nn.Identity else None


def can_split(steps: list[Step] | None) -> bool:
    """Whether the first step is a linear layer that is ready."""
    if not steps or not is_linear(steps[0]):
        return False
    linear: Any = steps[0]
    return not isinstance(linear.weight, torch.nn.parameter.UninitializedParameter)


class Split(NamedTuple):
    """A network's steps, the first of them linear."""

    linear: Any
    norm: Any  #: a BatchNorm behind it, or None
    slope: float  #: of the activation behind these, 1 for none
    rest: list[Step]  #: what acts on edges


def split(steps: list[Step]) -> Split:
    """What of a network is taken on nodes, and what is not."""
    rest = [step for step in steps[1:] if type(step) is not torch.nn.Identity]
    norm = rest.pop(0) if rest and type(rest[0]) is torch.nn.BatchNorm1d else None
    slope = slope_of(rest[0]) if rest else None
    if slope is not None:
        rest.pop(0)
    return Split(steps[0], norm, 1.0 if slope is None else slope, rest)


def edge_network(
    steps: list[Step], targets: Tensor, sources: Tensor, graph: Graph, aggr: str
) -> Tensor:
    """``aggr_j network([x_i, x_j - x_i])`` over the neighbours j of every target i.

    The first linear layer is applied to nodes, as ``u_i + v_j``. A BatchNorm behind it, in training
    too, needs sums over nodes alone, for with ``s_i = Σ_j v_j`` and d the numbers of edges the
    edges' mean is ``(Σ d_i u_i + Σ s_i) / E`` and their mean square
    ``(Σ d_i u_i² + Σ d_j v_j² + 2 Σ u_i s_i) / E``. So does a ReLU or leaky ReLU, and with nothing
    behind it nothing is ever stored for an edge; further steps act on the edges ``[E, D]``.

    Args:
        steps: of the network, the first of them linear.
        targets: ``[M, C]``.
        sources: ``[N, C]``.
        graph: M targets and N sources, without empty slots.
        aggr: of `polygraph.ops.edge_conv`, or ``"add"``.
    """
    check_choice("EdgeConv", "aggr", aggr, tuple(AGGREGATION_NAMES))
    aggr = AGGREGATION_NAMES[aggr]
    linear, norm, slope, rest = split(steps)
    C = sources.shape[1]
    if linear.weight.shape[1] != 2 * C:
        raise ValueError(
            f"EdgeConv: nn must take 2 * {C} = {2 * C} features, its first layer takes "
            f"{linear.weight.shape[1]}"
        )
    for_target = linear.weight[:, :C] - linear.weight[:, C:]
    for_source = linear.weight[:, C:]
    if norm is None:
        u = functional.linear(targets, for_target, linear.bias)
        v = functional.linear(sources, for_source)
        return _aggregate(u, v, graph, aggr, slope, rest)
    if not (norm.training or norm.running_mean is None):
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale
        shift = shift if norm.bias is None else shift + norm.bias
        bias = shift if linear.bias is None else shift + scale * linear.bias
        u = functional.linear(targets, scale[:, None] * for_target, bias)
        v = functional.linear(sources, scale[:, None] * for_source)
        return _aggregate(u, v, graph, aggr, slope, rest)
    # Centred, so that no variance is a small difference of large numbers. The normalisation takes
    # any constant away again; the bias, which is one, has a gradient of zero.
    middles = [
        -functional.linear(x.detach().mean(0), w).detach()
        for x, w in ((targets, for_target), (sources, for_source))
    ]
    offset = -(middles[0] + middles[1])
    if linear.bias is not None:
        offset = offset + linear.bias.detach()
        middles[0] = middles[0] + (linear.bias - linear.bias.detach())
    u = functional.linear(targets, for_target, middles[0])
    v = functional.linear(sources, for_source, middles[1])
    if aggr in ("max", "min") and not rest:
        sign = torch.ones_like(v[0]) if norm.weight is None else norm.weight.detach().sign()
        sign = torch.where(sign < 0, -1, 1).to(v.dtype)
        value, arg, total = edge_max(v, graph, sign if aggr == "max" else -sign, with_sum=True)
        scale, shift = _normalisation(norm, u, v, total, graph, offset)
        out = activate(((u + value) * scale + shift).to(u.dtype), slope)
        return torch.where(arg >= 0, out, 0)
    total = edge_sum(v, graph)
    scale, shift = _normalisation(norm, u, v, total, graph, offset)
    u, v = (u * scale + shift).to(u.dtype), (v * scale).to(v.dtype)
    return _aggregate(u, v, graph, aggr, slope, rest)


def _aggregate(
    u: Tensor, v: Tensor, graph: Graph, aggr: str, slope: float, rest: list[Step]
) -> Tensor:
    if not rest and slope >= 0:
        return edge_conv_in_place(u, v, graph, aggr, slope)
    values = edge_values(u, v, graph, slope)
    for step in rest:
        values = step(values)
    return edge_aggregate(values, graph, aggr)


def _normalisation(
    norm: Any, u: Tensor, v: Tensor, total: Tensor, graph: Graph, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """BatchNorm's scale and shift from the edges ``u_i + v_j``; updates its running statistics."""
    edges = graph.num_slots
    if edges <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got {edges} edges")
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    u, v, total = u.to(wide), v.to(wide), total.to(wide)
    into, out_of = graph.degree().to(wide), graph.source_degree(v.shape[0]).to(wide)
    mean = (into @ u + total.sum(0)) / edges
    square = (into @ u.square() + out_of @ v.square() + 2 * (u * total).sum(0)) / edges
    variance = (square - mean.square()).clamp(min=0)
    if norm.track_running_stats and norm.running_mean is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            share = norm.momentum
            if share is None:
                share = 1.0 / norm.num_batches_tracked.to(wide)
            unbiased = variance * (edges / (edges - 1))
            norm.running_mean.lerp_((mean + offset).to(norm.running_mean.dtype), share)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), share)
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias
