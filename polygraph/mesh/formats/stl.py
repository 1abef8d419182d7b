"""STL, text and binary: loose triangles, whose corners at the same position become one vertex."""

from __future__ import annotations

import re

import numpy as np

from polygraph.mesh.errors import MeshError
from polygraph.mesh.formats.polygons import Polygons
from polygraph.mesh.formats.text import FloatArray, IntArray, Table, doubles, quoted, text_of

_HEADER = 84
_ROW = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")])
_SOLID, _END = 0, 8
_FACET = (b"facet", b"outer", b"vertex", b"vertex", b"vertex", b"endloop", b"endfacet")
# What stands before the numbers of the first vertex, between facets, and behind the last one.
_OPENED = rb"facet\s+normal\s+\S+\s+\S+\s+\S+\s+outer\s+loop\s+vertex(?=\s)"
_CLOSED = rb"\sendloop\s+endfacet\s+"
_FIRST = re.compile(rb"\s*" + _OPENED)
_NEXT = re.compile(_CLOSED + _OPENED)
_LAST = re.compile(_CLOSED + rb"\Z")
_ONE_LINE = bytes.maketrans(b"\n\v", b"  ")
# Of each word the places in a facet where it may stand; of a vertex the first of three.
_PLACES = {b"solid": _SOLID, b"endsolid": _END} | {
    word: _FACET.index(word) + 1 for word in dict.fromkeys(_FACET)
}


def read(data: bytes, name: str) -> Polygons:
    """The mesh of an ``.stl`` file."""
    corners = _text(data, name) if _is_text(data) else _binary(data, name)
    vertices, faces = _merged(corners.reshape(-1, 3))
    return Polygons(vertices, np.full(len(faces) // 3, 3, dtype=np.int64), faces)


def _is_text(data: bytes) -> bool:
    """Whether it is text: the header of a binary file may begin with ``solid``, too."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True  # UTF-16, which the reader of text refuses by name
    if len(data) == _HEADER + _ROW.itemsize * int.from_bytes(data[80:84], "little"):
        return False
    return data.removeprefix(b"\xef\xbb\xbf").lstrip()[:5].lower() == b"solid" and b"\0" not in data


def _binary(data: bytes, name: str) -> FloatArray:
    if len(data) < _HEADER:
        raise MeshError(
            f"{name}: cannot be read as .stl: {len(data)} bytes, and its header has {_HEADER}"
        )
    count = int.from_bytes(data[80:84], "little")
    rows, rest = divmod(len(data) - _HEADER, _ROW.itemsize)
    if rows < count:
        raise MeshError(f"{name}: it ends after {rows} of {count} triangles")
    if rows > count or data[_HEADER + count * _ROW.itemsize :] not in (b"", b"\n", b"\r\n"):
        raise MeshError(
            f"{name}: its header announces {count} triangles, and it holds {rows} and {rest} bytes"
        )
    triangles = np.frombuffer(data, _ROW, count, _HEADER)
    return doubles(triangles["corners"])


def _text(data: bytes, name: str) -> FloatArray:
    text = text_of(data, name)
    corners = _one_solid(text, name)
    return _line_by_line(text, name) if corners is None else corners


def _one_solid(text: bytes, name: str) -> FloatArray | None:
    """The usual file, quickly: one solid, its words in lower case; None for any other."""
    head, _, rest = text.lstrip().partition(b"\n")
    facets, end, tail = rest.rpartition(b"endsolid")
    facets = facets.translate(_ONE_LINE)
    first, last = _FIRST.match(facets), _LAST.match(facets, max(0, facets.rfind(b"endloop") - 1))
    if head[:5] != b"solid" or not end or b"\n" in tail.strip() or not first or not last:
        return None
    # A line for each vertex; a mark at the end of each facet's last one.
    numbers = _NEXT.sub(b"\v\n", facets[first.end() : last.start()]).replace(b"vertex", b"\n")
    codes = np.frombuffer(numbers, np.uint8)
    lines, marks = np.flatnonzero(codes == ord("\n")), np.flatnonzero(codes == ord("\v"))
    if len(lines) != 3 * len(marks) + 2 or (lines[2::3] != marks + 1).any():
        return None
    try:
        table = Table(numbers, name)
    except MeshError:
        return None
    whole = len(table) == len(lines) + 1 and (table.lengths == 3).all()
    return table.values if whole else None


def _line_by_line(text: bytes, name: str) -> FloatArray:
    """Any file, or what is wrong with it."""
    lines = [line.strip() for line in text.split(b"\n")]
    words = [line.split(None, 1)[0].lower() if line else b"" for line in lines]
    kinds = np.array([_PLACES.get(word, -1) for word in words], dtype=np.int64)
    at = np.flatnonzero([bool(word) for word in words])
    kinds = kinds[at]
    _check_order(kinds, at, lines, name)
    vertex_at = at[kinds == _PLACES[b"vertex"]]
    vertices = b"\n".join([lines[i][len(b"vertex") :] for i in vertex_at.tolist()])
    table = Table(vertices, name, numbers=vertex_at + 1)
    if len(table) < len(vertex_at):
        empty = next(i for i in vertex_at.tolist() if lines[i].lower() == b"vertex")
        raise MeshError(f"{name}: line {empty + 1}: a vertex has 3 numbers, got none")
    return table.rectangle(0, len(table), (3,), "a vertex")


def _check_order(kinds: IntArray, at: IntArray, lines: list[bytes], name: str) -> None:
    """Solids of whole facets, each with its ``endsolid``."""
    inner = (kinds != _SOLID) & (kinds != _END)
    depth = np.cumsum((kinds == _SOLID).astype(np.int64) - (kinds == _END))
    # The place of each line in its facet; facets do not go on beyond the end of a solid.
    since = np.cumsum(inner) - 1
    want = np.array([_PLACES[word] for word in _FACET])[since % len(_FACET)]
    wrong = inner & ((kinds != want) | (depth != 1))
    wrong |= ~inner & (((since + 1) % len(_FACET) != 0) | (depth != (kinds == _SOLID)))
    if wrong.any():
        first = int(np.argmax(wrong))
        triangle = int(since[first] if inner[first] else since[first] + 1) // len(_FACET)
        raise MeshError(
            f"{name}: line {at[first] + 1}, in triangle {triangle}, stands in the wrong place:"
            f" {quoted(lines[at[first]])}"
        )
    whole, rest = divmod(int(inner.sum()), len(_FACET))
    if rest or not len(depth) or depth[-1] != 0:
        part = " and a part of one" if rest else ""
        raise MeshError(f"{name}: it ends without endsolid, after {whole} triangles{part}")


def _merged(corners: FloatArray) -> tuple[FloatArray, IntArray]:
    """Vertices in the order of their first appearance, and the vertex of every corner."""
    if not np.isfinite(corners).all() or not len(corners):
        return corners, np.arange(len(corners))  # validate_mesh will say what is wrong
    order = np.lexsort(corners.T[::-1])  # stable: of equal corners the first comes first
    ranked = corners[order]
    new = np.ones(len(ranked), dtype=bool)
    new[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    first = order[new]
    names = np.empty(len(first), dtype=np.int64)
    appearance = np.argsort(first)
    names[appearance] = np.arange(len(first))
    inverse = np.empty(len(corners), dtype=np.int64)
    inverse[order] = names[np.cumsum(new) - 1]
    return corners[first[appearance]], inverse
