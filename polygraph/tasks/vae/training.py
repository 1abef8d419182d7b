"""Training of variational autoencoders of images: what the loop needs, and a run's folder.

Recipe: Adam from 1e-3 along a cosine to 0, batches of 128 for 10 epochs, the divergence with weight
1. Some of the training images validate and select the weights; the test images are measured once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph._arrays import array_sha256
from polygraph._checks import check_numbers
from polygraph.data.images import ImageDataConfig, ImageDataset, open_images
from polygraph.data.known import remember
from polygraph.data.splits import draw_validation
from polygraph.models.images.families import family_of
from polygraph.models.images.image_vae import VAE_PRESETS, ImageVAE, ImageVAEConfig
from polygraph.models.vae import GaussianLikelihood
from polygraph.tasks.images.training import fit_model
from polygraph.tasks.mesh.training import describe_result as describe_mesh
from polygraph.tasks.mesh.training import train_mesh
from polygraph.train.batches import ImageBatches
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.distributed import gather_rows, shard
from polygraph.train.frame import run_supervised
from polygraph.train.log import Say
from polygraph.train.supervised import SupervisedTask
from polygraph.train.variational import (
    ObjectiveConfig,
    VariationalLoss,
    batch_noise,
    bound_rows,
    bound_summary,
    describe_bounds,
)

RECIPE: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 0.0,
}  #: where it differs from the defaults of `TrainConfig`
LEVEL = math.log(1 / 127.5)  #: log of the width of a grey level, of pixels in [-1, 1]


def vae_train_config(**settings: Any) -> TrainConfig:
    """The recipe, with other ``settings`` of `TrainConfig` where they are given."""
    return TrainConfig(**{**RECIPE, **settings})


@dataclass(frozen=True)
class VaeRunConfig:
    """Everything that decides about a variational autoencoder of images.

    Attributes:
        model: sizes and likelihood; channels and size of the images are those of the data.
        data: images; labels are not looked at, but every class validates in its share.
        train: steps, batch, optimiser, schedule, seed.
        objective: weight of the divergence, warm-up, free bits.
        preset: name that the model's settings started from; for people.
        val_fraction: share of the training images that validates instead, where the data set does
            not say which do.
        split_seed: draws the images that validate.
    """

    model: ImageVAEConfig = field(default_factory=ImageVAEConfig)
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    train: TrainConfig = field(default_factory=vae_train_config)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    preset: str = ""
    val_fraction: float = 0.05
    split_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_numbers("train", self, ("split_seed",))
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"train: val_fraction must be in (0, 1), got {self.val_fraction}")
        if self.split_seed < 0:
            raise ValueError(f"train: split_seed must be at least 0, got {self.split_seed}")

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights, besides the loop's settings and the images."""
        return {
            "model": {"family": family_of(self.model), **asdict(self.model)},
            "objective": asdict(self.objective),
        }

    def digest(self) -> str:
        """SHA-256 of what decides about the result, the same on every machine."""
        split = {"val_fraction": self.val_fraction, "split_seed": self.split_seed}
        data = {k: v for k, v in asdict(self.data).items() if k not in ("path", "cache_dir")}
        train = {**self.train.semantics(), "length": self.train.length()}
        return config_hash({**self.semantics(), **split, "data": data, "train": train})


