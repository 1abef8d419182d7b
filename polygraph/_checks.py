"""Checks of constructor arguments, shared by layers, blocks and models."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields
from typing import Any, SupportsIndex

import torch

from polygraph._names import did_you_mean

_MOST = 2**31 - 1  # of a number that something is made of


def check_numbers(owner: str, config: Any, unbounded: Collection[str] = ()) -> None:
    """Refuse fields of a dataclass whose values are no numbers, where their annotations want some.

    ``int`` wants an integer below 2^31, ``float`` a number, a tuple integers (a tuple of floats
    numbers); none of them is a Boolean or a string. Ranges, and NaN, are the dataclass's own
    business.

    Args:
        owner: begins the message.
        config: an instance of a dataclass whose annotations are strings.
        unbounded: names of integers that may be of any size, such as seeds.

    Raises:
        ValueError: names the field and its value.
    """
    for field in fields(config):
        value, kinds = getattr(config, field.name), str(field.type).split(" | ")
        if value is None and "None" in kinds:
            continue
        if kinds == ["tuple[float, ...]"]:
            good = isinstance(value, tuple | list) and all(map(_is_real, value))
            wanted = "numbers"
        elif isinstance(value, tuple | list) and any(kind.startswith("tuple[") for kind in kinds):
            good = all(_is_whole(item, _MOST) for item in _leaves(value))
            wanted = f"integers below {_MOST + 1}"
        elif "int" in kinds:
            good = _is_whole(value, None if field.name in unbounded else _MOST)
            wanted = "an integer" if field.name in unbounded else f"an integer below {_MOST + 1}"
        elif "float" in kinds:
            good = _is_real(value)
            wanted = "a number"
        else:
            continue
        if not good:
            raise ValueError(f"{owner}: {field.name} must be {wanted}, got {value!r}")


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_whole(value: Any, most: int | None) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and (most is None or int(value) <= most)


_SHOWN = 20  # choices of a message at most


def check_choice(owner: str, argument: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError that names the nearest choice unless ``value`` is one of ``choices``."""
    names = list(choices)
    if value in names:
        return
    hint = did_you_mean(str(value), names)
    shown = names if len(names) <= _SHOWN else [*names[:_SHOWN], f"{len(names) - _SHOWN} others"]
    raise ValueError(f"{owner}: {argument} must be one of {', '.join(shown)}, got {value!r}{hint}")


def as_index(value: SupportsIndex) -> int:
    """What counts things, as an int: NumPy's integers are none of Python's."""
    return value if isinstance(value, int) else operator.index(value)


def check_positive(owner: str, **values: SupportsIndex) -> None:
    """Raise a ValueError that names the first of ``values`` that is not a positive integer."""
    for argument, value in values.items():
        # Traced sizes are symbolic integers and must stay symbolic.
        if isinstance(value, torch.SymInt):
            continue
        try:
            good = not isinstance(value, bool) and as_index(value) >= 1
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{owner}: {argument} must be a positive integer, got {value!r}")
