"""The built-in images: the ten digits, drawn from strokes with a pen that is never steady.

Every glyph is one of ten fixed drawings (lines and arcs), bent, sheared, scaled, turned and shifted
by random amounts and drawn with a round pen of random width. No download, no font; thousands in a
few seconds. They look like MNIST's digits and are none of them.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from polygraph._memory import check_room

FloatArray = NDArray[np.float64]

CLASSES = tuple("0123456789")
TEST_EVERY = 7  # one of so many glyphs of a class is for testing, as in MNIST
_BLOCK = 256  # images drawn at a time: bounds the memory

Point = tuple[float, float]


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> list[Point]:
    """Points of an arc; degrees, 0 to the right and 90 down, for y points down."""
    steps = max(2, math.ceil(abs(stop - start) / 24))
    angles = (math.radians(start + (stop - start) * i / steps) for i in range(steps + 1))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


# Strokes in the unit square, x to the right and y down.
_STROKES: dict[str, list[list[Point]]] = {
    "0": [_arc(0.5, 0.5, 0.27, 0.42, -90, 270)],
    "1": [[(0.34, 0.26), (0.54, 0.08), (0.54, 0.92)]],
    "2": [[*_arc(0.5, 0.32, 0.26, 0.24, -170, 35), (0.22, 0.92), (0.8, 0.92)]],
    "3": [[*_arc(0.46, 0.29, 0.25, 0.21, -150, 90), *_arc(0.46, 0.71, 0.28, 0.21, -90, 150)]],
    "4": [[(0.66, 0.92), (0.66, 0.08), (0.2, 0.64), (0.86, 0.64)]],
    "5": [[(0.76, 0.08), (0.32, 0.08), (0.28, 0.46), *_arc(0.47, 0.65, 0.28, 0.26, -120, 140)]],
    "6": [[(0.68, 0.08), (0.4, 0.3), *_arc(0.5, 0.67, 0.25, 0.25, -180, 180)]],
    "7": [[(0.2, 0.08), (0.8, 0.08), (0.42, 0.92)]],
    "8": [_arc(0.5, 0.29, 0.22, 0.21, -90, 270), _arc(0.5, 0.71, 0.27, 0.21, -90, 270)],
    "9": [[*_arc(0.48, 0.33, 0.24, 0.25, 0, 360), (0.7, 0.55), (0.6, 0.92)]],
}


def _segments(digit: str) -> FloatArray:
    """Both ends of every piece of a drawing, ``[S, 2, 2]``, centred on 0."""
    pieces = [piece for stroke in _STROKES[digit] for piece in pairwise(stroke)]
    return np.array(pieces, np.float64) - 0.5


def _placed(segments: FloatArray, rng: np.random.Generator, size: int) -> tuple[FloatArray, float]:
    """Random segments in pixels and half the pen's width."""
    bend, phase = rng.uniform(-0.07, 0.07), rng.uniform(0, 2 * np.pi)
    turn, shear = rng.uniform(-0.2, 0.2), rng.uniform(-0.25, 0.25)
    scale = rng.uniform(0.55, 0.8) * np.array([rng.uniform(0.75, 1.05), 1.0])
    shift, pen = rng.uniform(-0.06, 0.06, 2), rng.uniform(0.028, 0.062)
    x, y = segments[..., 0], segments[..., 1]
    bent = np.stack([x + bend * np.sin(np.pi * y + phase), y], -1)
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]]) @ np.diag(scale)
    return (bent @ matrix.T + shift + 0.5) * size, pen * size


def _draw(segments: NDArray[np.float32], pen: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Images ``[n, size, size]`` of segments ``[n, S, 2, 2]``: how near each pixel is to them."""
    centre = np.arange(size, dtype=np.float32) + np.float32(0.5)
    nearest = np.full((len(segments), size, size), np.inf, np.float32)
    for i in range(segments.shape[1]):
        start, way = segments[:, i, 0], segments[:, i, 1] - segments[:, i, 0]
        length = np.maximum((way * way).sum(1), np.float32(1e-12))
        dx = centre[None, None, :] - start[:, 0, None, None]
        dy = centre[None, :, None] - start[:, 1, None, None]
        wx, wy = (way / length[:, None]).T[..., None, None]
        along = np.clip(dx * wx + dy * wy, 0, 1)
        dx = dx - along * way[:, 0, None, None]
        dy = dy - along * way[:, 1, None, None]
        np.minimum(nearest, dx * dx + dy * dy, out=nearest)
    ink = np.clip(pen[:, None, None] - np.sqrt(nearest) + np.float32(0.5), 0, 1)
    pixels: NDArray[np.uint8] = np.round(ink * 255).astype(np.uint8)
    return pixels


def make_glyphs(
    num_images: int = 7000, seed: int = 0, size: int = 32
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Draw digits, white on black; the classes take turns.

    Each image depends on the seed, the size and its own number alone: a longer set begins with the
    shorter one.

    Args:
        num_images: N.
        seed: any non-negative integer.
        size: height and width in pixels, at least 8.

    Returns:
        Images uint8 ``[N, 1, size, size]``; labels int64 ``[N]`` in ``[0, 10)``; which of them are
        for testing (every seventh of a class), bool ``[N]``.

    Raises:
        ValueError: `num_images`, `seed` or `size` is out of range, or there is no memory for so
            many.

    Example:
        >>> from polygraph.data import make_glyphs
        >>> images, labels, is_test = make_glyphs(20)
        >>> images.shape, labels[:12], is_test.shape
        ((20, 1, 32, 32), array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]), (20,))

    See Also:
        `open_images`, which makes a data set of them.
    """
    for name, value, low in (("num_images", num_images, 1), ("seed", seed, 0), ("size", size, 8)):
        if value < low:
            raise ValueError(f"make_glyphs: {name} must be at least {low}, got {value}")
    # Bytes, and some float32 images of each block.
    needed = num_images * (size * size + 64) + 40 * min(num_images, _BLOCK) * size * size
    check_room(needed, f"make_glyphs: num_images {num_images} of size {size}")
    number = np.arange(num_images)
    labels = number % len(CLASSES)
    images = np.empty((num_images, 1, size, size), np.uint8)
    for label, digit in enumerate(CLASSES):
        drawing = _segments(digit)
        members = number[labels == label]
        for start in range(0, len(members), _BLOCK):
            rows = members[start : start + _BLOCK]
            placed = [_placed(drawing, np.random.default_rng([seed, int(i)]), size) for i in rows]
            segments = np.stack([piece for piece, _ in placed]).astype(np.float32)
            pen = np.array([width for _, width in placed], np.float32)
            images[rows, 0] = _draw(segments, pen, size)
    is_test = number // len(CLASSES) % TEST_EVERY == TEST_EVERY - 1
    return images, labels.astype(np.int64), is_test
