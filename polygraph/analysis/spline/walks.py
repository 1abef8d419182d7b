"""Every region of a network on a segment, with the exact places where it is left."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from polygraph.analysis.spline.passes import Passes
from polygraph.analysis.spline.surveys import Clouds, Path, Survey

ROUNDING = 1e-11  # of the largest wall: what is nearer to 0 lies on it
_EXACT = "donot_use_mm_for_euclid_dist"
_PASSES = 200  # of one choice, at most
_SAME = 1e-13  # places on the segment that are nearer than this are one


@dataclass(frozen=True)
class Walk:
    """The regions of a network on the segment from x to y, in order.

    Attributes:
        t: ``[R + 1]``: where regions begin and end, from 0 to 1.
        sites: of each of the R - 1 places between, the name of the first choice that changes there.
        start: ``[R, K]``: outputs where a region begins, as its affine map has them.
        end: ``[R, K]``: and where it ends. They differ from the next region's start only where
            the network jumps, as where a list of neighbours changes.
        residual: how far outputs in the middle of regions are from the mean of start and end,
            relative to the largest output: rounding.

    Example:
        >>> import torch
        >>> from polygraph.analysis import SplineLens
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU())
        >>> x, y = torch.tensor([-1.0, 2.0]).double(), torch.tensor([3.0, -2.0]).double()
        >>> walk = SplineLens(net).walk(x, y)
        >>> walk
        Walk(3 regions, 0 jumps)
        >>> walk.t.tolist(), walk.sites
        ([0.0, 0.25, 0.5, 1.0], ('1:relu', '1:relu'))
        >>> walk.total_variation
        tensor([3., 2.], dtype=torch.float64)

    See Also:
        `SplineLens.walk`, which makes it; `Slice`, of a plane.
    """

    t: Tensor
    sites: tuple[str, ...]
    start: Tensor
    end: Tensor
    residual: float

    def __repr__(self) -> str:
        """How many regions and jumps."""
        return f"Walk({self.regions} regions, {len(self.jumps)} jumps)"

    @property
    def regions(self) -> int:
        """R."""
        return len(self.t) - 1

    @property
    def jumps(self) -> Tensor:
        """Places, ``[J]``, where the network is not continuous."""
        size = torch.stack([self.start, self.end]).abs().max().clamp_min(1e-300)
        apart = (self.start[1:] - self.end[:-1]).abs().amax(1)
        return self.t[1:-1][apart > 1e-8 * size]

    @property
    def total_variation(self) -> Tensor:
        """Of each output along the segment, jumps included, ``[K]``."""
        inside = (self.end - self.start).abs().sum(0)
        return inside + (self.start[1:] - self.end[:-1]).abs().sum(0)

    @property
    def boundary(self) -> Tensor:
        """Places, ascending, where the largest output changes: the boundary of decisions."""
        found = []
        for r in range(self.regions):
            low, high = self.start[r], self.end[r]
            at, end = 0.0, int(high.argmax())
            winner = int(low.argmax())
            if r and winner != int(self.end[r - 1].argmax()):
                found.append(float(self.t[r]))
            while winner != end:  # along lines from low to high, the upper envelope
                gap, rate = low[winner] - low, (high - low) - (high[winner] - low[winner])
                meet = torch.where(rate > 0, gap / rate, math.inf)
                meet[meet <= at] = math.inf
                if not bool(meet.min() < 1):
                    break
                at, winner = float(meet.min()), int(meet.argmin())
                found.append(float(self.t[r] + at * (self.t[r + 1] - self.t[r])))
        return torch.tensor(found, dtype=torch.float64)


def walk(lens: Passes, x: Tensor, y: Tensor) -> Walk:
    """See `SplineLens.walk`."""
    path = Path(lens, x, (y - x)[None])
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    cause = torch.full((2,), -1)
    for site in range(len(path.sites)):
        t, cause = _divide(path, site, t, cause)
    return _measured(path, t, cause)


def _divide(path: Path, site: int, t: Tensor, cause: Tensor) -> tuple[Tensor, Tensor]:
    """Places between which a choice does not change."""
    cells = torch.arange(len(t) - 1)  # intervals that are still to be looked at
    for _ in range(_PASSES):
        low, high = _ends(path, site, t, cells)
        new = _crossings(low, high, t, cells)
        new = torch.unique(new[(new > 0) & (new < 1)])
        new = new[~_near(new, t)]
        if not len(new):
            return t, cause
        fresh = torch.cat([torch.zeros_like(t, dtype=torch.bool), new > 0])
        t, order = torch.cat([t, new]).sort()
        cause = torch.cat([cause, cause.new_full((len(new),), site)])[order]
        if low.settles_at_once:
            return t, cause
        fresh = fresh[order]
        cells = (fresh[:-1] | fresh[1:]).nonzero()[:, 0]
    raise RuntimeError(f"SplineLens: the walls of {path.sites[site]} do not settle")


def _ends(path: Path, site: int, t: Tensor, cells: Tensor) -> tuple[Survey, Survey]:
    """The walls of a choice where intervals begin, and where they end.

    Where the network may jump, each interval is seen from inside.
    """
    low, high = t[cells], t[cells + 1]
    if path.jumps:
        quarter = (high - low) / 4
        found = path.survey(torch.cat([low + quarter, high - quarter])[:, None], site)
        near, far = found.mapped(lambda w: w[: len(cells)]), found.mapped(lambda w: w[len(cells) :])
        return _beyond(near, far), _beyond(far, near)
    if len(cells) == len(t) - 1:
        found = path.survey(t[:, None], site)
        return found.mapped(lambda w: w[:-1]), found.mapped(lambda w: w[1:])
    found = path.survey(torch.cat([low, high])[:, None], site)
    return found.mapped(lambda w: w[: len(cells)]), found.mapped(lambda w: w[len(cells) :])


def _beyond(near: Survey, far: Survey) -> Survey:
    """Lines through two places, at half their distance before the first."""
    others = [far.signed, far.rivals, *(far.clouds[:2] if far.clouds else ())]
    rest = iter([w for w in others if w is not None])

    def line(w: Tensor) -> Tensor:
        return torch.where(w.isfinite(), 1.5 * w - 0.5 * next(rest), w)

    return near.mapped(line)


def _near(new: Tensor, t: Tensor) -> Tensor:
    """Which places are there already, but for rounding."""
    place = torch.searchsorted(t, new)
    below, above = t[(place - 1).clamp_min(0)], t[place.clamp_max(len(t) - 1)]
    return (new - below < _SAME) | (above - new < _SAME)


def _crossings(low: Survey, high: Survey, t: Tensor, cells: Tensor) -> Tensor:
    found = [t.new_empty(0)]
    if low.signed is not None and high.signed is not None:
        found.append(_between(t, cells, *_zeros(low.signed, high.signed)))
    if low.rivals is not None and high.rivals is not None:
        found.append(_between(t, cells, *_changes(low.rivals, high.rivals)))
    if low.clouds is not None and high.clouds is not None:
        for row in range(len(cells)):
            share = _swaps(low.clouds, high.clouds, row)
            found.append(_between(t, cells, torch.full(share.shape, row), share))
    return torch.cat(found)


def _between(t: Tensor, cells: Tensor, row: Tensor, share: Tensor) -> Tensor:
    """Places at a share of the way through some intervals."""
    cell = cells[row.cpu()]
    return t[cell] + (t[cell + 1] - t[cell]) * share.cpu()


def _zeros(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where lines cross 0: the interval, and the share of the way through it."""
    rounding = ROUNDING * torch.maximum(low.abs().max(), high.abs().max())
    crosses = (torch.minimum(low, high) < -rounding) & (torch.maximum(low, high) > rounding)
    row, unit = crosses.nonzero(as_tuple=True)
    a, b = low[row, unit], high[row, unit]
    return row, a / (a - b)


