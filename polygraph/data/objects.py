"""The built-in objects: point clouds composed of parts, each point with the part it lies on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph.data.solids import FloatArray, check_counts, placed, tested

Sampler = Callable[[np.random.Generator, int], FloatArray]
Piece = tuple[int, float, Sampler]  # number of the part within the object, area, points on it


def _frustum(low: float, high: float, start: float, end: float) -> tuple[float, Sampler]:
    """The wall of a cone without its tip about the up axis: radii and heights of its ends."""
    slant = math.hypot(high - low, end - start)

    def points(rng: np.random.Generator, n: int) -> FloatArray:
        angle, share = rng.uniform(0, 2 * np.pi, n), rng.uniform(0, 1, n)
        # Circles are chosen by their length.
        radius = np.sqrt(low**2 + share * (high**2 - low**2))
        along = share if low == high else (radius - low) / (high - low)
        height = start + along * (end - start)
        return np.stack([radius * np.cos(angle), height, radius * np.sin(angle)], 1)

    return math.pi * (low + high) * slant, points


def _disc(radius: float, height: float) -> tuple[float, Sampler]:
    """A disc across the up axis."""

    def points(rng: np.random.Generator, n: int) -> FloatArray:
        away, angle = radius * np.sqrt(rng.uniform(0, 1, n)), rng.uniform(0, 2 * np.pi, n)
        return np.stack([away * np.cos(angle), np.full(n, height), away * np.sin(angle)], 1)

    return math.pi * radius**2, points


def _block(low: tuple[float, ...], high: tuple[float, ...]) -> tuple[float, Sampler]:
    """The surface of a box between two corners."""
    corner, sides = np.array(low), np.subtract(high, low)
    areas = 2 * np.prod(sides) / sides

    def points(rng: np.random.Generator, n: int) -> FloatArray:
        axis = rng.choice(3, n, p=areas / areas.sum())
        x = rng.uniform(0, 1, (n, 3))
        x[np.arange(n), axis] = rng.choice([0.0, 1.0], n)
        placed_points: FloatArray = corner + x * sides
        return placed_points

    return float(areas.sum()), points


def _handle(radius: float, thin: float, at: float, height: float) -> tuple[float, Sampler]:
    """Half of a torus that stands up, at a distance from the up axis."""

    def points(rng: np.random.Generator, n: int) -> FloatArray:
        around, across = rng.uniform(-np.pi / 2, np.pi / 2, n), rng.uniform(0, 2 * np.pi, n)
        ring = radius + thin * np.cos(across)
        x = [at + ring * np.cos(around), height + ring * np.sin(around), thin * np.sin(across)]
        return np.stack(x, 1)

    return 2 * math.pi**2 * radius * thin, points


def _mug(rng: np.random.Generator) -> list[Piece]:
    tall, wide = rng.uniform(1.2, 2.4), rng.uniform(0.9, 1.1)
    ring = rng.uniform(0.3, 0.45) * tall
    return [
        (0, *_frustum(0.8, wide, 0.0, tall)),
        (0, *_disc(0.8, 0.0)),
        (1, *_handle(ring, rng.uniform(0.08, 0.14), (0.8 + wide) / 2, tall / 2)),
    ]


def _table(rng: np.random.Generator) -> list[Piece]:
    wide, deep, tall = rng.uniform(0.8, 1.5), rng.uniform(0.6, 1.0), rng.uniform(0.7, 1.4)
    thick, leg = rng.uniform(0.05, 0.12), rng.uniform(0.08, 0.16)
    top = _block((-wide, tall, -deep), (wide, tall + thick, deep))
    corners = [(x, z) for x in (-wide, wide - leg) for z in (-deep, deep - leg)]
    return [(0, *top)] + [(1, *_block((x, 0.0, z), (x + leg, tall, z + leg))) for x, z in corners]


def _lamp(rng: np.random.Generator) -> list[Piece]:
    tall, foot = rng.uniform(1.5, 2.5), rng.uniform(0.4, 0.7)
    shade = rng.uniform(0.4, 0.7)
    return [
        (0, *_disc(foot, 0.0)),
        (0, *_frustum(foot, 0.9 * foot, 0.0, 0.1)),
        (0, *_disc(0.9 * foot, 0.1)),
        (1, *_frustum(0.08, 0.08, 0.1, tall)),
        (2, *_frustum(rng.uniform(0.6, 0.9), 0.35, tall - shade / 2, tall + shade / 2)),
    ]


def _rocket(rng: np.random.Generator) -> list[Piece]:
    tall, tip = rng.uniform(1.5, 2.5), rng.uniform(0.5, 1.0)
    out, high = rng.uniform(0.4, 0.7), rng.uniform(0.5, 0.9)
    first = (0.4, 0.0, -0.03), (0.4 + out, high, 0.03)
    second = (-0.4 - out, 0.0, -0.03), (-0.4, high, 0.03)
    return [
        (0, *_frustum(0.4, 0.4, 0.0, tall)),
        (0, *_disc(0.4, 0.0)),
        (1, *_frustum(0.4, 0.0, tall, tall + tip)),
        (2, *_block(*first)),
        (2, *_block(*second)),
    ]


#: class -> its parts, and what draws the pieces of one
OBJECTS: dict[str, tuple[tuple[str, ...], Callable[[np.random.Generator], list[Piece]]]] = {
    "mug": (("body", "handle"), _mug),
    "table": (("top", "legs"), _table),
    "lamp": (("foot", "pole", "shade"), _lamp),
    "rocket": (("hull", "nose", "fins"), _rocket),
}


def _sampled(
    rng: np.random.Generator, pieces: list[Piece], n: int
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Points of all pieces, as many of each as its area asks for, in random order; their parts."""
    areas = np.array([area for _, area, _ in pieces])
    counts = rng.multinomial(n, areas / areas.sum())
    found = [points(rng, int(count)) for (_, _, points), count in zip(pieces, counts, strict=True)]
    parts = np.repeat([part for part, _, _ in pieces], counts)
    order = rng.permutation(n)
    return np.concatenate(found)[order], parts[order]


