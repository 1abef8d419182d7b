"""Meshes of one topology, or point clouds of any sizes: what denoisers of vertices train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import array_sha256, as_numpy
from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph._files import natural_key
from polygraph.data.config import MeshDataConfig, open_dataset
from polygraph.data.mesh_dataset import MeshDataset
from polygraph.data.store import progress
from polygraph.mesh.cloud import CLOUDS, read_cloud
from polygraph.mesh.errors import MeshError
from polygraph.mesh.io import check_finite
from polygraph.mesh.origin import to_float32

KINDS = ("mesh", "cloud")
PARTS = ("train", "val", "test")
#: kind -> what noise is told in
UNITS = {"mesh": "mean edge length", "cloud": "hundredth of the bounding box's diagonal"}


@dataclass(frozen=True)
class VertexDataConfig:
    """Which shapes train, validate and test.

    Attributes:
        kind: ``mesh``: meshes of one topology; ``cloud``: point clouds, each of any size.
        path: of the folder: of meshes as `polygraph.data.open_registered` reads it, or of ``.ply``,
            ``.pcd`` and ``.xyz`` files of clouds; None: the built-in animal, or arrays.
        split: of meshes: name of a split of the data set.
        every: of meshes: use one of so many of each part of the split.
        cache_dir: where converted meshes go; None for the user's cache folder.
        val_fraction: of clouds: share that validates, at least one.
        test_fraction: of clouds: share that tests, at least one.
        split_seed: of clouds: draws them.
    """

    kind: Literal["mesh", "cloud"] = "mesh"
    path: str | None = None
    split: str = "interpolation"
    every: int = 1
    cache_dir: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_numbers("data", self, ("split_seed",))
        check_choice("data", "kind", self.kind, KINDS)
        check_positive("data", every=self.every)
        for name in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"data: {name} must be in (0, 1), got {getattr(self, name)}")
        if self.split_seed < 0:
            raise ValueError(f"data: split_seed must be at least 0, got {self.split_seed}")


@dataclass(frozen=True, eq=False)
class VertexSet:
    """Shapes, and which of them train, validate and test.

    Attributes:
        name: for people.
        kind: ``mesh`` or ``cloud``.
        shapes: float32 ``[V, 3]`` each, in the source's unit, near 0; of meshes one array
            ``[N, V, 3]``, which may be mapped from a file.
        names: of the shapes; empty of meshes, which are told by their numbers.
        parts: ``train``, ``val``, ``test``: numbers of shapes, ascending.
        content_hash: SHA-256 of vertices, sizes and faces.
        faces: int64 ``[F, 3]`` of meshes; None of clouds.
        template: float64 ``[V, 3]`` of meshes, on which spirals are made; None of clouds.
    """

    name: str
    kind: str
    shapes: Any
    names: tuple[str, ...]
    parts: dict[str, tuple[int, ...]]
    content_hash: str
    faces: NDArray[np.int64] | None = None
    template: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        """Name and counts."""
        counts = ", ".join(f"{len(self.parts[part])} {part}" for part in PARTS)
        return f"VertexSet({self.name!r}, {self.kind}, {counts})"

    @cached_property
    def edges(self) -> NDArray[np.int64] | None:
        """Of meshes int64 ``[E, 2]``, each edge once; None of clouds."""
        return None if self.faces is None else edges_of(self.faces)

    def label(self, number: int) -> str:
        """What a shape is called."""
        return self.names[number] if self.names else str(number)


def noise_unit(vertices: NDArray[Any], edges: NDArray[np.int64] | None = None) -> float:
    """What the noise of a clean shape is told in, in the unit of its coordinates.

    Args:
        vertices: ``[V, 3]``.
        edges: of a mesh ``[E, 2]``: their mean length is the unit. None: of a cloud, a hundredth of
            the diagonal of its bounding box.
    """
    points = np.asarray(vertices, np.float64)
    if edges is None:
        return float(np.linalg.norm(np.ptp(points, 0))) / 100
    return float(np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1).mean())


def edges_of(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges of a mesh ``[E, 2]``, each once, the lower vertex first."""
    sides = np.asarray(faces, np.int64)[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    found: NDArray[np.int64] = np.unique(np.sort(sides, 1), axis=0)
    return found


def open_vertices(config: VertexDataConfig) -> VertexSet:
    """The shapes of a configuration.

    Raises:
        FileNotFoundError: there is no such folder.
        MeshError: a file is damaged, of another topology, or not finite; it is named.
        ValueError: there are too few shapes to train, to validate and to test.
    """
    if config.kind == "mesh":
        kind = "synthetic" if config.path is None else "registered"
        found = MeshDataConfig(
            kind, config.path, config.split, cache_dir=config.cache_dir, every=config.every
        )
        return vertices_of_meshes(open_dataset(found), config)
    if config.path is None:
        raise ValueError("data: path must name a folder of point clouds for kind 'cloud'")
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; want one with point clouds")
    files = sorted(
        (p for p in root.rglob("*") if p.suffix.lower() in CLOUDS and p.name[0] != "."),
        key=lambda p: natural_key(p.relative_to(root)),
    )
    clouds = [read_cloud(file) for file in progress(files, f"clouds of {root.name}", len(files))]
    names = [str(file.relative_to(root)) for file in files]
    return vertices_of_clouds(clouds, config, names=names, name=root.name or str(root))


def vertices_of_meshes(dataset: MeshDataset, config: VertexDataConfig) -> VertexSet:
    """Meshes with the split that a configuration names.

    Raises:
        ValueError: the split is unknown, or leaves nothing to train, to validate or to test.
    """
    split = dataset.split(config.split)
    parts = {part: tuple(getattr(split, part).tolist()) for part in PARTS}
    if not all(parts.values()):
        raise _too_few("meshes", len(dataset))
    return VertexSet(
        dataset.name,
        "mesh",
        dataset.vertices,
        (),
        parts,
        dataset.content_hash,
        dataset.faces,
        dataset.template,
    )


def vertices_of_clouds(
    clouds: Sequence[Any],
    config: VertexDataConfig,
    *,
    names: Sequence[str] = (),
    name: str = "arrays",
) -> VertexSet:
    """Point clouds, divided as a configuration says; the middle of each is taken off.

    Args:
        clouds: real numbers ``[V, 3]`` each, of numpy or torch, of any V.
        config: how they are divided.
        names: of the clouds, for messages; default: their numbers.
        name: of the set.

    Raises:
        MeshError: a cloud is not finite, has another shape, or all its points coincide.
        ValueError: there are too few.
    """
    names = list(names) or [f"{name} {n}" for n in range(len(clouds))]
    shapes = [_middled(cloud, label) for cloud, label in zip(clouds, names, strict=True)]
    order = np.random.default_rng(config.split_seed).permutation(len(shapes)).tolist()
    parts: dict[str, tuple[int, ...]] = {}
    for part, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        count = max(1, round(fraction * len(shapes)))
        parts[part], order = tuple(sorted(order[:count])), order[count:]
    parts["train"] = tuple(sorted(order))
    if not all(parts.values()):
        raise _too_few("clouds", len(shapes))
    sizes = np.array([len(shape) for shape in shapes], "<i8")
    digest = array_sha256(sizes, *shapes)
    return VertexSet(name, "cloud", tuple(shapes), tuple(names), parts, digest)


def _too_few(what: str, count: int) -> ValueError:
    return ValueError(f"data: want {what} to train, to validate and to test, got {count}")


def _middled(cloud: Any, label: str) -> NDArray[np.float32]:
    points = as_numpy(cloud)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or points.dtype.kind not in "fi":
        raise MeshError(
            f"{label}: a cloud must be real numbers [V, 3], got {points.dtype} {list(points.shape)}"
        )
    points = points.astype(np.float64)
    check_finite(points, label, "points", "point")
    if not np.ptp(points, 0).any():
        raise MeshError(f"{label}: all {len(points)} points coincide")
    moved = points - middle_of(points)
    found: NDArray[np.float32] = to_float32(moved[None], label, 0, kind="cloud")[0]
    return found


def middle_of(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle ``[3]`` of the bounding box of points ``[V, 3]``."""
    low, high = points.min(0), points.max(0)
    found: NDArray[np.float64] = low + (high - low) / 2
    return found
