"""Losses of adversarial pairs, as modules that give scalars, and the settings of a pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers

LOSSES = ("minimax", "non-saturating", "wgan", "wgan-gp", "hinge")
OPTIMIZERS = ("adam", "rmsprop")


@dataclass(frozen=True)
class GanConfig:
    """How a pair is trained.

    Attributes:
        loss: ``minimax``, ``non-saturating``, ``wgan`` (weights clipped), ``wgan-gp`` or ``hinge``.
        critic_steps: steps of the critic before each of the generator.
        gradient_penalty: λ of ``wgan-gp``.
        clip: largest weight of the critic, of ``wgan``.
        optimizer: ``adam`` or ``rmsprop``, of both.
        beta1: Adam's decay of the mean gradient.
        beta2: decay of the mean squared gradient, of either optimizer.
        critic_rate: the critic's learning rate as a multiple of the generator's.
        generator_batch: samples of a generator step over all processes; None: as many as of a
            critic step.
        ema: decay of the averaged generator, which is what is shown and measured; lower in the
            first steps; 0 for no average.
        grow_steps: after so many steps networks that grow have all their sizes; see
            `polygraph.models.images.growing_gan.growth_at`.
        compile: compile both losses, networks included, with torch.compile.
    """

    loss: Literal["minimax", "non-saturating", "wgan", "wgan-gp", "hinge"] = "wgan-gp"
    critic_steps: int = 5
    gradient_penalty: float = 10.0
    clip: float = 0.01
    optimizer: Literal["adam", "rmsprop"] = "adam"
    beta1: float = 0.0
    beta2: float = 0.9
    critic_rate: float = 1.0
    generator_batch: int | None = None
    ema: float = 0.999
    grow_steps: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_numbers("gan", self, ("grow_steps",))
        check_choice("gan", "loss", self.loss, LOSSES)
        check_choice("gan", "optimizer", self.optimizer, OPTIMIZERS)
        for name in ("critic_steps", "generator_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"gan: {name} must be at least 1, got {value}")
        if self.grow_steps < 0:
            raise ValueError(f"gan: grow_steps must be 0 or more, got {self.grow_steps}")
        for name in ("gradient_penalty", "clip", "critic_rate"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"gan: {name} must be positive and finite, got {value}")
        for name in ("beta1", "beta2", "ema"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"gan: {name} must be in [0, 1), got {value}")


# ---- losses: of the critic's values of real and of generated images, to be minimised ----

_CRITIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    # Goodfellow et al., NeurIPS 2014, equation 1, and section 3 for the non-saturating form.
    "minimax": lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
    # Arjovsky et al., ICML 2017, equation 2; Gulrajani et al., NeurIPS 2017, equation 3.
    "wgan": lambda real, fake: fake.mean() - real.mean(),
    # Lim and Ye, 2017; Miyato et al., ICLR 2018, equation 16.
    "hinge": lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
}
_CRITIC |= {"non-saturating": _CRITIC["minimax"], "wgan-gp": _CRITIC["wgan"]}
_GENERATOR: dict[str, Callable[[Tensor], Tensor]] = {
    "minimax": lambda fake: -F.softplus(fake).mean(),
    "non-saturating": lambda fake: F.softplus(-fake).mean(),
    "wgan": lambda fake: -fake.mean(),
}
_GENERATOR |= {"wgan-gp": _GENERATOR["wgan"], "hinge": _GENERATOR["wgan"]}


def critic_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """The loss of a critic, without its gradient penalty.

    Args:
        kind: one of `LOSSES`.
        real: its values of real images, ``[B]``.
        fake: of generated ones, ``[G]``; as many or not.

    Returns:
        A scalar, in which each of the two counts by its mean.
    """
    check_choice("critic_loss", "kind", kind, _CRITIC)
    return _CRITIC[kind](real, fake)


def generator_loss(kind: str, fake: Tensor) -> Tensor:
    """The loss of a generator whose images the critic gives the values ``fake [B]``."""
    check_choice("generator_loss", "kind", kind, _GENERATOR)
    return _GENERATOR[kind](fake)


def gradient_penalty(critic: Callable[[Tensor], Tensor], mixed: Tensor) -> Tensor:
    """Mean over the samples of ``(|∇ critic(x)| - 1)²``, differentiable once more.

    The norm is that of each sample's own gradient, so the critic must not mix samples.

    Source: Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, equation 3.

    Args:
        critic: maps ``[B, ...]`` to ``[B]``.
        mixed: points between real and generated samples, ``[B, ...]``, which require a gradient.
    """
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    norm = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    penalty: Tensor = (norm - 1).square().mean()
    return penalty


class CriticLoss(nn.Module):
    """The critic's loss on a batch.

    Fabric wraps a module of which only scalars come out: what a wrapped module returns is rounded
    to float32. The gradient with respect to images is taken inside, where processes do not yet
    share anything.

    Args:
        critic: maps ``[B, C, H, W]`` to ``[B]``.
        config: loss and penalty.
    """

    def __init__(self, critic: nn.Module, config: GanConfig) -> None:
        super().__init__()
        self.critic, self.config = critic, config
        # One call for both halves, unless statistics of a batch would mix them.
        self.joint = not mixes_samples(critic)

    def forward(
        self, real: Tensor, fake: Tensor, mixed: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the difference of mean values (real less generated) and the penalty.

        Args:
            real: ``[B, C, H, W]``.
            fake: generated images ``[G, C, H, W]``, as many or not.
            mixed: points between them, requiring a gradient; of ``wgan-gp`` alone.
        """
        if self.joint:
            values = self.critic(torch.cat([real, fake]))
            of_real, of_fake = values.split([real.shape[0], fake.shape[0]])
        else:
            of_real, of_fake = self.critic(real), self.critic(fake)
        loss = critic_loss(self.config.loss, of_real, of_fake)
        gap = (of_real.mean() - of_fake.mean()).detach()
        if mixed is None:
            return loss, gap, torch.zeros_like(gap)
        penalty = gradient_penalty(self.critic, mixed)
        return loss + self.config.gradient_penalty * penalty, gap, penalty.detach()


class GeneratorLoss(nn.Module):
    """The generator's loss on a batch of z.

    Args:
        generator: maps ``[B, latent_channels]`` to images.
        critic: judges them; not a part of this module.
        config: loss.
    """

    def __init__(self, generator: nn.Module, critic: nn.Module, config: GanConfig) -> None:
        super().__init__()
        self.generator, self.config = generator, config
        # In a list it is no submodule: its parameters do not belong to this loss.
        self.judge = [critic]

    def forward(self, z: Tensor) -> Tensor:
        """The loss."""
        return generator_loss(self.config.loss, self.judge[0](self.generator(z)))


def mixes_samples(module: nn.Module) -> bool:
    """Whether a module has batch normalisation, or looks at how a batch varies."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if getattr(getattr(module, "config", None), "minibatch_deviation", False):
        return True
    return any(isinstance(child, norms) for child in module.modules())