class VaeTask(SupervisedTask):
    """A variational autoencoder of images, its optimizer, its data.

    Args:
        fabric: launched Fabric.
        config: the run's.
        model: on the CPU.
        dataset: the images.
        train: int64, images that train.
        val: int64, images that validate.
    """

    model: ImageVAE
    score = "val_loss"

    def __init__(
        self,
        fabric: Any,
        config: VaeRunConfig,
        model: ImageVAE,
        dataset: ImageDataset,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
    ) -> None:
        loss = VariationalLoss(model, config.objective)
        super().__init__(fabric, config.train, model, loss, len(train), loss.names)
        self.dataset, self.val, self.objective = dataset, val, config.objective
        self.batches = ImageBatches(
            replace(dataset, train=train),
            config.train,
            device=self.device,
            dtype=self.dtype,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Images ``[b, C, H, W]`` as the likelihood sees them; the weight of the divergence.

        Of several processes also their part of the noise of the codes.
        """
        weight = torch.tensor(self.objective.weight(step), dtype=self.dtype, device=self.device)
        latent = self.model.config.latent_channels
        noise = batch_noise(self.config, step, latent, weight, self.fabric)
        observed = self.model.observe(self.batches(step))
        return (observed, weight) if noise is None else (observed, weight, noise)

    def validate(self) -> dict[str, float]:
        """Bounds on the images that validate."""
        found = self.measure(self.val)
        return {f"val_{name}": float(found[name]) for name in ("loss", "elbo", "kl")}

    def measure(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        """`image_bound_summary` of some images, shared among the processes."""
        mine = shard(indices, self.fabric)
        rows = None
        if len(mine):
            rows = bound_rows(self.model, self.dataset.batch, mine, self.config.batch_size)
        rows = gather_rows(rows, len(indices), self.fabric)
        return image_bound_summary(self.model, rows, self.objective.beta)


def image_bound_summary(
    model: ImageVAE, rows: NDArray[np.float64], beta: float = 1.0
) -> dict[str, Any]:
    """`polygraph.train.variational.bound_summary` of images, with the likelihood's ``sigma``.

    Bits are of a grey level out of 256, or of a pixel that is a bit. ``sigma`` is the standard
    deviation of pixels in [-1, 1].
    """
    config = model.config
    numbers = config.in_channels * config.size**2
    width = 0.0 if config.likelihood == "bernoulli" else LEVEL
    found = bound_summary(rows, numbers, width, beta)
    likelihood = model.likelihood
    if isinstance(likelihood, GaussianLikelihood):
        found["sigma"] = likelihood.sigma
    return found


def split_images(
    config: VaeRunConfig, dataset: ImageDataset
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images that train and those that validate, both ascending.

    Raises:
        ValueError: there are too few images for both.
    """
    train, val = dataset.train, dataset.val
    if val is None:
        labels = dataset.labels
        labels = np.zeros(len(dataset), np.int64) if labels is None else labels
        train, val = draw_validation(labels, train, config.val_fraction, config.split_seed)
    if len(train) < 2 or not len(val) or not len(dataset.test):
        raise ValueError(
            f"{dataset.name}: {len(dataset)} images leave {len(train)} to train on, {len(val)} to "
            f"validate and {len(dataset.test)} to test: it takes two, one and one at least"
        )
    return train, val


def fit_to_images(config: VaeRunConfig, dataset: ImageDataset) -> VaeRunConfig:
    """The same run with a model for these images.

    Raises:
        ValueError: the model is for other channels or another size.
    """
    found = {"in_channels": dataset.channels, "size": dataset.size}
    preset = VAE_PRESETS.get(config.preset)
    return replace(config, model=fit_model(config.model, found, dataset.name, preset))


def train_vae(
    config: VaeRunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    dataset: ImageDataset | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train, select on validation, measure the test images once.

    Args:
        config: the run.
        folder: receives ``run.json``, ``last.safetensors``, ``best.safetensors``, ``log.jsonl``,
            ``curve.csv`` and ``result.json``; enough to use the model without the data.
        resume: go on from the last checkpoint when there is one.
        dataset: opened already; default: opened from ``config.data``.
        say: called with lines for people.

    Returns:
        What ``result.json`` holds, the same on every process: ``test`` and ``val`` (of
        `image_bound_summary`), ``parameters``, ``seconds`` and what the run was.

    Raises:
        ValueError: the data are bad, too few, or do not fit the model.
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss that is not finite, a full disk, no memory.
    """
    folder = Path(folder)
    dataset = open_images(config.data) if dataset is None else dataset
    remember(config.data.kind, config.data.path, config.data.cache_dir)
    config = fit_to_images(config, dataset)
    train, val = split_images(config, dataset)

    def make(fabric: Any) -> VaeTask:
        torch.manual_seed(config.train.seed)
        return VaeTask(fabric, config, ImageVAE(config.model), dataset, train, val)

    return run_supervised(
        config,
        folder,
        make,
        kind="vae",
        dataset=dataset,
        identity={
            "split_hash": array_sha256(*(p.astype("<i8") for p in (train, val, dataset.test)))
        },
        meta={"family": family_of(config.model)},
        parts={"val": val, "test": dataset.test},
        about=(
            f"{dataset.name}: images of {dataset.channels} x {dataset.size} x {dataset.size}: "
            f"{len(train):,} train, {len(val):,} validate, {len(dataset.test):,} test; "
            f"{config.model.latent_channels} numbers per image, likelihood "
            f"{config.model.likelihood}"
        ),
        resume=resume,
        say=say,
    )


def describe_result(result: dict[str, Any]) -> str:
    """What `train_vae` reached, in a line."""
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: on "
        f"{result['test']['num_samples']:,} test images {describe_bounds(result['test'])} "
        f"(validation ELBO {result['val']['elbo']:.1f})"
    )


def train_either(config: Any, folder: str | Path, **settings: Any) -> dict[str, Any]:
    """`train_vae`, or of meshes `polygraph.tasks.mesh.training.train_mesh`, which has the rest."""
    if isinstance(config, VaeRunConfig):
        return train_vae(config, folder, **settings)
    return train_mesh(config, folder, **settings)


def describe_either(result: dict[str, Any]) -> str:
    """What `train_either` reached, in a line."""
    return (describe_result if result.get("kind") == "vae" else describe_mesh)(result)
