"""EdgeConv and its dynamic version: PyG's layers, without anything of the size of the edges."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch_geometric
from torch import Tensor
from torch_geometric.nn.inits import reset
from torch_geometric.typing import PairTensor

from polygraph.nn.edge_mlp import AGGREGATION_NAMES, can_split, edge_network, split, steps_of
from polygraph.nn.knn import knn_neighbours
from polygraph.ops import _common
from polygraph.ops.graph import Graph, graph_from_coo, scan_edges

_WARNED: set[str] = set()


def graph_of(
    owner: str,
    edge_index: Tensor,
    flow: str,
    num_sources: int,
    num_targets: int,
    *,
    with_edge: bool = True,
) -> Graph:
    """The graph of PyG's ``edge_index [2, E]``; nothing is sorted where it says that it is.

    Args:
        owner: named in errors.
        edge_index: a tensor or a `torch_geometric.EdgeIndex`.
        flow: ``"source_to_target"``: row 0 holds the sources; else row 1 does.
        num_sources: N.
        num_targets: M.
        with_edge: of `polygraph.ops.graph_from_coo`.

    Raises:
        ValueError: it is not int64 of shape ``[2, E]``, or on the CPU an entry is out of range.
    """
    order = getattr(edge_index, "sort_order", None)
    if order is not None:
        edge_index = edge_index.as_tensor()  # type: ignore[attr-defined]
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(
            f"{owner}: edge_index must be int64 of shape [2, E], got {edge_index.dtype} "
            f"{list(edge_index.shape)}"
        )
    target = 1 if flow == "source_to_target" else 0
    is_sorted = order is not None and str(getattr(order, "value", order)) == ("row", "col")[target]
    ends = edge_index[1 - target], edge_index[target]
    if not _common.takes_cuda_kernels(edge_index) and not torch.compiler.is_compiling():
        # A look costs a tenth of a sort; on CUDA it would wait for the device.
        graph, wrong = scan_edges(*ends, num_sources, num_targets)
        if wrong is not None:
            row = wrong[0] if target == 1 else 1 - wrong[0]
            size = (num_sources, num_targets)[wrong[0]]
            raise ValueError(
                f"{owner}: edge_index must lie in [0, {size}) in row {row}, got {wrong[1]}"
            )
        if graph is not None:
            return graph
        is_sorted = False
    return graph_from_coo(
        *ends, num_sources, num_targets, sorted_by_target=is_sorted, with_edge=with_edge
    )


def warn_once(owner: str, reason: str) -> None:
    """Say, once a process and reason, that a layer takes the plain way."""
    if reason not in _WARNED:
        _WARNED.add(reason)
        warnings.warn(f"{owner}: {reason}; computed edge by edge, as in PyG", stacklevel=3)


def is_plain(layer: Any, edge_index: Any) -> bool:
    """Whether PyG's machinery must run: hooks, explanations, or other kinds of graphs."""
    listening = any(
        getattr(layer, f"_{step}_forward_{when}", None)
        for step in ("propagate", "message", "aggregate")
        for when in ("pre_hooks", "hooks")
    )
    return (
        listening
        or bool(getattr(layer, "explain", False))
        or not isinstance(edge_index, Tensor)
        or edge_index.layout != torch.strided
    )


