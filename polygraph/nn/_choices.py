"""Checks of constructor arguments, shared by layers, blocks and models."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def check_choice(owner: str, argument: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError that names the nearest choice unless ``value`` is one of ``choices``."""
    names = list(choices)
    if value in names:
        return
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{owner}: {argument} must be one of {', '.join(names)}, got {value!r}{hint}")


def check_positive(owner: str, **values: int) -> None:
    """Raise a ValueError that names the first of ``values`` that is not a positive integer."""
    for argument, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{owner}: {argument} must be a positive integer, got {value!r}")
