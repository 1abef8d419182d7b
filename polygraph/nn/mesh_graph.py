"""The edges of a mesh, as the convolutions of `polygraph.nn.mesh_conv` read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from polygraph import ops
from polygraph.nn.ordinary import is_shape_alone
from polygraph.nn.tables import Tables
from polygraph.ops.graph import Graph, graph_from_coo

_KEPT_GRAPHS = 4
_PARTS = ("ptr", "source", "target", "t_ptr", "t_slot")  # of a graph, as tables


def mesh_edges(faces: np.ndarray) -> np.ndarray:
    """int64 ``[2, E]``: every edge of a mesh in both directions, by target, then source.

    Args:
        faces: ``[F, 3]``.
    """
    sides = np.asarray(faces, dtype=np.int64)[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    both = np.unique(np.concatenate([sides, sides[:, ::-1]]), axis=0)
    index: np.ndarray = np.ascontiguousarray(both[:, ::-1].T)  # sorted by the last row, the target
    return index


class MeshGraph(Tables):
    """The edges of one level of a mesh, shared by all layers on it.

    Args:
        faces: ``[F, 3]``.
        vertices: ``[V, 3]`` of the template, for the labels of the edges.
        keep: int64 ``[M]``, the vertices that are targets; None: all.

    Attributes:
        edge_index: int64 ``[2, E]``: row 0 the sources among V, row 1 the targets among M, which
            rise.
        labels: ``[E, 3]``: where the source lies from its target on the template, in mean lengths
            of an edge.
        targets: int64 ``[M]``: the vertex that each target is.
        degree: int64 ``[M, 1]``: edges of each target.
        num_sources: V.
        num_targets: M.
        keeps_all: whether the targets are all vertices in their order.

    Raises:
        ValueError: there is no edge, or a face names a vertex that does not exist.

    Example:
        >>> import numpy as np
        >>> from polygraph.nn import MeshGraph
        >>> vertices = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
        >>> faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])  # a tetrahedron
        >>> MeshGraph(faces, vertices), MeshGraph(faces, vertices, keep=[0, 2])
        (MeshGraph(4 -> 4, edges=12), MeshGraph(4 -> 2, edges=6))

    See Also:
        `ChebyshevConv` and the other convolutions that are made with it.
    """

    edge_index: Tensor
    labels: Tensor
    targets: Tensor
    degree: Tensor

    def __init__(self, faces: np.ndarray, vertices: np.ndarray, keep: Any = None) -> None:
        super().__init__()
        points = np.asarray(vertices, dtype=np.float64)
        edges = mesh_edges(np.asarray(faces))
        if not edges.size or edges.min() < 0 or edges.max() >= len(points):
            raise ValueError(
                f"MeshGraph: faces must name some of the {len(points)} vertices, got "
                f"{list(np.shape(faces))} faces"
                + (f" with entries in [{edges.min()}, {edges.max()}]" if edges.size else "")
            )
        offsets = points[edges[0]] - points[edges[1]]
        offsets /= np.linalg.norm(offsets, axis=1).mean()
        targets = np.arange(len(points)) if keep is None else np.asarray(keep, dtype=np.int64)
        place = np.full(len(points), -1)
        place[targets] = np.arange(len(targets))
        kept = np.flatnonzero(place[edges[1]] >= 0)
        kept = kept[np.argsort(place[edges[1, kept]], kind="stable")]
        index = torch.from_numpy(np.stack([edges[0, kept], place[edges[1, kept]]]))
        self.num_sources, self.num_targets = len(points), len(targets)
        self.keeps_all = keep is None
        self._edges = edges
        self._every_label = torch.from_numpy(offsets).to(torch.get_default_dtype())
        # The mesh is part of the code, not of what was learned: none of this is saved.
        self.register_table("edge_index", index)
        self.register_table("labels", self._every_label[torch.from_numpy(kept)])
        self.register_table("targets", torch.from_numpy(targets))
        degree = torch.bincount(index[1], minlength=self.num_targets)
        self.register_table("degree", degree[:, None])
        source, target = index
        self._register_graph("plain", source, target)
        # A stable sort puts the loops after the other edges of their targets.
        looped, order = torch.cat([target, torch.arange(self.num_targets, device="cpu")]).sort(
            stable=True
        )
        self._register_graph(
            "looped", torch.cat([source, torch.from_numpy(targets)])[order], looped
        )
        self._graphs: dict[Any, Graph] = {}
        self._laplacian: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def graph(self, samples: int, loops: bool = False) -> Graph:
        """`samples` copies of the graph, one after the other; each target's loop, if wanted, last.

        Kept for the next call: a model sees few sizes of a batch.
        """
        if torch.compiler.is_compiling() or is_shape_alone(self.edge_index):
            return self._copies(samples, loops)
        key = (samples, loops, self.edge_index.device)
        if key not in self._graphs:
            while len(self._graphs) >= _KEPT_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = self._copies(samples, loops)
        return self._graphs[key]

    def _register_graph(self, name: str, source: Tensor, target: Tensor) -> None:
        """A graph of one sample as tables, from edges whose targets rise."""
        graph = graph_from_coo(
            source, target, self.num_sources, self.num_targets, sorted_by_target=True
        ).with_transposed(self.num_sources)
        for part in _PARTS:
            self.register_table(f"{name}_{part}", getattr(graph, part))

    def _copies(self, samples: int, loops: bool) -> Graph:
        name = "looped" if loops else "plain"
        ptr, source, target, t_ptr, t_slot = (getattr(self, f"{name}_{part}") for part in _PARTS)
        sample = torch.arange(samples, device=source.device)[:, None]
        edges = source.shape[0]

        def copies(table: Tensor, size: int) -> Tensor:
            return (table + sample * size).flatten()

        def pointers(table: Tensor) -> Tensor:
            return torch.nn.functional.pad(copies(table[1:], edges), (1, 0))

        return Graph(
            pointers(ptr),
            copies(source, self.num_sources),
            None,
            copies(target, self.num_targets),
            pointers(t_ptr),
            copies(t_slot, edges),
        )

    def every_edge(self, samples: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """`samples` copies of the edges of all V vertices, also those that are no targets.

        Returns:
            int64 ``[2, samples * E]`` and the labels ``[samples * E, 3]``, in the dtype of ``like``
            and on its device.
        """
        edges = torch.from_numpy(self._edges).to(like.device)
        sample = torch.arange(samples, device=like.device)[:, None] * self.num_sources
        labels = self._every_label.to(like).repeat(samples, 1)
        return (edges[:, None] + sample).flatten(1), labels

    def laplacian(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``-D^(-1/2) A D^(-1/2)`` of all V vertices, as `polygraph.ops.resample` reads it.

        Returns:
            Neighbors int64 ``[V, T]`` with -1 where there are fewer, values ``[V, T]``, and the
            transposed table of the neighbors.
        """
        if self._laplacian is None:
            source, target = self._edges
            degree = np.bincount(target, minlength=self.num_sources)
            slot = np.arange(len(target)) - (np.cumsum(degree) - degree)[target]
            index = np.full((self.num_sources, degree.max()), -1)
            index[target, slot] = source
            values = np.zeros(index.shape)
            values[target, slot] = -1 / np.sqrt(degree[source] * degree[target])
            neighbors = torch.from_numpy(index)
            self._laplacian = (
                neighbors,
                torch.from_numpy(values).to(torch.get_default_dtype()),
                *ops.transpose_table(neighbors, self.num_sources),
            )
        return self._laplacian

    def __repr__(self) -> str:
        """One line: vertices, targets, edges."""
        edges = self.edge_index.shape[1]
        return f"MeshGraph({self.num_sources} -> {self.num_targets}, edges={edges})"
