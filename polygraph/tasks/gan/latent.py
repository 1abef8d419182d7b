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
_STEP = 0.05  # of differences: images are smooth in z, and float32 has seven digits
_DEVIATIONS = {"normal": 1.0, "uniform": 1 / math.sqrt(3)}


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


def deviation(config: Any) -> float:
    """Standard deviation of each number of z, for the generator of a config."""
    return _DEVIATIONS[getattr(config, "latent_distribution", "normal")]


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
def principal_directions(
    generator: nn.Module, count: int, *, draws: int = 8, seed: int = 0
) -> Tensor:
    """Directions of z along which a generator's images change most.

    The first eigenvectors of the mean of ``J(z)ᵀ J(z)`` over some z, J the images' derivative, by
    central differences in evaluation mode. For a linear generator ``x = A z`` they are A's right
    singular vectors.

    Args:
        generator: of images.
        count: of directions, at most the numbers of z.
        draws: of z.
        seed: of these.

    Returns:
        Unit vectors ``[count, latent_channels]``, float32 on the CPU, the largest change first;
        the sum of each is positive.

    Raises:
        ValueError: fewer than one direction or draw, or more directions than there are numbers.

    Example:
        >>> from polygraph.models import create_model
        >>> from polygraph.tasks.gan.latent import principal_directions
        >>> settings = {"latent_channels": 4, "channels": (4, 4, 2, 2)}
        >>> generator = create_model("small/ncp/generator", **settings)
        >>> principal_directions(generator, 2, draws=1).shape
        torch.Size([2, 4])
    """
    config: Any = generator.config
    channels: int = config.latent_channels
    if not 1 <= count <= channels or draws < 1:
        raise ValueError(
            f"principal_directions: count must be in [1, {channels}] and draws at least 1, got "
            f"{count} and {draws}"
        )
    steps = _STEP * torch.eye(channels)
    change = torch.zeros(channels, channels, dtype=torch.float64)
    for z in latent_vectors(draws, config, seed):
        ahead, behind = (_images(generator, z + sign * steps).flatten(1) for sign in (1, -1))
        derivative = (ahead - behind).double() / (2 * _STEP)
        change += derivative @ derivative.T
    directions: Tensor = torch.linalg.eigh(change)[1].T.flip(0)[:count]
    return (directions * directions.sum(1, keepdim=True).sign()).float()


def walks(start: Tensor, directions: Tensor, steps: int, reach: float) -> Tensor:
    """Points from ``start - reach · d`` to ``start + reach · d``, a row for each direction d.

    Args:
        start: ``[C]``.
        directions: ``[R, C]``.
        steps: points of a row, at least 2; of an odd number the middle one is the start.
        reach: how far.

    Returns:
        ``[R · steps, C]``.

    Raises:
        ValueError: fewer than 2 steps, or a reach that is not positive and finite.

    Example:
        >>> import torch
        >>> from polygraph.tasks.gan.latent import walks
        >>> walks(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0]]), steps=3, reach=2.0)
        tensor([[ 1., -2.],
                [ 1.,  0.],
                [ 1.,  2.]])
    """
    if steps < 2 or not (reach > 0 and math.isfinite(reach)):
        raise ValueError(
            f"walks: steps must be at least 2 and reach positive and finite, got {steps} and "
            f"{reach}"
        )
    t = torch.linspace(-reach, reach, steps, dtype=start.dtype, device=start.device)
    return (start + t[None, :, None] * directions[:, None]).flatten(0, 1)


@torch.no_grad()
def generate(generator: nn.Module, z: Tensor, batch_size: int = _BATCH) -> Tensor:
    """Images of ``z [N, C]`` in evaluation mode, uint8 ``[N, C, H, W]`` on the CPU.

    The mode is put back. Values that are not finite become 0, the middle of the range.
    """
    return _images(generator, z, batch_size, to_bytes=True)


def _images(
    generator: nn.Module, z: Tensor, batch_size: int = _BATCH, *, to_bytes: bool = False
) -> Tensor:
    """Images in evaluation mode on the CPU, some at a time; the mode is put back."""
    parameter = next(generator.parameters())
    training = generator.training
    generator.eval()
    try:
        parts = []
        for rows in torch.split(z, batch_size):
            images = generator(rows.to(parameter.device, parameter.dtype)).float()
            if to_bytes:
                images = to_uint8(torch.where(torch.isfinite(images), images, 0.0))
            parts.append(images.cpu())
        return torch.cat(parts)
    finally:
        generator.train(training)
