"""Is a function a polynomial, and of which degree? Finite differences along random lines.

Along a line ``z + t·d`` a polynomial of degree n is a polynomial of degree n in t: every finite
difference of order n+1 vanishes, and for almost every line those of order n do not.

Which nodes: with equal steps the n-th difference weighs its values by binomials, so that rounding
grows as 2ⁿ and hides the answer beyond n = 15 or so. We take Chebyshev nodes ``t_j = r·cos(πj/m)``,
on which the n-th divided difference is, but for a constant, the n-th Chebyshev coefficient: a mean
of the values with weights ±1, as well conditioned as the values. That the differences of order n+1
vanish on n+3 nodes is to say that the coefficients n+1 and n+2 do (two, because one could vanish
for reasons of symmetry).

How long a line: the coefficient of ``tⁿ`` must show against the lower ones, which takes a radius r
at which the highest terms dominate; then it is 2¹⁻ⁿ of the largest value. Networks with small
weights need a large r, so r runs over powers of four. With float64 and the default tolerance,
degrees up to about 28 can be told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RADII = tuple(4.0**k for k in range(-1, 11))
ROUNDING = 1e-11  # of the largest value: float64's 1e-16, and what networks lose by cancellation
CLEARLY = 100.0  # what is present stands this far above what counts as rounding


@dataclass(frozen=True)
class DegreeReport:
    """What `check_degree` found; true if the degree is the expected one.

    Attributes:
        degree: the degree asked about.
        highest: the largest degree-th difference met, relative to the largest value on its line;
            each line at the radius that shows it best, the least of the lines.
        above: the largest difference of order degree+1, relative to the largest value on its line.
        holds: whether ``above`` vanishes and ``highest`` does not.
        message: both in words.

    Example:
        >>> from polygraph.analysis import check_degree
        >>> report = check_degree(lambda x: x**3, (4,), 3)
        >>> bool(report), report.degree
        (True, 3)

    See Also:
        `check_degree`, which makes it.
    """

    degree: int
    highest: float
    above: float
    holds: bool
    message: str

    def __bool__(self) -> bool:
        """Whether the function is a polynomial of exactly this degree."""
        return self.holds


def chebyshev_coefficients(values: Tensor) -> Tensor:
    """Coefficients of the polynomial through values at the nodes ``cos(πj/m)``, j = 0..m.

    Args:
        values: ``[m+1, ...]``, m >= 1.

    Returns:
        ``[m+1, ...]``: the coefficients of the Chebyshev polynomials T_0..T_m. The k-th is a
        multiple of the k-th divided difference if all later ones vanish; the last one always.

    Example:
        >>> import math, torch
        >>> from polygraph.analysis import chebyshev_coefficients
        >>> nodes = torch.cos(torch.arange(4, dtype=torch.float64) * math.pi / 3)
        >>> chebyshev_coefficients(2 * nodes**2 - 1).abs().round(decimals=6)  # T_2
        tensor([0., 0., 1., 0.], dtype=torch.float64)

    See Also:
        `check_degree`, which looks at them.
    """
    m = values.shape[0] - 1
    if m < 1:
        raise ValueError(f"chebyshev_coefficients: needs at least 2 values, got {m + 1}")
    j = torch.arange(m + 1, dtype=values.dtype)
    transform = torch.cos(math.pi / m * torch.outer(j, j)) * (2 / m)
    transform[:, [0, m]] /= 2
    transform[[0, m]] /= 2
    return (transform.to(values.device) @ values.reshape(m + 1, -1)).view(values.shape)


def check_degree(
    fn: Callable[[Tensor], Tensor],
    in_shape: Sequence[int],
    degree: int,
    *,
    lines: int = 3,
    seed: int = 0,
    tolerance: float = ROUNDING,
) -> DegreeReport:
    """Check that ``fn`` is a polynomial of exactly ``degree``, in float64.

    Args:
        fn: maps ``[B, *in_shape]`` to ``[B, ...]``, sample by sample, in float64
            (``module.double()``). All nodes of a line are one batch.
        in_shape: shape of one sample.
        degree: the expected degree.
        lines: random lines; each must show the degree.
        seed: of the lines.
        tolerance: differences below this part of the largest value count as rounding; the
            highest one must be 100 times larger.

    Returns:
        A report that is true if it holds and carries the relative residuals.

    Raises:
        ValueError: on a negative degree, or if ``fn`` does not return float64 ``[B, ...]``.

    Example:
        >>> import torch
        >>> from polygraph.analysis import check_degree
        >>> from polygraph.nn import NCP
        >>> block = NCP(torch.nn.Linear, 4, 4, order=3, norm="none").double()
        >>> bool(check_degree(block, (4,), 3)), bool(check_degree(block, (4,), 4))
        (True, False)

    See Also:
        `polynomial_degree`, which finds it.
    """
    if degree < 0:
        raise ValueError(f"check_degree: degree must not be negative, got {degree}")
    spectra = _spectra(fn, in_shape, degree + 2, lines, seed)
    highest = float(spectra[:, :, degree].amax(1).amin())
    above = float(spectra[:, :, degree + 1 :].amax())
    vanishes, present = above <= tolerance, highest > CLEARLY * tolerance
    message = (
        f"degree {degree}: differences of order {degree + 1} "
        f"{'vanish' if vanishes else 'do not vanish'} ({above:.1e}), those of order {degree} "
        f"{'do not' if present else 'vanish'} ({highest:.1e}), relative to the largest value"
    )
    return DegreeReport(degree, highest, above, vanishes and present, message)


def polynomial_degree(
    fn: Callable[[Tensor], Tensor],
    in_shape: Sequence[int],
    *,
    max_degree: int = 20,
    lines: int = 3,
    seed: int = 0,
    tolerance: float = ROUNDING,
) -> int | None:
    """The degree of ``fn`` as a polynomial, or None if it is none of at most ``max_degree``.

    Arguments as in `check_degree`. The zero function has degree 0.

    Example:
        >>> import torch
        >>> from polygraph.analysis import polynomial_degree
        >>> polynomial_degree(lambda x: x**3 - x, (4,))
        3
        >>> polynomial_degree(torch.exp, (4,), max_degree=5) is None
        True

    See Also:
        `check_degree`.
    """
    if max_degree < 0:
        raise ValueError(f"polynomial_degree: max_degree must not be negative, got {max_degree}")
    spectra = _spectra(fn, in_shape, max_degree + 2, lines, seed).amax((0, 1))
    present = torch.nonzero(spectra > tolerance).flatten()
    degree = int(present[-1]) if present.numel() else 0
    return degree if degree <= max_degree else None


def _spectra(
    fn: Callable[[Tensor], Tensor], in_shape: Sequence[int], m: int, lines: int, seed: int
) -> Tensor:
    """|Chebyshev coefficients| relative to the largest value: ``[lines, radii, m+1]``.

    The largest over all outputs. A radius at which values overflow gives zeros.
    """
    if lines < 1:
        raise ValueError(f"check_degree: lines must be a positive integer, got {lines}")
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.cos(math.pi / m * torch.arange(m + 1, dtype=torch.float64))
    rows = []
    for _ in range(lines):
        start, direction = torch.randn(2, *in_shape, dtype=torch.float64, generator=generator)
        for radius in RADII:
            steps = (radius * nodes).view(-1, *[1] * len(in_shape))
            with torch.no_grad():
                values = fn(start + steps * direction)
            if values.dtype != torch.float64 or values.shape[:1] != nodes.shape:
                raise ValueError(
                    f"check_degree: fn must return float64 [{m + 1}, ...], got {values.dtype} "
                    f"{list(values.shape)}"
                )
            values = values.reshape(m + 1, -1)
            size = values.abs().max()
            if torch.isfinite(size) and size > 0:
                rows.append((chebyshev_coefficients(values / size)).abs().amax(1).cpu())
            else:
                rows.append(torch.zeros(m + 1, dtype=torch.float64))
    return torch.stack(rows).view(lines, len(RADII), m + 1)
