"""The cache of converted data sets: memory-mapped arrays, and a manifest that vouches for them.

One entry is one folder ``<name>-<key>`` with ``vertices.npy``, ``faces.npy``, ``frames.json`` and
``manifest.json`` (the key is a hash of the kind of data set and of the source's path). The manifest
holds the format version, a fingerprint of the source files (relative names, sizes, modification
times), the origin that was subtracted and the size and SHA-256 of every file.

An entry is written to a temporary folder, synced and renamed, so a conversion that was killed is
never taken for a whole one. Conversion streams: memory holds one chunk of meshes at a time. A lock
file keeps several processes (torchrun) from converting the same source at once; the lock dies with
its owner.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._files import file_sha256, sync_folder
from polygraph._json import parse_json
from polygraph.mesh.origin import ZERO, Point, checked_point

FORMAT = 1
MANIFEST = "manifest.json"
_BLOCK = 1 << 22

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Frames = list[dict[str, Any]]


@dataclass(frozen=True)
class Conversion:
    """A source, ready to be converted.

    Attributes:
        shape: ``(N, V, 3)`` of the whole.
        faces: int64 ``[F, 3]``.
        frames: one dictionary per mesh, or None.
        chunks: yields float arrays ``[n, V, 3]`` in order, N meshes in all; already validated.
        origin: what was subtracted from them.
    """

    shape: tuple[int, int, int]
    faces: IntArray
    frames: Frames | None
    chunks: Iterable[NDArray[Any]]
    origin: Point = ZERO


@dataclass(frozen=True)
class Stored:
    """An entry of the cache, opened.

    Attributes:
        vertices: float32 ``[N, V, 3]``, memory-mapped, read-only; less ``origin``.
        faces: int64 ``[F, 3]``.
        frames: one dictionary per mesh, or None.
        content_hash: SHA-256 over the hashes of vertices and faces, and the origin if it is not 0.
        origin: what was subtracted from the source's vertices, in its unit.
    """

    vertices: FloatArray
    faces: IntArray
    frames: Frames | None
    content_hash: str
    origin: Point = ZERO


def default_cache_dir() -> Path:
    """``$POLYGRAPH_CACHE``, else ``$XDG_CACHE_HOME/polygraph``, else ``~/.cache/polygraph``."""
    chosen = os.environ.get("POLYGRAPH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polygraph"


def progress(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    """Iterate with a progress bar on a terminal; without one when tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(items)
    return iter(tqdm(items, desc=description, total=total, disable=None, leave=False))


def fingerprint(root: Path, sources: Sequence[Path]) -> dict[str, Any]:
    """One hash of the sources' names below root, sizes and times; also their count and size."""
    digest, size = hashlib.sha256(), 0
    for path in sources:
        status = path.stat()
        size += status.st_size
        name = path.relative_to(root).as_posix()
        digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return {"files": len(sources), "bytes": size, "sha256": digest.hexdigest()}


