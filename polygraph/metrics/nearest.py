"""Are generated images copies? How near they are to the images that were trained on.

The yardstick is the training set itself: the median distance of its images to their nearest other
one. Half of them are closer than that. So are about half of held-out images of the same kind; a
generator that learned its training images by heart has almost all of its images closer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from polygraph import ops
from polygraph._repr import short_repr
from polygraph.metrics.activations import check_rows

_Z = 1.959964  # of a normal distribution: 95 % lie within


@dataclass(frozen=True)
class Share:
    """How many of some images are closer to a training image than the median.

    Attributes:
        value: their share.
        low: lower end of its 95 % interval, by Wilson: the images are a sample of those that could
            be made, the training images are given.
        high: upper end.
        count: of how many images.

    Example:
        >>> from polygraph.metrics.nearest import Share
        >>> print(Share.of(45, 100))
        45.0 % [35.6, 54.8] of 100

    See Also:
        `nearest_training`.
    """

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, closer: int, count: int) -> Share:
        """So many of so many.

        Raises:
            ValueError: there are none, or more than all.
        """
        if not 0 <= closer <= count or not count:
            raise ValueError(f"Share: want 0 <= closer <= count, got {closer} of {count}")
        share, square = closer / count, _Z * _Z
        middle = (share + square / (2 * count)) / (1 + square / count)
        spread = share * (1 - share) / count + square / (4 * count * count)
        half = _Z * math.sqrt(spread) / (1 + square / count)
        return cls(share, max(0.0, middle - half), min(1.0, middle + half), count)

    def __str__(self) -> str:
        """Percent."""
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.value:.1f} % [{low:.1f}, {high:.1f}] of {self.count:,}"


@dataclass(frozen=True)
class Nearest:
    """What `nearest_training` found.

    Attributes:
        median: of the distances of training images to their nearest other one.
        fake: share of the generated images that are closer to a training image than that.
        held_out: of the held-out images.
        index: int64 ``[M, k]``: rows of the training images nearest to each generated one.
        distance: float32 ``[M, k]``, ascending.

    Example:
        >>> import torch
        >>> from polygraph.metrics.nearest import nearest_training
        >>> train, test = torch.randn(2, 100, 4)
        >>> copies = nearest_training(train, train[:20] + 1e-3, test)
        >>> copies.fake.value, copies.index[:3, 0]
        (1.0, tensor([0, 1, 2]))

    See Also:
        `nearest_training`, which makes it.
    """

    median: float
    fake: Share
    held_out: Share
    index: Tensor
    distance: Tensor

    __repr__ = short_repr


def nearest_training(train: Tensor, fake: Tensor, held_out: Tensor, neighbors: int = 1) -> Nearest:
    """The training images nearest to generated ones, by Euclidean distance of features.

    Args:
        train: features ``[N, F]`` of the training images, N at least 2, floating point; compared in
            float32.
        fake: of generated images, ``[M, F]``.
        held_out: of images of the same kind that did not train, ``[T, F]``: the share that is to be
            expected of new images.
        neighbors: k of `Nearest.index`, at most N.

    Returns:
        A `Nearest`. Deterministic; ties go to the lower index.

    Raises:
        ValueError: another shape, too few rows, a value that is not finite, more neighbors than
            training images.

    Example:
        >>> import torch
        >>> from polygraph.metrics.nearest import nearest_training
        >>> train, fake, test = torch.randn(3, 400, 2)
        >>> found = nearest_training(train, fake, test, neighbors=3)
        >>> found.index.shape, 0.4 < found.fake.value < 0.6  # as near as new images are
        (torch.Size([400, 3]), True)

    See Also:
        `polygraph.metrics.image_scores.precision_recall`, which looks for images that are too far.
    """
    check_rows("nearest_training", 2, train=train)
    check_rows("nearest_training", 1, fake=fake, held_out=held_out)
    if train.shape[1] != fake.shape[1]:
        raise ValueError(
            "nearest_training: all must have as many features, got "
            f"{train.shape[1]} of train and {fake.shape[1]} of fake"
        )
    if not 1 <= neighbors <= len(train):
        raise ValueError(
            f"nearest_training: neighbors must be from 1 to the number of training images, "
            f"{len(train)}, got {neighbors}"
        )
    train, fake, held_out = (x.detach().float().contiguous() for x in (train, fake, held_out))
    _, own = ops.knn(train, 1, exclude_self=True)
    median = float(own[:, 0].double().sqrt().quantile(0.5))
    index, dist2 = ops.knn(train, neighbors, y=fake)
    _, of_held_out = ops.knn(train, 1, y=held_out)
    shares = []
    for found in (dist2, of_held_out):
        closer = int((found[:, 0].double().sqrt() < median).sum())
        shares.append(Share.of(closer, len(found)))
    return Nearest(median, shares[0], shares[1], index, dist2.sqrt())
