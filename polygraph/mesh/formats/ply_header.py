"""The header of a PLY file: its elements, their properties and types."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from polygraph.mesh.errors import MeshError
from polygraph.mesh.formats.text import quoted, text_of

_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_PLURALS = {"vertex": "vertices", "face": "faces"}


@dataclass(frozen=True)
class Property:
    """A property: NumPy's codes of its type and, of a list, of its length."""

    name: str
    kind: str
    counts: str | None
    type_names: tuple[str, ...]


@dataclass(frozen=True)
class Element:
    """An element: so many rows of properties."""

    name: str
    count: int
    properties: list[Property] = field(default_factory=list)

    def property(self, name: str) -> Property | None:
        """The property of that name."""
        return next((p for p in self.properties if p.name == name), None)


@dataclass(frozen=True)
class Header:
    """Byte order (``<``, ``>``, or nothing for text) and elements."""

    order: str
    elements: list[Element]

    def element(self, name: str) -> Element | None:
        """The element of that name."""
        return next((e for e in self.elements if e.name == name), None)


def ends_after(name: str, have: int, element: Element) -> MeshError:
    """The error for a file that ends before its last row of an element."""
    what = _PLURALS.get(element.name, f"elements {element.name}")
    return MeshError(f"{name}: it ends after {have} of {element.count} {what}")


def header_of(data: bytes, name: str) -> tuple[Header, int]:
    """The header, and where what follows it begins.

    Raises:
        MeshError: it is not the header of a PLY file, or has no end.
    """
    begin = len(data) - len(text_of(data, name))
    order: str | None = None
    elements: list[Element] = []
    line = 0
    while True:
        end = data.find(b"\n", begin)
        if end < 0 or (line == 0 and data[begin:end].strip() != b"ply"):
            what = "its header has no end" if line else "it does not begin with the line ply"
            raise MeshError(f"{name}: cannot be read as .ply: {what}")
        text, begin, line = data[begin:end], end + 1, line + 1
        # Comments may be in any encoding; of all else every letter is ASCII.
        words = text.decode("latin-1").split()
        match words:
            case ["end_header"] if order is not None:
                return Header(order, elements), begin
            case ["ply"] if line == 1:
                pass
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", kind, "1.0"] if kind in _ORDERS and order is None:
                order = _ORDERS[kind]
            case ["element", what, count] if _new_element(elements, what, count):
                elements.append(Element(what, int(count)))
            case ["property", *rest] if elements and _add(elements[-1], rest):
                pass
            case _:
                raise MeshError(f"{name}: line {line} is not valid in a header: {quoted(text)}")


def _new_element(elements: list[Element], name: str, count: str) -> bool:
    return re.fullmatch("[0-9]{1,18}", count) is not None and name not in [e.name for e in elements]


def _add(element: Element, words: list[str]) -> bool:
    """Add a property; False where it is none."""
    match words:
        case ["list", counts, kind, name] if counts in _TYPES and _TYPES[counts][0] != "f":
            made = Property(name, _TYPES.get(kind, ""), _TYPES[counts], (counts, kind))
        case [kind, name]:
            made = Property(name, _TYPES.get(kind, ""), None, (kind,))
        case _:
            return False
    if not made.kind or element.property(made.name) is not None:
        return False
    element.properties.append(made)
    return True
