"""The same rows as aligned text, as markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def cell(value: Any, digits: int = 2) -> str:
    """One value for people: thousands separators, fixed digits, a dash where there is none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.{digits}f}" if math.isfinite(value) else str(value)
    return str(value)


def _cells(rows: Sequence[Row], columns: Mapping[str, str], digits: int) -> list[list[str]]:
    return [list(columns.values())] + [[cell(r.get(key), digits) for key in columns] for r in rows]


def _is_text(rows: Sequence[Row], key: str) -> bool:
    return any(isinstance(row.get(key), str) for row in rows)


def text_table(rows: Sequence[Row], columns: Mapping[str, str], digits: int = 2) -> str:
    """Aligned columns for a terminal.

    Args:
        rows: one mapping per row; missing values print as a dash.
        columns: key -> heading, in order.
        digits: digits after the point of floating-point numbers.
    """
    cells = _cells(rows, columns, digits)
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    left = [_is_text(rows, key) for key in columns]
    lines = [
        "  ".join(
            text.ljust(width) if to_left else text.rjust(width)
            for text, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str], digits: int = 2) -> str:
    """The same as a markdown table."""
    cells = _cells(rows, columns, digits)
    cells.insert(1, ["---" if _is_text(rows, key) else "---:" for key in columns])
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
