"""Readers of CIFAR-10 and CIFAR-100 in their official binary layouts.

Archives are read where they lie, member by member: nothing is written, so no name in an archive can
lead anywhere. Every fault is a `ValueError` that names the file, what was wanted and what was
found.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from polygraph._files import open_regular, read_regular
from polygraph._memory import check_room
from polygraph.data.image_files import Images, IntArray, check_labels, read_up_to, unpacked

CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR10_TEST = "test_batch.bin"
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR100_FOLDER = "cifar-100-binary"

_PIXELS = 3 * 32 * 32  # the red, green and blue planes
_MAX_BYTES = 1 << 32  # of one archive
_MAX_FILE = 1 << 33
_MAX_MEMBERS = 1000
_MAX_SHARE = 1 << 26  # bytes of a sixth of the images, which are 3.1e7
_MAX_HEADER = 1 << 20  # of one member of an archive: long names
_MAX_TAIL = 1 << 20  # zeros at the end of an archive


class _Layout(NamedTuple):
    """The files of a data set.

    Attributes:
        folder: they lie in, of the archive.
        train: name of each file to train on -> how many sixths of all images it has.
        test: name of the file to test on, which has a sixth.
        labels: how many classes each label byte of a record tells apart; the last one counts.
        python: folder and a file of the version that is made of pickles.
    """

    folder: str
    train: dict[str, int]
    test: str
    labels: tuple[int, ...]
    python: tuple[str, str]

    def shares(self) -> dict[str, int]:
        """Name of each file -> how many sixths of all images it has."""
        return {**self.train, self.test: 1}

    def record(self) -> int:
        """Bytes of a record: its labels, and its pixels."""
        return len(self.labels) + _PIXELS


_CIFAR10 = _Layout(
    CIFAR10_FOLDER,
    dict.fromkeys(CIFAR10_TRAIN, 1),
    CIFAR10_TEST,
    (10,),
    ("cifar-10-batches-py", "data_batch_1"),
)
_CIFAR100 = _Layout(
    CIFAR100_FOLDER, {"train.bin": 5}, "test.bin", (20, 100), ("cifar-100-python", "train")
)


def read_cifar10(path: str | Path) -> dict[str, tuple[Images, IntArray]]:
    """Read CIFAR-10 in its official binary layout.

    ``data_batch_1.bin`` to 5 train, ``test_batch.bin`` tests. A record is a label byte and the red,
    green and blue planes, 3,073 bytes. The six files must have equally many records, so one that
    was cut between two records is noticed.

    Args:
        path: the folder ``cifar-10-batches-bin``, the folder above it, or the archive
            ``cifar-10-binary.tar.gz`` (or unpacked, ``.tar``), which is read as it is.

    Returns:
        "train" and "test": images uint8 ``[N, 3, 32, 32]``, labels int64 ``[N]``.

    Raises:
        FileNotFoundError: the path or one of the six files is not there.
        ValueError: a file is truncated or has a label above 9; the archive is damaged, too big, or
            has an unsafe or a repeated member.
    """
    return _read(Path(path), _CIFAR10)


def read_cifar100(path: str | Path) -> dict[str, tuple[Images, IntArray]]:
    """Read CIFAR-100 in its official binary layout, with the labels of its 100 classes.

    ``train.bin`` and ``test.bin``. A record is a byte for one of 20 groups, a byte for one of 100
    classes, and the red, green and blue planes, 3,074 bytes. There must be five times as many to
    train on, so a file that was cut between two records is noticed.

    Args:
        path: the folder ``cifar-100-binary``, the folder above it, or the archive
            ``cifar-100-binary.tar.gz`` (or unpacked, ``.tar``), which is read as it is.

    Returns:
        "train" and "test": images uint8 ``[N, 3, 32, 32]``, labels int64 ``[N]``.

    Raises:
        FileNotFoundError, ValueError: as `read_cifar10`.
    """
    return _read(Path(path), _CIFAR100)


def _read(path: Path, layout: _Layout) -> dict[str, tuple[Images, IntArray]]:
    shares = layout.shares()
    if path.is_dir():
        inner = path / layout.folder
        folder = inner if inner.is_dir() else path
        found = {}
        for name, share in shares.items():
            file = folder / name
            if file.is_file():
                check_room(min(file.stat().st_size, share * _MAX_SHARE), str(file))
                found[name] = read_regular(file, share * _MAX_SHARE)
        python = (folder / layout.python[1]).exists() or (path / layout.python[0]).exists()
    elif path.is_file():
        found, python = _read_archive(path, layout)
    else:
        raise FileNotFoundError(f"{path}: no such file or folder")
    missing = [name for name in shares if name not in found]
    if missing:
        hint = " (this is the Python version; want the binary version)" if python else ""
        raise FileNotFoundError(f"{path}: no {missing[0]}{hint}")
    records = {name: _records(f"{path}: {name}", data, layout) for name, data in found.items()}
    first = next(name for name, share in shares.items() if share == 1)
    count = len(records[first])
    for name, share in shares.items():
        if len(records[name]) != count * share:
            wanted = "as many" if share == 1 else f"{share} times as many"
            raise ValueError(
                f"{path}: {name}: every file must have {wanted} images as {first}, {count}, got "
                f"{len(records[name])}"
            )
    size = sum(layout.train.values()) * count * layout.record()
    check_room(size, f"{path}: {size // layout.record()} images")
    train = np.concatenate([records[name] for name in layout.train])
    at = len(layout.labels)
    return {
        part: (rows[:, at:].reshape(-1, 3, 32, 32), rows[:, at - 1].astype(np.int64))
        for part, rows in (("train", train), ("test", records[layout.test]))
    }


def _records(name: str, data: bytes, layout: _Layout) -> Images:
    size = layout.record()
    if not data or len(data) % size:
        raise ValueError(
            f"{name}: truncated or of another format: the size must be a multiple of {size} "
            f"bytes, got {len(data)}"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, size)
    for column, count in enumerate(layout.labels):
        check_labels(name, rows[:, column], count)
    return rows


def _read_archive(path: Path, layout: _Layout) -> tuple[dict[str, bytes], bool]:
    """The wanted files of an archive, and whether it is that of the Python version."""
    found: dict[str, bytes] = {}
    shares = layout.shares()
    python = False
    raw, _ = open_regular(path, _MAX_FILE)
    try:
        # As a stream: unpacked once, in memory, and only as far as the caps allow.
        with raw, unpacked(raw) as content:
            stream = _Counted(path, content)
            with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
                for member in _members(path, archive, stream):
                    name = PurePosixPath(member.name)
                    python = python or layout.python[0] in name.parts
                    inside = name.parts[:-1] in ((), (layout.folder,))
                    if member.isdir() or name.name not in shares or not inside:
                        continue
                    file = archive.extractfile(member) if member.isreg() else None
                    if file is None or member.issparse():
                        raise ValueError(f"{path}: {name}: want a file, got a link or a device")
                    most = shares[name.name] * _MAX_SHARE
                    if member.size > most:
                        raise ValueError(
                            f"{path}: {name}: at most {most} bytes are read, got {member.size}"
                        )
                    check_room(2 * member.size, f"{path}: {name}")
                    if name.name in found:
                        raise ValueError(f"{path}: {name}: want it once, got it twice")
                    found[name.name] = file.read()
            # gzip's checksum comes last, behind what tar takes for the end.
            stream.allow(_MAX_TAIL)
            stream.read(_MAX_TAIL)
            if stream.total % tarfile.BLOCKSIZE:
                raise ValueError(
                    f"{path}: not a readable tar archive, or truncated: its size must be a "
                    f"multiple of {tarfile.BLOCKSIZE} bytes, got {stream.total}"
                )
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{path}: not a readable tar archive, or truncated: {error}") from error
    return found, python


class _Counted:
    """A stream of which no more is read than was allowed before: headers are of any length."""

    def __init__(self, path: Path, file: BinaryIO | gzip.GzipFile) -> None:
        self.path, self.file = path, file
        self.total, self.limit = 0, _MAX_HEADER  # the first header is read on opening

    def allow(self, size: int) -> None:
        """Let so many more bytes be read from here on."""
        self.limit = self.total + size

    def read(self, size: int) -> bytes:
        """As of a file.

        Raises:
            ValueError: more was asked for than is allowed.
        """
        data = read_up_to(self.file, min(size, self.limit - self.total + 1))
        self.total += len(data)
        if self.total > self.limit:
            raise ValueError(f"{self.path}: the headers of a member exceed {_MAX_HEADER} bytes")
        return data


def _members(path: Path, archive: tarfile.TarFile, stream: _Counted) -> Iterator[tarfile.TarInfo]:
    total = number = 0
    while (member := archive.next()) is not None:
        total += member.size
        number += 1
        if number > _MAX_MEMBERS or total > _MAX_BYTES:
            raise ValueError(
                f"{path}: an archive of at most {_MAX_MEMBERS} members and {_MAX_BYTES} bytes is "
                "wanted, got more"
            )
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(
                f"{path}: member names must stay inside the archive, got {member.name!r}"
            )
        stream.allow(member.size + _MAX_HEADER)  # it, and the headers of the next one
        yield member
