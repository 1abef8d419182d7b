"""Adversarial training: the critic's steps, the generator's step, the averaged generator.

A step of the loop is a generator step: ``critic_steps`` steps of the critic, each on a batch of its
own, then one of the generator. Everything drawn is a function of (seed, step).
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polygraph.data.images import ImageDataset
from polygraph.models.images.growing_gan import Growing, growth_at
from polygraph.models.images.latent import draw_latent
from polygraph.report.image_grid import image_grid_png
from polygraph.tasks.gan.latent import generate as generate
from polygraph.tasks.gan.latent import interpolations as interpolations
from polygraph.tasks.gan.latent import latent_vectors as latent_vectors
from polygraph.tasks.gan.latent import walk_kind
from polygraph.tasks.gan.losses import CriticLoss, GanConfig, GeneratorLoss, mixes_samples
from polygraph.tasks.gan.nonlocal_use import NetworkUse, log_columns, use_of_pair
from polygraph.train.batches import ImageBatches
from polygraph.train.checkpoint import write_atomic
from polygraph.train.config import TrainConfig
from polygraph.train.loop import NotFinite, Task, descend

_GRID, _SHOWN_BATCH = 64, 64
GROWTH = "growth"  #: folder of a run with samples at each size
_VALIDATED = 512  # held-out images that the critic is asked about


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move ``average`` towards ``module``: ``d · average + (1 - d) · module``, buffers copied.

    d is ``decay``, or ``(1 + step) / (10 + step)`` where that is less, to forget early weights.
    """
    share = 1 - min(decay, (1 + step) / (10 + step)) if decay else 1.0
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(module.parameters())
    torch._foreach_lerp_(ours, theirs, share)
    for mine, other in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(other)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Without gradients of the parameters: only those of what passes through are wanted."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


@contextmanager
def _all_finite(step: int) -> Iterator[None]:
    """A search of neighbours refuses features that are not finite, on a GPU by an assertion."""
    try:
        yield
    except RuntimeError as error:
        if "finite" in str(error) or "device-side assert" in str(error):
            raise NotFinite(f"a feature or weight is not finite at step {step + 1}") from error
        raise


