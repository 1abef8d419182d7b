"""Every region of a network in a parallelogram of its input space, as a polygon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.analysis.spline.passes import Passes
from polygraph.analysis.spline.polygons import THIN, Polygon, Polygons, divide, fitted, split
from polygraph.analysis.spline.surveys import Path, Survey
from polygraph.analysis.spline.walks import ROUNDING

_SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
_PASSES = 200
_CONTESTED = 2**14  # groups that are compared together
_WALLS = 2**21  # numbers that are looked at together


@dataclass(frozen=True)
class Slice:
    """The regions of a network in the plane ``origin + a u + b v``, a and b from -1 to 1.

    Attributes:
        polygons: of each region its corners (a, b), ``[n, 2]``, counterclockwise; all convex.
        values: outputs at these corners, ``[n, K]``; between them they are affine.
        codes: a digest of what the network chooses in each region.
        residual: how far outputs in the middle of regions are from the mean of their corners',
            relative to the largest output: rounding.

    Example:
        >>> import torch
        >>> from polygraph.analysis import SplineLens
        >>> plane = SplineLens(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU()))
        >>> zero, eye = torch.zeros(2).double(), torch.eye(2).double()
        >>> found = plane.slice(zero, eye[0], eye[1])  # the four quadrants
        >>> found, float(found.areas().sum())
        (Slice(4 regions), 4.0)

    See Also:
        `SplineLens.slice`, which makes it; `Walk`, along a line.
    """

    polygons: tuple[Polygon, ...]
    values: tuple[Polygon, ...]
    codes: tuple[bytes, ...]
    residual: float

    def __repr__(self) -> str:
        """How many regions."""
        return f"Slice({self.regions} regions)"

    @property
    def regions(self) -> int:
        """R."""
        return len(self.polygons)

    def areas(self) -> NDArray[np.float64]:
        """Of each region, ``[R]``; the whole has 4."""
        return Polygons.packed(self.polygons).areas()

    def by_class(self) -> list[tuple[int, Polygon]]:
        """The regions divided by their largest output: pairs of its number and a polygon."""
        pieces = Polygons.packed(
            [np.column_stack(pair) for pair in zip(self.polygons, self.values, strict=True)]
        )
        for k in range(2, pieces.corners.shape[2]):
            for j in range(2, k):
                pieces, _ = split(pieces, pieces.corners[..., k] - pieces.corners[..., j])
        largest = pieces.means()[:, 2:].argmax(1)
        corners = Polygons(pieces.corners[..., :2], pieces.sizes).listed()
        return list(zip(largest.tolist(), corners, strict=True))


class TooManyRegions(ValueError):
    """A plane has more regions than are wanted: a smaller part of it has fewer."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"slice: the plane has more than {most:,} regions: shorten u and v, or raise most"
        )


def slice_plane(
    lens: Passes, origin: Tensor, u: Tensor, v: Tensor, most: int | None = None
) -> Slice:
    """See `SplineLens.slice`."""
    path = Path(lens, origin, torch.stack([u, v]))
    if path.jumps:
        raise NotImplementedError(
            "slice: the network may jump (lists of neighbours, comparisons); `walk` along lines"
        )
    polygons = [_SQUARE]
    for site in range(len(path.sites)):
        polygons = _divide(path, site, polygons, most)
    return _merged(path, polygons, most)


