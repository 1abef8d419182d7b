"""What models need of a mesh hierarchy, and the operators on its levels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Protocol, cast

import numpy as np
from torch import Tensor

from polygraph import ops
from polygraph.nn import SpiralConv
from polygraph.nn.block import OperatorFactory
from polygraph.nn.tables import table_of


class Hierarchy(Protocol):
    """What a model needs of a mesh hierarchy (`polygraph.mesh.MeshHierarchy` has it all).

    Levels 0 (finest) to L: vertices and spirals at each, and between level l and l+1 the vertices
    of l that stay, and the table by which l+1 is brought back up to l.
    """

    @property
    def vertices(self) -> Sequence[np.ndarray]:
        """``[V_l, 3]`` for each level 0..L."""

    @property
    def faces(self) -> Sequence[np.ndarray]:
        """int64 ``[F_l, 3]`` for each level 0..L; for operators other than spirals."""

    @property
    def spirals(self) -> Sequence[np.ndarray]:
        """int64 ``[V_l, S_l]`` for each level 0..L; the coarsest is not used."""

    @property
    def keep(self) -> Sequence[np.ndarray]:
        """int64 ``[V_{l+1}]`` into level l."""

    @property
    def up_index(self) -> Sequence[np.ndarray]:
        """int64 ``[V_l, T]`` into level l+1."""

    @property
    def up_weight(self) -> Sequence[np.ndarray]:
        """``[V_l, T]``."""

    @property
    def hash(self) -> str:
        """Identifies content and settings."""


def with_dummy(hierarchy: Hierarchy) -> Hierarchy:
    """One vertex more at the end of every level, its own source and target, which gaps name."""
    sizes = [len(vertices) for vertices in hierarchy.vertices]
    spirals = [np.asarray(table) for table in hierarchy.spirals]
    return cast(
        "Hierarchy",
        SimpleNamespace(
            vertices=[np.pad(vertices, ((0, 1), (0, 0))) for vertices in hierarchy.vertices],
            spirals=[
                np.pad(np.where(table < 0, size, table), ((0, 1), (0, 0)), constant_values=size)
                for table, size in zip(spirals, sizes, strict=True)
            ],
            keep=[np.append(keep, size) for keep, size in zip(hierarchy.keep, sizes, strict=False)],
            up_index=[
                np.pad(index, ((0, 1), (0, 0)), constant_values=size)
                for index, size in zip(hierarchy.up_index, sizes[1:], strict=True)
            ],
            up_weight=[
                np.concatenate([weight, np.eye(1, weight.shape[1])])
                for weight in hierarchy.up_weight
            ],
        ),
    )


def level_operators(
    kind: str, hierarchy: Hierarchy, level: int
) -> tuple[OperatorFactory, OperatorFactory]:
    """Make operators of a level: on all of its vertices, and on those that stay."""
    vertices, keep = hierarchy.vertices[level], hierarchy.keep[level]
    if kind == "spiral":
        spirals = table_of(hierarchy.spirals[level])
        kept = spirals[table_of(keep)]
        return _spiral_factory(spirals, len(vertices)), _spiral_factory(kept, len(vertices))
    from polygraph.nn.mesh_conv import MESH_CONVS  # imports PyG, which takes seconds
    from polygraph.nn.mesh_graph import MeshGraph

    made, faces = MESH_CONVS[kind], hierarchy.faces[level]
    return (
        partial(made, mesh=MeshGraph(faces, vertices)),
        partial(made, mesh=MeshGraph(faces, vertices, keep)),
    )


def _spiral_factory(spirals: Tensor | np.ndarray, num_sources: int) -> OperatorFactory:
    """Makes spiral convolutions of one table, whose transposed table is computed once for all."""
    indices = table_of(spirals)
    return partial(
        SpiralConv,
        indices=indices,
        num_sources=num_sources,
        transposed=ops.transpose_table(indices, num_sources),
    )
