"""Point clouds whose points are labelled, as coloured ``.ply`` files."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._files import PathLike, write_atomic

_TURN = 0.61803398875  # of the colour circle from one label to the next: neighbours differ


def write_labelled(path: PathLike, points: NDArray[Any], labels: NDArray[Any]) -> None:
    """Write a binary ``.ply`` file of points, each with its label and the colour of it.

    Properties of the element vertex: ``x``, ``y``, ``z`` (double), ``red``, ``green``, ``blue``
    (uchar), ``part`` (int). The file appears complete or not at all.

    Args:
        path: the folder must exist.
        points: floating point ``[N, 3]``.
        labels: integers ``[N]`` from 0 on.
    """
    kinds = [(name, "<f8") for name in "xyz"]
    kinds += [(name, "u1") for name in ("red", "green", "blue")] + [("part", "<i4")]
    rows = np.empty(len(points), kinds)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    colors = np.array([_color(number) for number in range(int(labels.max(initial=0)) + 1)])
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[labels, channel]
    rows["part"] = labels
    names = {"<f8": "double", "u1": "uchar", "<i4": "int"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property {names[kind]} {name}" for name, kind in kinds]
    write_atomic(path, "\n".join([*header, "end_header", ""]).encode() + rows.tobytes())


def _color(number: int) -> tuple[int, ...]:
    """A colour of a label, the same in every file."""
    shares = colorsys.hsv_to_rgb(number * _TURN % 1, 0.75, 0.9)
    return tuple(round(255 * share) for share in shares)
