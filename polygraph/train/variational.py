"""Training of variational autoencoders: the objective, and what is measured of it.

Everything is in nats: sums over the numbers of a sample, means over the batch. A mean over the
numbers in place of their sum, which many implementations have, is another β: the number of pixels
times larger (for pixels in [-1, 1] and a variance of 1: β is half the number of pixels).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polygraph._checks import check_numbers
from polygraph.metrics.bounds import active_units, bits_per_dimension
from polygraph.models.vae import Posterior, VariationalMixin
from polygraph.train.config import TrainConfig, torch_seed
from polygraph.train.distributed import mean_over_processes
from polygraph.train.supervised import evaluating

_MOST = 1e6  # of weights: more is a mistake
_NOISE = 2  # sets the draws of measurements apart from others of the same seed


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a variational autoencoder is trained on: nll + beta · divergence.

    Attributes:
        beta: weight of the divergence; 1 is the bound on log p(x) (Higgins et al., ICLR 2017, for
            others).
        warmup_steps: steps in which the weight rises from 0 to beta, linearly (Sønderby et al.,
            NeurIPS 2016).
        free_bits: nats that each number of the code may diverge by, in the mean of a batch, before
            it costs anything (Kingma et al., NeurIPS 2016, section C.8).
    """

    beta: float = 1.0
    warmup_steps: int = 0
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        """Refuse weights that cannot train."""
        check_numbers("train", self)
        if not 0 < self.beta <= _MOST:
            raise ValueError(f"train: beta must be above 0, at most {_MOST:g}, got {self.beta}")
        if self.warmup_steps < 0:
            raise ValueError(f"train: warmup_steps must be 0 or more, got {self.warmup_steps}")
        if not 0 <= self.free_bits <= _MOST:
            raise ValueError(f"train: free_bits must be in [0, {_MOST:g}], got {self.free_bits}")

    def weight(self, step: int) -> float:
        """Of the divergence in a step (0-based)."""
        return self.beta * min(1.0, (step + 1) / max(1, self.warmup_steps))


