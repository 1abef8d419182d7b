"""Names that do not exist: the nearest one that does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``, or None where none is."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: ``"; did you mean 'x'?"``, or nothing."""
    near = nearest_name(name, known)
    return "" if near is None else f"; did you mean {near!r}?"


def unknown_name(what: str, got: str, known: Iterable[str]) -> str:
    """Message for a name that does not exist: the nearest one that does, then all of them."""
    names = list(known)
    hint = did_you_mean(got, names)
    return f"unknown {what} {got!r}{hint or ';'} {'Known' if hint else 'known'}: " + (
        ", ".join(names) or "none"
    )
