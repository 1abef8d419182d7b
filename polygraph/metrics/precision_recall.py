"""Precision and recall of generated images: quality and coverage, apart."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph.metrics.activations import check_rows
from polygraph.ops.knn import knn

_NO_EXTENT = -(2**20)  # smaller than any exponent


def precision_recall(real: Tensor, fake: Tensor, neighbors: int = 3) -> tuple[float, float]:
    """Precision and recall of generated images: quality and coverage, apart.

    A set's manifold is the union of balls about its points, each as large as the distance to the
    point's k-th nearest neighbour. Precision is the share of generated points in the manifold of
    the real ones, recall the share of real points in that of the generated ones.

    Source: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative
    Models", NeurIPS 2019, equations 1 and 2. Nothing of size N x M is stored.

    Args:
        real: features ``[N, F]``, N above `neighbors`.
        fake: features ``[M, F]``, M above `neighbors`.
        neighbors: k; 3 in the paper.

    Returns:
        Precision and recall, in [0, 1]. Deterministic; compare values at equal N and M only.

    Raises:
        ValueError: another shape, too few rows, a value that is not finite.

    Example:
        >>> import torch
        >>> from polygraph.metrics.image_scores import precision_recall
        >>> real = torch.randn(100, 2)
        >>> precision_recall(real, real[:10])  # good images, but few of their kinds
        (1.0, 0.9)

    See Also:
        `score`.
    """
    if neighbors < 1:
        raise ValueError(f"precision_recall: neighbors must be at least 1, got {neighbors}")
    check_rows("precision_recall", neighbors + 1, real=real, fake=fake)
    real, fake = real.detach().double(), fake.detach().double()
    return _inside(fake, real, neighbors), _inside(real, fake, neighbors)


def _inside(points: Tensor, centres: Tensor, neighbors: int) -> float:
    """Share of the points within some ball about a centre.

    Point p lies in a ball when the smallest |p - c|² - r_c² is not above 0. With one more
    coordinate, sqrt(R² - r_c²) for centres (R the largest radius) and 0 for points, squared
    distances are |p - c|² - r_c² + R²: the ball to look at is the nearest neighbour.

    The sum is rounded in units of R²: balls whose radii differ by more than a factor of two are
    looked at apart, or one that is far out would swallow the others' radii.
    """
    radius2 = knn(centres, neighbors, exclude_self=True)[1][:, -1]
    # Rounded down to a power of four; balls without extent are a group of their own.
    size = torch.where(radius2 > 0, torch.frexp(radius2).exponent // 2, _NO_EXTENT)
    # A point on the surface of a ball, such as the neighbour that gave the radius, is inside. Sums
    # are taken in eight lanes, each rounded as often as it is added to.
    slack = (centres.shape[1] / 8 + 16) * torch.finfo(centres.dtype).eps
    flat = torch.cat([points, points.new_zeros(len(points), 1)], 1)
    outside = torch.arange(len(points), device=points.device)
    groups: Tensor = size.unique()  # type: ignore[no-untyped-call]
    for group in groups.flip(0):
        members = (size == group).nonzero()[:, 0]
        if len(outside) == 0:
            break
        radii2 = radius2[members]
        lift = (radii2.max() - radii2).clamp(min=0).sqrt()
        lifted = torch.cat([centres[members], lift[:, None]], 1)
        nearest = knn(lifted, 1, y=flat[outside])[0][:, 0]
        distance2 = (points[outside] - centres[members[nearest]]).square().sum(1)
        outside = outside[distance2 > radii2[nearest] * (1 + slack)]
    return (len(points) - len(outside)) / len(points)
