"""OFF, the object file format of Geomview, in text: OFF, NOFF, COFF, STOFF and their combinations.

Vertices and faces are a line each; comments and blank lines may stand between them.
"""

from __future__ import annotations

import re

import numpy as np

from polygraph.mesh.errors import MeshError
from polygraph.mesh.formats.polygons import Polygons
from polygraph.mesh.formats.text import Table, quoted, ragged, text_of, without_comments

_KEYWORD = re.compile(rb"(ST)?(C)?(N)?OFF")
_UNSUPPORTED = re.compile(rb"(ST)?C?N?4?n?OFF")
_COLOURS = (0, 1, 3, 4)  # numbers of a face's colour


def read(data: bytes, name: str) -> Polygons:
    """The mesh of an ``.off`` file."""
    text = text_of(data, name)
    if re.match(rb"\s*\w*OFF\s+BINARY", text):
        raise MeshError(f"{name}: binary OFF is not supported; save it as text")
    text = without_comments(text)
    begin, line, words = _next_line(text, 0, 1)
    keyword = words[0] if words else b""
    keyword = b"OFF" if keyword == b"off" else keyword
    parts = _KEYWORD.fullmatch(keyword)
    if parts is None:
        if _UNSUPPORTED.fullmatch(keyword):
            raise MeshError(f"{name}: {keyword.decode()} is not supported; want three coordinates")
        raise MeshError(f"{name}: cannot be read as .off: it does not begin with OFF")
    counts = words[1:]
    if not counts:
        begin, line, counts = _next_line(text, begin, line)
    if len(counts) not in (2, 3) or not all(re.fullmatch(rb"[0-9]{1,18}", c) for c in counts):
        want = "the numbers of vertices, faces and edges"
        raise MeshError(f"{name}: line {line - 1}: want {want}, got {quoted(b' '.join(counts))}")
    num_vertices, num_faces = int(counts[0]), int(counts[1])
    texture, colour, normal = (part is not None for part in parts.groups())
    width = 3 + 2 * texture + 3 * normal
    widths = (width + 3, width + 4) if colour else (width,)
    table = Table(text[begin:], name, first_line=line)
    vertices = table.rectangle(0, num_vertices, widths, "a vertex")
    _check_counts(table, num_vertices, num_faces)
    starts, lengths = table.starts[num_vertices:-1], table.lengths[num_vertices:]
    sizes = table.values[starts]
    wrong = (sizes != np.floor(sizes)) | ~np.isin(lengths - 1 - sizes, _COLOURS) | (sizes < 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        what = f"a face of {sizes[row]:g} corners and a colour has {lengths[row] - 1} numbers more"
        raise table.fault(num_vertices + row, what)
    whole = sizes.astype(np.int64)
    at = ragged(starts + 1, whole)
    corners = table.values[at]
    wrong = (corners != np.floor(corners)) | (np.abs(corners) > 2**53)
    if wrong.any():
        where = int(at[np.argmax(wrong)])
        raise table.fault(table.row_of(where), f"{table.values[where]:g} is no index")
    return Polygons(np.ascontiguousarray(vertices[:, :3]), whole, corners.astype(np.int64))


def _next_line(text: bytes, begin: int, line: int) -> tuple[int, int, list[bytes]]:
    """Where the line behind the next one that is not blank begins, its number, and the words."""
    words: list[bytes] = []
    while not words and begin < len(text):
        end = text.find(b"\n", begin) % (len(text) + 1)
        words = text[begin:end].split()
        begin, line = end + 1, line + 1
    return begin, line, words


def _check_counts(table: Table, num_vertices: int, num_faces: int) -> None:
    rows = len(table)
    if rows < num_vertices:
        raise MeshError(f"{table.name}: it ends after {rows} of {num_vertices} vertices")
    if rows < num_vertices + num_faces:
        have = rows - num_vertices
        raise MeshError(f"{table.name}: it ends after {have} of {num_faces} faces")
    if rows > num_vertices + num_faces:
        what = f"nothing may follow {num_vertices} vertices and {num_faces} faces"
        raise table.fault(num_vertices + num_faces, what)
