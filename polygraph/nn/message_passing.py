"""What layers share with PyG's message passing: when its steps may be left out, and its edges."""

from __future__ import annotations

import warnings
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import aggr as pyg_aggr
from torch_geometric.nn.conv import MessagePassing

from polygraph._inputs import check_tensors
from polygraph.nn.ordinary import has_values, is_ordinary
from polygraph.ops import common
from polygraph.ops.graph import Graph, graph_from_coo, scan_edges

_NAMES: dict[type, str] = {
    pyg_aggr.MaxAggregation: "max",
    pyg_aggr.MeanAggregation: "mean",
    pyg_aggr.MinAggregation: "min",
    pyg_aggr.SumAggregation: "sum",
}
# What a layer's propagation is made of; a descendant or an instance may have its own.
_STEPS = (
    "message",
    "aggregate",
    "update",
    "message_and_aggregate",
    "edge_update",
    "explain_message",
    "_check_input",
    "_collect",
    "_index_select",
    "_index_select_safe",
    "_lift",
    "_set_size",
)
_HOOKS = tuple(
    f"_{step}_forward_{when}"
    for step in ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")
    for when in ("pre_hooks", "hooks")
)
_INHERITED = {step: getattr(MessagePassing, step) for step in ("propagate", "edge_updater")}
_GETTERS = {names: attrgetter(*names) for names in (_STEPS, _HOOKS)}
_WARNED: set[str] = set()


class Steps:
    """The methods by which a layer of PyG propagates, as they were when this was made.

    Args:
        layer: PyG's class of it.
    """

    def __init__(self, layer: type) -> None:
        self.own = _attributes(layer, _STEPS)

    def aggregation(self, layer: MessagePassing) -> str | None:
        """``"max"``, ``"mean"``, ``"min"`` or ``"sum"``, where nobody sees the steps of ``layer``.

        None where PyG must propagate: another aggregation, hooks or an explanation on the way, a
        method that a descendant or the instance has replaced, other dimensions.
        """
        found = layer.__dict__
        aggregation = layer.aggr_module
        name = _NAMES.get(type(aggregation))
        if (
            name is None
            or not is_ordinary(aggregation)
            or found["_explain"]
            or found["_decomposed_layers"] != 1
            or layer.node_dim not in (-2, 0)
            or any(_attributes(layer, _HOOKS))
            or not _is_written(layer, "propagate")
            or not _is_written(layer, "edge_updater")
        ):
            return None
        if found.keys() & _STEPS or _attributes(type(layer), _STEPS) != self.own:
            return None
        return name


def _attributes(holder: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """All at once, but where a compiler traces, which does not know how."""
    if torch.compiler.is_compiling():
        return tuple(getattr(holder, name) for name in names)
    found: tuple[Any, ...] = _GETTERS[names](holder)
    return found


def _is_written(layer: MessagePassing, step: str) -> bool:
    """Whether a step is what PyG has written for the class from its other methods.

    Where the class had one already, PyG notes that one as what it has written, and as the original.
    """
    kind = type(layer)
    written = getattr(kind, f"_jinja_{step}", None)
    if written is None:  # PyG has had no reason to write it
        return step not in layer.__dict__ and getattr(kind, step) is _INHERITED[step]
    if getattr(kind, step) is not written or written is getattr(kind, f"_orig_{step}"):
        return False
    of_instance = layer.__dict__.get(step)
    return of_instance is None or getattr(of_instance, "__func__", None) is written


def pair_of(owner: str, x: Any) -> tuple[Any, ...]:
    """Nodes as sources and targets: of one tensor it is twice that one.

    Raises:
        TypeError: they are no tensors.
    """
    if isinstance(x, Tensor):
        return x, x
    if not isinstance(x, tuple | list) or not any(isinstance(part, Tensor) for part in x):
        check_tensors(owner, x=x)
    sources, targets = x
    check_tensors(owner, **{"x[0]": sources, "x[1]": targets})
    return sources, targets


def takes_strided(edge_index: Any, *nodes: Tensor | None) -> bool:
    """Whether a graph is a table of edges, and all nodes are rows ``[N, C]``."""
    return (
        isinstance(edge_index, Tensor)
        and edge_index.layout == torch.strided
        and all(part is None or part.dim() == 2 for part in nodes)
    )


def warn_once(owner: str, reason: str) -> None:
    """Say, once a process and reason, that a layer takes the plain way."""
    if reason not in _WARNED:
        _WARNED.add(reason)
        warnings.warn(f"{owner}: {reason}; computed edge by edge, as in PyG", stacklevel=3)


def with_int64(edge_index: Any) -> Any:
    """A table of edges in int64, as PyG's scatter and our operators read it; else as it is."""
    if (
        isinstance(edge_index, Tensor)
        and edge_index.layout == torch.strided
        and edge_index.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8)
    ):
        return edge_index.to(torch.int64)
    return edge_index


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
        edge_index: a tensor or a `torch_geometric.EdgeIndex`, of integers.
        flow: ``"source_to_target"``: row 0 holds the sources; else row 1 does.
        num_sources: N.
        num_targets: M.
        with_edge: of `polygraph.ops.graph_from_coo`.

    Raises:
        ValueError: it is not an integer table of shape ``[2, E]``, or on the CPU an entry is out of
            range.
    """
    check_tensors(owner, edge_index=edge_index)
    edge_index = with_int64(edge_index)
    order = getattr(edge_index, "sort_order", None)
    if type(edge_index) is not Tensor and hasattr(edge_index, "as_tensor"):
        edge_index = edge_index.as_tensor()
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(
            f"{owner}: edge_index must be int64 of shape [2, E], got {edge_index.dtype} "
            f"{list(edge_index.shape)}"
        )
    target = 1 if flow == "source_to_target" else 0
    is_sorted = order is not None and str(getattr(order, "value", order)) == ("row", "col")[target]
    ends = edge_index[1 - target], edge_index[target]
    if has_values(edge_index) and common.takes_cpu_kernels(edge_index):
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
