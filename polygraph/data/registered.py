"""Registered meshes: many meshes of one topology, in one memory-mapped array."""

from __future__ import annotations

import hashlib
import math
import numbers
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polygraph._arrays import as_numpy
from polygraph._files import natural_key, open_regular
from polygraph._json import read_json
from polygraph._names import unknown_name
from polygraph.data.splits import Split, interpolation_split, make_split, read_splits
from polygraph.data.store import (
    MANIFEST,
    Conversion,
    Entry,
    Frames,
    Stored,
    content_hash,
    open_converted,
    progress,
    write_synced,
)
from polygraph.mesh.io import MOST_BYTES, READABLE, MeshError, Registered, validate_mesh
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
        checked = _checked_faces(points.shape[1], as_numpy(faces), f"{name}: faces")
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
        step = _rows_per_chunk(self.num_vertices, 8)
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


def _rows_per_chunk(num_vertices: int, item_bytes: int) -> int:
    return max(1, _CHUNK_BYTES // (num_vertices * 3 * item_bytes))


def source_path(path: str | Path, what: str) -> Path:
    """The path, if it exists.

    Raises:
        FileNotFoundError: naming what was wanted and where.
    """
    source = Path(path).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"{what}: no such file or folder: {source}")
    return source


def checked_scale(to_mm: Any) -> float:
    """`to_mm`, if it is positive and finite."""
    number = isinstance(to_mm, numbers.Real) and not isinstance(to_mm, bool)
    if not (number and math.isfinite(to_mm) and to_mm > 0):
        raise ValueError(f"to_mm must be a positive number (millimetres per unit), got {to_mm!r}")
    return float(to_mm)


def mesh_files_conversion(root: Path, paths: Sequence[Path], frames: Frames | None) -> Conversion:
    """Stream mesh files of one topology; the first file decides which one."""
    registered = Registered(paths[0])
    first = registered.first
    origin = origin_of(first.vertices)

    def chunks() -> Iterator[NDArray[np.float32]]:
        for i, path in enumerate(progress(paths, f"converting {root.name}", len(paths))):
            mesh = first if i == 0 else registered.read(path)
            yield to_float32(mesh.vertices[None], str(path), i, origin)

    shape = (len(paths), len(first.vertices), 3)
    return Conversion(shape, first.faces, frames, chunks(), origin)


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


def open_registered(
    path: str | Path,
    *,
    cache_dir: str | Path | None = None,
    to_mm: float = 1000.0,
    full_check: bool = False,
) -> MeshDataset:
    """Open a folder of registered meshes.

    Two forms are understood. (a) ``vertices.npy`` ``[N, V, 3]`` with ``faces.npy`` ``[F, 3]``:
    little-endian float32 in C order is memory-mapped where it lies, after one streaming validation
    whose result is remembered in the cache; other float types and orders, and meshes far from 0,
    are converted into the cache. (b) Mesh files (.ply, .obj, .off, .stl) of one topology, in
    sub-folders or not, in natural order (``f2`` before ``f10``); every folder is a clip. They are
    converted into the cache once.

    ``frames.json`` (a list of N dictionaries) and ``splits.json`` (see
    `polygraph.data.splits.read_splits`) in the folder are used in both forms. Without
    ``splits.json`` there is one split, ``interpolation``: every tenth mesh of a clip.

    Args:
        path: the folder.
        cache_dir: where converted arrays and manifests go; None for
            `polygraph.data.store.default_cache_dir`.
        to_mm: millimetres per unit of the files.
        full_check: verify the SHA-256 of everything again, and not only sizes and times.

    Raises:
        FileNotFoundError: the folder, or ``faces.npy`` next to ``vertices.npy``, does not exist.
        MeshError: a file is corrupt, has another topology, or holds a bad mesh; the message names
            it.
        ValueError: ``frames.json`` or ``splits.json`` is bad.
    """
    root = source_path(path, "registered meshes")
    to_mm = checked_scale(to_mm)
    if not root.is_dir():
        raise NotADirectoryError(f"registered meshes: want a folder, got the file {root}")
    if (root / "vertices.npy").exists():
        stored = _open_arrays(root, cache_dir, full_check)
    else:
        stored = _open_mesh_files(root, cache_dir, full_check)
    frames = _read_frames(root / "frames.json", len(stored.vertices)) or stored.frames
    stored = replace(stored, frames=frames)
    splits: dict[str, Split] = {}
    if (root / "splits.json").exists():
        splits = read_splits(root / "splits.json", len(stored.vertices), frames)
    elif len(stored.vertices) >= 2:
        splits["interpolation"] = interpolation_split(frames, len(stored.vertices))
    return dataset_from(stored, root.resolve().name, to_mm, splits)


def _read_frames(path: Path, num_meshes: int) -> Frames | None:
    if not path.exists():
        return None
    frames = read_json(path, most_bytes=1 << 28)
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{path}: must be a list of objects, one per mesh")
    if len(frames) != num_meshes:
        raise ValueError(f"{path}: must have one entry per mesh, {num_meshes}, got {len(frames)}")
    return frames


