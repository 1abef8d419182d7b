"""Convex polygons, thousands at a time: cut along lines, fitted with them, measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]  #: corners ``[n, 2]``, in order; further columns: numbers at them
THIN = 1e-12  # of the largest distance: a corner this near to a line lies on it


class Polygons(NamedTuple):
    """Convex polygons in one array."""

    corners: NDArray[np.float64]  #: ``[P, V, 2 + K]``: in order, then rows without meaning
    sizes: NDArray[np.intp]  #: ``[P]``: how many corners

    @classmethod
    def packed(cls, polygons: Sequence[Polygon]) -> Polygons:
        """From a list."""
        count = np.array([len(p) for p in polygons], dtype=np.intp)
        corners = np.zeros((len(polygons), count.max(initial=0), polygons[0].shape[1]))
        corners[np.arange(corners.shape[1]) < count[:, None]] = np.concatenate(polygons)
        return cls(corners, count)

    def listed(self) -> list[Polygon]:
        """As a list."""
        flat = self.corners[self.inside]
        return np.split(flat, np.cumsum(self.sizes)[:-1])

    def taken(self, index: NDArray[np.intp]) -> Polygons:
        """Some of them."""
        return Polygons(self.corners[index], self.sizes[index])

    @property
    def inside(self) -> NDArray[np.bool_]:
        """``[P, V]``: which rows are corners."""
        found: NDArray[np.bool_] = np.arange(self.corners.shape[1]) < self.sizes[:, None]
        return found

    def areas(self) -> NDArray[np.float64]:
        """``[P]``."""
        start = self.corners[:, :1, :2]
        rays = np.where(self.inside[..., None], self.corners[..., :2] - start, 0.0)
        x, y = rays[..., 0], rays[..., 1]
        turns = x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]
        found: NDArray[np.float64] = np.abs(turns.sum(1)) / 2
        return found

    def means(self) -> NDArray[np.float64]:
        """Of the corners, ``[P, 2 + K]``."""
        total = np.where(self.inside[..., None], self.corners, 0.0).sum(1)
        found: NDArray[np.float64] = total / self.sizes[:, None]
        return found


def split(polygons: Polygons, side: NDArray[np.float64]) -> tuple[Polygons, NDArray[np.intp]]:
    """Cut polygons along a line each.

    Args:
        polygons: P of them.
        side: ``[P, V]``: how far corners are from the line, signed.

    Returns:
        The polygons, of those that are cut the part above, and then the parts below; and of which
        polygon each is a part.
    """
    corners, count = polygons
    side = np.where(polygons.inside, side, 0.0)
    rounding = THIN * np.abs(side).max(1, initial=1e-300)
    cut = ((side.min(1) < -rounding) & (side.max(1) > rounding)).nonzero()[0]
    whose = np.arange(len(count))
    if not len(cut):
        return polygons, whose
    whole, side, rounding = polygons.taken(cut), side[cut], rounding[cut, None]
    after = np.arange(1, corners.shape[1] + 1) % whole.sizes[:, None]
    other = np.take_along_axis(side, after, 1)
    following = np.take_along_axis(whole.corners, after[..., None], 1)
    across = ((side < -rounding) & (other > rounding)) | ((side > rounding) & (other < -rounding))
    across &= whole.inside
    share = np.divide(side, side - other, out=np.zeros_like(side), where=across)
    meet = whole.corners + (following - whole.corners) * share[..., None]
    both = np.stack([whole.corners, meet], 2).reshape(len(cut), -1, corners.shape[2])
    above, below = (
        _kept(both, np.stack([near & whole.inside, across], 2).reshape(len(cut), -1))
        for near in (side >= -rounding, side <= rounding)
    )
    wide = max(p.corners.shape[1] for p in (polygons, above, below))
    found = np.zeros((len(count) + len(cut), wide, corners.shape[2]))
    found[: len(count), : corners.shape[1]] = corners
    for rows, part in ((cut, above), (slice(len(count), None), below)):
        found[rows, : part.corners.shape[1]] = part.corners
    count = np.concatenate([count, below.sizes])
    count[cut] = above.sizes
    return Polygons(found, count), np.concatenate([whose, cut])


def _kept(corners: NDArray[np.float64], keep: NDArray[np.bool_]) -> Polygons:
    """Some rows of each, moved to the front."""
    number = keep.sum(1)
    order = np.argsort(~keep, axis=1, kind="stable")[:, : number.max()]
    return Polygons(np.take_along_axis(corners, order[..., None], 1), number)


def divide(
    polygons: Polygons, lines: NDArray[np.float64], owner: NDArray[np.intp], most: int | None
) -> tuple[Polygons, NDArray[np.intp]] | None:
    """Cut every polygon along all of its lines.

    Args:
        polygons: P of them.
        lines: ``[L, 3]``: (a, b, c), the zeros of ``a x + b y + c``.
        owner: ``[L]``, ascending: which polygon each line cuts.
        most: parts that are wanted; None: any number.

    Returns:
        The parts, and of each the polygon that it is a part of. None: there are more than ``most``.
    """
    number = np.bincount(owner, minlength=len(polygons.sizes))
    start = np.cumsum(number) - number
    whose = np.arange(len(polygons.sizes))
    done: list[tuple[Polygons, NDArray[np.intp]]] = []
    for k in range(number.max(initial=0)):
        left = number[whose] > k
        done.append((polygons.taken((~left).nonzero()[0]), whose[~left]))
        polygons, whose = polygons.taken(left.nonzero()[0]), whose[left]
        line = lines[start[whose] + k]
        side = np.einsum("pvi,pi->pv", polygons.corners[..., :2], line[:, :2]) + line[:, 2:]
        polygons, part_of = split(polygons, side)
        whose = whose[part_of]
        if most is not None and len(whose) + sum(len(w) for _, w in done) > most:
            return None
    done.append((polygons, whose))
    return joined([p for p, _ in done]), np.concatenate([w for _, w in done])


def joined(parts: Sequence[Polygons]) -> Polygons:
    """One after the other."""
    wide = max(p.corners.shape[1] for p in parts)
    count = np.concatenate([p.sizes for p in parts])
    corners = np.zeros((len(count), wide, parts[0].corners.shape[2]))
    end = 0
    for part in parts:
        rows = slice(end, end + len(part.sizes))
        corners[rows, : part.corners.shape[1]] = part.corners
        end = rows.stop
    return Polygons(corners, count)


def fitted(
    polygons: Polygons, values: NDArray[np.float64], owner: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Lines ``[L, 3]`` whose ``a x + b y + c`` has given values at the corners of polygons.

    Args:
        polygons: P of them.
        values: ``[L, V]``.
        owner: ``[L]``: at the corners of which polygon.
    """
    inside = polygons.inside[..., None]
    ones = np.ones((*polygons.corners.shape[:2], 1))
    design = np.where(inside, np.concatenate([polygons.corners[..., :2], ones], 2), 0.0)
    inverse = np.linalg.pinv(design)  # [P, 3, V]; rows without meaning are zeros there, too
    found: NDArray[np.float64] = np.einsum("liv,lv->li", inverse[owner], values)
    return found
