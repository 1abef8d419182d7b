"""Registered meshes: many meshes of one topology, in one memory-mapped array."""

from __future__ import annotations

import hashlib
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from polygraph._files import natural_key, open_regular
from polygraph._json import read_json
from polygraph.data.mesh_dataset import MeshDataset as MeshDataset
from polygraph.data.mesh_dataset import checked_faces, rows_per_chunk
from polygraph.data.mesh_dataset import checked_scale as checked_scale
from polygraph.data.mesh_dataset import dataset_from as dataset_from
from polygraph.data.splits import Split, interpolation_split, read_splits
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
from polygraph.mesh.io import MOST_BYTES, READABLE, MeshError, Registered
from polygraph.mesh.origin import ZERO, Point, origin_of, to_float32


def source_path(path: str | Path, what: str) -> Path:
    """The path, if it exists.

    Raises:
        FileNotFoundError: naming what was wanted and where.
    """
    source = Path(path).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"{what}: no such file or folder: {source}")
    return source


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

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from polygraph.data import open_registered
        >>> folder = tempfile.mkdtemp()
        >>> meshes = np.random.default_rng(0).random((8, 4, 3), np.float32)
        >>> np.save(f"{folder}/vertices.npy", meshes)
        >>> np.save(f"{folder}/faces.npy", np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]))
        >>> open_registered(folder, cache_dir=f"{folder}/cache").vertices.shape
        (8, 4, 3)

    See Also:
        `open_coma`, `open_dfaust`, for the official data; `polygraph.mesh.read_collection`.
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


def _open_arrays(root: Path, cache_dir: str | Path | None, full_check: bool) -> Stored:
    sources = [root / "vertices.npy", root / "faces.npy"]
    vertices, raw_faces = _load_npy(sources[0], mapped=True), _load_npy(sources[1], mapped=False)
    if vertices.ndim != 3 or vertices.shape[2] != 3:
        raise MeshError(f"{sources[0]}: must have shape [N, V, 3], got {list(vertices.shape)}")
    if vertices.dtype.kind != "f":
        raise MeshError(f"{sources[0]}: must hold floating-point numbers, got {vertices.dtype}")
    if not len(vertices):
        raise MeshError(f"{sources[0]}: no meshes: shape {list(vertices.shape)}")
    faces = checked_faces(vertices.shape[1], raw_faces, str(sources[1]))
    origin = origin_of(vertices[0])
    in_place = vertices.dtype == np.dtype("<f4") and vertices.flags.c_contiguous
    if in_place and not any(origin):
        return _remember(Entry("in-place", root, sources, cache_dir), vertices, faces, full_check)

    def convert() -> Conversion:
        shape = (len(vertices), vertices.shape[1], 3)
        return Conversion(shape, faces, None, _stream(vertices, sources[0], origin), origin)

    return open_converted(Entry("arrays", root, sources, cache_dir), convert, full_check)


def _stream(vertices: NDArray[Any], path: Path, origin: Point) -> Iterator[NDArray[np.float32]]:
    step = rows_per_chunk(vertices.shape[1], vertices.itemsize)
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
