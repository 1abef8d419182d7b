"""PLY, the polygon file format of Stanford, in text and in binary of both byte orders.

Of the element ``vertex`` the properties x, y and z are read, of ``face`` the list
``vertex_indices`` (or ``vertex_index``). All else is stepped over, as its types say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polygraph.mesh.errors import MeshError
from polygraph.mesh.formats.ply_binary import binary_element
from polygraph.mesh.formats.ply_header import (
    Element,
    Header,
    Property,
    ends_after,
    header_of,
)
from polygraph.mesh.formats.polygons import Polygons
from polygraph.mesh.formats.text import FloatArray, IntArray, Table, doubles, outside_type, ragged

HEADER_BYTES = 1 << 20  # no header is longer
_INDICES = ("vertex_indices", "vertex_index")


@dataclass(frozen=True, eq=False)
class Values:
    """A property of an element: a number of each row, or, with sizes, a list of each row."""

    values: npt.NDArray[Any]
    sizes: IntArray | None = None


def read(data: bytes, name: str) -> Polygons:
    """The mesh of a ``.ply`` file."""
    header, begin = header_of(data, name)
    face = header.element("face")
    if header.element("tristrips") and not (face and face.count):
        raise MeshError(f"{name}: triangle strips are not supported; save triangles")
    wanted: dict[str, tuple[str, ...]] = {"vertex": ("x", "y", "z")}
    empty = Values(np.empty(0, np.int64), np.empty(0, np.int64))
    if face and face.count:
        wanted["face"] = (_indices_of(face, name),)
    found = _contents(data, begin, header, wanted, name)
    lists = found["face"][0] if "face" in wanted else empty
    assert lists.sizes is not None
    return Polygons(_points(found), lists.sizes, lists.values.astype(np.int64))


def read_points(data: bytes, name: str) -> FloatArray:
    """The vertices ``[N, 3]`` of a ``.ply`` file, whatever else it holds."""
    header, begin = header_of(data, name)
    return _points(_contents(data, begin, header, {"vertex": ("x", "y", "z")}, name))


def announces_faces(first_bytes: bytes, name: str) -> bool:
    """Whether the header, in a file's first HEADER_BYTES, speaks of faces or strips of them."""
    header, _ = header_of(first_bytes, name)
    elements = (header.element("face"), header.element("tristrips"))
    return any(element is not None and element.count > 0 for element in elements)


def _indices_of(face: Element, name: str) -> str:
    for wanted in _INDICES:
        found = face.property(wanted)
        if found is not None:
            if found.counts is None or found.kind[0] == "f":
                raise MeshError(f"{name}: {wanted} must be a list of integers")
            return wanted
    raise MeshError(f"{name}: its faces have no list {' or '.join(_INDICES)}")


def _points(found: dict[str, list[Values]]) -> FloatArray:
    return np.stack([doubles(column.values) for column in found["vertex"]], axis=1)


def _contents(
    data: bytes, begin: int, header: Header, wanted: dict[str, tuple[str, ...]], name: str
) -> dict[str, list[Values]]:
    """The wanted properties of the wanted elements; the whole file is gone through."""
    for element_name, properties in wanted.items():
        element = header.element(element_name)
        if element is None:
            raise MeshError(f"{name}: it has no {element_name} elements")
        for needed in properties:
            found = element.property(needed)
            if found is None or (element_name == "vertex" and found.counts is not None):
                raise MeshError(f"{name}: its vertices have no number {needed}")
    if header.order:
        return _binary_contents(data, begin, header, wanted, name)
    first_line = data.count(b"\n", 0, begin) + 1
    table = Table(data[begin:], name, first_line=first_line)
    row, out = 0, {}
    for element in header.elements:
        if not element.properties:
            continue
        have = len(table) - row
        if have < element.count:
            raise ends_after(name, have, element)
        values = _text_element(table, row, element)
        out[element.name] = [values[p] for p in wanted.get(element.name, ())]
        row += element.count
    if row < len(table):
        raise table.fault(row, f"nothing may follow what the header announces ({row} lines)")
    return out


def _binary_contents(
    data: bytes, begin: int, header: Header, wanted: dict[str, tuple[str, ...]], name: str
) -> dict[str, list[Values]]:
    out = {}
    for element in header.elements:
        names = wanted.get(element.name, ())
        columns, begin = binary_element(data, begin, element, header.order, names, name)
        out[element.name] = [Values(*column) for column in columns]
    if data[begin:] not in (b"", b"\n", b"\r\n"):
        raise MeshError(f"{name}: {len(data) - begin} bytes follow what the header announces")
    return out


def _text_element(table: Table, row: int, element: Element) -> dict[str, Values]:
    """All properties of an element, each with its type's range checked."""
    out = {}
    if not any(p.counts for p in element.properties):
        width = len(element.properties)
        rows = table.rectangle(row, element.count, (width,), f"a {element.name}")
        for at, p in enumerate(element.properties):
            wrong = outside_type(rows[:, at], p.kind)
            if wrong.any():
                first = int(np.argmax(wrong))
                raise _range_fault(table, row + first, rows[first, at], p)
            out[p.name] = Values(rows[:, at])
        return out
    at = table.starts[row : row + element.count].copy()
    ends = table.starts[row + 1 : row + element.count + 1]
    for p in element.properties:
        _check_ends(table, row, at + 1, ends, element)
        heads = table.values[at]
        wrong = outside_type(heads, p.counts or p.kind) | ((heads < 0) if p.counts else False)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise _range_fault(table, row + first, heads[first], p, length=p.counts is not None)
        at += 1
        if p.counts is None:
            out[p.name] = Values(heads)
            continue
        sizes = heads.astype(np.int64)
        _check_ends(table, row, at + sizes, ends, element)
        items = ragged(at, sizes)
        values = table.values[items]
        wrong = outside_type(values, p.kind)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise _range_fault(table, table.row_of(int(items[first])), values[first], p)
        out[p.name] = Values(values, sizes)
        at += sizes
    _check_ends(table, row, at, ends, element, exactly=True)
    return out


def _check_ends(
    table: Table, row: int, at: IntArray, ends: IntArray, element: Element, exactly: bool = False
) -> None:
    wrong = (at != ends) if exactly else (at > ends)
    if wrong.any():
        first = int(np.argmax(wrong))
        begin = int(table.starts[row + first])
        want = f"{at[first] - begin}" + ("" if exactly else " or more")
        what = f"a {element.name} has {want} numbers, got {ends[first] - begin}"
        raise table.fault(row + first, what)


def _range_fault(
    table: Table, row: int, value: float, p: Property, length: bool = False
) -> MeshError:
    what = f"length of the type {p.type_names[0]}" if length else f"{p.type_names[-1]}"
    return table.fault(row, f"{p.name}: {value:.17g} is no {what}")
