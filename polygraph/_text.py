"""Words that may come from a file, within what we write."""

from __future__ import annotations

from typing import Any

_MARKS = str.maketrans({"&": "&amp;", "<": "&lt;", "[": "&#91;", "|": "&#124;"})


def markdown_text(value: Any) -> str:
    """A value as plain text of Markdown: no HTML, no link, no end of a cell or line."""
    words = " ".join(str(value).split()).translate(_MARKS)
    return words.replace("://", ":&#47;/")  # some readers make a link of a bare address