class EdgeConv(torch_geometric.nn.EdgeConv):  # type: ignore[misc]  # PyG's base class has no types
    """``x'_i = aggr_j nn([x_i, x_j - x_i])``: PyG's EdgeConv, the same in every respect but cost.

    The network's first linear layer, a BatchNorm behind it (in training too) and a ReLU or leaky
    ReLU are computed from nodes: see `polygraph.nn.edge_mlp.edge_network`. What follows acts on
    edges. A network that does not begin with a linear layer, or has hooks, is called as it is,
    with one warning. Among equal maxima the first edge takes the gradient, where PyG shares it.

    Source: Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", ACM TOG 2019.

    Args:
        nn: maps ``[E, 2 C]`` to ``[E, D]``; a `torch.nn.Sequential`, a `torch_geometric.nn.MLP` or
            any module.
        aggr: ``"max"``, ``"add"`` (``"sum"``), ``"mean"`` or ``"min"``; any other of PyG's is
            computed by PyG.
        **kwargs: of PyG's `MessagePassing`, such as ``flow``.

    Call it with nodes ``[N, C]``, or a pair of sources and targets, and ``edge_index [2, E]``; it
    returns ``[N, D]``, 0 for a node without neighbours. Multi-edges count as often as they
    occur. Deterministic, differentiable any number of times.

    Raises:
        ValueError: ``edge_index`` is out of range, or the network takes another width.
    """

    propagate_type: ClassVar = {"x": PairTensor}  # what PyG would look for in forward's source

    def forward(self, x: Any, edge_index: Any) -> Tensor:
        """``x`` is ``[N, C]`` or ``([N, C], [M, C])``."""
        pair = (x, x) if isinstance(x, Tensor) else tuple(x)
        steps = steps_of(self.nn)
        if (
            is_plain(self, edge_index)
            or self.aggr not in AGGREGATION_NAMES
            or any(part.dim() != 2 for part in pair)
        ):
            return self._plain(x, edge_index)
        if not can_split(steps):
            warn_once("EdgeConv", "nn does not begin with a linear layer, or has hooks")
            return self._plain(x, edge_index)
        assert steps is not None
        sources, targets = pair
        nodes = (sources.shape[0], targets.shape[0])
        graph = graph_of(
            "EdgeConv", edge_index, self.flow, *nodes, with_edge=bool(split(steps).rest)
        )
        return edge_network(steps, targets, sources, graph, self.aggr)

    def _plain(self, x: Any, edge_index: Any) -> Tensor:
        out: Tensor = super().forward(x, edge_index)
        return out


class DynamicEdgeConv(torch.nn.Module):
    """`EdgeConv` over the k nearest neighbours in feature space, found anew in every call.

    PyG's DynamicEdgeConv without pyg-lib and its limits: same arguments, semantics (a point is one
    of its own neighbours) and state_dict.

    Args:
        nn: as of `EdgeConv`.
        k: neighbours; all points of a sample that has fewer.
        aggr: as of `EdgeConv`, of the four.
        num_workers: without effect (PyTorch's threads are used); for compatibility.

    Call it with points ``[N, C]``, or a pair of sources and targets, and ``batch [N]`` (or a pair);
    it returns ``[N, D]``.
    """

    def __init__(
        self, nn: Callable[..., Tensor], k: int, aggr: str = "max", num_workers: int = 1
    ) -> None:
        super().__init__()
        self.nn = nn
        self.k = k
        self.num_workers = num_workers
        self.aggr = aggr
        if aggr not in AGGREGATION_NAMES:
            names = ", ".join(AGGREGATION_NAMES)
            raise ValueError(f"DynamicEdgeConv: aggr must be one of {names}, got {aggr!r}")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the network anew."""
        reset(self.nn)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        batch: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    ) -> Tensor:
        """``x`` is ``[N, C]`` or ``([N, C], [M, C])``, of sources and targets."""
        sources, targets = (x, x) if isinstance(x, Tensor) else x
        if sources.dim() != 2:
            raise ValueError("Static graphs not supported in DynamicEdgeConv")
        pair = batch if isinstance(batch, tuple) else (batch, batch)
        graph = knn_neighbours("DynamicEdgeConv", sources, targets, self.k, *pair)
        steps = steps_of(self.nn)
        if can_split(steps):
            assert steps is not None
            return edge_network(steps, targets, sources, graph, self.aggr)
        warn_once("DynamicEdgeConv", "nn does not begin with a linear layer, or has hooks")
        from polygraph.ops import edge_aggregate
        from polygraph.ops.graph import targets_of

        x_i = targets[targets_of(graph.ptr, graph.num_slots)]
        values = self.nn(torch.cat([x_i, sources[graph.source] - x_i], -1))
        return edge_aggregate(values, graph, AGGREGATION_NAMES[self.aggr])

    def __repr__(self) -> str:
        """As PyG's."""
        return f"{type(self).__name__}(nn={self.nn}, k={self.k})"