def _changes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where the winner at one end meets the winner at the other, of groups without a common one."""
    rows, winner, other = changed_winners(low, high)
    p, g = rows[:, 0], rows[:, 1]
    a = low[p, g, winner] - low[p, g, other]
    b = high[p, g, winner] - high[p, g, other]
    return p, a / (a - b)


def changed_winners(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Groups of which no member wins in both ``[P, G, R]``: rows ``(p, g)``, and both winners."""
    finite = torch.where(a.isfinite(), a.abs(), 0).max()
    rounding = ROUNDING * torch.maximum(finite, torch.where(b.isfinite(), b.abs(), 0).max())
    both = (a >= a.amax(-1, keepdim=True) - rounding) & (b >= b.amax(-1, keepdim=True) - rounding)
    rows = (~both.any(-1)).nonzero()
    first, second = a[rows[:, 0], rows[:, 1]], b[rows[:, 0], rows[:, 1]]
    return rows, first.argmax(-1), second.argmax(-1)


def _swaps(low: Clouds, high: Clouds, row: int) -> Tensor:
    """Where lists of neighbours change inside of an interval, their order included.

    The list in its middle holds until, to either side, a neighbour is first as far as another
    point: a root of a quadratic. Beyond these places other lists hold, of intervals to come.
    """
    x0, x1, y0, y1 = low.sources[row], high.sources[row], low.targets[row], high.targets[row]
    dist = torch.cdist((y0 + y1) / 2, (x0 + x1) / 2, compute_mode=_EXACT)
    dist = dist.masked_fill(low.barred, math.inf)
    inside = torch.zeros_like(dist, dtype=torch.bool)
    inside.scatter_(-1, dist.topk(low.k, largest=False).indices, True)
    pairs = inside[..., :, None] & ~low.barred[:, None, :]
    s, m, i, o = pairs.nonzero(as_tuple=True)
    s, m, i, o = (index[i != o] for index in (s, m, i, o))
    target = (s * dist.shape[1] + m).repeat(2)
    roots = torch.cat(_roots(*_quadratics(x0, x1, y0, y1, (s, m, i), (s, m, o))))
    found = []
    for start, best in ((0.0, "amax"), (1.0, "amin")):
        side = (roots > 0) & (roots <= 0.5) if start == 0 else (roots > 0.5) & (roots < 1)
        first = roots.new_full((dist.shape[0] * dist.shape[1],), start)
        first.scatter_reduce_(0, target[side], roots[side], best)
        found.append(first[first != start])
    return torch.cat(found)


