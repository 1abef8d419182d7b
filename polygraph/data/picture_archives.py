"""Pictures in archives, as data sets are handed on: .zip, .tar, .tar.gz, .tar.xz.

Nothing is unpacked to the disk. What an archive promises is counted before it is read.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from polygraph._arrays import checked_expansion
from polygraph._files import open_regular
from polygraph._memory import readable_bytes
from polygraph.data.image_files import SUFFIXES

ARCHIVES = (".tar", ".tar.gz", ".tar.xz", ".tgz", ".zip")
_MOST_PICTURE = 1 << 26  # bytes of a file


def is_archive(path: Path) -> bool:
    """Whether a name is that of an archive."""
    return path.name.lower().endswith(ARCHIVES)


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """The pictures of an archive: their names in it, and their bytes, in the archive's order.

    Hidden files, and what has not the suffix of a picture, are left out.

    Raises:
        ValueError: the archive is missing or damaged, or expands to more than a hundred times its
            size, or a picture to more than 64 MiB.
    """
    file, size = open_regular(path, readable_bytes())
    members = _zip if path.name.lower().endswith(".zip") else _tar
    total = 0
    try:
        with file:
            for name, promised, content in members(file):
                total += promised
                checked_expansion(total, size, str(path), ValueError)
                if promised > _MOST_PICTURE:
                    raise ValueError(
                        f"{path}: at most {_MOST_PICTURE} bytes of a picture are read, {name} has "
                        f"{promised}"
                    )
                yield name, content()
    except Exception as error:  # a damaged archive can fail anywhere
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        detail = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(f"{path}: not a readable archive: {detail}") from error


def _is_picture(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return name.lower().endswith(SUFFIXES) and not hidden


def _zip(file: BinaryIO) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if _is_picture(member.filename):
                yield member.filename, member.file_size, partial(archive.read, member)


def _tar(file: BinaryIO) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            if member.isreg() and _is_picture(member.name):
                yield member.name, member.size, partial(_read, archive, member)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None  # of a regular file
    return stream.read()
