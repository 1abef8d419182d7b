"""Files: what users name is opened with care, what we write appears whole or not at all.

Users may name anything: only regular files of a bounded size are opened, whatever the path leads
to. What is written goes to a temporary file beside its place, is synced and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PathLike = str | os.PathLike[str]
TEMPORARY_SUFFIX = ".tmp"
_BLOCK = 1 << 22

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(
    path: PathLike, most_bytes: int, error: type[Exception] = ValueError
) -> tuple[BinaryIO, int]:
    """Open a regular file for reading; nothing blocks, and nothing is read yet.

    Args:
        path: the file; symbolic links are followed.
        most_bytes: the size above which the file is refused.
        error: the exception to raise; its message begins with the path.

    Returns:
        The open binary file and its size in bytes.

    Raises:
        error: the file is missing, cannot be opened, is larger than ``most_bytes``, or is no
            regular file (a folder, a pipe, a device, a loop of links).
    """
    name = os.fspath(path)
    try:
        # A look before opening: to open a pipe or a device is an event to whoever is behind it.
        _checked_size(name, os.stat(name), most_bytes, error)
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as fault:
        raise error(f"{name}: no such file") from fault
    except OSError as fault:
        raise error(f"{name}: cannot be opened: {fault.strerror}") from fault
    except ValueError as fault:
        if isinstance(fault, error):
            raise
        raise error(f"{name!r}: not the name of a file: {fault}") from fault
    file = os.fdopen(descriptor, "rb")
    try:
        return file, _checked_size(name, os.fstat(descriptor), most_bytes, error)
    except BaseException:
        file.close()
        raise


def read_regular(
    path: PathLike,
    most_bytes: int,
    error: type[Exception] = ValueError,
    *,
    first: int | None = None,
) -> bytes:
    """Read a regular file, whole, or its ``first`` bytes.

    Arguments and errors are those of :func:`open_regular`; that the file cannot be read, or
    changes its size meanwhile, is an ``error``, too.
    """
    file, size = open_regular(path, most_bytes, error)
    with file:
        try:
            if first is not None and first < size:
                return file.read(first)
            data = file.read(size + 1)
        except OSError as fault:
            raise error(f"{os.fspath(path)}: cannot be read: {fault.strerror}") from fault
    if len(data) != size:
        raise error(f"{os.fspath(path)}: changes while it is read: its size was {size} bytes")
    return data


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of ``path`` that nobody has, for what will be renamed to it.

    It does not contain the name of ``path``, which may be as long as the file system allows.
    """
    return path.with_name(f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``path``, which replaces it at the end; it is gone on an error.

    A crash leaves the old file or the new one: the content is synced before, the folder after.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


def write_atomic(path: PathLike, data: bytes) -> None:
    """Write ``data`` to ``path``, whose folder must exist; see :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def sync_folder(folder: Path) -> None:
    """Make a rename durable; a file system that refuses to sync a folder still renames at once."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def file_sha256(path: PathLike) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def natural_key(path: Path | str) -> list[tuple[int, int, str]]:
    """Sort key that reads runs of digits as numbers: ``f2`` before ``f10``."""
    parts = re.split(r"(\d+)", path.as_posix() if isinstance(path, Path) else path)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def _checked_size(
    name: str, status: os.stat_result, most_bytes: int, error: type[Exception]
) -> int:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise error(f"{name}: not a file but {kind}")
    if status.st_size > most_bytes:
        raise error(f"{name}: has {status.st_size} bytes, more than the {most_bytes} that are read")
    return status.st_size
