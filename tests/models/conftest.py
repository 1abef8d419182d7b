"""Mesh hierarchies made by hand, so that models are tested apart from how hierarchies are built."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest


def random_hierarchy(sizes, spiral_lengths, seed=0):
    """Tables of the given shapes that mean nothing; for shapes, counts and algebra."""
    rng = np.random.default_rng(seed)
    levels = range(len(sizes) - 1)
    up_weight = [rng.random((sizes[n], 3)) for n in levels]
    return SimpleNamespace(
        vertices=[rng.standard_normal((size, 3)) for size in sizes],
        faces=[rng.integers(0, size, (2 * size, 3)) for size in sizes],
        spirals=[
            rng.integers(-1, size, (size, length))
            for size, length in zip(sizes, spiral_lengths, strict=True)
        ],
        keep=[np.sort(rng.permutation(sizes[n])[: sizes[n + 1]]) for n in levels],
        up_index=[rng.integers(0, sizes[n + 1], (sizes[n], 3)) for n in levels],
        up_weight=[weight / weight.sum(1, keepdims=True) for weight in up_weight],
        hash="random",
    )


def icosphere_hierarchy(levels):
    """Icospheres: each keeps the vertices of the next coarser one as its first."""
    import trimesh  # most models need no meshes that mean something

    meshes = [trimesh.creation.icosphere(subdivisions=levels - n) for n in range(levels + 1)]
    vertices = [mesh.vertices for mesh in meshes]
    spirals, keep, up_index, up_weight = [], [], [], []
    for mesh in meshes:
        table = np.full((len(mesh.vertices), 7), -1)
        for row, neighbors in zip(table, mesh.vertex_neighbors, strict=True):
            row[1 : 1 + len(neighbors)] = sorted(neighbors)
        table[:, 0] = np.arange(len(table))
        spirals.append(table)
    for fine, coarse in pairwise(vertices):
        distance = np.linalg.norm(fine[:, None] - coarse, axis=2)
        keep.append(distance.argmin(0))
        near = distance.argsort(1)[:, :2]
        weight = 1 / (1e-6 + np.take_along_axis(distance, near, 1))
        up_index.append(near)
        up_weight.append(weight / weight.sum(1, keepdims=True))
    return SimpleNamespace(
        vertices=vertices,
        faces=[np.asarray(mesh.faces) for mesh in meshes],
        spirals=spirals,
        keep=keep,
        up_index=up_index,
        up_weight=up_weight,
        hash="icosphere",
    )


@pytest.fixture(scope="session")
def coma_sized():
    return random_hierarchy([5023, 1256, 314, 79, 20], [9, 9, 9, 9, 8])


@pytest.fixture(scope="session")
def sphere():
    """Two levels: 162, 42 and 12 vertices."""
    return icosphere_hierarchy(2)


@pytest.fixture(scope="session")
def random_tables():
    """Two levels of random tables: 162, 42 and 12 vertices."""
    return random_hierarchy([162, 42, 12], [9, 7, 7])


@pytest.fixture(scope="session")
def tiny():
    return random_hierarchy([9, 5, 3], [4, 3, 3])
