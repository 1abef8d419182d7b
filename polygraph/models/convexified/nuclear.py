"""The ball of the nuclear norm: projection onto it, its extreme points, norms."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def nuclear_norm(matrix: Tensor) -> float:
    """Sum of the singular values of ``matrix [M, N]``.

    Example:
        >>> import torch
        >>> from polygraph.models.convexified import nuclear_norm
        >>> round(nuclear_norm(torch.diag(torch.tensor([3.0, -2.0]))), 4)
        5.0
    """
    return float(torch.linalg.svdvals(matrix.double()).sum())


def threshold_for(values: Tensor, radius: float) -> float:
    """The t with ``sum(max(values - t, 0)) = radius``, 0 if the sum of values is no larger.

    Source: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions",
    ICML 2008, figure 1.

    Args:
        values: ``[K]``, 0 or more.
        radius: above 0.
    """
    if float(values.sum()) <= radius:
        return 0.0
    sums = values.sort(descending=True)[0]
    count = torch.arange(1, len(sums) + 1, dtype=sums.dtype, device=sums.device)
    thresholds = (sums.cumsum(0) - radius) / count
    last = int((sums >= thresholds).nonzero()[-1])
    return float(thresholds[last])


def project_nuclear(matrix: Tensor, radius: float) -> Tensor:
    """The nearest matrix (in Frobenius' norm) whose nuclear norm is at most ``radius``.

    Singular values are projected onto the ball of the l1 norm. Of float32 matrices they are those
    of the smaller Gram matrix in float64, which are exact to 1e-8 of the largest; of float64 ones
    of a singular value decomposition. Deterministic.

    Args:
        matrix: float32 or float64 ``[M, N]``, finite.
        radius: R, above 0.

    Returns:
        ``[M, N]``, the matrix itself where it is in the ball.

    Raises:
        ValueError: the radius is not above 0; the matrix has other dimensions, or NaN or infinity.

    Example:
        >>> import torch
        >>> from polygraph.models.convexified import nuclear_norm, project_nuclear
        >>> near = project_nuclear(torch.randn(20, 30), 5.0)
        >>> round(nuclear_norm(near), 3)
        5.0

    See Also:
        `nuclear_norm`; `polygraph.models.ConvexifiedCNN`, which trains with it.
    """
    check_radius("project_nuclear", radius)
    if matrix.dim() != 2:
        raise ValueError(
            f"project_nuclear: matrix must have shape [M, N], got {list(matrix.shape)}"
        )
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("project_nuclear: matrix must be finite, got NaN or infinity")
    if matrix.dtype == torch.float64:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        threshold = threshold_for(values, radius)
        if threshold == 0:
            return matrix
        shrunk: Tensor = (left * (values - threshold).clamp(min=0)) @ right
        return shrunk
    wide = matrix.shape[0] <= matrix.shape[1]
    values, vectors = gram_values(matrix if wide else matrix.T)
    threshold = threshold_for(values, radius)
    if threshold == 0:
        return matrix
    kept = values > threshold
    vectors = vectors[:, kept].to(matrix.dtype)
    shrink = (1 - threshold / values[kept]).to(matrix.dtype)
    if wide:
        return (vectors * shrink) @ (vectors.T @ matrix)
    return (matrix @ vectors) @ (vectors * shrink).T


def gram_values(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values ``[M]`` and left singular vectors ``[M, M]`` of ``[M, N]`` with M <= N.

    Both are float64 and of eigenvalues of ``matrix @ matrix.T``, ascending: small values are exact
    to 1e-8 of the largest alone.
    """
    wide = matrix.double()
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    return squares.clamp(min=0).sqrt(), vectors


def largest_atom(gradient: Tensor) -> tuple[float, Tensor]:
    """The operator norm of ``gradient [M, N]``, and ``u vᵀ`` of its first singular vectors."""
    turned = gradient.shape[0] > gradient.shape[1]
    matrix = gradient.T if turned else gradient
    _, vectors = gram_values(matrix)
    u = vectors[:, -1]
    row = u @ matrix.double()
    norm = float(row.norm())
    atom = torch.outer(u, row / norm) if norm > 0 else torch.zeros_like(matrix.double())
    return norm, (atom.T if turned else atom).to(gradient.dtype)


def operator_norm(matrix: Tensor) -> float:
    """The largest singular value of ``[M, N]``."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    # Rounding of the eigenvalues must not make a lower bound of the loss too high.
    return float(gram_values(wide)[0][-1]) * (1 + 1e-9)


def check_radius(owner: str, radius: float) -> None:
    """Refuse a radius that is not a number above 0."""
    if not (radius > 0 and math.isfinite(radius)):
        raise ValueError(f"{owner}: radius must be finite and above 0, got {radius}")
