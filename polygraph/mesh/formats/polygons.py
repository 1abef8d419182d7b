"""Polygons of mesh files, and how they are cut into triangles: one rule for all formats.

A polygon becomes the fan from its first corner, wherever no triangle of the fan is turned over:
always if it is convex. Otherwise ears are cut off (Meisters, Polygons Have Ears, 1975). Corners
that repeat have no area between them and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polygraph.mesh.errors import MeshError
from polygraph.mesh.formats.text import FloatArray, IntArray, ragged

MOST_CORNERS = 1024  # of a polygon that needs ear cutting, whose time grows with their square
_ROUNDING = (
    1e-9  # of twice a polygon's area: a triangle that is flat but for rounding is not turned
)

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Polygons:
    """What a file holds.

    Attributes:
        vertices: float64 ``[V, 3]``.
        sizes: int64 ``[P]``, corners of each polygon.
        corners: int64 ``[sum(sizes)]``, their vertices, one polygon after the other.
    """

    vertices: FloatArray
    sizes: IntArray
    corners: IntArray

    def same_faces(self, other: Polygons) -> bool:
        """Whether the polygons are the same, wherever the vertices lie."""
        return (
            len(self.vertices) == len(other.vertices)
            and np.array_equal(self.sizes, other.sizes)
            and np.array_equal(self.corners, other.corners)
        )


def triangles_of(polygons: Polygons, name: str) -> tuple[IntArray, list[str]]:
    """Cut polygons into triangles, in their order.

    Args:
        polygons: with finite vertices.
        name: of the file.

    Returns:
        int64 ``[F, 3]``, and what is to be warned of.

    Raises:
        MeshError: a corner is no vertex, or a polygon that needs ear cutting has too many corners.
    """
    _check_range(polygons, name)
    if (polygons.sizes == 3).all():
        faces, turned = polygons.corners.reshape(-1, 3), 0
        repeating = _repeats(faces)
        if repeating.any():
            faces = faces[~repeating]
    else:
        faces, repeating, turned = _mixed(polygons, name)
    notes, count = [], len(polygons.sizes)
    if repeating.any():
        notes.append(
            f"{name}: {np.count_nonzero(repeating)} of {count} faces repeat a corner or have"
            f" fewer than 3, first face {np.argmax(repeating)}; what has no area is left out"
        )
    if turned:
        notes.append(
            f"{name}: {turned} of {count} faces cross themselves or are far from flat;"
            " some of their triangles are turned over"
        )
    return faces, notes


def _mixed(polygons: Polygons, name: str) -> tuple[IntArray, BoolArray, int]:
    """Triangles, which polygons repeat corners, and how many could not be cut well."""
    sizes, corners, repeating = _without_neighbours(polygons.sizes, polygons.corners)
    pieces = np.maximum(sizes - 2, 0)
    first_corner, first_triangle = np.cumsum(sizes) - sizes, np.cumsum(pieces) - pieces
    faces = np.empty((int(pieces.sum()), 3), dtype=np.int64)
    turned = 0
    for size in np.unique(sizes[sizes >= 3]).tolist():
        group = np.flatnonzero(sizes == size)
        members = corners[ragged(first_corner[group], sizes[group])].reshape(-1, size)
        cut, crossing = _cut(polygons.vertices, members, group, name)
        faces[ragged(first_triangle[group], pieces[group])] = cut.reshape(-1, 3)
        turned += crossing
    flat = _repeats(faces)
    repeating[np.repeat(np.arange(len(sizes)), pieces)[flat]] = True
    repeating[sizes < 3] = True
    return faces[~flat], repeating, turned


def _check_range(polygons: Polygons, name: str) -> None:
    count = len(polygons.vertices)
    corners = polygons.corners
    if len(corners) and not 0 <= corners.min() <= corners.max() < count:
        outside = (corners < 0) | (corners >= count)
        at = int(np.argmax(outside))
        face = int(np.searchsorted(np.cumsum(polygons.sizes), at, side="right"))
        begin = int(polygons.sizes[:face].sum())
        members = corners[begin : begin + int(polygons.sizes[face])]
        shown = members.tolist() if len(members) <= 8 else f"[... {corners[at]} ...]"
        raise MeshError(f"{name}: face {face} = {shown} has an index outside [0, {count})")


def _without_neighbours(sizes: IntArray, corners: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
    """Leave out each corner that is the next one's again; sizes, corners and which polygons."""
    following = np.roll(corners, -1)
    ends = np.cumsum(sizes)
    filled = sizes > 0
    following[ends[filled] - 1] = corners[(ends - sizes)[filled]]
    again = corners == following
    if not again.any():
        return sizes, corners, np.zeros(len(sizes), dtype=bool)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    lost = np.bincount(owner[again], minlength=len(sizes))
    return sizes - lost, corners[~again], lost > 0


def _repeats(faces: IntArray) -> BoolArray:
    a, b, c = faces.T
    return np.asarray((a == b) | (b == c) | (c == a))