def _open_mesh_files(root: Path, cache_dir: str | Path | None, full_check: bool) -> Stored:
    found = (
        p for p in root.rglob("*") if p.suffix.lower() in READABLE and not p.name.startswith(".")
    )
    paths = sorted(found, key=lambda p: natural_key(p.relative_to(root)))
    if not paths:
        raise MeshError(
            f"{root}: no meshes: want vertices.npy and faces.npy, or {', '.join(READABLE)} files"
        )

    def convert() -> Conversion:
        count: dict[str, int] = {}
        frames = []
        for p in paths:
            clip = p.parent.relative_to(root).as_posix()
            count[clip] = count.get(clip, -1) + 1
            frames.append(
                {"clip": clip, "frame": count[clip], "file": p.relative_to(root).as_posix()}
            )
        return mesh_files_conversion(root, paths, frames)

    return open_converted(Entry("mesh-files", root, paths, cache_dir), convert, full_check)


def _load_npy(path: Path, mapped: bool) -> NDArray[Any]:
    if not path.exists():
        raise FileNotFoundError(f"registered meshes: no such file: {path}")
    most = sys.maxsize if mapped else MOST_BYTES
    open_regular(path, most, MeshError)[0].close()  # NumPy would wait for a pipe
    try:
        return np.asanyarray(np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False))
    except (ValueError, EOFError, BadZipFile) as error:
        raise MeshError(f"{path}: not a whole .npy file: {error}") from error


def _checked_faces(num_vertices: int, faces: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Faces of meshes with so many vertices, checked on a stand-in.

    The first mesh may hold NaNs, whose index is for `to_float32` to report.
    """
    stand_in = np.arange(num_vertices * 3, dtype=np.float64).reshape(-1, 3)
    return validate_mesh(stand_in, faces, name).faces


def _open_arrays(root: Path, cache_dir: str | Path | None, full_check: bool) -> Stored:
    sources = [root / "vertices.npy", root / "faces.npy"]
    vertices, raw_faces = _load_npy(sources[0], mapped=True), _load_npy(sources[1], mapped=False)
    if vertices.ndim != 3 or vertices.shape[2] != 3:
        raise MeshError(f"{sources[0]}: must have shape [N, V, 3], got {list(vertices.shape)}")
    if vertices.dtype.kind != "f":
        raise MeshError(f"{sources[0]}: must hold floating-point numbers, got {vertices.dtype}")
    if not len(vertices):
        raise MeshError(f"{sources[0]}: no meshes: shape {list(vertices.shape)}")
    faces = _checked_faces(vertices.shape[1], raw_faces, str(sources[1]))
    origin = origin_of(vertices[0])
    in_place = vertices.dtype == np.dtype("<f4") and vertices.flags.c_contiguous
    if in_place and not any(origin):
        return _remember(Entry("in-place", root, sources, cache_dir), vertices, faces, full_check)

    def convert() -> Conversion:
        shape = (len(vertices), vertices.shape[1], 3)
        return Conversion(shape, faces, None, _stream(vertices, sources[0], origin), origin)

    return open_converted(Entry("arrays", root, sources, cache_dir), convert, full_check)


def _stream(vertices: NDArray[Any], path: Path, origin: Point) -> Iterator[NDArray[np.float32]]:
    step = _rows_per_chunk(vertices.shape[1], vertices.itemsize)
    starts: Iterable[int] = range(0, len(vertices), step)
    for start in progress(starts, f"checking {path.parent.name}", math.ceil(len(vertices) / step)):
        yield to_float32(vertices[start : start + step], str(path), start, origin)


def _array_sha256(vertices: NDArray[Any], path: Path) -> str:
    digest = hashlib.sha256()
    for chunk in _stream(vertices, path, ZERO):
        digest.update(chunk.data)
    return digest.hexdigest()


def _remember(
    entry: Entry, vertices: NDArray[Any], faces: NDArray[np.int64], full_check: bool
) -> Stored:
    """Validate an array that stays where it is, once, and note the result in the cache."""
    manifest = entry.load(full_check=False)
    path = entry.root / "vertices.npy"
    identity = None if manifest is None else str(manifest["content_hash"])
    if identity is None or full_check:
        now = content_hash(_array_sha256(vertices, path), faces)
        if identity is not None and identity != now:
            warnings.warn(
                f"{path}: the content has changed, though not its size and time; checked again",
                stacklevel=4,
            )
        if identity != now:
            identity = now
            try:
                with entry.locked(), entry.replace() as folder:
                    write_synced(folder / MANIFEST, entry.manifest({}, content_hash=identity))
            except OSError as error:
                warnings.warn(
                    f"{entry.folder}: the check of {path} cannot be remembered ({error})",
                    stacklevel=4,
                )
    return Stored(vertices, faces, None, identity)
