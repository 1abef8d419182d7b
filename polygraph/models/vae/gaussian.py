"""Gaussians over codes: sampling, divergence, density; all in nats.

Source: Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, section 3 and appendix B.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_VARIANCE_LIMIT = 20.0  #: log variances lie in [-20, 20]: from 2e-9 to 5e8
_LOG_TWO_PI = math.log(2 * math.pi)


def clamp_log_variance(log_variance: Tensor) -> Tensor:
    """Log variances within `LOG_VARIANCE_LIMIT`: neither they nor their inverses overflow."""
    return log_variance.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) of each number: ``(μ² + σ² - 1 - log σ²) / 2``, in nats.

    Args:
        mean: μ, of any shape.
        log_variance: log σ², of the same shape.

    Returns:
        Of that shape, 0 or more.

    Example:
        >>> import torch
        >>> from polygraph.models.vae import gaussian_kl
        >>> gaussian_kl(torch.tensor([0.0, 2.0]), torch.zeros(2))
        tensor([0., 2.])
    """
    # expm1 keeps the digits of small divergences.
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance)


def gaussian_log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log N(x; μ, σ²) of each number, in nats; all of one shape, or broadcast."""
    return -0.5 * ((x - mean).square() * torch.exp(-log_variance) + log_variance + _LOG_TWO_PI)


class Posterior(NamedTuple):
    """q(z|x): independent Gaussians over the numbers of a code.

    Attributes:
        mean: μ, ``[B, L]``.
        log_variance: log σ², ``[B, L]``.

    Example:
        >>> import torch
        >>> from polygraph.models.vae import Posterior
        >>> posterior = Posterior(torch.zeros(2, 3), torch.zeros(2, 3))
        >>> posterior.sample().shape, posterior.kl()[0]
        (torch.Size([2, 3]), tensor([0., 0., 0.]))
    """

    mean: Tensor
    log_variance: Tensor

    def sample(
        self, generator: torch.Generator | None = None, *, noise: Tensor | None = None
    ) -> Tensor:
        """``z = μ + σ ε`` with ε of N(0, 1): one code of each, ``[B, L]``, differentiable.

        Args:
            generator: of ε, which is drawn on its device; None: torch's own.
            noise: ε, ``[B, L]``, that has been drawn already; None: draw it.
        """
        if noise is None:
            noise = self._drawn(generator)
        return torch.addcmul(self.mean, torch.exp(0.5 * self.log_variance), noise.to(self.mean))

    def _drawn(self, generator: torch.Generator | None) -> Tensor:
        device = self.mean.device if generator is None else generator.device
        return torch.randn(
            self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype
        )

    def kl(self) -> Tensor:
        """Divergence from N(0, I) of each number of each code, ``[B, L]``, in nats."""
        return gaussian_kl(self.mean, self.log_variance)

    def log_density(self, z: Tensor) -> Tensor:
        """Log q(z|x), ``[B]``, in nats."""
        return gaussian_log_density(z, self.mean, self.log_variance).sum(-1)
