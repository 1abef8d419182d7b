"""p(x|z): how far data may lie from what is decoded, in nats, summed over the numbers of a sample.

Sources: Rybkin, Daniilidis and Levine, "Simple and Effective VAE Training with Calibrated
Decoders", ICML 2021 (one variance for all numbers, the optimal one); Kingma and Welling, ICLR 2014,
appendix C (Gaussian and Bernoulli decoders).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from polygraph._checks import check_choice
from polygraph.models.vae.gaussian import LOG_VARIANCE_LIMIT, clamp_log_variance

GAUSSIANS = ("optimal", "learned", "fixed")
LIKELIHOODS = (*GAUSSIANS, "bernoulli")
_MOMENTUM = 0.01  # of the average of the batches' variances


def check_likelihood(
    owner: str, kind: str, variance: float, kinds: Sequence[str] = LIKELIHOODS
) -> None:
    """Refuse an unknown likelihood, and a variance that is none.

    Raises:
        ValueError: names the field.
    """
    check_choice(owner, "likelihood", kind, kinds)
    low, high = math.exp(-LOG_VARIANCE_LIMIT), math.exp(LOG_VARIANCE_LIMIT)
    if not low <= variance <= high:
        raise ValueError(f"{owner}: variance must be from {low:.2g} to {high:.2g}, got {variance}")


def make_likelihood(kind: str, variance: float = 1.0) -> GaussianLikelihood | BernoulliLikelihood:
    """The likelihood of a name in `LIKELIHOODS`; ``variance`` is that of ``fixed``."""
    check_likelihood("make_likelihood", kind, variance)
    if kind == "bernoulli":
        return BernoulliLikelihood()
    return GaussianLikelihood(kind, variance)


class GaussianLikelihood(nn.Module):
    """N(x; expected, σ² I) with one variance for all numbers.

    Args:
        kind: ``optimal``: σ² is the mean squared error, of a batch in training (`adapt`), and a
            running average of these elsewhere. ``learned``: a parameter. ``fixed``: ``variance``.
        variance: where it starts, or stays.

    Attributes:
        kind: as given.
        log_variance: log σ², a scalar.

    Example:
        >>> import torch
        >>> from polygraph.models.vae import GaussianLikelihood
        >>> likelihood = GaussianLikelihood("fixed")
        >>> likelihood(torch.zeros(2, 3), torch.ones(2, 3))  # 3/2 (log 2π + 1)
        tensor([4.2568, 4.2568])
    """

    log_variance: Tensor

    def __init__(self, kind: str = "optimal", variance: float = 1.0) -> None:
        super().__init__()
        check_likelihood("GaussianLikelihood", kind, variance, GAUSSIANS)
        self.kind = kind
        value = torch.tensor(math.log(variance))
        if kind == "learned":
            self.log_variance = nn.Parameter(value)
        else:
            self.register_buffer("log_variance", value)
        if kind == "optimal":
            self.batches: Tensor
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """Kind and standard deviation."""
        sigma = "" if self.log_variance.is_meta else f", sigma={self.sigma:.4g}"
        return f"{self.kind!r}{sigma}"

    @property
    def sigma(self) -> float:
        """The standard deviation, in the units that the likelihood sees."""
        return math.exp(0.5 * float(self.log_variance))

    def adapt(
        self,
        expected: Tensor,
        observed: Tensor,
        share: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | None:
        """The log variance that is best for a batch, which the running average takes in.

        Only of ``optimal``; None of the others. It has no graph: at the best variance the loss does
        not change with it, so gradients are the same.

        Args:
            expected: what is decoded, ``[B, ...]``.
            observed: the data, of the same shape.
            share: gives the mean of a scalar over all processes that have a part of the batch;
                None: there is one.
        """
        if self.kind != "optimal":
            return None
        with torch.no_grad():
            error = (expected - observed).double().square().mean()
            error = error if share is None else share(error)
            best = clamp_log_variance(error.log())
            self.batches += 1
            # The plain mean of the first hundred; later the last hundred or so count.
            part = torch.clamp(1 / self.batches.double(), min=_MOMENTUM)
            average = torch.lerp(self.log_variance.double().exp(), best.exp(), part)
            self.log_variance.copy_(average.log())
            return best.to(expected.dtype)

    def forward(
        self, expected: Tensor, observed: Tensor, log_variance: Tensor | None = None
    ) -> Tensor:
        """-log p(x|z) of each sample, ``[B]``, in nats.

        Args:
            expected: what is decoded, ``[B, ...]``.
            observed: the data, of the same shape.
            log_variance: a scalar in place of the likelihood's own.
        """
        log_variance = clamp_log_variance(
            self.log_variance if log_variance is None else log_variance
        )
        error = (expected - observed).flatten(1).square().sum(1)
        numbers = observed[0].numel()
        constant = numbers * (math.log(2 * math.pi) + log_variance)
        return 0.5 * (error * torch.exp(-log_variance) + constant)


class BernoulliLikelihood(nn.Module):
    """Independent bits, of which logits are decoded.

    Example:
        >>> import torch
        >>> from polygraph.models.vae import BernoulliLikelihood
        >>> BernoulliLikelihood()(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))  # 2 log 2
        tensor([1.3863])
    """

    kind = "bernoulli"

    def adapt(
        self,
        expected: Tensor,
        observed: Tensor,
        share: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Nothing adapts."""

    def forward(
        self, expected: Tensor, observed: Tensor, log_variance: Tensor | None = None
    ) -> Tensor:
        """-log p(x|z) of each sample, ``[B]``, in nats, of logits and bits ``[B, ...]``."""
        found = functional.binary_cross_entropy_with_logits(expected, observed, reduction="none")
        return found.flatten(1).sum(1)
