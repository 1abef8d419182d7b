"""Checks of constructor arguments, shared by layers, blocks and models."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import SupportsIndex

import torch

from polygraph._names import did_you_mean


def check_choice(owner: str, argument: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError that names the nearest choice unless ``value`` is one of ``choices``."""
    names = list(choices)
    if value in names:
        return
    hint = did_you_mean(str(value), names)
    raise ValueError(f"{owner}: {argument} must be one of {', '.join(names)}, got {value!r}{hint}")


def as_index(value: SupportsIndex) -> int:
    """What counts things, as an int: NumPy's integers are none of Python's."""
    return value if isinstance(value, int) else operator.index(value)


def check_positive(owner: str, **values: SupportsIndex) -> None:
    """Raise a ValueError that names the first of ``values`` that is not a positive integer."""
    for argument, value in values.items():
        # Traced sizes are integers, and must not be turned into numbers.
        if isinstance(value, torch.SymInt):
            continue
        try:
            good = not isinstance(value, bool) and as_index(value) >= 1
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{owner}: {argument} must be a positive integer, got {value!r}")
