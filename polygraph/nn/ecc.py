"""Edge-conditioned convolutions: PyG's NNConv without matrices of edges; the lightweight one."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch_geometric
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn.conv import MessagePassing

from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.center import centered
from polygraph.nn.edge_mlp import steps_of
from polygraph.nn.message_passing import (
    Steps,
    graph_of,
    pair_of,
    takes_strided,
    warn_once,
    with_int64,
)
from polygraph.nn.ordinary import first_weight, input_width, is_lazy, is_linear, slope_of
from polygraph.ops import ecc, edge_dist2
from polygraph.ops.ecc import EdgeLayer
from polygraph.ops.graph import Graph, targets_of

SUMS = {"add": "sum", "sum": "sum", "mean": "mean"}
STEPS = Steps(torch_geometric.nn.NNConv)


class NNConv(torch_geometric.nn.NNConv):  # type: ignore[misc]  # PyG's base class has no types
    """``x'_i = W x_i + aggr_j Θ(e_ij)ᵀ x_j + b``: PyG's NNConv, the same in every respect but cost.

    The edge network's last linear layer, which makes a matrix ``Θ`` for every edge, is taken to the
    nodes: see `polygraph.ops.ecc`. An edge network that does not end with one, or has hooks, and
    aggregations other than sums and means, are computed by PyG, with one warning. So is, without
    one, whatever lets anybody see the edges: hooks on the way, an explainer, a method such as
    ``message`` replaced by a descendant or on the instance.

    Source: Gilmer et al., "Neural Message Passing for Quantum Chemistry", ICML 2017; Simonovsky and
    Komodakis, "Dynamic Edge-Conditioned Filters", CVPR 2017.

    Args:
        in_channels: C, or a pair of sources' and targets'.
        out_channels: D.
        nn: maps edge features ``[E, F]`` to ``[E, C * D]``.
        aggr: ``"add"`` (``"sum"``) or ``"mean"``; any other of PyG's, a module or a list of them is
            computed by PyG.
        root_weight: add ``W x_i``.
        bias: add ``b``.
        **kwargs: of PyG's `MessagePassing`, such as ``flow``.

    Call it with nodes ``[N, C]`` or a pair, ``edge_index [2, E]`` of any integer dtype and
    ``edge_attr [E, F]``; it returns ``[M, D]``. Deterministic, differentiable any number of times.

    Raises:
        ValueError: ``edge_index`` is out of range, ``edge_attr`` has other than E rows, ``x`` or
            the edge network's output another width than C or C * D.

    Example:
        >>> import torch
        >>> from polygraph.nn import NNConv
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> network = Sequential(Linear(2, 8), ReLU(), Linear(8, 3 * 4))
        >>> layer = NNConv(3, 4, network, aggr="mean")
        >>> edge_index, edge_attr = torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.randn(3, 2)
        >>> layer(torch.randn(5, 3), edge_index, edge_attr).shape
        torch.Size([5, 4])

    See Also:
        `ECConv`, its other name; `LightECConv`, of low rank; `ECMeshConv`, on a mesh;
        `polygraph.ops.ecc`, the operator.
    """

    propagate = MessagePassing.propagate  # to which explainers return, not what PyG's layer has got

    def forward(
        self, x: Any, edge_index: Any, edge_attr: Tensor | None = None, size: Any = None
    ) -> Tensor:
        """``x`` is ``[N, C]`` or ``([N, C], [M, C'] or None)``."""
        # propagate_type: (x: OptPairTensor, edge_attr: OptTensor)
        pair = pair_of("NNConv", x)
        check_tensors("NNConv", edge_attr=edge_attr)
        edge_index = with_int64(edge_index)
        aggr = STEPS.aggregation(self)
        steps = None
        if edge_attr is not None and takes_strided(edge_index, *pair):
            steps = self._fused_steps(aggr)
        self._check_dtypes(pair, edge_attr)
        if edge_attr is None or aggr is None or steps is None:
            return self._plain(x, edge_index, edge_attr, size)
        sources, targets = pair
        if size is not None:
            num_targets = size[1 if self.flow == "source_to_target" else 0]
        else:
            num_targets = sources.shape[0] if targets is None else targets.shape[0]
        graph = graph_of("NNConv", edge_index, self.flow, sources.shape[0], num_targets)
        last: Any = steps[-1]
        C, D = self.in_channels_l, self.out_channels
        if sources.shape[1] != C:
            raise ValueError(f"NNConv: x must have {C} channels, got {sources.shape[1]}")
        weight, bias = last.weight, last.bias  # read once: they may be computed
        if weight.shape[0] != C * D:
            raise ValueError(
                f"NNConv: nn must make {C} * {D} = {C * D} features, its last layer makes "
                f"{weight.shape[0]}"
            )
        if edge_attr.shape[0] != graph.num_slots:
            raise ValueError(
                f"NNConv: edge_attr must have one row per edge, {graph.num_slots}, got "
                f"{list(edge_attr.shape)}"
            )
        width = input_width(steps[0])
        if edge_attr.dim() != 2 or (width is not None and edge_attr.shape[1] != width):
            wanted = "F" if width is None else width
            raise ValueError(
                f"NNConv: edge_attr must have shape [E, {wanted}], which nn takes, got "
                f"{list(edge_attr.shape)}"
            )
        weight = weight.t().view(weight.shape[1], C, D)
        bias = None if bias is None else bias.view(C, D)
        phi = hidden_of(edge_attr, steps[:-1])
        out = ecc(sources, phi, weight, graph, aggr, bias=bias)
        if targets is not None and self.root_weight:
            out = out + self.lin(targets)
        return out if self.bias is None else out + self.bias

    def _check_dtypes(self, pair: tuple[Any, ...], edge_attr: Tensor | None) -> None:
        """Where a linear layer reads an input, its dtype must be the layer's."""
        weights = {
            "x": self.lin._parameters.get("weight") if self.root_weight else self.bias,
            "edge_attr": first_weight(self.nn),
        }
        for name, value in (("x", pair[0]), ("edge_attr", edge_attr)):
            weight = weights[name]
            if value is not None and weight is not None:
                check_dtype("NNConv", name, value, weight)

    def _fused_steps(self, aggr: str | None) -> list[Any] | None:
        """The edge network's steps, the last of which is taken to the nodes; None: PyG computes."""
        if aggr is not None and aggr not in SUMS:
            warn_once("NNConv", f"aggregation {aggr} needs the messages of edges")
        if aggr not in SUMS:
            return None
        steps = steps_of(self.nn)
        if steps and is_linear(steps[-1]):
            return steps
        if not is_lazy(self.nn):
            warn_once("NNConv", "nn does not end with a linear layer, or has hooks")
        return None

    def _plain(self, *arguments: Any) -> Tensor:
        out: Tensor = super().forward(*arguments)
        return out


def hidden_of(features: Tensor, steps: list[Any]) -> Tensor | EdgeLayer:
    """What the steps make of edge features; a last linear layer and its activation unmade."""
    slope = slope_of(steps[-1]) if len(steps) > 1 else None
    layer: Any = steps[-2] if slope is not None and slope >= 0 else None
    bias = layer.bias if is_linear(layer) else None
    for step in steps if bias is None else steps[:-2]:
        features = step(features)
    return features if bias is None else EdgeLayer(features, layer.weight, bias, slope or 0.0)


ECConv = NNConv


class DifferenceHidden(torch.nn.Module):
    """Hidden features of edges from the difference of their ends: ``act(W (x_j - x_i) + b)``.

    Made from nodes, as ``u_i + v_j`` with ``u = b - (x - c) Wᵀ`` and ``v = (x - c) Wᵀ``; any c will
    do, one in the midst of the nodes keeps the digits of their differences.

    Args:
        in_channels: C.
        hidden: H.
        slope: of the leaky ReLU.
    """

    def __init__(self, in_channels: int, hidden: int, slope: float = 0.2) -> None:
        super().__init__()
        self.lin = torch.nn.Linear(in_channels, hidden)
        self.slope = slope
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Hidden features start with a mean square of 1, for independent ends of variance 1."""
        mean_square = (1 + self.slope**2) / 2
        spread = 1 / math.sqrt(2 * self.lin.in_features * mean_square)
        torch.nn.init.normal_(self.lin.weight, std=spread)
        torch.nn.init.zeros_(self.lin.bias)

    def forward(self, x: Tensor, graph: Graph) -> Tensor | tuple[Tensor, Tensor, float]:
        """``(u, v, slope)``, as `polygraph.ops.ecc` takes them.

        Or, where the linear layer must be called (see `polygraph.nn.ordinary`), the features of the
        edges of ``graph`` themselves, ``[E, H]``.

        Args:
            x: ``[N, C]``.
            graph: of these nodes.
        """
        if not is_linear(self.lin):
            differences = edge_differences(x, graph)
            return functional.leaky_relu(self.lin(differences), self.slope)
        near, _ = centered(x, x)
        v, bias = functional.linear(near, self.lin.weight), self.lin.bias
        return -v if bias is None else bias - v, v, self.slope


def edge_differences(x: Tensor, graph: Graph) -> Tensor:
    """``[E, C]``: ``x_j - x_i`` of every edge, in the rows of edge features.

    Of empty slots, which nobody reads, those of an edge from node 0.
    """
    targets = targets_of(graph.ptr, graph.num_slots)
    found = x.index_select(0, graph.source.clamp(min=0)) - x.index_select(0, targets)
    if graph.edge is None:
        return found
    return torch.zeros_like(found).index_copy(0, graph.edge, found)


def attention(x: Tensor, graph: Graph, delta: float) -> Tensor:
    """``γ_ij = exp(-|x_j - x_i|² / delta)`` of every edge ``[E]``, in the order of its features."""
    return torch.exp(edge_dist2(x, graph) / -delta)
