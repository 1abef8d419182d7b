"""What EdgeConv's network does to edges, with its first steps taken on nodes instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from polygraph._checks import check_choice
from polygraph.nn.center import middle_of
from polygraph.nn.ordinary import (
    is_linear,
    is_ordinary,
    is_pyg,
    is_sequence,
    output_width,
    slope_of,
)
from polygraph.ops.common import decide
from polygraph.ops.edge_conv import AGGREGATIONS, edge_aggregate, edge_conv_in_place
from polygraph.ops.edge_max import edge_max
from polygraph.ops.edge_sum import activate, edge_sum, edge_values
from polygraph.ops.graph import Graph

Step = Callable[[Tensor], Tensor]
AGGREGATION_NAMES = {name: name for name in AGGREGATIONS} | {"add": "sum"}


def steps_of(network: Any) -> list[Step] | None:
    """The modules of a `torch.nn.Sequential`, a `torch_geometric.nn.MLP` or a single layer.

    None where the network must be called as it is: it is something else, or somebody would miss
    the call of it or of what it consists of (see `polygraph.nn.ordinary`). Whether a step itself
    may be looked into is another question.
    """
    if not isinstance(network, nn.Module):
        return None
    if isinstance(network, nn.Sequential):
        if not is_sequence(network):
            return None
        found: list[Step] = []
        for part in network:
            # A part that must be called as it is is a step.
            found += steps_of(part) or [part]
        return found
    if is_pyg(network, "models.mlp", "MLP"):
        return _steps_of_pyg_mlp(network)
    return [network]


def _steps_of_pyg_mlp(mlp: Any) -> list[Step]:
    """In the order of its own forward."""
    found: list[Step] = []
    for i, lin in enumerate(mlp.lins):
        found.append(lin)
        if i < len(mlp.norms):
            steps = [mlp.norms[i]] if mlp.act is None else [mlp.norms[i], mlp.act]
            found += steps[::-1] if mlp.act_first else steps
        if mlp.dropout[i] > 0:
            found.append(_Dropout(mlp, i))
    return found


class _Dropout:
    """A PyG MLP's dropout, which follows the MLP's mode."""

    def __init__(self, mlp: Any, place: int) -> None:
        self.mlp, self.place = mlp, place

    def __call__(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.mlp.dropout[self.place], self.mlp.training)


class Norm(NamedTuple):
    """A BatchNorm that may be looked into."""

    module: nn.BatchNorm1d
    allows_single: bool  #: PyG's: fewer than two rows are normalised as in evaluation


class Split(NamedTuple):
    """A network's steps, the first of them linear."""

    weight: Tensor  #: of the linear layer, read once: it may be computed
    bias: Tensor | None
    norm: Norm | None  #: after the linear layer
    slope: float  #: of the activation after these, 1 for none
    rest: list[Step]  #: what acts on edges


def split(steps: list[Step]) -> Split:
    """What of a network is taken on nodes, and what is not.

    Raises:
        ValueError: a BatchNorm after the linear layer is for another number of channels.
    """
    linear: Any = steps[0]
    weight = linear.weight
    rest = [step for step in steps[1:] if not is_ordinary(step, nn.Identity)]
    norm = _norm_of(rest[0]) if rest else None
    if norm is not None:
        rest.pop(0)
        _check_channels(norm.module, weight.shape[0])
    slope = slope_of(rest[0]) if rest else None
    if slope is not None:
        rest.pop(0)
    return Split(weight, linear.bias, norm, 1.0 if slope is None else slope, rest)


def check_norm(network: Any) -> None:
    """Refuse a BatchNorm after a linear layer with another number of channels, as `split` does."""
    steps = steps_of(network)
    if steps and len(steps) > 1 and is_linear(steps[0]):
        norm = _norm_of(steps[1])
        if norm is not None:
            _check_channels(norm.module, output_width(steps[0]))


def _check_channels(norm: nn.BatchNorm1d, channels: int) -> None:
    if (norm.affine or norm.running_mean is not None) and norm.num_features != channels:
        raise ValueError(
            f"EdgeConv: BatchNorm1d must have num_features = {channels}, the channels of the "
            f"linear layer before it, got num_features = {norm.num_features}"
        )


def _norm_of(step: Any) -> Norm | None:
    """Torch's BatchNorm, or PyG's around it."""
    if is_pyg(step, "norm.batch_norm", "BatchNorm") and is_ordinary(step.module, nn.BatchNorm1d):
        return Norm(step.module, step.allow_single_element)
    return Norm(step, False) if is_ordinary(step, nn.BatchNorm1d) else None