def _divide(path: Path, site: int, polygons: list[Polygon], most: int | None) -> list[Polygon]:
    """Pieces of polygons in which a choice does not change.

    Pieces of one region are counted apart until the end, so that a few of them are forgiven.
    """
    done: list[Polygon] = []
    one = path.survey(torch.zeros(1, 2, dtype=torch.float64), site)
    numbers = sum(t.numel() for t in (one.signed, one.rivals) if t is not None)
    for _ in range(_PASSES):
        todo: list[Polygon] = []
        settled = True
        for group in _groups(polygons, _WALLS // max(numbers, 1)):
            survey = path.survey(torch.from_numpy(np.concatenate(group)), site)
            settled &= survey.settles_at_once
            whole = Polygons.packed(group)
            lines, owner = _lines(whole, survey)
            left = None if most is None else 2 * most - len(done) - len(todo)
            divided = divide(whole, lines, owner, left)
            if divided is None:
                assert most is not None
                raise TooManyRegions(most)
            pieces, whose = divided
            cut = np.bincount(whose, minlength=len(group))[whose] > 1
            for piece, parted in zip(pieces.listed(), cut, strict=True):
                (todo if parted else done).append(piece)
        if not todo:
            return done
        if settled:
            return done + todo
        polygons = todo
    raise RuntimeError(f"SplineLens: the walls of {path.sites[site]} do not settle")


def _groups(polygons: list[Polygon], most: int) -> Iterator[list[Polygon]]:
    """Polygons of about ``most`` corners, which are looked at together."""
    group: list[Polygon] = []
    corners = 0
    for polygon in polygons:
        group.append(polygon)
        corners += len(polygon)
        if corners >= most:
            yield group
            group, corners = [], 0
    if group:
        yield group


def _lines(polygons: Polygons, walls: Survey) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Lines ``[L, 3]``, zero where a choice changes inside of a polygon; and of which polygon."""
    starts = np.cumsum(polygons.sizes) - polygons.sizes
    values, owner = [], []
    if walls.signed is not None:
        signed = walls.signed.cpu().numpy()
        low, high = (f.reduceat(signed, starts, axis=0) for f in (np.minimum, np.maximum))
        rounding = ROUNDING * np.maximum(-low, high).max(1, keepdims=True, initial=0.0)
        whose, unit = ((low < -rounding) & (high > rounding)).nonzero()
        inside = polygons.inside[whose]
        corner = np.where(inside, starts[whose, None] + np.arange(inside.shape[1]), 0)
        values.append(np.where(inside, signed[corner, unit[:, None]], 0.0))
        owner.append(whose)
    if walls.rivals is not None:
        for found, whose in _contested(polygons, walls.rivals.cpu().numpy()):
            values.append(found)
            owner.append(whose)
    together, whose = np.concatenate(values), np.concatenate(owner)
    order = np.argsort(whose, kind="stable")
    whose = whose[order]
    return fitted(polygons, together[order], whose), whose


def _contested(
    polygons: Polygons, rivals: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.intp]]]:
    """Of groups without one winner at all corners, by how much two winners differ there.

    Args:
        polygons: P of them, of C corners in all.
        rivals: ``[C, G, R]``.

    Yields:
        ``[L, V]`` differences, and of which polygon each is.
    """
    starts = np.cumsum(polygons.sizes) - polygons.sizes
    whose = np.repeat(np.arange(len(starts)), polygons.sizes)
    largest = np.where(np.isfinite(rivals), np.abs(rivals), 0.0).max((1, 2))
    rounding = ROUNDING * np.maximum.reduceat(largest, starts)
    wins = rivals.max(-1, keepdims=True) - rivals <= rounding[whose, None, None]
    owner, group = (~np.logical_and.reduceat(wins, starts, axis=0).any(-1)).nonzero()
    steps = np.arange(polygons.corners.shape[1])
    for part in np.array_split(np.arange(len(owner)), len(owner) // _CONTESTED + 1):
        p, g = owner[part], group[part]
        inside = steps < polygons.sizes[p, None]
        corner = starts[p, None] + np.where(inside, steps, 0)
        members = rivals[corner, g[:, None]]  # [L, V, R]
        rows = np.arange(len(part))
        first = members[:, 0].argmax(-1)
        behind = members.max(-1) - members[rows, :, first]
        second = members[rows, np.where(inside, behind, -1.0).argmax(1)].argmax(-1)
        yield np.where(inside, members[rows, :, first] - members[rows, :, second], 0.0), p


def _merged(path: Path, polygons: list[Polygon], most: int | None) -> Slice:
    """Regions of what was cut by a line that ended inside of them."""
    packed = Polygons.packed(polygons)
    kept = (packed.areas() > THIN).nonzero()[0]
    packed = packed.taken(kept)
    polygons, centers = packed.listed(), torch.from_numpy(packed.means())
    codes, at_centers = path.looked_at(centers)
    together: dict[bytes, list[int]] = {}
    for k, code in enumerate(codes):
        together.setdefault(code, []).append(k)
    if most is not None and len(together) > most:
        raise TooManyRegions(most)
    first = np.array([parts[0] for parts in together.values()])
    middles = at_centers.double().cpu().numpy()[first]
    whole = [polygons[k] for k in first]
    parted = [row for row, parts in enumerate(together.values()) if len(parts) > 1]
    for row, parts in enumerate(together.values()):
        if len(parts) > 1:
            whole[row] = _hull(np.concatenate([polygons[k] for k in parts]))
    if parted:
        centers = torch.from_numpy(Polygons.packed([whole[row] for row in parted]).means())
        middles[parted] = path.values(centers).double().cpu().numpy()
    corners = np.concatenate(whole)
    _, one, every = np.unique(corners.round(12), axis=0, return_index=True, return_inverse=True)
    values = path.values(torch.from_numpy(corners[one])).double().cpu().numpy()[every.ravel()]
    each = tuple(np.split(values, np.cumsum([len(p) for p in whole])[:-1]))
    missed = middles - np.array([v.mean(0) for v in each])
    residual = float(np.abs(missed).max() / max(np.abs(values).max(), 1e-300))
    return Slice(tuple(whole), each, tuple(together), residual)


def _hull(points: Polygon) -> Polygon:
    """The convex hull, counterclockwise (A. M. Andrew's monotone chain)."""
    points = np.unique(points.round(12), axis=0)

    def half(ordered: Polygon) -> list[Polygon]:
        chain: list[Polygon] = []
        for p in ordered:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], p) <= THIN:
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return np.array(half(points) + half(points[::-1]))


def _turn(a: Polygon, b: Polygon, c: Polygon) -> float:
    """Twice the area of a triangle; positive: counterclockwise."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
