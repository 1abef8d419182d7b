"""The same rows as aligned text, as markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from polygraph._text import markdown_text

Row = Mapping[str, Any]
LARGE = 1e9  # from here on, the power of ten says more than the digits
Best = Collection[tuple[int, str]]


def cell(value: Any, digits: int = 2) -> str:
    """One value for people: thousands separators, fixed digits, a dash where there is none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:,.{digits}f}" if abs(value) < LARGE else f"{value:.{digits}e}"
    return str(value)


def _cells(
    rows: Sequence[Row], columns: Mapping[str, str], digits: int, best: Best, mark: str
) -> list[list[str]]:
    def text(number: int, row: Row, key: str) -> str:
        plain = cell(row.get(key), digits)
        return mark.format(plain) if (number, key) in best else plain

    return [
        list(columns.values()),
        *([text(number, row, key) for key in columns] for number, row in enumerate(rows)),
    ]


def _is_text(rows: Sequence[Row], key: str) -> bool:
    return any(isinstance(row.get(key), str) for row in rows)


def text_table(
    rows: Sequence[Row], columns: Mapping[str, str], digits: int = 2, *, best: Best = ()
) -> str:
    """Aligned columns for a terminal.

    Args:
        rows: one mapping per row; missing values print as a dash.
        columns: key -> heading, in order.
        digits: digits after the point of floating-point numbers.
        best: (row, key) of the values to mark with a star.
    """
    cells = _cells(rows, columns, digits, best, "*{}")
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


def markdown_table(
    rows: Sequence[Row], columns: Mapping[str, str], digits: int = 2, *, best: Best = ()
) -> str:
    """The same as a markdown table, the best in bold; names are text, whatever is in them."""
    named = [
        {key: markdown_text(v) if isinstance(v, str) else v for key, v in row.items()}
        for row in rows
    ]
    cells = _cells(named, columns, digits, best, "**{}**")
    cells.insert(1, ["---" if _is_text(rows, key) else "---:" for key in columns])
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
