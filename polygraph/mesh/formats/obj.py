"""Wavefront OBJ: its lines ``v`` and ``f``; all others are skipped.

Normals and texture coordinates never split a vertex, and the vertices keep their order.
"""

from __future__ import annotations

import re

import numpy as np

from polygraph.mesh.errors import MeshError
from polygraph.mesh.formats.polygons import Polygons
from polygraph.mesh.formats.text import (
    IntArray,
    Table,
    quoted,
    ragged,
    text_of,
    without_comments,
)

# Position alone, with a weight, with a colour, with a colour and its opacity.
_WIDTHS = (3, 4, 6, 7)
_CONTINUED = b"\v"  # stands where a line goes on: it is blank, and still counts as a line
_NO_REFERENCE = re.compile(rb"(?<![0-9/])/|/(?!-?[0-9]*(?:/-?[0-9]*)?(?:\s|\Z))")


def read(data: bytes, name: str) -> Polygons:
    """The mesh of an ``.obj`` file."""
    text = text_of(data, name)
    if b"\0" in text:
        raise MeshError(f"{name}: cannot be read as .obj: it holds zero bytes, so it is no text")
    text = without_comments(text.replace(b"\v", b" "))
    if b"\\" in text:
        text = re.sub(rb"\\[ \t\r]*\n", _CONTINUED, text)
    lines = [line.lstrip() for line in text.split(b"\n")]
    heads = [line[:2].rstrip() for line in lines]
    v_at = np.array([i for i, head in enumerate(heads) if head == b"v"], dtype=np.int64)
    f_at = np.array([i for i, head in enumerate(heads) if head == b"f"], dtype=np.int64)
    numbers = _line_numbers(text, len(lines))
    vertices = _table("v", lines, v_at, numbers, name)
    wrong = ~np.isin(vertices.lengths, _WIDTHS)
    if wrong.any():
        raise _invalid("v", lines, int(v_at[np.argmax(wrong)]), numbers, name)
    coordinates = vertices.values[ragged(vertices.starts[:-1], np.full(len(vertices), 3))]
    faces = _table("f", lines, f_at, numbers, name)
    sizes = faces.lengths
    bad = (faces.values == 0) | (np.abs(faces.values) > 2**53)
    if bad.any() or (sizes < 3).any():
        rows = np.append(np.flatnonzero(sizes < 3), np.repeat(np.arange(len(sizes)), sizes)[bad])
        raise _invalid("f", lines, int(f_at[rows.min()]), numbers, name)
    # Indices count from 1; negative ones count back from the vertices read so far.
    corners = faces.values.astype(np.int64)
    so_far = np.repeat(np.searchsorted(v_at, f_at), sizes)
    corners = np.where(corners > 0, corners - 1, so_far + corners)
    return Polygons(coordinates.reshape(-1, 3), sizes, corners)


def _line_numbers(text: bytes, count: int) -> IntArray:
    """The number in the file of every line, the lines that go on being one."""
    numbers = np.arange(1, count + 1)
    if _CONTINUED in text:
        codes = np.frombuffer(text, np.uint8)
        begins = np.append(0, np.flatnonzero(codes == 10) + 1)
        numbers += np.searchsorted(np.flatnonzero(codes == _CONTINUED[0]), begins)
    return numbers


def _table(kind: str, lines: list[bytes], at: IntArray, numbers: IntArray, name: str) -> Table:
    """The numbers of some lines; of a corner ``1/2/3`` the first."""
    rest = [lines[i][1:] for i in at.tolist()]
    text = b"\n".join(rest)
    if kind == "f" and b"/" in text:
        if _NO_REFERENCE.search(text):
            first = next(i for i, line in enumerate(rest) if _NO_REFERENCE.search(line))
            raise _invalid(kind, lines, int(at[first]), numbers, name)
        text = re.sub(rb"/\S*", b"", text)
    empty = next((i for i, line in enumerate(rest) if not line or line.isspace()), None)
    if empty is not None:
        raise _invalid(kind, lines, int(at[empty]), numbers, name)
    try:
        return Table(text, name, numbers=numbers[at], integers=kind == "f")
    except MeshError as error:
        where, _, what = str(error).removeprefix(f"{name}: ").partition(": ")
        fault = f"{name}: {where} is not a valid {kind} line: {what}"
        raise MeshError(fault) from None


def _invalid(kind: str, lines: list[bytes], at: int, numbers: IntArray, name: str) -> MeshError:
    return MeshError(f"{name}: line {numbers[at]} is not a valid {kind} line: {quoted(lines[at])}")
