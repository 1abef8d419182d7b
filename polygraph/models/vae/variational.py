"""What makes an autoencoder variational: bounds on log p(x), samples of the prior.

Sources: Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, equation 10 (the bound);
Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, equation 8 (the
tighter one). Everything is in nats: sums over the numbers of a sample, never means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polygraph._checks import check_positive
from polygraph._repr import short_repr
from polygraph.models.vae.gaussian import Posterior, gaussian_log_density
from polygraph.models.vae.likelihood import BernoulliLikelihood, GaussianLikelihood

_BATCH = 64


@dataclass(frozen=True, eq=False)
class Elbo:
    """The evidence lower bound of B samples, in its parts, in nats.

    Attributes:
        nll: -E_q log p(x|z), ``[B]``, from as many draws of z as were asked for.
        posterior: q(z|x).

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> model = create_model("vae/conv", latent_channels=4).eval()
        >>> bound = model.elbo(torch.zeros(2, 1, 32, 32))
        >>> bound.value.shape, bool((bound.kl >= 0).all())
        (torch.Size([2]), True)
    """

    nll: Tensor
    posterior: Posterior

    __repr__ = short_repr

    @property
    def kl(self) -> Tensor:
        """KL(q(z|x) ‖ N(0, I)) of each number of the codes, ``[B, L]``."""
        return self.posterior.kl()

    @property
    def value(self) -> Tensor:
        """The bound on log p(x), ``[B]``: ``-nll`` less the sum of ``kl``."""
        return -self.nll - self.kl.sum(-1)


class VariationalMixin(nn.Module):
    """Bounds and samples for a model with a Gaussian over codes.

    A subclass gives `observe`, `infer`, `expect` and `decode`, and sets `likelihood` where it is
    variational.

    Attributes:
        likelihood: p(x|z); None where the model is an autoencoder that is not variational.
    """

    config: Any
    likelihood: GaussianLikelihood | BernoulliLikelihood | None

    def observe(self, x: Tensor) -> Tensor:
        """Data as the likelihood sees them.

        Raises:
            ValueError: x is not what the model takes.
        """
        raise NotImplementedError

    def infer(self, observed: Tensor) -> Posterior:
        """q(z|x) of each sample that `observe` gave."""
        raise NotImplementedError

    def expect(self, z: Tensor) -> Tensor:
        """What the likelihood is centred on (of bits: logits), given codes."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x|z) in the units of the data, given codes ``[B, L]``."""
        raise NotImplementedError

    def require_variational(self, what: str) -> GaussianLikelihood | BernoulliLikelihood:
        """The likelihood.

        Raises:
            ValueError: there is none: the model is not variational.
        """
        if self.likelihood is None:
            raise ValueError(
                f"{type(self).__name__}.{what}: this model is not variational: make it with "
                "variational=True, or take a preset such as vae-full-2"
            )
        return self.likelihood

    def posterior(self, x: Tensor) -> Posterior:
        """q(z|x) of data in their own units: a mean and a log variance ``[B, L]``.

        Raises:
            ValueError: the model is not variational, x has another shape, or is not finite.
        """
        self.require_variational("posterior")
        return self.infer(self._observed("posterior", x))

    def elbo(
        self, x: Tensor, *, samples: int = 1, generator: torch.Generator | None = None
    ) -> Elbo:
        """The evidence lower bound of data in their own units, in nats.

        The divergence is in closed form, the likelihood a mean over draws of z. The density is that
        of what the likelihood sees: of normalised coordinates, of pixels in [-1, 1], of bits. The
        variance is the model's own, also in training mode.

        Args:
            x: as the model takes them, B samples.
            samples: draws of z for each.
            generator: of the draws; None: torch's own.

        Raises:
            ValueError: the model is not variational, x has another shape, or is not finite.
        """
        likelihood = self.require_variational("elbo")
        check_positive("elbo", samples=samples)
        observed = self._observed("elbo", x)
        posterior = self.infer(observed)
        nll = torch.zeros(len(observed), dtype=posterior.mean.dtype, device=posterior.mean.device)
        for _ in range(samples):
            nll = nll + likelihood(self.expect(posterior.sample(generator)), observed) / samples
        return Elbo(nll, posterior)

    @torch.no_grad()
    def importance_bound(
        self, x: Tensor, samples: int = 64, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """A tighter bound on log p(x), in nats: ``log mean_k p(x, z_k) / q(z_k | x)``.

        With one draw its mean is the bound of `elbo`; it rises with their number towards log p(x).

        Args:
            x: as of `elbo`.
            samples: draws K of z for each.
            generator: of the draws; None: torch's own.

        Returns:
            float64 ``[B]``.

        Raises:
            ValueError: as `elbo`.
        """
        likelihood = self.require_variational("importance_bound")
        check_positive("importance_bound", samples=samples)
        observed = self._observed("importance_bound", x)
        posterior = self.infer(observed)
        weights = []
        for _ in range(samples):
            z = posterior.sample(generator)
            prior = gaussian_log_density(z, torch.zeros_like(z), torch.zeros_like(z)).sum(-1)
            density = posterior.log_density(z).double()
            nll = likelihood(self.expect(z), observed)
            weights.append(prior.double() - nll.double() - density)
        return torch.logsumexp(torch.stack(weights), 0) - math.log(samples)

    @torch.no_grad()
    def sample(
        self, count: int, *, seed: int = 0, spread: float = 1.0, batch_size: int = _BATCH
    ) -> Tensor:
        """Draw z of N(0, I) and decode: the means of p(x|z), without the noise of the likelihood.

        Args:
            count: how many.
            seed: equal seeds give equal samples.
            spread: z is multiplied by it; below 1 the samples are more usual.
            batch_size: at a time.

        Returns:
            As `decode` gives them, from eval mode; the mode is put back.

        Raises:
            ValueError: the model is not variational; a bad count or spread.
        """
        self.require_variational("sample")
        check_positive("sample", count=count)
        if not (spread >= 0 and math.isfinite(spread)):
            raise ValueError(f"sample: spread must be 0 or more and finite, got {spread}")
        like = next(self.parameters())
        generator = torch.Generator().manual_seed(seed)
        z = spread * torch.randn(count, self.config.latent_channels, generator=generator)
        with _in_eval(self):
            return torch.cat([self.decode(part.to(like)) for part in torch.split(z, batch_size)])

    def _observed(self, what: str, x: Tensor) -> Tensor:
        observed = self.observe(x)
        if not bool(torch.isfinite(observed).all()):
            raise ValueError(f"{type(self).__name__}.{what}: x holds NaN or infinity")
        return observed


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