def _cut(
    vertices: FloatArray, polygons: IntArray, numbers: IntArray, name: str
) -> tuple[IntArray, int]:
    """Triangles ``[P, n - 2, 3]`` of polygons of n corners, and how many could not be cut well."""
    size = polygons.shape[1]
    step = np.arange(1, size - 1)
    order = np.stack([np.zeros_like(step), step, step + 1], axis=1)
    fans = polygons[:, order]
    if size == 3:
        return fans, 0
    bad = np.concatenate(
        [
            _turned(vertices[part]).any(axis=1)
            for part in np.array_split(polygons, max(1, polygons.size // 300_000))
            if len(part)
        ]
    )
    crossing = 0
    for at in np.flatnonzero(bad).tolist():
        if size > MOST_CORNERS:
            raise MeshError(
                f"{name}: face {numbers[at]} has {size} corners and is not convex;"
                f" at most {MOST_CORNERS} are cut into triangles"
            )
        corners = polygons[at]
        cut = corners[_cut_ears(_flattened(vertices[corners]))]
        if _turned_in(vertices[cut]).any():
            crossing += 1
        else:
            fans[at] = cut
    return fans, crossing


def _scaled(corners: FloatArray) -> FloatArray:
    """Corners ``[P, n, 3]`` from the first one, in units in which no product overflows."""
    largest = np.abs(corners).max(initial=0)
    if largest > 1e100:
        corners = corners / largest
    moved: FloatArray = corners - corners[:, :1]
    scale = np.abs(moved).max(axis=(1, 2), keepdims=True)
    return np.asarray(moved / np.where(scale > 0, scale, 1))


def _turned(corners: FloatArray) -> BoolArray:
    """Which triangles ``[P, n - 2]`` of the fans of polygons ``[P, n, 3]`` are turned over."""
    arms = _scaled(corners)[:, 1:]
    return _against_sum(np.cross(arms[:, :-1], arms[:, 1:]))


def _turned_in(triangles: FloatArray) -> BoolArray:
    """Which of one polygon's triangles ``[T, 3, 3]`` are turned over."""
    corners = _scaled(triangles.reshape(1, -1, 3)).reshape(-1, 3, 3)
    arms = corners[:, 1:] - corners[:, :1]
    return np.asarray(_against_sum(np.cross(arms[:, 0], arms[:, 1])[None])[0])


def _against_sum(normals: FloatArray) -> BoolArray:
    """Which normals ``[P, T, 3]`` point against the sum of their polygon's."""
    whole = normals.sum(axis=1)
    along = np.einsum("pti,pi->pt", normals, whole)
    return np.asarray(along < -_ROUNDING * (whole * whole).sum(axis=1)[:, None])


def _flattened(corners: FloatArray) -> FloatArray:
    """Corners ``[n, 2]`` of a polygon in the plane that it covers most of, counter-clockwise."""
    moved = _scaled(corners[None])[0]
    normal = np.cross(moved[1:-1], moved[2:]).sum(axis=0)
    axis = int(np.argmax(np.abs(normal)))
    plane = moved[:, [(axis + 1) % 3, (axis + 2) % 3]]
    return np.asarray(plane if normal[axis] >= 0 else plane * [-1.0, 1.0])


def _cut_ears(points: FloatArray) -> IntArray:
    """Triangles ``[n - 2, 3]`` of a counter-clockwise polygon ``[n, 2]``.

    An ear is a convex corner whose triangle holds no other corner. To cut one off changes whether
    its two neighbours are ears, and nothing else.
    """
    count = len(points)
    before = np.roll(np.arange(count), 1)
    after = np.roll(np.arange(count), -1)
    left = np.ones(count, dtype=bool)

    def is_ear(tip: int) -> bool:
        corners = points[[before[tip], tip, after[tip]]]
        if not _area(*corners) > 1e-14:
            return False
        others = points[left]
        a, b, c = corners
        inside = (_area(a, b, others) >= 0) & (_area(b, c, others) >= 0)
        inside &= _area(c, a, others) >= 0
        found = others[inside]
        return bool((found[:, None] == corners).all(axis=2).any(axis=1).all())

    ears = [is_ear(tip) for tip in range(count)]
    cut, tip, failed = [], 0, 0
    for _ in range(count - 3):
        failed = 0
        while not ears[tip] and failed < count:
            tip = int(after[tip])
            failed += 1
        # Without an ear the polygon crosses itself, or what is left is flat: any corner will do.
        cut.append((int(before[tip]), tip, int(after[tip])))
        left[tip] = ears[tip] = False
        after[before[tip]], before[after[tip]] = after[tip], before[tip]
        previous, tip = int(before[tip]), int(after[tip])
        ears[previous], ears[tip] = is_ear(previous), is_ear(tip)
    cut.append((int(before[tip]), tip, int(after[tip])))
    return np.array(cut, dtype=np.int64)


def _area(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    """Twice the area of triangles, positive where they are counter-clockwise."""
    ab, ac = b - a, c - a
    return np.asarray(ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0])
