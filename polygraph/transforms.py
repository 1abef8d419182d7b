"""PyG transforms over the operators; they compose with `torch_geometric.transforms`."""

from __future__ import annotations

from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import to_undirected

from polygraph._checks import as_index, check_choice, check_positive
from polygraph.nn.knn import FLOWS, knn_graph

__all__ = ["KNNGraph"]


class KNNGraph(BaseTransform):  # type: ignore[misc]  # PyG's base class has no types
    """Connects every point of ``data.pos`` with its ``k`` nearest: sets ``data.edge_index``.

    A drop-in for `torch_geometric.transforms.KNNGraph`, over `polygraph.nn.knn_graph`: without
    pyg-lib, any ``k``, the same edges on every device. Takes a `Data` or a `Batch` of them, whose
    samples it keeps apart; ``data.edge_attr`` is set to None, as PyG does.

    Args:
        k: neighbours of each point; all there are where they are fewer.
        loop: whether a point is a candidate of itself.
        force_undirected: add every edge's reverse; the edges are then in the order of
            `torch_geometric.utils.to_undirected`, and a point may have more than ``k``.
        flow: ``"source_to_target"`` or ``"target_to_source"``, as in `polygraph.nn.knn_graph`.
        cosine: compare directions instead of places.
        num_workers: without effect (PyTorch's threads are used); for compatibility.

    Raises:
        ValueError: on another flow or ``k``; when called, on data without ``pos``.

    Example:
        >>> import torch
        >>> from polygraph.transforms import KNNGraph
        >>> from torch_geometric.data import Data
        >>> KNNGraph(k=4)(Data(pos=torch.rand(50, 3)))
        Data(pos=[50, 3], edge_index=[2, 200])

    See Also:
        `polygraph.nn.knn_graph`, the function.
    """

    def __init__(
        self,
        k: int = 6,
        loop: bool = False,
        force_undirected: bool = False,
        flow: str = "source_to_target",
        cosine: bool = False,
        num_workers: int = 1,
    ) -> None:
        check_positive("KNNGraph", k=k)
        check_choice("KNNGraph", "flow", flow, FLOWS)
        self.k = as_index(k)
        self.loop = loop
        self.force_undirected = force_undirected
        self.flow = flow
        self.cosine = cosine
        self.num_workers = num_workers

    def forward(self, data: Data) -> Data:
        """Replace the edges of ``data``, a shallow copy of what the transform was called with."""
        pos = data.pos
        if pos is None:
            raise ValueError("KNNGraph: data needs pos, the points [N, C], got none")
        edge_index = knn_graph(pos, self.k, data.batch, self.loop, self.flow, self.cosine)
        if self.force_undirected:
            edge_index = to_undirected(edge_index, num_nodes=data.num_nodes)
        data.edge_index = edge_index
        data.edge_attr = None
        return data

    def __repr__(self) -> str:
        """One line: the number of neighbours."""
        return f"{type(self).__name__}(k={self.k})"
