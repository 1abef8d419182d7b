"""Many polygons at a time, against one at a time."""

from __future__ import annotations

import numpy as np
import pytest

from polygraph.analysis.spline.polygons import Polygon, Polygons, divide, fitted, split

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def fan(corners: int, seed: int) -> Polygon:
    """A convex polygon: corners on an ellipse somewhere."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    return circle * rng.uniform(0.2, 2, 2) + rng.normal(size=2)


def area(polygon: Polygon) -> float:
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def cut(polygon: Polygon, line: np.ndarray) -> list[Polygon]:
    """Sutherland and Hodgman's clipping, a corner at a time, on either side."""
    parts = []
    for sign in (1, -1):
        kept = []
        for p, q in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            s, t = (sign * (r @ line[:2] + line[2]) for r in (p, q))
            if s >= 0:
                kept.append(p)
            if s * t < 0:
                kept.append(p + (q - p) * s / (s - t))
        if len(kept) > 2:
            parts.append(np.array(kept))
    return parts


def test_they_are_packed_and_listed_and_measured() -> None:
    shapes = [fan(n, n) for n in (3, 7, 4)]
    packed = Polygons.packed(shapes)
    for shape, again in zip(shapes, packed.listed(), strict=True):
        assert np.array_equal(shape, again)
    np.testing.assert_allclose(packed.areas(), [area(s) for s in shapes], rtol=1e-12)
    np.testing.assert_allclose(packed.means(), [s.mean(0) for s in shapes], rtol=1e-12)
    assert len(packed.taken(np.array([2, 0])).listed()[0]) == 4


@pytest.mark.parametrize("seed", range(5))
def test_all_lines_cut_all_their_polygons(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [SQUARE, fan(5, seed), fan(8, seed + 10)]
    lines, owner = rng.normal(size=(9, 3)), np.array([0, 0, 0, 0, 1, 2, 2, 2, 2])
    found = divide(Polygons.packed(shapes), lines, owner, None)
    assert found is not None
    pieces, whose = found[0].listed(), found[1]
    for k, shape in enumerate(shapes):
        wanted = [shape]
        for line in lines[owner == k]:
            wanted = [part for whole in wanted for part in cut(whole, line)]
        got = [p for p, w in zip(pieces, whose, strict=True) if w == k]
        assert len(got) == len(wanted)
        np.testing.assert_allclose(
            sorted(area(p) for p in got), sorted(area(p) for p in wanted), atol=1e-12
        )
    assert divide(Polygons.packed(shapes), lines, owner, len(pieces) - 1) is None
    assert divide(Polygons.packed(shapes), lines, owner, len(pieces)) is not None


def test_lines_through_corners_and_beside_cut_nothing_off() -> None:
    square = Polygons.packed([SQUARE])
    for line, count in (
        ([1.0, 0.0, 1.0], 1),  # along a side
        ([1.0, 1.0, 2.0], 1),  # through a corner, from outside
        ([1.0, -1.0, 0.0], 2),  # through two corners
        ([1.0, 0.0, 5.0], 1),  # beside
    ):
        found = divide(square, np.array([line]), np.array([0]), None)
        assert found is not None
        assert len(found[0].sizes) == count
        assert abs(found[0].areas().sum() - 4) < 1e-12
    diagonal = divide(square, np.array([[1.0, -1.0, 0.0]]), np.array([0]), None)
    assert diagonal is not None
    assert diagonal[0].sizes.tolist() == [3, 3]


def test_numbers_at_corners_stay_affine() -> None:
    shape = fan(6, 0)
    known = np.array([0.3, -1.2, 0.7])
    values = shape @ known[:2] + known[2]
    pieces, whose = split(
        Polygons.packed([np.column_stack([shape, values])]), (values - values.mean())[None]
    )
    assert whose.tolist() == [0, 0]
    for piece in pieces.listed():
        np.testing.assert_allclose(piece[:, 2], piece[:, :2] @ known[:2] + known[2], atol=1e-12)


def test_lines_are_those_of_values_at_corners() -> None:
    shapes = [fan(3, 1), fan(6, 2)]
    lines = np.random.default_rng(0).normal(size=(3, 3))
    owner = np.array([1, 0, 1])
    values = np.zeros((3, 6))
    for row, (line, k) in enumerate(zip(lines, owner, strict=True)):
        values[row, : len(shapes[k])] = shapes[k] @ line[:2] + line[2]
    np.testing.assert_allclose(fitted(Polygons.packed(shapes), values, owner), lines, atol=1e-10)
