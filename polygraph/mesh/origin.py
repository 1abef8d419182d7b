"""Coordinates in float32 less an origin in float64, so that meshes far from 0 keep their digits.

float32 keeps 24 bits of a coordinate: at 5,000 km, as in maps, half a metre. What lies far from 0,
seen from its own size, is therefore held as its distance from one point near it, which the whole
collection shares and which is added back when a mesh is written.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polygraph.mesh.errors import MeshError

FAR = 64.0  # sizes from 0: six of the 24 bits are lost there
COARSE = 1e-5  # of a mesh's size: the largest error of a coordinate that is accepted
Point = tuple[float, float, float]
ZERO: Point = (0.0, 0.0, 0.0)
_ROUNDING = 2.0**-24  # of float32, over the number that is rounded


def origin_of(points: ArrayLike) -> Point:
    """A point in the middle of a mesh or cloud that lies far from 0, seen from its own size.

    Args:
        points: real numbers ``[V, 3]``, V >= 1; the first of a collection.

    Returns:
        x, y and z: zeros where the points lie near 0, or are not finite.
    """
    values = np.asarray(points, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = values.min(0), values.max(0)
        middle, size = low + (high - low) / 2, (high - low).max()
        far = np.isfinite(middle).all() and np.abs(middle).max() > FAR * size > 0
    x, y, z = middle.tolist() if far else ZERO
    return x, y, z


def checked_point(values: Any) -> Point:
    """An origin that was read from a file.

    Raises:
        ValueError: it is not three finite numbers.
    """
    numbers = values if isinstance(values, (list, tuple)) else ()
    if len(numbers) != 3 or not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise ValueError(f"origin must be three finite numbers, got {str(values)[:80]}")
    x, y, z = map(float, numbers)
    return x, y, z


def to_float32(
    chunk: NDArray[Any], name: str, start: int, origin: Point = ZERO, kind: str = "mesh"
) -> NDArray[np.float32]:
    """Meshes or clouds ``[n, V, 3]`` less ``origin``, in float32.

    Args:
        chunk: real numbers.
        name: what messages call the source.
        start: number of the first of them in the source.
        origin: subtracted in float64.
        kind: what messages call one of them.

    Raises:
        MeshError: a coordinate is not finite in float32, or float32 is too coarse for a mesh so far
            from the origin: its rounding errors exceed `COARSE` of the mesh's size. The message
            names the mesh and the numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        moved = chunk - np.asarray(origin) if any(origin) else chunk
        single = np.ascontiguousarray(moved, np.float32)
    largest = np.abs(single.reshape(len(single), -1)).max(-1, initial=0.0).astype(np.float64)
    if not np.isfinite(largest).all():
        mesh, vertex = (int(i) for i in np.argwhere(~np.isfinite(single).all(-1))[0])
        value = chunk[mesh, vertex].tolist()
        raise MeshError(
            f"{name}: {kind} {start + mesh}: vertex {vertex} is not a finite float32: {value}"
        )
    error = largest * _ROUNDING
    # A tenth of a mesh is quickly looked at, and mostly wide enough to tell.
    doubtful = np.flatnonzero(error > COARSE * _sizes(moved[:, ::10]))
    sizes = _sizes(moved[doubtful])
    coarse = (error[doubtful] > COARSE * sizes) & (sizes > 0)
    if coarse.any():
        place = int(coarse.argmax())
        mesh = int(doubtful[place])
        raise MeshError(
            f"{name}: {kind} {start + mesh} is {sizes[place]:.3g} large and up to "
            f"{largest[mesh]:.9g} away from the origin {list(origin)} of its collection: float32 "
            f"would move its points by up to {error[mesh]:.3g}; move what belongs to a collection "
            "together first"
        )
    return single


def _sizes(meshes: NDArray[Any]) -> NDArray[np.float64]:
    """The longest side of the box around each of ``[n, V, 3]``."""
    spans = [np.ptp(meshes[..., axis].astype(np.float64), axis=-1) for axis in range(3)]
    sizes: NDArray[np.float64] = np.max(spans, axis=0)
    return sizes
