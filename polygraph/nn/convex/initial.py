"""How the weights of input-convex networks begin."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_CORRELATION = 0.5  # ρ, of the pre-activations of one layer


def principled_moments(fan_in: int, slope: float = 0.0) -> tuple[float, float, float]:
    """Mean and variance of a non-negative weight, and the bias, that keep signals as they are.

    Normal pre-activations of mean 0, variance 1 and mutual correlation ρ = 1/2 are mapped to such
    moments again, in expectation over the weights.
    With g = √(1-ρ²) + ρ arccos(-ρ), α the slope and n the fan-in,

        f(n) = n (1+α²)/2 + n (n-1) (αρ + (1-α)² g / 2π) - n² (1-α)² / 2π,
        mean² = ρ / f(n),  variance = 2 (1-ρ) / (n (1+α²)),  bias = -n mean (1-α) / √(2π).

    Source: Hoedt and Klambauer, "Principled weight initialisation for input-convex neural
    networks", NeurIPS 2023, for ReLU; with a slope ours, by their derivation.

    Args:
        fan_in: inputs n of a unit.
        slope: α of the leaky ReLU before the layer; 0 for ReLU.

    Returns:
        Mean, variance, bias.
    """
    n, rho, alpha = fan_in, _CORRELATION, slope
    g = math.sqrt(1 - rho**2) + rho * math.acos(-rho)
    bend = (1 - alpha) ** 2 / (2 * math.pi)
    spread = n * (1 + alpha**2) / 2 + n * (n - 1) * (alpha * rho + bend * g) - n**2 * bend
    mean = math.sqrt(rho / spread)
    variance = 2 * (1 - rho) / (n * (1 + alpha**2))
    return mean, variance, -n * mean * (1 - alpha) / math.sqrt(2 * math.pi)


@torch.no_grad()
def principled_(weight: Tensor, bias: Tensor | None = None, *, slope: float = 0.0) -> Tensor:
    """Fill a non-negative weight with log-normal numbers, and the bias with a negative one.

    Mean, variance and bias are those of Hoedt and Klambauer, NeurIPS 2023: from one layer of ReLUs
    to the next, normal signals keep mean 0, variance 1 and correlation 1/2 in expectation. Single
    draws scatter: wide layers have weights with heavy tails.

    Args:
        weight: floating ``[D, ...]``; the fan-in is the product of all dimensions but the first.
        bias: ``[D]`` or None.
        slope: of the leaky ReLU before the layer, in [0, 1].

    Returns:
        ``weight``. The numbers come from torch's global generator.

    Raises:
        ValueError: ``slope`` is not in [0, 1], or the weight has fewer than two dimensions.

    Example:
        >>> import torch
        >>> from polygraph.nn.convex import principled_
        >>> weight, bias = torch.empty(256, 256), torch.empty(256)
        >>> bool((principled_(weight, bias) > 0).all()), round(bias[0].item(), 2)
        (True, -0.74)

    See Also:
        `ConvexLinear`, which begins so.
    """
    if not 0 <= slope <= 1:
        raise ValueError(f"principled_: slope must be in [0, 1], got {slope}")
    if weight.dim() < 2:
        raise ValueError(f"principled_: weight must have shape [D, ...], got {list(weight.shape)}")
    mean, variance, shift = principled_moments(weight[0].numel(), slope)
    # exp of N(m, s²) has mean exp(m + s²/2) and variance (exp(s²) - 1) mean².
    s2 = math.log1p(variance / mean**2)
    weight.normal_(math.log(mean) - s2 / 2, math.sqrt(s2)).exp_()
    if bias is not None:
        bias.fill_(shift)
    return weight


@torch.no_grad()
def free_(weight: Tensor, bias: Tensor | None = None) -> None:
    """Fill a free weight so that inputs of variance 1 give outputs of variance 1 (LeCun's)."""
    nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()))
    if bias is not None:
        bias.zero_()