class VariationalLoss(nn.Module):
    """The objective of a batch, with one draw of z for each sample.

    Args:
        model: maps what `VariationalMixin.observe` gives.
        objective: weights.

    Attributes:
        value: the last loss, without its graph and unrounded.
    """

    names = ("loss", "nll", "kl")
    value: Tensor

    def __init__(self, model: VariationalMixin, objective: ObjectiveConfig) -> None:
        super().__init__()
        model.require_variational("training")
        self.model, self.objective = model, objective

    def forward(
        self, observed: Tensor, weight: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of a batch ``[B, ...]``, its -log p(x|z) and its divergence, three scalars.

        Args:
            observed: data as the likelihood sees them.
            weight: of the divergence.
            noise: of the draws of z, ``[B, L]``; None: from torch's own generator. Several
                processes have each their part of one batch's, see `batch_noise`.
        """
        likelihood = self.model.require_variational("training")
        # Products may be of a half type; sums over a sample are not.
        posterior = Posterior(*(part.to(observed.dtype) for part in self.model.infer(observed)))
        expected = self.model.expect(posterior.sample(noise=noise)).to(observed.dtype)
        best = likelihood.adapt(expected, observed, mean_over_processes)
        nll = likelihood(expected, observed, best).mean()
        kl = posterior.kl().mean(0)
        costly, free = kl, self.objective.free_bits
        if free > 0:  # what is free is told by the whole batch, wherever its parts are
            costly = torch.where(mean_over_processes(kl.detach()) < free, free, kl)
        loss = nll + weight.to(observed.dtype) * costly.sum()
        self.value = loss.detach()
        return loss, nll.detach(), kl.sum().detach()


def batch_noise(config: TrainConfig, step: int, latent: int, like: Tensor, fabric: Any) -> Any:
    """This process's part of the noise of a batch's codes, ``[b, latent]``; None of one process.

    Of all processes together it is what one process on the CPU draws in that step by itself, so
    that several end where one would.

    Args:
        config: batch size and seed.
        step: 0-based.
        latent: L of a code.
        like: a tensor of the batch, of its dtype and on its device.
        fabric: launched.
    """
    if fabric.world_size == 1:
        return None
    generator = torch.Generator().manual_seed(torch_seed(config.seed, step))
    noise = torch.randn(config.batch_size, latent, generator=generator, dtype=like.dtype)
    return noise[fabric.global_rank :: fabric.world_size].to(like.device)


def bound_rows(
    model: VariationalMixin,
    inputs: Callable[[NDArray[np.int64]], Tensor],
    indices: NDArray[np.int64],
    batch_size: int,
    *,
    samples: int = 1,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Bounds of samples from a model in eval mode, a row for each; `bound_summary` reads them.

    Args:
        model: any variational one.
        inputs: gives samples in their own units, on any device.
        indices: int64, the samples; at least one.
        batch_size: samples at a time.
        samples: draws of z for each.
        seed: of these.

    Returns:
        float64 ``[len(indices), 1 + 2 L]``: nll, the divergence of each number, the posterior's
        mean.
    """
    parameter = next(model.parameters())
    rows = []
    with evaluating(model):
        for start in range(0, len(indices), batch_size):
            state = np.random.SeedSequence([seed, start, _NOISE]).generate_state(1)
            generator = torch.Generator().manual_seed(int(state[0]))
            x = inputs(indices[start : start + batch_size]).to(parameter.device, parameter.dtype)
            found = model.elbo(x, samples=samples, generator=generator)
            parts = [found.nll[:, None], found.kl, found.posterior.mean]
            rows.append(torch.cat(parts, 1).double().cpu())
    return np.asarray(torch.cat(rows).numpy(), dtype=np.float64)


def bound_summary(
    rows: NDArray[np.float64], numbers: int, log_width: float, beta: float = 1.0
) -> dict[str, Any]:
    """What rows of `bound_rows` say.

    Args:
        rows: of some samples.
        numbers: D of a sample.
        log_width: see `polygraph.metrics.bits_per_dimension`.
        beta: weight of the divergence in ``loss``.

    Returns:
        ``num_samples``; means in nats: ``elbo``, ``nll``, ``kl``, ``loss`` (nll + beta kl) and
        ``kl_per_latent``; ``bits_per_dim``; ``active_units``, where there are two samples.
    """
    width = (rows.shape[1] - 1) // 2
    nll, kl, means = float(rows[:, 0].mean()), rows[:, 1 : 1 + width], rows[:, 1 + width :]
    divergence = float(kl.sum(1).mean())
    finite = bool(np.isfinite(means).all())
    return {
        "num_samples": len(rows),
        "elbo": -nll - divergence,
        "nll": nll,
        "kl": divergence,
        "loss": nll + beta * divergence,
        "kl_per_latent": kl.mean(0).tolist(),
        "bits_per_dim": bits_per_dimension(-nll - divergence, numbers, log_width),
        "active_units": active_units(means) if len(rows) > 1 and finite else None,
    }


def importance_bounds(
    model: VariationalMixin,
    inputs: Callable[[NDArray[np.int64]], Tensor],
    indices: NDArray[np.int64],
    batch_size: int,
    *,
    samples: int = 64,
    seed: int = 0,
) -> float:
    """Mean of `VariationalMixin.importance_bound` over samples; arguments as of `bound_rows`."""
    parameter = next(model.parameters())
    total = 0.0
    with evaluating(model):
        for start in range(0, len(indices), batch_size):
            state = np.random.SeedSequence([seed, start, _NOISE]).generate_state(1)
            generator = torch.Generator().manual_seed(int(state[0]))
            x = inputs(indices[start : start + batch_size]).to(parameter.device, parameter.dtype)
            total += float(model.importance_bound(x, samples, generator=generator).sum())
    return total / len(indices)


def describe_bounds(found: dict[str, Any]) -> str:
    """The summary of `bound_summary` as a part of a line for people."""
    active = found["active_units"]
    units = "" if active is None else f", {active} of {len(found['kl_per_latent'])} numbers active"
    return (
        f"ELBO {found['elbo']:.1f} nats (divergence {found['kl']:.1f}), "
        f"{found['bits_per_dim']:.3f} bits per dimension{units}"
    )
