"""Arrays: their hash, and ``.npz`` archives that may come from anybody.

The sizes in an archive are counted before it is expanded.
"""

from __future__ import annotations

import hashlib
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._files import PathLike, open_regular
from polygraph._memory import readable_bytes

MOST_RATIO = 100  #: of what is packed to its packed size, beyond the first MiB; data have 1 to 10
_MOST_MEMBERS = 1000


def as_numpy(values: Any) -> NDArray[Any]:
    """An array of numpy, a tensor of torch (on any device, in a graph or not), or lists."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def array_sha256(*arrays: Any) -> str:
    """SHA-256 of the types, shapes and elements of arrays of numbers, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array)
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def rows_sha256(*parts: Any) -> str:
    """SHA-256 of lists of row numbers, the same on every machine."""
    return array_sha256(*(np.asarray(part, "<i8") for part in parts))


def checked_expansion(size: int, packed: int, name: str, error: type[Exception]) -> None:
    """Refuse what would take too much memory, before it is expanded.

    Args:
        size: bytes that a header promises.
        packed: bytes of the file.
        name: begins the message.
        error: the exception to raise.
    """
    if size > MOST_RATIO * packed + (1 << 20):
        raise error(
            f"{name}: at most {MOST_RATIO} times the size of the file is expanded, {packed} bytes, "
            f"got {size}"
        )
    if size > readable_bytes():
        raise error(
            f"{name}: expands to {size} bytes, more than the {readable_bytes()} that may be read "
            "into the memory there is"
        )


def read_npz(path: PathLike, error: type[Exception] = ValueError) -> dict[str, NDArray[Any]]:
    """All arrays of an ``.npz`` archive, by name. Nothing is unpickled.

    Args:
        path: a regular file.
        error: the exception to raise; its message begins with the path.

    Raises:
        error: no such file, or one that is damaged, has more than 1,000 members or two of one name,
            or expands to more than a hundred times its size or than half of the memory there is.
    """
    file, size = open_regular(path, readable_bytes(), error)
    try:
        with file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(members) > _MOST_MEMBERS or len(set(names)) < len(names):
                raise error(f"{path}: must have at most {_MOST_MEMBERS} arrays, each name once")
            checked_expansion(sum(m.file_size for m in members), size, str(path), error)
            return {
                name: _read_npy(archive, member)
                for name, member in zip(names, members, strict=True)
            }
    except Exception as fault:  # a damaged archive can fail anywhere between zip and array
        if isinstance(fault, error) and str(fault).startswith(f"{path}: "):
            raise
        detail = f"{type(fault).__name__}: {fault}".splitlines()[0][:200]
        raise error(f"{path}: not a readable .npz archive: {detail}") from fault


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array, in pieces: in memory once. Reading to the end compares the checksum."""
    with archive.open(member) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError("an array is followed by other bytes")
    return array