def edge_network(
    network: Split,
    targets: Tensor,
    sources: Tensor,
    graph: Graph,
    aggr: str,
    *,
    near: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``aggr_j network([x_i, x_j - x_i])`` over the neighbors j of every target i.

    The first linear layer, ``Wψ x_i + Wφ (x_j - x_i) + b``, is applied to nodes, as ``u_i + v_j``
    with ``u_i = (Wψ - Wφ) (x_i - c) + Wψ c + b`` and ``v_j = Wφ (x_j - c)``. Any c will do; one
    near the nodes keeps the digits of their differences. A BatchNorm after it, in training too,
    needs sums over nodes alone, for with ``s_i = Σ_j v_j`` and d the numbers of edges the edges'
    mean is ``(Σ d_i u_i + Σ s_i) / E`` and their mean square ``(Σ d_i u_i² + Σ d_j v_j² +
    2 Σ u_i s_i) / E``. So does a ReLU or leaky ReLU, and with nothing after it nothing is ever
    stored for an edge; further steps act on the edges ``[E, D]``.

    Args:
        network: what `split` makes of its steps.
        targets: ``[M, C]``.
        sources: ``[N, C]``; the very tensor ``targets`` where they are the same nodes.
        graph: M targets and N sources, without empty slots.
        aggr: of `polygraph.ops.edge_conv`, or ``"add"``.
        near: targets and sources less c, where c may be another one for nodes that no edge joins;
            None: one c in the midst of all.

    Raises:
        ValueError: ``aggr`` is none of these, the first layer is for other features; in training a
            BatchNorm gets a single edge.
    """
    if aggr not in AGGREGATION_NAMES:
        check_choice("EdgeConv", "aggr", aggr, AGGREGATION_NAMES)
    aggr = AGGREGATION_NAMES[aggr]
    weight, bias, norm, slope, rest = network
    C = sources.shape[1]
    if weight.shape[1] != 2 * C:
        raise ValueError(
            f"EdgeConv: nn must take 2 * {C} = {2 * C} features, its first layer takes "
            f"{weight.shape[1]}"
        )
    if norm is not None:
        if _takes_statistics(norm, graph):
            return _with_statistics(network, targets, sources, graph, aggr, near)
        scale, shift = _fixed_normalisation(norm.module, weight)
        bias = shift if bias is None else shift + scale * bias
        weight = scale[:, None] * weight
    middle = middle_of(sources) if near is None else None
    if middle is not None:
        near_sources = sources - middle
        targets = near_sources if targets is sources else targets - middle
        sources = near_sources
        moved = functional.linear(middle, weight[:, :C])[0]
        bias = moved if bias is None else moved + bias
    u, v = _node_values(weight, bias, targets, *(near or (targets, sources)))
    return _aggregate(u, v, graph, aggr, slope, rest)


def _node_values(
    weight: Tensor, bias: Tensor | None, targets: Tensor, near_targets: Tensor, near_sources: Tensor
) -> tuple[Tensor, Tensor]:
    """U and v."""
    C = targets.shape[1]
    of_target, of_difference = weight[:, :C], weight[:, C:]
    if targets is near_targets:
        u = functional.linear(targets, of_target - of_difference, bias)
        return u, functional.linear(near_sources, of_difference)
    v = functional.linear(near_sources, of_difference)
    back = v if near_targets is near_sources else functional.linear(near_targets, of_difference)
    return functional.linear(targets, of_target, bias).sub_(back), v


def _takes_statistics(norm: Norm, graph: Graph) -> bool:
    """Whether a BatchNorm normalises by the edges at hand.

    By no edges at all it does not; it counts them, as PyTorch does.
    """
    module = norm.module
    if not (module.training or module.running_mean is None):
        return False
    edges = graph.num_slots
    several = decide(edges > 1, default=True)
    if several or norm.allows_single:
        return several
    if edges == 1:
        raise ValueError(
            "EdgeConv: BatchNorm1d expects more than 1 value per channel when training, got 1 edge"
        )
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
    return False


def _fixed_normalisation(norm: nn.BatchNorm1d, like: Tensor) -> tuple[Tensor, Tensor]:
    """BatchNorm's scale and shift ``[D]`` from its running statistics, if it has any."""
    if norm.running_mean is None or norm.running_var is None:
        scale, shift = like.new_ones(like.shape[0]), like.new_zeros(like.shape[0])
    else:
        scale = torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight, shift * norm.weight
    return scale, shift if norm.bias is None else shift + norm.bias


def _with_statistics(
    network: Split,
    targets: Tensor,
    sources: Tensor,
    graph: Graph,
    aggr: str,
    near: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """`edge_network` with a BatchNorm in training after the linear layer.

    Nodes are centered: no variance is a small difference of large numbers. The normalisation
    takes any constant away again; the bias, which is one, has a gradient of zero.
    """
    weight, bias, batch_norm, slope, rest = network
    assert batch_norm is not None
    norm = batch_norm.module
    C, fixed = targets.shape[1], weight.detach()
    of_target, of_difference = fixed[:, :C], fixed[:, C:]
    shared = near is None and targets is sources
    near_targets, near_sources = (targets, sources) if near is None else near
    middle, middle_near = _mean(targets), _mean(near_targets)
    offset = functional.linear(middle, of_target)
    if bias is not None:
        offset, bias = offset + bias.detach(), bias - bias.detach()
    targets = targets - middle
    if shared:
        near_targets = near_sources = targets
    else:
        middle_of_sources = _mean(near_sources)
        offset = offset + functional.linear(middle_of_sources - middle_near, of_difference)
        near_targets, near_sources = near_targets - middle_near, near_sources - middle_of_sources
    u, v = _node_values(weight, bias, targets, near_targets, near_sources)
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


def _mean(x: Tensor) -> Tensor:
    """``[C]``: of nodes ``[N, C]``, without a gradient; sums of half types are taken in float32."""
    half = x.dtype in (torch.float16, torch.bfloat16)
    return x.detach().mean(0, dtype=torch.float32 if half else None).to(x.dtype)


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