class NpyWriter:
    """Writes one array of known shape to a ``.npy`` file row by row, hashing as it goes.

    Plain writes and not a memory map: on a full disk a write raises OSError, while a store into a
    map kills the process.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        """Open the file and write its header.

        Args:
            path: the file to write.
            shape: shape of the whole array.
            dtype: little-endian type of the elements, for example ``"<f4"``.
        """
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._rows = 0
        self._digest = hashlib.sha256()
        self._data_digest = hashlib.sha256()
        self._file = open(path, "wb")
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()
        self._digest.update(path.read_bytes())

    def write(self, rows: NDArray[Any]) -> None:
        """Append rows ``[n, *shape[1:]]``; they are converted to the file's type."""
        if rows.shape[1:] != self.shape[1:]:
            raise ValueError(
                f"{self.path.name}: rows must have shape {list(self.shape[1:])},"
                f" got {list(rows.shape[1:])}"
            )
        data = np.ascontiguousarray(rows, self.dtype).data.cast("B") if rows.size else b""
        self._file.write(data)
        self._digest.update(data)
        self._data_digest.update(data)
        self._rows += len(rows)

    def close(self) -> dict[str, Any]:
        """Sync the file; returns its entry for the manifest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._rows != self.shape[0]:
            raise ValueError(f"{self.path.name}: announced {self.shape[0]} rows, got {self._rows}")
        return {
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "bytes": self.path.stat().st_size,
            "sha256": self._digest.hexdigest(),
        }

    @property
    def data_sha256(self) -> str:
        """SHA-256 of the elements alone, without the header of the file."""
        return self._data_digest.hexdigest()

    def abandon(self) -> None:
        """Close without a word; the file is going to be removed."""
        with suppress(OSError):
            self._file.close()


def write_synced(path: Path, text: str) -> dict[str, Any]:
    """Write a text file and sync it; returns its entry for the manifest."""
    data = text.encode()
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; on systems without flock this does nothing."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Entry:
    """One data set's place in the cache.

    Attributes:
        folder: where its files are, once they are whole.
    """

    def __init__(
        self, kind: str, root: Path, sources: Sequence[Path], cache_dir: str | Path | None
    ) -> None:
        """Find the place; nothing is read or written yet but the sources' sizes and times.

        Args:
            kind: kind of data set; the same source read as another kind has another place.
            root: file or folder that the data set comes from.
            sources: the files read, in order.
            cache_dir: the cache; None for `default_cache_dir`.
        """
        self.kind, self.root = kind, root
        base = root if root.is_dir() else root.parent
        self.source = fingerprint(base, sources)
        key = hashlib.sha256(os.fsencode(f"{kind}\0{root.resolve()}")).hexdigest()[:16]
        self.cache = default_cache_dir() if cache_dir is None else Path(cache_dir)
        # Temporaries have longer names, and a file system takes 255 bytes.
        name = os.fsdecode(os.fsencode(root.resolve().name)[:160])
        self.folder = self.cache / f"{name}-{key}"

    def load(self, full_check: bool) -> dict[str, Any] | None:
        """The manifest, if the entry is whole and the source unchanged; else None, with a warning.

        Args:
            full_check: also compare the SHA-256 of every file; otherwise only sizes.
        """
        fault = None
        try:
            manifest = parse_json((self.folder / MANIFEST).read_bytes(), MANIFEST)
            if manifest["format"] != FORMAT:
                fault = f"has format {manifest['format']}, this version writes {FORMAT}"
            elif manifest["source"] != self.source:
                fault = "is older than its source, which has changed"
            else:
                fault = self._fault_of_files(manifest["files"], full_check)
        except (FileNotFoundError, NotADirectoryError):
            if not self.folder.exists():
                return None
            fault = f"has no {MANIFEST}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fault = f"has an unreadable {MANIFEST} ({type(error).__name__}: {error})"
        if fault is None:
            return dict(manifest)
        warnings.warn(f"{self.folder}: the cached data set {fault}; making it again", stacklevel=4)
        return None

    def _fault_of_files(self, files: dict[str, Any], full_check: bool) -> str | None:
        for name, entry in files.items():
            path = self.folder / name
            if not path.is_file():
                return f"lacks {name}"
            if path.stat().st_size != entry["bytes"]:
                size = path.stat().st_size
                return f"is corrupt: {name} should have {entry['bytes']} bytes, got {size}"
            if full_check and file_sha256(path) != entry["sha256"]:
                return f"is corrupt: {name} does not have the SHA-256 of its {MANIFEST}"
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from making this entry; remove what a killed one left behind."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with _locked(self.cache / f".{self.folder.name}.lock"):
            for leftover in self.cache.glob(f".{self.folder.name}.*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield

    @contextmanager
    def replace(self) -> Iterator[Path]:
        """Give an empty temporary folder: on success it becomes the entry, else it is removed."""
        temporary = self.cache / f".{self.folder.name}.{uuid.uuid4().hex}.tmp"
        temporary.mkdir()
        try:
            yield temporary
            sync_folder(temporary)
            if self.folder.exists():
                old = self.cache / f".{self.folder.name}.{uuid.uuid4().hex}.tmp"
                os.rename(self.folder, old)
                os.rename(temporary, self.folder)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(temporary, self.folder)
            sync_folder(self.cache)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def manifest(self, files: dict[str, Any], **more: Any) -> str:
        """Text of a manifest for these files."""
        content = {
            "format": FORMAT,
            "kind": self.kind,
            "source": self.source,
            "files": files,
            **more,
        }
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def content_hash(vertices_sha256: str, faces: IntArray, origin: Point = ZERO) -> str:
    """Identity of a data set's content, wherever and in whatever form it lies.

    Args:
        vertices_sha256: SHA-256 of the vertices as little-endian float32 in C order.
        faces: ``[F, 3]``.
        origin: what was subtracted from the vertices.
    """
    faces_sha256 = hashlib.sha256(np.ascontiguousarray(faces, "<i8").tobytes()).hexdigest()
    text = f"vertices {vertices_sha256}\nfaces {faces_sha256}\n"
    if any(origin):
        text += f"origin {' '.join(value.hex() for value in origin)}\n"
    return hashlib.sha256(text.encode()).hexdigest()


def _write(entry: Entry, folder: Path, conversion: Conversion) -> None:
    vertices = NpyWriter(folder / "vertices.npy", conversion.shape, "<f4")
    faces = NpyWriter(folder / "faces.npy", conversion.faces.shape, "<i8")
    try:
        for chunk in conversion.chunks:
            vertices.write(chunk)
        faces.write(conversion.faces)
        files = {"vertices.npy": vertices.close(), "faces.npy": faces.close()}
    finally:
        vertices.abandon()
        faces.abandon()
    if conversion.frames is not None:
        files["frames.json"] = write_synced(folder / "frames.json", json.dumps(conversion.frames))
    origin = conversion.origin
    identity = content_hash(vertices.data_sha256, conversion.faces, origin)
    more = {"content_hash": identity, "origin": list(origin)}
    write_synced(folder / MANIFEST, entry.manifest(files, **more))


def open_converted(
    entry: Entry, convert: Callable[[], Conversion], full_check: bool = False
) -> Stored:
    """Open an entry of the cache; make it first when it is missing, out of date or corrupt.

    Args:
        entry: the place.
        convert: called only when the entry has to be made.
        full_check: verify the SHA-256 of every file and not only its size.

    Raises:
        MeshError: the source is bad.
        OSError: the cache cannot be written, for example on a full disk; nothing of it remains.
    """
    manifest = entry.load(full_check)
    if manifest is None:
        with entry.locked():
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # said already; another process may have made it meanwhile
                manifest = entry.load(full_check)
            if manifest is None:
                try:
                    with entry.replace() as folder:
                        _write(entry, folder, convert())
                except OSError as error:
                    if error.filename is None:
                        error.filename = str(entry.folder)
                    raise
                manifest = json.loads((entry.folder / MANIFEST).read_text(encoding="utf-8"))
    vertices = np.load(entry.folder / "vertices.npy", mmap_mode="r", allow_pickle=False)
    faces = np.load(entry.folder / "faces.npy", allow_pickle=False)
    frames = None
    if "frames.json" in manifest["files"]:
        frames = json.loads((entry.folder / "frames.json").read_text(encoding="utf-8"))
    # Entries without an origin were made when there was none.
    origin = checked_point(manifest.get("origin", ZERO))
    return Stored(vertices, faces, frames, str(manifest["content_hash"]), origin)