def make_objects(
    num_shapes: int = 240, num_points: int = 256, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Points on mugs, tables, lamps and rockets, and the part that each of them lies on.

    Proportions are random, and so is the rotation about the up axis (the second); each cloud is
    centred and scaled into the unit sphere. The classes take turns, and every fourth object of a
    class is a test object. Parts are numbered through all classes, as those of ShapeNet-Part are.

    Args:
        num_shapes: S.
        num_points: N.
        seed: any non-negative integer.

    Returns:
        ``xyz`` int16 ``[S, N, 3]`` in units of 1 / 32767, ``label`` int64 ``[S]``, ``is_test`` bool
        ``[S]``, ``classes`` strings ``[4]``, ``part`` int64 ``[S, N]``, ``parts`` strings ``[10]``.

    Raises:
        ValueError: `num_shapes`, `num_points` or `seed` is out of range, or there is no memory for
            so many.

    Example:
        >>> from polygraph.data import make_objects
        >>> arrays = make_objects(8, num_points=64)
        >>> arrays["xyz"].shape, arrays["part"].shape
        ((8, 64, 3), (8, 64))
        >>> print(*arrays["parts"][:4])
        mug body mug handle table top table legs
    """
    check_counts("make_objects", num_shapes, num_points, seed)
    names = [f"{name} {part}" for name, (parts, _) in OBJECTS.items() for part in parts]
    first = np.cumsum([0] + [len(parts) for parts, _ in OBJECTS.values()])
    makers = [maker for _, maker in OBJECTS.values()]
    label = np.arange(num_shapes) % len(makers)
    xyz = np.empty((num_shapes, num_points, 3), np.int16)
    part = np.empty((num_shapes, num_points), np.int64)
    for i in range(num_shapes):
        rng = np.random.default_rng([seed, i])
        points, own = _sampled(rng, makers[label[i]](rng), num_points)
        xyz[i], part[i] = placed(rng, points), own + first[label[i]]
    return {
        "xyz": xyz,
        "label": label.astype(np.int64),
        "is_test": tested(num_shapes, len(makers)),
        "classes": np.array(list(OBJECTS)),
        "part": part,
        "parts": np.array(names),
    }
