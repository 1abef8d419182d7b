"""Whether the networks of a pair use their non-local layers: logged at validations, and of runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polygraph.analysis.nonlocal_use import (
    LayerUse,
    gradient_norms,
    measure_use,
    nonlocal_layers,
    seeded,
)
from polygraph.analysis.pixel_places import Places
from polygraph.data.images import ImageDataset
from polygraph.tasks.gan.latent import latent_vectors
from polygraph.tasks.gan.losses import CriticLoss, GanConfig, GeneratorLoss

_IMAGES = 16  # of which validations take norms and places
_BATCH = 16


@dataclass(frozen=True)
class NetworkUse:
    """What a layer of one of the two networks does with its non-local part.

    Attributes:
        network: ``generator`` or ``critic``.
        layer: sizes of both parts, and where neighbors lie.
        nonlocal_gradient: norm of the gradient of the non-local part's weights, of the network's
            own loss on a batch; None where it was not taken.
        local_gradient: of the local part's.
    """

    network: str
    layer: LayerUse
    nonlocal_gradient: float | None = None
    local_gradient: float | None = None

    @property
    def label(self) -> str:
        """Network and size, such as "generator 16x16"."""
        height, width = self.layer.size
        return f"{self.network} {height}x{width}"

    def values(self) -> dict[str, float]:
        """Its numbers by name, but for those that chance alone decides."""
        found: dict[str, float | None] = {
            "nonlocal_ratio": self.layer.ratio,
            "nonlocal_varying": self.layer.varying,
            "nonlocal_gradient": self.nonlocal_gradient,
            "local_gradient": self.local_gradient,
            "neighbor_distance": self.layer.places.distance,
            "neighbor_near": self.layer.places.near,
            "neighbor_entropy": self.layer.places.entropy,
        }
        return {name: value for name, value in found.items() if value is not None}

    def summary(self) -> dict[str, Any]:
        """All that there is, ready for JSON."""
        by_chance: Places = self.layer.chance
        return {
            "network": self.network,
            "layer": self.layer.name,
            "kind": self.layer.kind,
            "size": list(self.layer.size),
            **self.values(),
            "chance_distance": by_chance.distance,
            "chance_near": by_chance.near,
            "chance_entropy": by_chance.entropy,
        }


def use_of_pair(
    generator: nn.Module,
    critic: nn.Module | None,
    average: nn.Module,
    config: GanConfig,
    dataset: ImageDataset,
    *,
    batch_size: int,
    seed: int = 0,
    images: int = _IMAGES,
) -> list[NetworkUse]:
    """How the non-local layers of a pair are used.

    Norms and places are of the images of the generator that is shown and measured, and, for the
    critic's layers, of held-out images. Gradients are of the losses that train, in training mode,
    on one batch from the seed. All networks, and torch's global generators, are left as they were.

    Args:
        generator: the one that is trained.
        critic: its judge; None: no gradients.
        average: the generator that is shown, in evaluation mode.
        config: losses.
        dataset: the images.
        batch_size: images that the gradients are of.
        seed: of z and of all else that is drawn.
        images: that norms and places are of.

    Returns:
        The generator's layers, then the critic's; empty where there are none.
    """
    networks = {"generator": average, **({} if critic is None else {"critic": critic})}
    if not any(nonlocal_layers(network) for network in networks.values()):
        return []
    like = next(average.parameters())
    z = latent_vectors(max(images, batch_size), average.config, seed).to(like)
    real = dataset.batch(dataset.test[:images]).to(like)
    uses = {"generator": measure_use(average, torch.split(z[:images], _BATCH), seed=seed)}
    gradients: dict[str, dict[str, tuple[float, float]]] = {}
    if critic is not None:
        uses["critic"] = measure_use(
            copy.deepcopy(critic).eval(), torch.split(real, _BATCH), seed=seed
        )
        batch = dataset.batch(dataset.train[:batch_size]).to(like)
        gradients = _gradients(generator, critic, config, z[:batch_size], batch, seed)
    return [
        NetworkUse(network, use, *gradients.get(network, {}).get(use.name, (None, None)))
        for network, found in uses.items()
        for use in found
    ]


def _gradients(
    generator: nn.Module, critic: nn.Module, config: GanConfig, z: Tensor, real: Tensor, seed: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """Of each network's own loss, by network and layer; taken of copies."""
    generator, critic = (
        copy.deepcopy(network).train().requires_grad_(True) for network in (generator, critic)
    )

    def loss_of_critic() -> Tensor:
        with torch.no_grad():
            fake = generator(z)
        mixed = None
        if config.loss == "wgan-gp":
            share = torch.rand(len(real), 1, 1, 1, generator=torch.Generator().manual_seed(seed))
            fake = fake[: len(real)]
            mixed = torch.lerp(fake, real, share.to(real)).requires_grad_()
        loss: Tensor = CriticLoss(critic, config)(real, fake, mixed)[0]
        return loss

    losses: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "generator": (generator, lambda: GeneratorLoss(generator, critic, config)(z)),
        "critic": (critic, loss_of_critic),
    }
    found = {}
    for network, (module, loss) in losses.items():
        with seeded(module, seed), torch.enable_grad():
            found[network] = gradient_norms(module, loss)
    return found


def log_columns(uses: list[NetworkUse]) -> dict[str, float]:
    """The numbers of a validation, such as ``nonlocal_ratio (generator 16x16)``.

    A network has at most one layer for each size.
    """
    return {f"{name} ({use.label})": value for use in uses for name, value in use.values().items()}
