"""The built-in point clouds: solids."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._memory import check_room

FloatArray = NDArray[np.float64]

UNIT = 32767  # of int16 coordinates
TEST_EVERY = 4  # of the shapes of a class

Sampler = Callable[[np.random.Generator, int], FloatArray]


def _sphere(rng: np.random.Generator, n: int) -> FloatArray:
    x = rng.standard_normal((n, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    stretched: FloatArray = x * rng.uniform(0.7, 1.3, 3)
    return stretched


def _box(rng: np.random.Generator, n: int) -> FloatArray:
    sides = rng.uniform(0.5, 1.5, 3)
    areas = np.array([sides[1] * sides[2], sides[2] * sides[0], sides[0] * sides[1]])
    axis = rng.choice(3, n, p=areas / areas.sum())
    x = rng.uniform(-1, 1, (n, 3))
    x[np.arange(n), axis] = rng.choice([-1.0, 1.0], n)
    scaled: FloatArray = x * sides
    return scaled


def _disc(rng: np.random.Generator, n: int, height: float) -> FloatArray:
    radius, angle = np.sqrt(rng.uniform(0, 1, n)), rng.uniform(0, 2 * np.pi, n)
    return np.stack([radius * np.cos(angle), np.full(n, height), radius * np.sin(angle)], 1)


def _cylinder(rng: np.random.Generator, n: int) -> FloatArray:
    half = rng.uniform(0.6, 2.0)
    wall = rng.binomial(n, 2 * half / (2 * half + 1))
    angle = rng.uniform(0, 2 * np.pi, wall)
    side = np.stack([np.cos(angle), rng.uniform(-half, half, wall), np.sin(angle)], 1)
    ends = _disc(rng, n - wall, half)
    ends[:, 1] *= rng.choice([-1.0, 1.0], n - wall)
    return np.concatenate([side, ends])


def _cone(rng: np.random.Generator, n: int) -> FloatArray:
    height = rng.uniform(1.0, 3.0)
    slant = math.hypot(1, height)
    wall = rng.binomial(n, slant / (slant + 1))
    away, angle = np.sqrt(rng.uniform(0, 1, wall)), rng.uniform(0, 2 * np.pi, wall)
    side = [away * np.cos(angle), height * (1 - away), away * np.sin(angle)]
    return np.concatenate([np.stack(side, 1), _disc(rng, n - wall, 0.0)])


def _torus(rng: np.random.Generator, n: int) -> FloatArray:
    thin = rng.uniform(0.2, 0.5)
    around, across = rng.uniform(0, 2 * np.pi, (2, n))
    ring = 1 + thin * np.cos(across)
    return np.stack([ring * np.cos(around), thin * np.sin(across), ring * np.sin(around)], 1)


BUILT_IN: dict[str, Sampler] = {
    "sphere": _sphere,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
}


def make_shapes(
    num_shapes: int = 240, num_points: int = 256, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Points on spheres, boxes, cylinders, cones and tori, as the arrays of an archive.

    Proportions are random, and so is the rotation about the up axis (the second); each cloud is
    centred and scaled into the unit sphere. The classes take turns, and every fourth shape of a
    class is a test shape. Each shape depends on the seed and its own number alone.

    Args:
        num_shapes: S.
        num_points: N.
        seed: any non-negative integer.

    Returns:
        ``xyz`` int16 ``[S, N, 3]`` in units of 1 / 32767, ``label`` int64 ``[S]``, ``is_test`` bool
        ``[S]``, ``classes`` strings ``[5]``.

    Raises:
        ValueError: `num_shapes`, `num_points` or `seed` is out of range, or there is no memory for
            so many.

    Example:
        >>> from polygraph.data import make_shapes
        >>> arrays = make_shapes(10, num_points=64)
        >>> {name: array.shape for name, array in sorted(arrays.items())}
        {'classes': (5,), 'is_test': (10,), 'label': (10,), 'xyz': (10, 64, 3)}
    """
    samplers = list(BUILT_IN.values())
    check_counts("make_shapes", num_shapes, num_points, seed)
    label = np.arange(num_shapes) % len(samplers)
    xyz = np.empty((num_shapes, num_points, 3), np.int16)
    for i in range(num_shapes):
        rng = np.random.default_rng([seed, i])
        xyz[i] = placed(rng, samplers[label[i]](rng, num_points))
    return {
        "xyz": xyz,
        "label": label.astype(np.int64),
        "is_test": tested(num_shapes, len(samplers)),
        "classes": np.array(list(BUILT_IN)),
    }


def check_counts(owner: str, num_shapes: int, num_points: int, seed: int) -> None:
    """Refuse numbers of which no built-in set can be made, or for which there is no memory."""
    for name, value, low in (
        ("num_shapes", num_shapes, 1),
        ("num_points", num_points, 1),
        ("seed", seed, 0),
    ):
        if value < low:
            raise ValueError(f"{owner}: {name} must be at least {low}, got {value}")
    # int16, then float32, and what a shape is made of.
    size = num_shapes * (18 * num_points + 64) + 256 * num_points
    check_room(size, f"{owner}: num_shapes {num_shapes} of num_points {num_points}")


def tested(num_shapes: int, classes: int) -> NDArray[np.bool_]:
    """Which shapes test, where the classes take turns: every fourth of each."""
    turn: NDArray[np.int64] = np.arange(num_shapes) // classes
    found: NDArray[np.bool_] = turn % TEST_EVERY == TEST_EVERY - 1
    return found


def placed(rng: np.random.Generator, x: FloatArray) -> NDArray[np.int16]:
    """Points turned about the up axis, centred, scaled into the unit sphere, as int16."""
    cos, sin = np.cos(turn := rng.uniform(0, 2 * np.pi)), np.sin(turn)
    x = x @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    x -= (x.min(0) + x.max(0)) / 2
    largest = np.linalg.norm(x, axis=1).max()
    x = x / (largest if largest > 0 else 1)
    # Whole numbers are the same on every machine.
    whole: NDArray[np.int16] = np.round(x * UNIT).astype(np.int16)
    return whole