class GanTask(Task):
    """A generator, a critic, their optimizers, their data.

    Args:
        fabric: launched Fabric.
        train: the loop's settings.
        config: the pair's settings.
        generator: maps ``[B, generator.config.latent_channels]`` to images, on the CPU.
        critic: maps images to ``[B]``, on the CPU.
        dataset: the images.
        folder: receives ``samples/*.png`` and ``interpolations/*.png`` at each validation, and of
            a generator that grows ``growth/*.png``, samples at the end of each size.
        measure: called with the averaged generator at each validation, on every process; what it
            returns is logged.
        score: name of the value of ``measure`` that selects the best weights.

    Raises:
        ValueError: a gradient penalty of a critic with batch normalisation, networks of which one
            grows, or batches that cannot be shared among the processes.
    """

    def __init__(
        self,
        fabric: Any,
        train: TrainConfig,
        config: GanConfig,
        generator: nn.Module,
        critic: nn.Module,
        dataset: ImageDataset,
        folder: str | Path,
        *,
        measure: Callable[[nn.Module], dict[str, float]] | None = None,
        score: str | None = None,
    ) -> None:
        if config.loss == "wgan-gp" and mixes_samples(critic):
            raise ValueError(
                "gan: wgan-gp needs a critic whose values depend on one image each, got one with "
                "batch normalisation (batch_norm) or minibatch_deviation"
            )
        if isinstance(generator, Growing) != isinstance(critic, Growing):
            raise ValueError(
                "gan: a generator and a critic that grow need each other, got "
                f"{type(generator).__name__} and {type(critic).__name__}"
            )
        wanted = config.generator_batch or train.batch_size
        if wanted % fabric.world_size:
            raise ValueError(
                "gan: generator_batch must be a multiple of the number of processes, got "
                f"{wanted} for {fabric.world_size}"
            )
        self.fabric, self.train, self.config, self.folder = fabric, train, config, Path(folder)
        self.measure, self.score = measure, score
        # What the loop counts as an epoch: the critic sees a batch in each of its steps.
        self.num_samples = max(1, len(dataset.train) // config.critic_steps)
        self.generator, self.critic, self.dataset = generator, critic, dataset
        for module in (generator, critic):  # convolutions are up to twice as fast
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = copy.deepcopy(generator).requires_grad_(False)
        self.modules = {"generator": generator, "critic": critic, "average": average}
        self.optimizers = {
            "generator": self._make_optimizer(generator, 1.0),
            "critic": self._make_optimizer(critic, config.critic_rate),
        }
        losses: dict[str, Any] = {
            "critic": CriticLoss(critic, config),
            "generator": GeneratorLoss(generator, critic, config),
        }
        if config.compile:
            losses = {name: _compiled(loss) for name, loss in losses.items()}
        self._critic_loss, self._critic_optimizer = fabric.setup(
            losses["critic"], self.optimizers["critic"]
        )
        self._generator_loss, self._generator_optimizer = fabric.setup(
            losses["generator"], self.optimizers["generator"]
        )
        parameter = next(generator.parameters())
        self.average = average.to(parameter.device, parameter.dtype).eval()
        self._latent_config = generator.config
        self._generator_batch = wanted // fabric.world_size
        self._like = parameter
        self._step = 0
        self.batches = ImageBatches(
            dataset,
            train,
            device=parameter.device,
            dtype=parameter.dtype,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )

    def _make_optimizer(self, module: nn.Module, scale: float) -> torch.optim.Optimizer:
        config, rate, decay = self.config, self.train.learning_rate, self.train.weight_decay
        group = [{"params": list(module.parameters()), "rate_scale": scale}]
        if config.optimizer == "rmsprop":
            return torch.optim.RMSprop(group, lr=rate, alpha=config.beta2, weight_decay=decay)
        betas = (config.beta1, config.beta2)
        return torch.optim.Adam(group, lr=rate, betas=betas, weight_decay=decay, fused=True)

    def training_step(self, step: int) -> dict[str, Tensor]:
        """The critic's steps and the generator's.

        Raises:
            NotFinite: weights or features are NaN or infinite.
        """
        self._step = step
        with _all_finite(step):
            return self._training_step(step)

    def _training_step(self, step: int) -> dict[str, Tensor]:
        config = self.config
        for module in self.modules.values():
            if isinstance(module, Growing):
                module.grow_to(growth_at(step, config.grow_steps, len(module.sizes)))
        first = step * config.critic_steps
        rows = [self.critic_step(first + n) for n in range(config.critic_steps)]
        loss = self.generator_step()
        update_average(self.average, self.generator, config.ema, step)
        self._show_growth(step)
        of_critic, gap, penalty = torch.stack(rows).mean(0)
        return {
            "loss": of_critic + loss,
            "critic_loss": of_critic,
            "generator_loss": loss,
            "critic_gap": gap,
            **({"penalty": penalty} if config.loss == "wgan-gp" else {}),
        }

    def _show_growth(self, step: int) -> None:
        """Draw what was learned at a size, before the next one is blended in."""
        module, grow_steps = self.modules["generator"], self.config.grow_steps
        if not isinstance(module, Growing) or self.fabric.global_rank:
            return
        now, then = (growth_at(s, grow_steps, len(module.sizes)) for s in (step, step + 1))
        if math.floor(now) == now < then:
            self.show_size(module.sizes[int(now) - 1])

    def show_size(self, size: int) -> None:
        """Write samples of a generator that grows, named by the size that it has grown to."""
        z = latent_vectors(_GRID, self._latent_config, self.train.seed)
        path = self.folder / GROWTH / f"{size:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, image_grid_png(generate(self.average, z).numpy(), 8))

    def critic_step(self, number: int) -> Tensor:
        """One step of the critic on the batch of that number: loss, gap and penalty, ``[3]``."""
        config = self.config
        real = self.batches(number)
        with torch.no_grad(), self.fabric.autocast():
            fake = self.generator(self._latent(len(real))).to(real.dtype)
        mixed = None
        if config.loss == "wgan-gp":
            share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
            mixed = torch.lerp(fake, real, share).requires_grad_()
        loss, gap, penalty = self._critic_loss(real, fake, mixed)
        self._descend(self._critic_loss, self._critic_optimizer, loss)
        if config.loss == "wgan":
            with torch.no_grad():
                for parameter in self.critic.parameters():
                    parameter.clamp_(-config.clip, config.clip)
        return torch.stack([loss.detach(), gap, penalty])

    def generator_step(self) -> Tensor:
        """One step of the generator, without the average; its loss."""
        with _frozen(self.critic):
            loss: Tensor = self._generator_loss(self._latent(self._generator_batch))
            self._descend(self._generator_loss, self._generator_optimizer, loss)
        return loss.detach()

    def _descend(self, module: Any, optimizer: Any, loss: Tensor) -> None:
        clipping = self.train.grad_clip, self.train.clip_value
        descend(self.fabric, module, optimizer, loss, *clipping)

    def _latent(self, count: int) -> Tensor:
        like = self._like
        return draw_latent(count, self._latent_config, device=like.device, dtype=like.dtype)

    def validate(self) -> dict[str, float]:
        """Pictures, the critic's gap on held-out images, what ``measure`` finds.

        And how non-local layers are used, where there are some (`use_of_pair`).

        Raises:
            NotFinite: weights or features are NaN or infinite.
        """
        with _all_finite(self._step):
            if self.fabric.global_rank == 0:
                self.write_pictures(f"{self._step + 1:07d}")
            values = {"val_critic_gap": self._gap(), **log_columns(self._use())}
        if self.measure is not None:
            values |= self.measure(self.average)
        return values

    def _use(self) -> list[NetworkUse]:
        return use_of_pair(
            self.generator,
            self.critic,
            self.average,
            self.config,
            self.dataset,
            batch_size=self.train.batch_size,
            seed=self.train.seed,
        )

    def write_pictures(self, name: str) -> None:
        """Samples and interpolations of the averaged generator, from the same z every time."""
        z = latent_vectors(_GRID, self._latent_config, self.train.seed)
        for folder, points in (
            ("samples", z),
            ("interpolations", interpolations(z[:16], 8, walk_kind(self.generator.config))),
        ):
            path = self.folder / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, image_grid_png(generate(self.average, points).numpy(), 8))

    @torch.no_grad()
    def _gap(self) -> float:
        """Mean value of held-out images less that of the averaged generator's.

        With a WGAN loss: the Wasserstein distance but for the critic's Lipschitz constant, where
        the critic is not the one that saw these images in training.
        """
        indices = self.dataset.test[:_VALIDATED]
        z = latent_vectors(len(indices), self._latent_config, self.train.seed)
        like, modes = self._like, self.critic.training
        self.critic.eval()
        total = 0.0
        for start in range(0, len(indices), _SHOWN_BATCH):
            rows = slice(start, start + _SHOWN_BATCH)
            real = self.dataset.batch(indices[rows]).to(like.device, like.dtype)
            fake = self.average(z[rows].to(like.device, like.dtype))
            total += float((self.critic(real) - self.critic(fake)).double().sum())
        self.critic.train(modes)
        return total / len(indices)


def _compiled(loss: nn.Module) -> Any:
    """torch.compile of a loss, without graph breaks, second derivatives included.

    Raises:
        ValueError: torch is too old to trace a gradient within a compiled function.
    """
    config: Any = importlib.import_module("torch._dynamo.config")
    if not hasattr(config, "trace_autograd_ops"):
        raise ValueError(
            f"gan: compile needs a torch that traces torch.autograd.grad, got {torch.__version__}"
        )
    config.trace_autograd_ops = True
    return torch.compile(loss, fullgraph=True)