def _quadratics(
    x0: Tensor,
    x1: Tensor,
    y0: Tensor,
    y1: Tensor,
    near: tuple[Tensor, Tensor, Tensor],
    far: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of ``|far|² - |near|²`` along an interval from 0 to 1."""

    def line(s: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        low, high = x0[s, n] - y0[s, m], x1[s, n] - y1[s, m]
        return low, high - low

    (p, dp), (q, dq) = line(*far), line(*near)
    a = dp.square().sum(-1) - dq.square().sum(-1)
    b = 2 * ((p * dp).sum(-1) - (q * dq).sum(-1))
    c = p.square().sum(-1) - q.square().sum(-1)
    return a, b, c


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both roots, without cancellation; NaN: none."""
    disc = b.square() - 4 * a * c
    q = -(b + torch.where(b < 0, -1.0, 1.0) * disc.sqrt()) / 2
    return q / a, c / q


def _measured(path: Path, t: Tensor, cause: Tensor) -> Walk:
    """Regions with different choices, and their outputs."""
    width = t.diff()
    codes, middle = path.looked_at((t[:-1] + width / 2)[:, None])
    if path.jumps:  # each interval from inside
        low, high = (
            path.values((t[:-1] + share * width)[:, None]).double() for share in (0.25, 0.75)
        )
        slope = (high - low) / 2
        start, end = low - slope, high + slope
    else:
        ends = path.values(t[:, None]).double()
        start, end = ends[:-1], ends[1:]
    size = torch.stack([start, middle, end]).abs().max().clamp_min(1e-300)
    residual = float(((start + end) / 2 - middle).abs().max() / size)
    kept = torch.tensor([True, *(a != b for a, b in pairwise(codes)), True])
    t, cause = t[kept], cause[kept]
    sites = tuple(path.sites[int(c)] for c in cause[1:-1])
    return Walk(t, sites, start[kept[:-1]], end[kept[1:]], residual)
