"""What all data sets of meshes are: meshes of one topology, their splits and their unit."""

from __future__ import annotations

import hashlib
import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polygraph._arrays import as_numpy
from polygraph._names import unknown_name
from polygraph.data.splits import Split, interpolation_split, make_split
from polygraph.data.store import (
    Frames,
    Stored,
    content_hash,
)
from polygraph.mesh.io import MeshError, validate_mesh
from polygraph.mesh.origin import ZERO, Point, origin_of, to_float32
from polygraph.mesh.up import Up

_CHUNK_BYTES = 1 << 25


@dataclass(frozen=True, eq=False)
class MeshDataset:
    """Meshes of one topology.

    Attributes:
        name: for messages and reports.
        vertices: float32 ``[N, V, 3]`` in the source's unit, less ``origin``; read-only,
            memory-mapped where it comes from a file.
        faces: int64 ``[F, 3]``, common to all meshes.
        to_mm: millimetres per unit of `vertices` (1000 for metres).
        content_hash: SHA-256 that identifies vertices and faces, wherever they lie.
        frames: one dictionary per mesh, or None; ``"clip"`` names the sequence that a mesh comes
            from.
        splits: the named splits of this data set.
        template: float64 ``[V, 3]``, less ``origin``: the mesh on which hierarchies and spirals are
            built. It is the first mesh (for the synthetic animal the rest pose), not the mean
            shape: a mean over strong motion folds limbs into each other.
        origin: x, y and z in the source's unit: zeros, but a point amidst the first mesh
            where that lies far from 0, seen from its own size (maps, scanners), and float32 would
            cut digits off. Results are written with it added back.
        up: the axis that points up in pictures, ``x``, ``y`` or ``z``; ``auto`` where that is not
            known (pictures guess, see `polygraph.mesh.up.guess_up`).

    Example:
        >>> from polygraph.data import make_creature
        >>> animal = make_creature(num_frames=16)
        >>> len(animal), animal.vertices.shape, animal.faces.shape
        (16, (16, 1922, 3), (3840, 3))
        >>> animal.split("interpolation")
        Split('interpolation', train=13, val=1, test=2, sha256=...)

    See Also:
        `open_registered`, of your own meshes; `make_creature`, the built-in ones.
    """

    name: str
    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]
    to_mm: float
    content_hash: str
    frames: Frames | None
    splits: dict[str, Split]
    template: NDArray[np.float64]
    origin: Point = ZERO
    up: Up = "auto"

    @classmethod
    def from_arrays(
        cls,
        vertices: Any,
        faces: Any,
        *,
        name: str = "arrays",
        to_mm: float = 1000.0,
        test: ArrayLike | None = None,
        val: ArrayLike | None = None,
    ) -> MeshDataset:
        """Meshes that are in memory already.

        Args:
            vertices: real numbers ``[N, V, 3]``, of numpy or torch; copied as float32.
            faces: integers ``[F, 3]``, common to all meshes.
            name: for messages and reports.
            to_mm: millimetres per unit of `vertices`; 1000 for metres.
            test: indices of the meshes that test; None: every tenth, as of a folder.
            val: indices of those that validate; None: one of twenty of the others.

        Raises:
            MeshError: a shape or an index is wrong, or a coordinate is not finite in float32.
            ValueError: ``to_mm`` or a list of indices is bad.

        Example:
            >>> import numpy as np
            >>> faces = [[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]
            >>> vertices = np.random.default_rng(0).normal(size=(20, 4, 3))
            >>> MeshDataset.from_arrays(vertices, faces, test=[3, 7])
            MeshDataset('arrays', 20 meshes, 4 vertices, 4 faces, splits: interpolation)
        """
        points = as_numpy(vertices)
        if points.ndim != 3 or points.shape[2] != 3 or not len(points):
            raise MeshError(f"{name}: vertices must have shape [N, V, 3], got {list(points.shape)}")
        if points.dtype.kind not in "fiu":
            raise MeshError(f"{name}: vertices must be real numbers, got {points.dtype}")
        checked = checked_faces(points.shape[1], as_numpy(faces), f"{name}: faces")
        origin = origin_of(points[0])
        single = to_float32(points, name, 0, origin)
        single = single.copy() if np.shares_memory(single, points) else single
        single.setflags(write=False)
        digest = hashlib.sha256(np.ascontiguousarray(single, "<f4").data).hexdigest()
        splits: dict[str, Split] = {}
        if test is not None:
            held = as_numpy(test).reshape(-1)
            kept = () if val is None else as_numpy(val).reshape(-1)
            rest = np.setdiff1d(np.arange(len(single)), np.concatenate([held, kept]).astype(int))
            splits["interpolation"] = make_split(
                "interpolation", rest, held, kept, num_meshes=len(single)
            )
        elif val is not None:
            raise ValueError(f"{name}: val is for a list of one's own: give test, too")
        elif len(single) >= 2:
            splits["interpolation"] = interpolation_split(None, len(single))
        stored = Stored(single, checked, None, content_hash(digest, checked, origin), origin)
        return dataset_from(stored, name, checked_scale(to_mm), splits)

    def __len__(self) -> int:
        """Number of meshes N."""
        return len(self.vertices)

    @property
    def num_vertices(self) -> int:
        """Number of vertices V of every mesh."""
        return int(self.vertices.shape[1])

    def __repr__(self) -> str:
        """Name and sizes."""
        sizes = f"{len(self)} meshes, {self.num_vertices} vertices, {len(self.faces)} faces"
        return f"MeshDataset({self.name!r}, {sizes}, splits: {', '.join(self.splits) or 'none'})"

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            ValueError: there is none; the message suggests the nearest name. Or the data set is too
                small to train on.
        """
        if name in self.splits:
            return self.splits[name]
        if len(self) < 2:
            raise ValueError(
                f"{self.name}: training is impossible with {len(self)} mesh: a split needs at least"
                " 2, one to train on and one to test on"
            )
        raise ValueError(f"{self.name}: {unknown_name('split', name, self.splits)}")

    def gather(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Copy meshes into memory.

        Args:
            indices: integers ``[B]`` in [0, N).

        Returns:
            float32 ``[B, V, 3]``, writable.
        """
        return np.array(self.vertices[self._checked(indices)])

    def mean_std(self, indices: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of every coordinate over the given meshes.

        Summed in float64 in one streaming pass. No deviation is given as less than a hundredth of
        the root mean square of all of them (1 if nothing moves at all). A paw that stands still in
        all training meshes and lifts in a test mesh would otherwise become a number of 10^5 when it
        is normalised.

        Args:
            indices: integers ``[n]`` in [0, N), at least one; usually the training meshes.

        Returns:
            mean and std (of the population, divided by n), float32 ``[V, 3]``, in the unit of
            `vertices`.
        """
        chosen = self._checked(indices)
        if not len(chosen):
            raise ValueError(
                f"{self.name}: mean_std: indices must hold at least one mesh, got none"
            )
        origin = self.vertices[chosen[0]].astype(np.float64)  # sums around a mesh keep the digits
        total, squares = np.zeros_like(origin), np.zeros_like(origin)
        step = rows_per_chunk(self.num_vertices, 8)
        for start in range(0, len(chosen), step):
            moved = self.vertices[chosen[start : start + step]].astype(np.float64) - origin
            total += moved.sum(0)
            squares += (moved * moved).sum(0)
        shift = total / len(chosen)
        std = np.sqrt(np.maximum(squares / len(chosen) - shift * shift, 0.0))
        floor = 0.01 * float(np.sqrt(np.mean(std * std)))
        std = np.maximum(std, floor if floor > 0 else 1.0)
        return (origin + shift).astype(np.float32), std.astype(np.float32)

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
            raise ValueError(
                f"{self.name}: indices must be integers of rank 1,"
                f" got {chosen.dtype} of rank {chosen.ndim}"
            )
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise ValueError(
                f"{self.name}: indices must lie in [0, {len(self)}),"
                f" got {chosen.min()} .. {chosen.max()}"
            )
        return chosen.astype(np.int64)


def rows_per_chunk(num_vertices: int, item_bytes: int) -> int:
    """How many meshes are read at a time."""
    return max(1, _CHUNK_BYTES // (num_vertices * 3 * item_bytes))


def checked_scale(to_mm: Any) -> float:
    """`to_mm`, if it is positive and finite."""
    number = isinstance(to_mm, numbers.Real) and not isinstance(to_mm, bool)
    if not (number and math.isfinite(to_mm) and to_mm > 0):
        raise ValueError(f"to_mm must be a positive number (millimetres per unit), got {to_mm!r}")
    return float(to_mm)


def dataset_from(
    stored: Stored,
    name: str,
    to_mm: float,
    splits: dict[str, Split],
    template: NDArray[np.float64] | None = None,
) -> MeshDataset:
    """A data set over an entry of the cache."""
    shape = stored.vertices[0].astype(np.float64) if template is None else template
    return MeshDataset(
        name,
        stored.vertices,
        stored.faces,
        to_mm,
        stored.content_hash,
        stored.frames,
        splits,
        shape,
        stored.origin,
    )


def checked_faces(num_vertices: int, faces: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Faces of meshes with so many vertices, checked on a stand-in.

    The first mesh may hold NaNs, whose index is for `to_float32` to report.
    """
    stand_in = np.arange(num_vertices * 3, dtype=np.float64).reshape(-1, 3)
    return validate_mesh(stand_in, faces, name).faces
