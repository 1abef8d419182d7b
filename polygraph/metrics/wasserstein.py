"""A critic's estimate of how far generated images are from real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def wasserstein_estimate(
    critic: Callable[[Tensor], Tensor], real: Iterable[Tensor], fake: Iterable[Tensor]
) -> float:
    """The critic's estimate of the Wasserstein-1 distance, up to its Lipschitz constant.

    The mean of the critic over real images minus that over generated ones, over all batches and in
    float64. It means something only for a critic trained with one of the WGAN losses.

    Source: Arjovsky et al., "Wasserstein GAN", ICML 2017, equation 2.

    Args:
        critic: maps ``[B, C, H, W]`` to B numbers, of any shape.
        real: batches of images, of any sizes.
        fake: batches of images.

    Raises:
        ValueError: there are no images, or the critic gives another number of values.

    Example:
        >>> import torch
        >>> from polygraph.metrics.image_scores import wasserstein_estimate
        >>> batches = [torch.full((8, 3), value) for value in (2.0, 0.5)]
        >>> wasserstein_estimate(lambda x: x.mean(1), batches[:1], batches[1:])
        1.5
    """
    return _mean_of(critic, real, "real") - _mean_of(critic, fake, "fake")


@torch.no_grad()
def _mean_of(critic: Callable[[Tensor], Tensor], batches: Iterable[Tensor], name: str) -> float:
    total, count = 0.0, 0
    for batch in batches:
        values = critic(batch)
        if values.numel() != len(batch):
            raise ValueError(
                f"wasserstein_estimate: the critic must give one number per image, {len(batch)}, "
                f"got shape {list(values.shape)}"
            )
        total += float(values.double().sum())
        count += len(batch)
    if not count:
        raise ValueError(f"wasserstein_estimate: {name} must hold at least one image, got none")
    return total / count
