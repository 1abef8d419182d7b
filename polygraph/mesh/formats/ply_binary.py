"""Rows of a binary PLY file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polygraph.mesh.errors import MeshError
from polygraph.mesh.formats.ply_header import Element, ends_after
from polygraph.mesh.formats.text import IntArray, ragged

_STRUCT = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}

Column = tuple[npt.NDArray[Any], IntArray | None]


def binary_element(
    data: bytes, begin: int, element: Element, order: str, wanted: Sequence[str], name: str
) -> tuple[list[Column], int]:
    """The wanted properties of an element (values, and sizes of lists), and where it ends."""
    if not element.count or not element.properties:
        empty = np.empty(0, np.int64)
        lists = [element.property(p) for p in wanted]
        return [(empty, empty if p is not None and p.counts else None) for p in lists], begin
    sizes = _sizes_of_first(data, begin, element, order)
    if sizes is not None:
        row = np.dtype(
            [
                part
                for p, n in zip(element.properties, sizes, strict=True)
                for part in _parts(p.name, order + p.kind, order + (p.counts or ""), n)
            ]
        )
        end = begin + element.count * row.itemsize
        if end <= len(data):
            rows = np.frombuffer(data, row, element.count, begin)
            if all((rows[f"{p.name} counts"] == n).all() for p, n in _lists(element, sizes)):
                return [_column(rows, element, p) for p in wanted], end
        elif not any(p.counts for p in element.properties):
            raise ends_after(name, (len(data) - begin) // row.itemsize, element)
    return _row_by_row(data, begin, element, order, wanted, name)


def _parts(name: str, kind: str, counts: str, size: int | None) -> list[Any]:
    """Fields of a property in a row."""
    if size is None:
        return [(name, kind)]
    return [(f"{name} counts", counts), (name, kind, (size,))]


def _lists(element: Element, sizes: list[int | None]) -> list[tuple[Any, int]]:
    pairs = zip(element.properties, sizes, strict=True)
    return [(p, n) for p, n in pairs if n is not None]


def _column(rows: npt.NDArray[Any], element: Element, name: str) -> Column:
    found = element.property(name)
    if found is None or found.counts is None:
        return rows[name], None
    return rows[name].reshape(-1), rows[f"{name} counts"].astype(np.int64)


def _sizes_of_first(
    data: bytes, begin: int, element: Element, order: str
) -> list[int | None] | None:
    """The lengths of the first row's lists (None for a number); None where the file is too short.

    In most files all rows have the same ones.
    """
    sizes: list[int | None] = []
    for p in element.properties:
        size = None
        if p.counts is not None:
            width = int(p.counts[1])
            if begin + width > len(data):
                return None
            (size,) = struct.unpack_from(order + _STRUCT[p.counts], data, begin)
            begin += width
            if not 0 <= size * int(p.kind[1]) <= len(data) - begin:
                return None
        sizes.append(size)
        begin += int(p.kind[1]) * (1 if size is None else size)
    return sizes


def _row_by_row(
    data: bytes, begin: int, element: Element, order: str, wanted: Sequence[str], name: str
) -> tuple[list[Column], int]:
    """Rows of lists of several lengths: where one begins depends on all those before it."""
    steps = []
    for p in element.properties:
        counts = struct.Struct(order + _STRUCT[p.counts]) if p.counts else None
        steps.append((p.name, counts, int(p.kind[1])))
    begins: dict[str, list[int]] = {p: [] for p in wanted}
    sizes: dict[str, list[int]] = {p: [] for p in wanted}
    at, total = begin, len(data)
    for row in range(element.count):
        for property_name, counts, width in steps:
            size = 1
            if counts is not None:
                if at + counts.size > total:
                    raise ends_after(name, row, element)
                (size,) = counts.unpack_from(data, at)
                at += counts.size
                if size < 0:
                    what = f"{property_name} has the length {size}"
                    raise MeshError(f"{name}: {element.name} {row}: {what}")
            if property_name in begins:
                begins[property_name].append(at)
                sizes[property_name].append(size)
            at += size * width
        if at > total:
            raise ends_after(name, row, element)
    columns: list[Column] = []
    for wanted_name in wanted:
        found = element.property(wanted_name)
        assert found is not None
        width = int(found.kind[1])
        lengths = np.array(sizes[wanted_name], dtype=np.int64)
        places = ragged(np.array(begins[wanted_name], dtype=np.int64), lengths * width)
        values = np.frombuffer(data, np.uint8)[places].view(order + found.kind)
        columns.append((values, lengths if found.counts else None))
    return columns, at
