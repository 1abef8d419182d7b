"""Labels of the points of clouds: which part of an object each of them lies on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import array_sha256

_MOST = 1 << 16  # parts


@dataclass(frozen=True)
class PartLabels:
    """Labels of points.

    Attributes:
        labels: int32 ``[S, N]`` in ``[0, P)``.
        names: of the P parts.
        of_class: bool ``[K, P]``, the parts that occur in the clouds of each class.
    """

    labels: NDArray[np.int32]
    names: tuple[str, ...]
    of_class: NDArray[np.bool_]

    def numbers(self) -> list[list[int]]:
        """The parts of each class, by number."""
        return [np.flatnonzero(row).tolist() for row in self.of_class]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the labels."""
        return array_sha256(self.labels.astype("<i4"))


def names_of(name: str, arrays: Mapping[str, NDArray[Any]], which: str) -> tuple[str, ...] | None:
    """The names that an archive has in the array ``which``; None without one.

    Raises:
        ValueError: they are no strings ``[n]``.
    """
    names = arrays.get(which)
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind != "U" or not len(names):
        raise ValueError(
            f"{name}: {which} must be strings of shape [number of {which}], got {names.dtype} "
            f"{list(names.shape)}"
        )
    return tuple(str(word) for word in names)


def read_parts(
    name: str,
    arrays: Mapping[str, NDArray[Any]],
    shape: tuple[int, ...],
    labels: NDArray[np.int64],
    classes: int,
    is_test: NDArray[np.bool_],
) -> PartLabels | None:
    """The labels of points in the arrays ``part`` and ``parts``; None without the first.

    Args:
        name: of the data, for messages.
        arrays: of an archive.
        shape: number of clouds, of points.
        labels: of the clouds.
        classes: number of classes.
        is_test: which clouds test.

    Raises:
        ValueError: shape, dtype or range are wrong; a part has no training points.
    """
    names = names_of(name, arrays, "parts")
    part = arrays.get("part")
    if part is None:
        if names is not None:
            raise ValueError(f"{name}: parts names parts, but the array part is missing")
        return None
    if part.shape != shape or not np.issubdtype(part.dtype, np.integer):
        raise ValueError(
            f"{name}: part must be integers of shape {list(shape)}, got {part.dtype} "
            f"{list(part.shape)}"
        )
    count = _MOST if names is None else len(names)
    bad = (part < 0) | (part >= count)
    if bad.any():
        cloud, point = np.unravel_index(int(bad.argmax()), bad.shape)
        raise ValueError(
            f"{name}: part must lie in [0, {count}), got {part[cloud, point]} for point {point} of "
            f"cloud {cloud}"
        )
    own = part.astype(np.int32)
    if names is None:
        names = tuple(str(number) for number in range(int(own.max()) + 1))
    of_class = np.zeros((classes, len(names)), np.bool_)
    trained = np.zeros(len(names), np.bool_)
    for label, test, row in zip(labels, is_test, own, strict=True):
        found = np.unique(row)
        of_class[label, found] = True
        trained[found] |= not test
    wanted = of_class.any(0) if "parts" in arrays else np.ones(len(names), np.bool_)
    if (wanted & ~trained).any():
        at = int((wanted & ~trained).argmax())
        hint = "" if "parts" in arrays else " (the array parts names parts that may be absent)"
        raise ValueError(
            f"{name}: every part must have training points, got none of part {at} "
            f"({names[at]!r}){hint}"
        )
    return PartLabels(own, names, of_class)
