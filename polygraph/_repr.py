"""How objects that hold arrays are printed: shapes and dtypes, never the numbers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

_MOST_CHARACTERS = 60  # of one value
_MOST_ITEMS = 3  # of a sequence of arrays


def short_repr(self: Any) -> str:
    """One line about an instance of a dataclass, to be its ``__repr__``."""
    shown = [
        f"{f.name}={describe(getattr(self, f.name))}" for f in fields(self) if not f.name[0] == "_"
    ]
    return f"{type(self).__name__}({', '.join(shown)})"


def describe(value: Any) -> str:
    """An array as ``float64 [642, 3]``, a collection of them by its first ones; the rest cut."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        if not value.shape:
            return f"{float(value):.6g}"
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, list | tuple) and any(hasattr(item, "dtype") for item in value):
        first = ", ".join(map(describe, value[:_MOST_ITEMS]))
        return f"[{first}{', ...' if len(value) > _MOST_ITEMS else ''}]"
    if isinstance(value, dict):
        return f"{{{len(value)} entries}}"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = repr(value)
    if len(text) <= _MOST_CHARACTERS:
        return text
    if isinstance(value, str):
        return f"{text[:12]}...'"
    return f"{text[: _MOST_CHARACTERS - 3]}..."
