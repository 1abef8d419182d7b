"""Dynamic FAUST: 4D scans of ten people in motion, registered to one body mesh of 6,890 vertices.

Bogo, Romero, Pons-Moll, Black: "Dynamic FAUST: Registering Human Bodies in Motion" (CVPR 2017).
Layout of the official files ``registrations_f.hdf5`` and ``registrations_m.hdf5``: one data set
``<sid>_<sequence>`` of shape ``[V, 3, T]`` for every sequence, metres, and ``faces`` ``[F, 3]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph.data.registered import MeshDataset, checked_scale, dataset_from, source_path
from polygraph.data.splits import Split, interpolation_split, leave_out, read_splits
from polygraph.data.store import Conversion, Entry, Frames, open_converted, progress
from polygraph.mesh.io import MeshError, validate_mesh
from polygraph.mesh.origin import Point, origin_of, to_float32

_READ_BYTES = 1 << 27
_SEQUENCE = re.compile(r"(?P<subject>\d+)_(?P<motion>.+)")


def _import_h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("reading DFAUST needs h5py: pip install 'polygraph-nn[mesh]'") from error
    return h5py


def _find_files(root: Path) -> list[Path]:
    files = [root] if root.is_file() else sorted(root.glob("registrations_*.hdf5"))
    if not files:
        raise MeshError(f"{root}: no meshes: want registrations_f.hdf5 and/or registrations_m.hdf5")
    return files


class _Source:
    """The sequences of all files, sorted by name, and their common faces; no mesh is read yet."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.sequences: list[tuple[str, Path, int]] = []
        self.faces: NDArray[np.int64] | None = None
        self.num_vertices = 0
        for path in files:
            self._read_contents(path)
        if not self.sequences:
            raise MeshError(
                f"{files[0]}: no meshes: want data sets <sid>_<sequence> of shape [V, 3, T]"
            )
        self.sequences.sort()
        for one, two in zip(self.sequences, self.sequences[1:], strict=False):
            if one[0] == two[0]:
                raise MeshError(f"{two[1]}: sequence {two[0]} is also in {one[1]}")
        self.num_meshes = sum(length for _, _, length in self.sequences)
        if not self.num_meshes:
            raise MeshError(f"{files[0]}: no meshes: every sequence is empty")

    def _read_contents(self, path: Path) -> None:
        try:
            with _import_h5py().File(path, "r") as file:
                tables = {name: item for name, item in file.items() if hasattr(item, "shape")}
                if "faces" not in tables:
                    raise MeshError(f"{path}: must have a data set 'faces', got {sorted(file)[:5]}")
                faces = np.asarray(tables["faces"][()])
                shapes = {name: t.shape for name, t in tables.items() if _SEQUENCE.fullmatch(name)}
        except OSError as error:
            raise MeshError(f"{path}: not a whole hdf5 file: {error}") from error
        for name, shape in sorted(shapes.items()):
            wanted = (self.num_vertices or (shape[0] if shape else 0), 3)
            if len(shape) != 3 or shape[:2] != wanted:
                raise MeshError(
                    f"{path}: {name} must have shape [{wanted[0] or 'V'}, 3, T], got {list(shape)}"
                )
            self.num_vertices = wanted[0]
            self.sequences.append((name, path, int(shape[2])))
        if not shapes:
            return
        # Faces are checked on a stand-in: the meshes themselves are validated while they stream.
        stand_in = np.arange(self.num_vertices * 3, dtype=np.float64).reshape(-1, 3)
        checked = validate_mesh(stand_in, faces.astype(np.int64), f"{path}: faces").faces
        if self.faces is not None and not np.array_equal(self.faces, checked):
            raise MeshError(f"{path}: faces differ from those of {self.files[0]}")
        self.faces = checked

    def frames(self) -> Frames:
        """One dictionary per mesh."""
        rows: Frames = []
        for name, path, length in self.sequences:
            match = _SEQUENCE.fullmatch(name)
            assert match is not None
            label = {
                "clip": name,
                "subject": match["subject"],
                "motion": match["motion"],
                "file": path.name,
            }
            rows += [{**label, "frame": t} for t in range(length)]
        return rows

    def origin(self) -> Point:
        """`polygraph.mesh.origin.origin_of` the first mesh."""
        name, path = next((name, path) for name, path, length in self.sequences if length)
        with _import_h5py().File(path, "r") as file:
            return origin_of(file[name][:, :, 0])

    def chunks(self, origin: Point) -> Iterator[NDArray[np.float32]]:
        """Stream meshes ``[n, V, 3]``: whole sequences where they fit the budget, else pieces."""
        h5py = _import_h5py()
        for name, path, length in progress(
            self.sequences, "converting DFAUST", len(self.sequences)
        ):
            with h5py.File(path, "r") as file:
                data = file[name]
                step = max(1, _READ_BYTES // (self.num_vertices * 3 * data.dtype.itemsize))
                for start in range(0, length, step):
                    piece = np.moveaxis(data[:, :, start : start + step], 2, 0)
                    yield to_float32(piece, f"{path}: {name}", start, origin)


def dfaust_splits(frames: Frames) -> dict[str, Split]:
    """All splits that these frames allow.

    ``interpolation`` tests on every tenth frame of every sequence (position modulo 10 is 5);
    ``extrapolation-<motion>`` tests on one motion of all subjects (for example
    ``extrapolation-jumping_jacks``), ``subject-<sid>`` on one subject.
    """
    splits: dict[str, Split] = {}
    if len(frames) >= 2:
        splits["interpolation"] = interpolation_split(frames, len(frames))
        splits.update(leave_out(frames, "motion", "extrapolation"))
        splits.update(leave_out(frames, "subject", "subject"))
    return splits


def open_dfaust(
    path: str | Path,
    *,
    cache_dir: str | Path | None = None,
    to_mm: float = 1000.0,
    full_check: bool = False,
) -> MeshDataset:
    """Open the official DFAUST registrations, converting them into the cache on first use.

    Meshes are ordered by sequence name (``<sid>_<motion>``) and frame.

    Args:
        path: the folder with ``registrations_f.hdf5`` or ``registrations_m.hdf5`` or both, or one
            such file.
        cache_dir: where the converted arrays go; None for `polygraph.data.store.default_cache_dir`.
        to_mm: millimetres per unit; the official files are in metres.
        full_check: verify the SHA-256 of the cached arrays, and not only their sizes.

    Raises:
        FileNotFoundError: the path does not exist.
        ImportError: h5py is missing (extra ``[mesh]``); needed for the conversion only.
        MeshError: a file is corrupt, or a sequence has a wrong shape or bad numbers; the message
            names it.

    Example:
        >>> from polygraph.data import open_dfaust
        >>> bodies = open_dfaust("DFAUST")  # doctest: +SKIP

    See Also:
        `open_coma`, `open_registered`; `open_dataset` opens any of them by a configuration.
    """
    root = source_path(path, "DFAUST")
    to_mm = checked_scale(to_mm)
    files = _find_files(root)

    def convert() -> Conversion:
        source = _Source(files)
        assert source.faces is not None
        shape = (source.num_meshes, source.num_vertices, 3)
        origin = source.origin()
        return Conversion(shape, source.faces, source.frames(), source.chunks(origin), origin)

    stored = open_converted(Entry("dfaust", root, files, cache_dir), convert, full_check)
    frames = stored.frames or []
    splits = dfaust_splits(frames)
    beside = (root if root.is_dir() else root.parent) / "splits.json"
    if beside.exists():
        splits.update(read_splits(beside, len(frames), frames))
    return dataset_from(stored, "dfaust", to_mm, splits)
