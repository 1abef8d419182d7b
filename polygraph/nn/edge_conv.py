"""EdgeConv and its dynamic version: PyG's layers, without anything of the size of the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch_geometric
from torch import Tensor
from torch_geometric.nn.conv import MessagePassing

from polygraph._checks import as_index, check_positive
from polygraph._inputs import check_dtype
from polygraph.nn.center import near_first_points
from polygraph.nn.edge_mlp import Split, check_norm, edge_network, split, steps_of
from polygraph.nn.knn import knn_neighbors
from polygraph.nn.message_passing import (
    Steps,
    graph_of,
    pair_of,
    takes_strided,
    warn_once,
    with_int64,
)
from polygraph.nn.ordinary import first_weight, is_lazy, is_linear
from polygraph.ops.graph import Graph, targets_of

_STEPS = Steps(torch_geometric.nn.EdgeConv)
_DYNAMIC_STEPS = Steps(torch_geometric.nn.DynamicEdgeConv)


def _split(owner: str, network: Any) -> Split | None:
    """A network whose first steps are taken on nodes; None, with a warning: it is called."""
    steps = steps_of(network)
    if steps and is_linear(steps[0]):
        return split(steps)
    if not is_lazy(network):
        warn_once(owner, "nn does not begin with a linear layer, or has hooks")
    return None


def _check_dtypes(owner: str, pair: tuple[Any, ...], network: Any) -> None:
    """Where a linear layer reads the nodes, their dtype must be the layer's."""
    weight = first_weight(network)
    if weight is not None:
        for name, nodes in zip(("x", "x[1]"), pair, strict=True):
            check_dtype(owner, name, nodes, weight)


class EdgeConv(torch_geometric.nn.EdgeConv):  # type: ignore[misc]  # PyG's base class has no types
    """``x'_i = aggr_j nn([x_i, x_j - x_i])``: PyG's EdgeConv, the same in every respect but cost.

    The network's first linear layer, a BatchNorm after it (in training too) and a ReLU or leaky
    ReLU are computed from nodes: see `polygraph.nn.edge_mlp.edge_network`. What follows acts on
    edges. A network that does not begin with a linear layer, or has hooks, is called as it is,
    with one warning. Where anybody could see the edges, PyG propagates: with hooks on the way, an
    explainer, or a method such as ``message`` replaced by a descendant or on the instance. Among
    equal maxima the first edge takes the gradient, where PyG shares it.

    Nodes far from the origin keep their digits, as in PyG: see `polygraph.nn.center`.
    Where one ``x`` holds several clouds, far from each other as seen from their own size, each in
    one place, move every cloud to the origin first (`DynamicEdgeConv` does so by itself).

    Source: Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", ACM TOG 2019.

    Args:
        nn: maps ``[E, 2 C]`` to ``[E, D]``; a `torch.nn.Sequential`, a `torch_geometric.nn.MLP` or
            any module.
        aggr: ``"max"``, ``"add"`` (``"sum"``), ``"mean"`` or ``"min"``; any other of PyG's, a
            module or a list of them is computed by PyG.
        **kwargs: of PyG's `MessagePassing`, such as ``flow``.

    Call it with nodes ``[N, C]``, or a pair of sources and targets, and ``edge_index [2, E]`` of
    any integer dtype; it returns ``[N, D]``, 0 for a node without neighbors. Multi-edges count as
    often as they occur. Deterministic, differentiable any number of times.

    Raises:
        ValueError: ``edge_index`` is out of range, or the network takes another width.

    Example:
        >>> import torch
        >>> from polygraph.nn import EdgeConv, knn_graph
        >>> x = torch.randn(100, 3)
        >>> layer = EdgeConv(torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU()))
        >>> layer(x, knn_graph(x, k=8)).shape
        torch.Size([100, 16])

    See Also:
        `DynamicEdgeConv`, which finds the edges itself; `EdgeMeshConv`, on a mesh;
        `polygraph.ops.edge_conv`, the operator.
    """

    propagate = MessagePassing.propagate  # to which explainers return, not what PyG's layer has got

    def forward(self, x: Any, edge_index: Any) -> Tensor:
        """``x`` is ``[N, C]`` or ``([N, C], [M, C])``."""
        # propagate_type: (x: PairTensor)
        pair = pair_of("EdgeConv", x)
        _check_dtypes("EdgeConv", pair, self.nn)
        edge_index = with_int64(edge_index)
        aggr = _STEPS.aggregation(self)
        if aggr is None or not takes_strided(edge_index, *pair):
            check_norm(self.nn)
            return self._plain(x, edge_index)
        network = _split("EdgeConv", self.nn)
        if network is None:
            return self._plain(x, edge_index)
        sources, targets = pair
        nodes = (sources.shape[0], targets.shape[0])
        graph = graph_of("EdgeConv", edge_index, self.flow, *nodes, with_edge=len(network.rest) > 0)
        return edge_network(network, targets, sources, graph, aggr)

    def _plain(self, x: Any, edge_index: Any) -> Tensor:
        out: Tensor = super().forward(x, edge_index)
        return out


