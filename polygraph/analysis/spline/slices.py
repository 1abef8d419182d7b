"""Every region of a network in a parallelogram of its input space, as a polygon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.analysis.spline.passes import Passes
from polygraph.analysis.spline.surveys import Path, Survey
from polygraph.analysis.spline.walks import ROUNDING

Polygon = NDArray[np.float64]  #: corners ``[n, 2]``, in order
_SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
_THIN = 1e-12  # of the parallelogram: a corner this near to a line lies on it
_PASSES = 200
_TOGETHER = 512  # corners


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
        return np.array([_area(p) for p in self.polygons])

    def by_class(self) -> list[tuple[int, Polygon]]:
        """The regions divided by their largest output: pairs of its number and a polygon."""
        found = []
        for polygon, values in zip(self.polygons, self.values, strict=True):
            pieces = [(polygon, values)]
            for k in range(values.shape[1]):
                for j in range(k):
                    pieces = [
                        piece
                        for corners, at in pieces
                        for piece in _split_with(corners, at, at[:, k] - at[:, j])
                    ]
            found += [(int(at.mean(0).argmax()), corners) for corners, at in pieces]
        return found


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
    for _ in range(_PASSES):
        todo: list[Polygon] = []
        settled = True
        for group in _groups(polygons):
            survey = path.survey(torch.from_numpy(np.concatenate(group)), site)
            settled &= survey.settles_at_once
            end = 0
            for polygon in group:
                corners = slice(end, end + len(polygon))
                end = corners.stop
                part = survey.mapped(lambda w, rows=corners: w[rows])  # type: ignore[misc]
                pieces = [polygon]
                for line in _lines(polygon, part):
                    pieces = [
                        p for whole in pieces for p in _split(whole, whole @ line[:2] + line[2])
                    ]
                    if most is not None and len(done) + len(todo) + len(pieces) > 2 * most:
                        raise TooManyRegions(most)
                (todo if len(pieces) > 1 else done).extend(pieces)
        if not todo:
            return done
        if settled:
            return done + todo
        polygons = todo
    raise RuntimeError(f"SplineLens: the walls of {path.sites[site]} do not settle")


def _groups(polygons: list[Polygon]) -> Iterator[list[Polygon]]:
    """Polygons that are looked at together: walls of wide networks are held for these alone."""
    group: list[Polygon] = []
    corners = 0
    for polygon in polygons:
        group.append(polygon)
        corners += len(polygon)
        if corners >= _TOGETHER:
            yield group
            group, corners = [], 0
    if group:
        yield group


def _lines(polygon: Polygon, walls: Survey) -> list[NDArray[np.float64]]:
    """Lines ``[a, b, c]``, zero where a choice changes inside of a polygon."""
    columns = []
    if walls.signed is not None:
        rounding = ROUNDING * walls.signed.abs().max()
        low, high = walls.signed.amin(0), walls.signed.amax(0)
        columns.append(walls.signed[:, (low < -rounding) & (high > rounding)])
    if walls.rivals is not None:
        columns.append(_contested(walls.rivals))
    found = torch.cat(columns, 1).cpu().numpy()
    corners = np.column_stack([polygon, np.ones(len(polygon))])
    solved, *_ = np.linalg.lstsq(corners, found, rcond=None)
    return list(solved.T)


def _contested(rivals: Tensor) -> Tensor:
    """``[V, L]``: of groups without one winner at all corners, by how much two winners differ."""
    finite = torch.where(rivals.isfinite(), rivals.abs(), 0).max()
    lead = rivals.amax(-1, keepdim=True) - rivals  # how far behind the winner, [V, G, R]
    shared = (lead <= ROUNDING * finite).all(0).any(-1)
    groups = (~shared).nonzero()[:, 0]
    members = rivals[:, groups]
    first = members[0].argmax(-1)
    behind = lead[:, groups].gather(-1, first.expand(len(rivals), -1)[..., None])[..., 0]
    corner = behind.argmax(0)
    second = members.argmax(-1).gather(0, corner[None])[0]
    return (
        members.gather(-1, first.expand(len(rivals), -1)[..., None])
        - members.gather(-1, second.expand(len(rivals), -1)[..., None])
    )[..., 0]


def _split(polygon: Polygon, side: NDArray[np.float64]) -> list[Polygon]:
    """A polygon's parts on either side of a line, of which ``side`` says how far corners are."""
    return [corners for corners, _ in _split_with(polygon, polygon, side)]


def _split_with(
    polygon: Polygon, values: Polygon, side: NDArray[np.float64]
) -> list[tuple[Polygon, Polygon]]:
    """The same with numbers at the corners, which are affine between them."""
    rounding = _THIN * max(float(np.abs(side).max()), 1e-300)
    if side.min() >= -rounding or side.max() <= rounding:
        return [(polygon, values)]
    both = np.column_stack([polygon, values])
    following = np.roll(both, -1, axis=0)
    other = np.roll(side, -1)
    parts: tuple[list[Polygon], list[Polygon]] = ([], [])
    for a, b, s, t in zip(both, following, side, other, strict=True):
        if s >= -rounding:
            parts[0].append(a)
        if s <= rounding:
            parts[1].append(a)
        if (s < -rounding and t > rounding) or (s > rounding and t < -rounding):
            meet = a + (b - a) * (s / (s - t))
            parts[0].append(meet)
            parts[1].append(meet)
    found = [np.array(part) for part in parts if len(part) > 2]
    return [(part[:, :2], part[:, 2:]) for part in found]


def _merged(path: Path, polygons: list[Polygon], most: int | None) -> Slice:
    """Regions of what was cut by a line that ended inside of them."""
    polygons = [p for p in polygons if _area(p) > _THIN]
    centers = torch.from_numpy(np.array([p.mean(0) for p in polygons]))
    codes, _ = path.looked_at(centers)
    together: dict[bytes, list[Polygon]] = {}
    for code, polygon in zip(codes, polygons, strict=True):
        together.setdefault(code, []).append(polygon)
    if most is not None and len(together) > most:
        raise TooManyRegions(most)
    whole = [ps[0] if len(ps) == 1 else _hull(np.concatenate(ps)) for ps in together.values()]
    values = path.values(torch.from_numpy(np.concatenate(whole))).double().cpu().numpy()
    ends = np.cumsum([len(p) for p in whole])[:-1]
    each = tuple(np.split(values, ends))
    middles = path.values(torch.from_numpy(np.array([p.mean(0) for p in whole]))).double()
    missed = middles.cpu().numpy() - np.array([v.mean(0) for v in each])
    residual = float(np.abs(missed).max() / max(np.abs(values).max(), 1e-300))
    return Slice(tuple(whole), each, tuple(together), residual)


def _hull(points: Polygon) -> Polygon:
    """The convex hull, counterclockwise (A. M. Andrew's monotone chain)."""
    points = np.unique(points.round(12), axis=0)

    def half(ordered: Polygon) -> list[Polygon]:
        chain: list[Polygon] = []
        for p in ordered:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], p) <= _THIN:
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return np.array(half(points) + half(points[::-1]))


def _turn(a: Polygon, b: Polygon, c: Polygon) -> float:
    """Twice the area of a triangle; positive: counterclockwise."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _area(polygon: Polygon) -> float:
    x, y = polygon.T
    return float(np.abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
