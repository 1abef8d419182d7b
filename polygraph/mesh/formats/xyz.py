"""XYZ: a point on each line, its coordinates and perhaps more; comments begin with #."""

from __future__ import annotations

import numpy as np

from polygraph.mesh.errors import MeshError
from polygraph.mesh.formats.text import FloatArray, Table, text_of, without_comments


def read_points(data: bytes, name: str) -> FloatArray:
    """The points ``[N, 3]`` of an ``.xyz`` file."""
    table = Table(without_comments(text_of(data, name)), name)
    if not len(table):
        raise MeshError(f"{name}: it holds no points")
    if table.lengths[0] < 3:
        raise table.fault(0, f"a point has 3 numbers or more, got {table.lengths[0]}")
    rows = table.rectangle(0, len(table), (int(table.lengths[0]),), "a point")
    return np.ascontiguousarray(rows[:, :3])