class DynamicEdgeConv(torch_geometric.nn.DynamicEdgeConv):  # type: ignore[misc]  # as above
    """`EdgeConv` over the k nearest neighbors in feature space, found anew in every call.

    PyG's DynamicEdgeConv without pyg-lib and its limits: same arguments, semantics (a point is one
    of its own neighbors), state_dict, hooks and explanations; what `EdgeConv` says of networks
    and aggregations holds here, too.

    Args:
        nn: as of `EdgeConv`.
        k: neighbors; all points of a sample that has fewer.
        aggr: as of `EdgeConv`.
        num_workers: without effect (PyTorch's threads are used); for compatibility.
        **kwargs: of PyG's `MessagePassing`, but ``flow``.

    Call it with points ``[N, C]``, or a pair of sources and targets, and ``batch [N]`` (or a pair);
    it returns ``[N, D]``. Samples may lie anywhere: the points of each keep their digits.

    Raises:
        ValueError: ``k`` is not a positive integer, ``x`` not ``[N, C]``, a batch vector falls, or
            the network takes another width.
        RuntimeError: from `polygraph.ops.knn`: a value is NaN or inf.

    Example:
        >>> import torch
        >>> from polygraph.nn import DynamicEdgeConv
        >>> layer = DynamicEdgeConv(torch.nn.Linear(6, 16), k=8)
        >>> layer(torch.randn(100, 3)).shape
        torch.Size([100, 16])

    See Also:
        `EdgeConv`, of given edges; `knn_graph`, which finds the same neighbours;
        `polygraph.models.DGCNNClassifier`.
    """

    propagate = MessagePassing.propagate  # as above

    def __init__(
        self,
        nn: Callable[..., Tensor],
        k: int,
        aggr: Any = "max",
        num_workers: int = 1,
        **kwargs: Any,
    ) -> None:
        # Not PyG's constructor: it asks for a compiled library, which is not needed here.
        MessagePassing.__init__(self, aggr=aggr, flow="source_to_target", **kwargs)
        check_positive("DynamicEdgeConv", k=k)
        self.nn = nn
        self.k = as_index(k)
        self.num_workers = num_workers
        self.reset_parameters()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        batch: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    ) -> Tensor:
        """``x`` is ``[N, C]`` or ``([N, C], [M, C])``, of sources and targets."""
        # propagate_type: (x: PairTensor)
        sources, targets = pair = pair_of("DynamicEdgeConv", x)
        _check_dtypes("DynamicEdgeConv", pair, self.nn)
        if sources.dim() != 2:
            raise ValueError("Static graphs not supported in DynamicEdgeConv")
        batches = batch if isinstance(batch, tuple) else (batch, batch)
        graph = knn_neighbors("DynamicEdgeConv", sources, targets, self.k, *batches)
        aggr = _DYNAMIC_STEPS.aggregation(self)
        network = None if aggr is None else _split("DynamicEdgeConv", self.nn)
        if aggr is None or network is None:
            check_norm(self.nn)
            out: Tensor = self.propagate(_edge_index_of(graph), x=pair, size=None)
            return out
        near = near_first_points(targets, sources, *batches)
        return edge_network(network, targets, sources, graph, aggr, near=near)


def _edge_index_of(graph: Graph) -> Tensor:
    """PyG's ``[2, E]`` of a graph without empty slots, by target."""
    return torch.stack((graph.source, targets_of(graph.ptr, graph.num_slots)))
