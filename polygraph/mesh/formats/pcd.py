"""PCD, the point-cloud file format of PCL, version 0.7: ascii, binary and binary_compressed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from polygraph.mesh.errors import MeshError
from polygraph.mesh.formats.text import FloatArray, Table, doubles, outside_type, quoted, text_of

_KINDS = {("F", "4"): "f4", ("F", "8"): "f8"} | {
    (kind, size): kind.lower() + size for kind in "IU" for size in "1248"
}
_WORDS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS")


def read_points(data: bytes, name: str) -> FloatArray:
    """The points ``[N, 3]`` of a ``.pcd`` file."""
    header, begin = _header(data, name)
    fields = _fields(header, name)
    count = _count(header, name)
    mode = header["DATA"]
    if mode == ["ascii"]:
        return _text(data, begin, fields, count, name)
    row = np.dtype([(field, f"<{kind}", (width,)) for field, kind, width in fields])
    if mode == ["binary"]:
        body = data[begin:]
        if len(body) < count * row.itemsize:
            raise _ends_after(name, len(body) // row.itemsize, count)
        _check_tail(body[count * row.itemsize :], name)
        rows = np.frombuffer(body, row, count)
        return np.stack([doubles(rows[axis][:, 0]) for axis in "xyz"], axis=1)
    if mode == ["binary_compressed"]:
        return _columns(_decompressed(data, begin, count, row, name), fields, count)
    raise MeshError(
        f"{name}: DATA must be ascii, binary or binary_compressed, got {' '.join(mode)!r}"
    )


def _header(data: bytes, name: str) -> tuple[dict[str, list[str]], int]:
    """The words behind each keyword, and where the data begin."""
    begin = len(data) - len(text_of(data, name))
    header: dict[str, list[str]] = {}
    line = 0
    while "DATA" not in header:
        end = data.find(b"\n", begin)
        if end < 0:
            raise MeshError(f"{name}: cannot be read as .pcd: its header has no line DATA")
        text, begin, line = data[begin:end], end + 1, line + 1
        words = text.partition(b"#")[0].decode("latin-1").split()
        if not words:
            continue
        if words[0] not in (*_WORDS, "DATA") or words[0] in header:
            raise MeshError(f"{name}: line {line} is not valid in a header: {quoted(text)}")
        header[words[0]] = words[1:]
    return header, begin


def _fields(header: dict[str, list[str]], name: str) -> list[tuple[str, str, int]]:
    """Name, type and length of each field; padding has names that nothing else can have."""
    names = header.get("FIELDS", [])
    columns = [header.get(word, []) for word in ("SIZE", "TYPE")]
    columns.append(header.get("COUNT", ["1"] * len(names)))
    if not names or any(len(column) != len(names) for column in columns):
        raise MeshError(
            f"{name}: FIELDS, SIZE, TYPE and COUNT must be as many, got {len(names)},"
            f" {', '.join(str(len(column)) for column in columns)}"
        )
    out = []
    for i, (field, size, kind, width) in enumerate(zip(names, *columns, strict=True)):
        if (kind, size) not in _KINDS:
            raise MeshError(f"{name}: field {field} has the unknown type {kind} of size {size}")
        if not re.fullmatch("[0-9]{1,9}", width) or (field in "xyz" and width != "1"):
            raise MeshError(f"{name}: field {field} has the count {width}")
        out.append((f"{i} _" if field == "_" else field, _KINDS[kind, size], int(width)))
    known = [field for field, _, _ in out]
    if not {"x", "y", "z"} <= set(known) or len(set(known)) != len(known):
        raise MeshError(f"{name}: its fields must be x, y, z and others, got {' '.join(names)}")
    return out


def _count(header: dict[str, list[str]], name: str) -> int:
    numbers = {}
    for word in ("WIDTH", "HEIGHT", "POINTS"):
        words = header.get(word, ["1"] if word == "HEIGHT" else [])
        if len(words) != 1 or not re.fullmatch("[0-9]{1,18}", words[0]):
            raise MeshError(f"{name}: {word} must be a whole number, got {' '.join(words)!r}")
        numbers[word] = int(words[0])
    width, height, points = numbers.values()
    if width * height != points:
        raise MeshError(f"{name}: POINTS is {points}, WIDTH x HEIGHT is {width} x {height}")
    return points


def _ends_after(name: str, have: int, count: int) -> MeshError:
    return MeshError(f"{name}: it ends after {have} of {count} points")


def _check_tail(tail: bytes, name: str) -> None:
    if tail not in (b"", b"\n", b"\r\n"):
        raise MeshError(f"{name}: {len(tail)} bytes follow what the header announces")


def _text(
    data: bytes, begin: int, fields: list[tuple[str, str, int]], count: int, name: str
) -> FloatArray:
    table = Table(data[begin:], name, first_line=data.count(b"\n", 0, begin) + 1)
    widths = [width for _, _, width in fields]
    rows = table.rectangle(0, min(count, len(table)), (sum(widths),), "a point")
    if len(table) < count:
        raise _ends_after(name, len(table), count)
    if len(table) > count:
        raise table.fault(count, f"nothing may follow {count} points")
    begins = np.cumsum(widths) - widths
    for (field, kind, width), at in zip(fields, begins.tolist(), strict=True):
        wrong = outside_type(rows[:, at : at + width], kind).any(axis=1)
        if wrong.any():
            what = f"{field} is outside the type {kind[0].upper()} of size {kind[1]}"
            raise table.fault(int(np.argmax(wrong)), what)
    places = {field: at for (field, _, _), at in zip(fields, begins.tolist(), strict=True)}
    return np.ascontiguousarray(rows[:, [places[axis] for axis in "xyz"]])


def _decompressed(data: bytes, begin: int, count: int, row: npt.DTypeLike, name: str) -> bytearray:
    """What a compressed file holds: all values of the first field, then of the second, ..."""
    if len(data) < begin + 8:
        raise _ends_after(name, 0, count)
    packed, size = (int(n) for n in np.frombuffer(data, "<u4", 2, begin))
    want = count * np.dtype(row).itemsize
    if size != want:
        raise MeshError(f"{name}: {count} points have {want} bytes, its data announce {size}")
    body = data[begin + 8 : begin + 8 + packed]
    if len(body) < packed:
        raise MeshError(f"{name}: it ends after {len(body)} of {packed} compressed bytes")
    _check_tail(data[begin + 8 + packed :], name)
    found = lzf_decompress(body, size)
    if found is None:
        raise MeshError(f"{name}: its compressed data are damaged: they do not give {size} bytes")
    return found


def _columns(body: Any, fields: list[tuple[str, str, int]], count: int) -> FloatArray:
    columns, at = {}, 0
    for field, kind, width in fields:
        columns[field] = np.frombuffer(body, f"<{kind}", count * width, at)
        at += columns[field].nbytes
    return np.stack([doubles(columns[axis]) for axis in "xyz"], axis=1)


def lzf_decompress(data: bytes, size: int) -> bytearray | None:
    """What LibLZF's compression made of ``size`` bytes; None where the data give not so many."""
    out = bytearray()
    at, end = 0, len(data)
    while at < end and len(out) <= size:
        control = data[at]
        at += 1
        if control < 32:  # so many bytes, and one more, as they are
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            if at >= end:
                return None
            length += data[at]
            at += 1
        if at >= end:
            return None
        start = len(out) - ((control & 31) << 8) - data[at] - 1
        at += 1
        length += 2
        if start < 0:
            return None
        piece = out[start : start + length]  # shorter where it runs into what it makes
        out += (piece * (length // len(piece) + 1))[:length]
    return out if at == end and len(out) == size else None
