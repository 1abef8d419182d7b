"""Latent vectors, walks between them, and the images that a generator makes of them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polygraph._checks import check_choice
from polygraph.data.images import to_uint8
from polygraph.models.images.families import is_polynomial
from polygraph.models.images.latent import draw_latent

WALKS = ("linear", "sphere")  #: kinds of `interpolations`
_BATCH = 64


def latent_vectors(count: int, config: Any, seed: int) -> Tensor:
    """``[count, latent_channels]`` of the distribution that a generator's config names.

    float32 on the CPU, the same on every machine.
    """
    return draw_latent(count, config, generator=torch.Generator().manual_seed(seed))


def walk_kind(config: Any) -> str:
    """How `interpolations` goes for the generator of a config, where nobody says.

    ``"linear"`` for polynomials of z, as their papers have it (Chrysos et al., CVPR 2020, figures 6
    and 7), and for uniform numbers, whose cube a straight line stays in; ``"sphere"`` for the
    others, whose sources do not say.
    """
    uniform = getattr(config, "latent_distribution", "normal") == "uniform"
    return "linear" if uniform or is_polynomial(config) else "sphere"


def interpolations(ends: Tensor, steps: int = 8, kind: str = "linear") -> Tensor:
    """Points between pairs of latent vectors a and b, at t from 0 to 1 in equal steps.

    Args:
        ends: ``[2 R, C]``: each row's two ends.
        steps: points per row, ends included; at least 2.
        kind: ``"linear"``: ``(1 - t) a + t b``. ``"sphere"``: ``(sin((1 - t) θ) a + sin(t θ) b) /
            sin θ``, θ the angle between them: the radii between are those that z of N(0, 1) have.

    Returns:
        ``[R · steps, C]``.

    Raises:
        ValueError: an odd number of ends, fewer than 2 steps, or another kind.

    Example:
        >>> import torch
        >>> from polygraph.tasks.gan.latent import interpolations
        >>> ends = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> interpolations(ends, 3)
        tensor([[2., 0.],
                [1., 1.],
                [0., 2.]])
        >>> interpolations(ends, 3, "sphere")[1]
        tensor([1.4142, 1.4142])
    """
    check_choice("interpolations", "kind", kind, WALKS)
    if len(ends) % 2 or steps < 2:
        raise ValueError(
            f"interpolations: needs pairs and at least 2 steps, got {len(ends)} ends, {steps} steps"
        )
    one, other = ends[0::2, None], ends[1::2, None]
    t = torch.linspace(0, 1, steps, dtype=ends.dtype, device=ends.device)[None, :, None]
    if kind == "linear":
        return ((1 - t) * one + t * other).flatten(0, 1)
    cosine = F.cosine_similarity(one, other, dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.acos().clamp(1e-4, math.pi - 1e-4)
    rows = (torch.sin((1 - t) * angle) * one + torch.sin(t * angle) * other) / torch.sin(angle)
    return rows.flatten(0, 1)


@torch.no_grad()
def generate(generator: nn.Module, z: Tensor, batch_size: int = _BATCH) -> Tensor:
    """Images of ``z [N, C]`` in evaluation mode, uint8 ``[N, C, H, W]`` on the CPU.

    The mode is put back. Values that are not finite become 0, the middle of the range.
    """
    parameter = next(generator.parameters())
    training = generator.training
    generator.eval()
    try:
        parts = []
        for rows in torch.split(z, batch_size):
            images = generator(rows.to(parameter.device, parameter.dtype)).float()
            parts.append(to_uint8(torch.where(torch.isfinite(images), images, 0.0)).cpu())
        return torch.cat(parts)
    finally:
        generator.train(training)
