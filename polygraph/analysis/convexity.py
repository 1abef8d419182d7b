"""Is a function convex? Chords and supporting planes on samples, in float64.

Of a convex function no chord lies below the graph, and no tangent plane above it. On samples both
can only be refuted: what is found is a counterexample, or the number of checks that it passed.

Tangents tell more: N samples and their gradients give N² checks for N backward passes. A tangent
at x above the value at y means that along the way from x to y some chord is below the graph; it is
looked for, so that a counterexample is a chord wherever one is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-10  # of the values' size: float64's 1e-16, and what networks lose by cancellation
_SCALES = (0.1, 1.0, 10.0)  # of the points that are drawn
_MOST = 1 << 24  # entries of a chunk
_HALVINGS = 40


@dataclass(frozen=True)
class Counterexample:
    """A chord below the graph: ``f((1-t) x + t y) > (1-t) f(x) + t f(y)``.

    Attributes:
        x: one end, float64, of the shape of a sample.
        y: the other.
        t: the place between them; 0 where a tangent plane at x is above the graph at y and no chord
            was found, as for a gradient that is not that of the values.
        gap: by how much, relative to the size of the values; at t = 0 that of the tangent plane.
        output: which output, counted over all of a sample's.

    Example:
        >>> import torch
        >>> from polygraph.analysis import check_convex
        >>> check_convex(torch.sin, (1,)).counterexample.gap > 0
        True

    See Also:
        `check_convex`, which finds it.
    """

    x: Tensor
    y: Tensor
    t: float
    gap: float
    output: int

    def __repr__(self) -> str:
        """One line: without the points."""
        return f"Counterexample(t={self.t:.3g}, gap={self.gap:.3g}, output={self.output})"


@dataclass(frozen=True)
class ConvexityReport:
    """What `check_convex` found; true if no violation was.

    Attributes:
        holds: whether all checks passed.
        chords: checks of a chord.
        planes: checks of a tangent plane at one sample against the value at another.
        largest: the largest violation, relative to the size of the values; at most the tolerance
            where it holds, and negative where everything is strictly convex.
        counterexample: the worst; None where it holds.

    Example:
        >>> import torch
        >>> from polygraph.analysis import check_convex
        >>> report = check_convex(torch.square, (1,), samples=100, chords=500)
        >>> bool(report), report.chords, report.planes
        (True, 1000, 10000)

    See Also:
        `check_convex`, which makes it.
    """

    holds: bool
    chords: int
    planes: int
    largest: float
    counterexample: Counterexample | None = None

    def __bool__(self) -> bool:
        """Whether no check refuted convexity."""
        return self.holds

    def __repr__(self) -> str:
        """One line."""
        found = "no violation" if self.holds else f"{self.counterexample}"
        return (
            f"ConvexityReport({found} in {self.chords:,} chords and {self.planes:,} planes, "
            f"largest {self.largest:.2g})"
        )


def check_convex(
    fn: Callable[[Tensor], Tensor],
    points: Tensor | Sequence[int],
    *,
    samples: int = 256,
    chords: int = 4096,
    planes: bool = True,
    seed: int = 0,
    tolerance: float = ROUNDING,
) -> ConvexityReport:
    """Look for a counterexample to the convexity of every output of ``fn``, in float64.

    Pairs of samples are drawn; on each the middle and one more place of the chord are checked. Then
    the tangent plane at every sample is checked against the values at all samples, for each output:
    ``A_i x_j + b_i <= f(x_j)``.

    Args:
        fn: maps ``[B, *shape]`` to ``[B]`` or ``[B, ...]``, sample by sample, in float64
            (``module.double().eval()``).
        points: float64 ``[N, *shape]``, the samples, at least 2; or the shape of one, and samples
            are drawn from normal distributions of widths 0.1, 1 and 10.
        samples: how many are drawn.
        chords: pairs, with two checks each.
        planes: whether tangent planes are checked; they need gradients.
        seed: of what is drawn.
        tolerance: violations up to this part of the size of the values (their mean magnitude on the
            samples, by output) count as rounding.

    Returns:
        A report that is true if nothing was found. It is no proof: see
        `polygraph.nn.convex.is_input_convex` for one by structure.

    Raises:
        ValueError: points or values are not float64 or not finite, there are fewer than two
            samples, or numbers are not positive.

    Example:
        >>> import torch
        >>> from polygraph.analysis import check_convex
        >>> from polygraph.nn.convex import convex_
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU(),
        ...     torch.nn.Linear(16, 1)
        ... ).double()
        >>> bool(check_convex(model, (2,))), bool(check_convex(convex_(model), (2,)))
        (False, True)

    See Also:
        `polygraph.nn.convex.convex_`; `check_degree`.
    """
    for name, value in {"samples": samples, "chords": chords}.items():
        if value < 1:
            raise ValueError(f"check_convex: {name} must be a positive integer, got {value}")
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"check_convex: tolerance must be finite and 0 or more, got {tolerance}")
    generator = torch.Generator().manual_seed(seed)
    x = _samples(points, samples, generator)
    search = _Search(fn, x)
    search.chords(chords, generator)
    if planes:
        search.planes()
    holds = search.largest <= tolerance
    found = None if holds else search.counterexample()
    return ConvexityReport(holds, 2 * chords, len(x) ** 2 * planes, search.largest, found)


def _samples(points: Tensor | Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    if not isinstance(points, Tensor):
        drawn = torch.randn(count, *points, dtype=torch.float64, generator=generator)
        widths = torch.tensor(_SCALES, dtype=torch.float64)[torch.arange(count) % len(_SCALES)]
        points = drawn * widths.view(-1, *[1] * len(points))
    if points.dtype != torch.float64 or points.dim() < 2 or not points.isfinite().all():
        raise ValueError(
            "check_convex: points must be finite float64 [N, *shape], got "
            f"{points.dtype} {list(points.shape)}"
        )
    if len(points) < 2:
        raise ValueError(f"check_convex: needs at least 2 samples, got {len(points)}")
    return points.detach()


class _Search:
    """The worst violation so far: which samples, where between them, which output."""

    def __init__(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._fn, self._x = fn, x
        self._chunk = max(1, _MOST // max(1, x[0].numel()))
        with torch.no_grad():
            self._values = torch.cat([self._at(part) for part in torch.split(x, self._chunk)])
        self._size = self._values.abs().mean(0).clamp(min=torch.finfo(torch.float64).tiny)
        self.largest = -math.inf
        self._place: tuple[int, int, float, int] = (0, 0, 0.0, 0)

    def _at(self, x: Tensor) -> Tensor:
        """``[B, C]``."""
        values = self._fn(x)
        good = isinstance(values, Tensor) and values.shape[:1] == x.shape[:1]
        if not good or values.dtype != torch.float64:
            got = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else values
            raise ValueError(f"check_convex: fn must return float64 [{len(x)}, ...], got {got}")
        if not values.isfinite().all():
            raise ValueError("check_convex: fn gave values that are not finite")
        return values.reshape(len(x), -1)

    def _note(self, gaps: Tensor, first: Tensor, second: Tensor, t: Tensor) -> None:
        """Keep the largest of ``gaps [P, C]`` of pairs of samples."""
        worst = int(gaps.argmax())
        pair, output = divmod(worst, gaps.shape[1])
        if gaps.flatten()[worst] > self.largest:
            self.largest = gaps.flatten()[worst].item()
            self._place = (int(first[pair]), int(second[pair]), t[pair].item(), output)

    @torch.no_grad()
    def chords(self, count: int, generator: torch.Generator) -> None:
        """The middle, and another place, of the way between samples."""
        first = torch.randint(len(self._x), (count,), generator=generator)
        apart = torch.randint(len(self._x) - 1, (count,), generator=generator)
        second = (first + 1 + apart) % len(self._x)
        other = torch.rand(count, dtype=torch.float64, generator=generator)
        for t in (torch.full_like(other, 0.5), other):
            for pairs in torch.split(torch.arange(count), self._chunk):
                i, j, s = first[pairs], second[pairs], t[pairs]
                self._note(self._gap(i, j, s), i, j, s)

    def _gap(self, i: Tensor, j: Tensor, t: Tensor) -> Tensor:
        """``[P, C]``: how far the graph is above the chords, relative to the values' size."""
        along, t = t.view(-1, *[1] * (self._x.dim() - 1)).to(self._x), t[:, None].to(self._x)
        x = (1 - along) * self._x[i] + along * self._x[j]
        return (self._at(x) - (1 - t) * self._values[i] - t * self._values[j]) / self._size

    def planes(self) -> None:
        """``A_i x_j + b_i - f(x_j)``, all pairs."""
        flat = self._x.flatten(1)
        every, outputs = torch.arange(len(flat)), self._values.shape[1]
        chunk = max(1, _MOST // max(len(flat), outputs * flat.shape[1]))
        for rows in torch.split(every, chunk):
            for output, normals in enumerate(self._normals(self._x[rows])):
                value = self._values[:, output]
                at = (normals * flat[rows]).sum(1)
                above = normals @ flat.T + (value[rows] - at)[:, None] - value
                gaps = (above / self._size[output]).view(-1, 1)
                # A tangent touches at its own sample, where only rounding is measured.
                first, second = (m.flatten() for m in torch.meshgrid(rows, every, indexing="ij"))
                gaps[first == second] = -math.inf
                before = self.largest
                self._note(gaps, first, second, torch.zeros(len(first)))
                if self.largest > before:
                    self._place = (*self._place[:3], output)

    def _normals(self, x: Tensor) -> list[Tensor]:
        """Gradients ``[B, D]`` of each output."""
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            values = self._at(x)
            if not values.requires_grad:  # constant
                return [torch.zeros_like(x).flatten(1)] * values.shape[1]
            found = []
            for column in values.unbind(1):
                (grad,) = torch.autograd.grad(
                    column.sum(), x, retain_graph=True, materialize_grads=True
                )
                found.append(grad.flatten(1))
        return found

    @torch.no_grad()
    def counterexample(self) -> Counterexample:
        """The worst violation, as a chord where one is found."""
        i, j, t, output = self._place
        gap = self.largest
        if t == 0:  # of a plane: near its end the chord shows it
            steps = 0.5 ** torch.arange(1, _HALVINGS, dtype=torch.float64)
            first, second = (torch.full((len(steps),), end) for end in (i, j))
            gaps = self._gap(first, second, steps)[:, output]
            if gaps.max() > 0:
                t, gap = steps[gaps.argmax()].item(), gaps.max().item()
        return Counterexample(self._x[i], self._x[j], t, gap, output)
