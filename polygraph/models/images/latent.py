"""What images are generated from: vectors of random numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LATENTS = ("normal", "uniform")  #: distributions of the numbers of z


def draw_latent(
    count: int,
    config: Any,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Latent vectors ``[count, latent_channels]`` of the distribution of a generator's config.

    Args:
        count: of vectors.
        config: of a generator.
        generator: of random numbers, of the same device; None: torch's own.
        device: where they are.
        dtype: of the numbers.
    """
    z = torch.empty(count, config.latent_channels, device=device, dtype=dtype)
    if getattr(config, "latent_distribution", "normal") == "uniform":
        return z.uniform_(-1, 1, generator=generator)
    return z.normal_(generator=generator)
