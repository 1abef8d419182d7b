"""Training of image classifiers: what the loop needs to know of them, and a run's folder.

Recipe: cross-entropy, Adam from 1e-3 along a cosine to 0, batches of 64 for 20 epochs; images of
CIFAR are cut out of a border of 4 black pixels and mirrored at random. The recipes of papers are
configurations (``--config images-sgd``). Some of the training images validate and select the
weights; the test images are measured once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polygraph._arrays import rows_sha256
from polygraph._checks import check_numbers
from polygraph.data.images import ImageDataConfig, ImageDataset, open_images
from polygraph.data.known import remember
from polygraph.data.splits import draw_validation
from polygraph.models.images.families import CLASSIFIERS, build, family_of
from polygraph.models.images.pixel_classifier import PixelClassifierConfig
from polygraph.models.images.presets import CLASSIFIER_PRESETS
from polygraph.models.images.sparse_classifier import SparseCodingClassifierConfig
from polygraph.train.augment import AugmentConfig
from polygraph.train.batches import LabelledImageBatches
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.frame import run_supervised
from polygraph.train.log import Say
from polygraph.train.optimizer import check_flags
from polygraph.train.orthogonality import check_orthogonality, orthogonality_settings
from polygraph.train.supervised import (
    ClassificationLoss,
    ClassifierTask,
    describe_nonfinite,
    model_logits,
)

RECIPE: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 0.0,
}  #: where it differs from the defaults of `TrainConfig`
_SUBSET = 1  # sets the draw of training images apart from others of the same seed


def images_train_config(**settings: Any) -> TrainConfig:
    """The recipe, with other ``settings`` of `TrainConfig` where they are given."""
    return TrainConfig(**{**RECIPE, **settings})


def usual_augmentation(kind: str) -> AugmentConfig:
    """How images of a kind of data are changed while they train: photographs of CIFAR alone are."""
    if kind.startswith("cifar"):
        return AugmentConfig(crop_padding=4, flip=True)
    return AugmentConfig()


@dataclass(frozen=True)
class ImagesRunConfig:
    """Everything that decides about a classifier of images.

    Attributes:
        model: config of a family of `polygraph.models.images.families.CLASSIFIERS`. Channels, size
            and classes are those of the images.
        data: labelled images.
        train: steps, batch, optimiser, schedule, seed.
        augment: random changes of training images.
        preset: name that the model's settings started from; for people.
        balanced: whether every class comes as often as the others, in every batch.
        label_smoothing: share of the target that is spread evenly over all classes, in [0, 1).
        orthogonality: factor of a penalty that makes the classes' templates orthogonal; 0: none.
        orthogonality_on: ``weights``, ``templates`` or ``probes``: see
            `polygraph.train.supervised.ClassificationLoss`.
        orthogonality_unit: of rows of unit length.
        reconstruction: factor of the squared distance of an image from what its last sparse code
            makes, halved, which learns dictionaries; 0: none. Of a `SparseCodingClassifier` alone.
        val_fraction: share of the training images of each class that validates instead, rounded; at
            least one of every class that has two or more. Not where the data set says which do, as
            a folder val/ beside train/ and test/.
        train_images: of the images that do not validate, how many train; null: all. Those of a
            smaller number are among those of a larger one.
        split_seed: draws the images that validate, and those that train.
    """

    model: Any = field(default_factory=PixelClassifierConfig)
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    train: TrainConfig = field(default_factory=images_train_config)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    preset: str = ""
    balanced: bool = False
    label_smoothing: float = 0.0
    orthogonality: float = 0.0
    orthogonality_on: str = "weights"
    orthogonality_unit: bool = False
    reconstruction: float = 0.0
    val_fraction: float = 0.1
    train_images: int | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_numbers("train", self, ("split_seed",))
        check_flags(self, ("balanced",))
        if type(self.model) not in [cls for cls, _ in CLASSIFIERS.values()]:
            raise TypeError(f"train: model must be a config of a classifier, got {self.model!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"train: label_smoothing must be in [0, 1), got {self.label_smoothing}"
            )
        check_orthogonality(
            "train", self.orthogonality, self.orthogonality_on, self.orthogonality_unit
        )
        if not 0 <= self.reconstruction < math.inf:
            raise ValueError(
                f"train: reconstruction must be finite and at least 0, got {self.reconstruction}"
            )
        if self.reconstruction > 0 and not isinstance(self.model, SparseCodingClassifierConfig):
            raise ValueError(
                "train: reconstruction is for the presets sparse/*, whose networks have "
                f"dictionaries, got {self.reconstruction} with {type(self.model).__name__}"
            )
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"train: val_fraction must be in (0, 1), got {self.val_fraction}")
        if self.train_images is not None and self.train_images < 1:
            raise ValueError(f"train: train_images must be at least 1, got {self.train_images}")
        if self.split_seed < 0:
            raise ValueError(f"train: split_seed must be at least 0, got {self.split_seed}")

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights, besides the loop's settings and the images."""
        return {
            "model": {"family": family_of(self.model), **asdict(self.model)},
            "augment": self.augment.semantics(),
            **({"balanced": True} if self.balanced else {}),
            "label_smoothing": self.label_smoothing,
            **orthogonality_settings(
                self.orthogonality, self.orthogonality_on, self.orthogonality_unit
            ),
            **({"reconstruction": self.reconstruction} if self.reconstruction > 0 else {}),
        }

    def digest(self) -> str:
        """SHA-256 of what decides about the result, the same on every machine.

        Where the data lie does not count: their content has a hash of its own.
        """
        split = {n: getattr(self, n) for n in ("val_fraction", "train_images", "split_seed")}
        data = {k: v for k, v in asdict(self.data).items() if k not in ("path", "cache_dir")}
        train = {**self.train.semantics(), "length": self.train.length()}
        return config_hash({**self.semantics(), **split, "data": data, "train": train})


class ImagesTask(ClassifierTask):
    """An image classifier, its optimizer, its data.

    Args:
        fabric: launched Fabric.
        config: the run's; ``config.model`` is not looked at.
        model: maps images ``[B, C, H, W]`` in [-1, 1] to logits, on the CPU.
        dataset: the images; those of its ``train`` that validate are in ``val``, too.
        train: int64, images that train.
        val: int64, images that validate.
    """

    def __init__(
        self,
        fabric: Any,
        config: ImagesRunConfig,
        model: nn.Module,
        dataset: ImageDataset,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
    ) -> None:
        super().__init__(
            fabric,
            config.train,
            model,
            ClassificationLoss(
                model,
                config.label_smoothing,
                "all",
                orthogonality=config.orthogonality,
                on=config.orthogonality_on,
                unit=config.orthogonality_unit,
                reconstruction=config.reconstruction,
            ),
            len(train),
            labels=labels_of(dataset),
            classes=dataset.classes,
            val=val,
        )
        self.dataset = dataset
        self.batches = LabelledImageBatches(
            replace(dataset, train=train),
            config.train,
            device=self.device,
            dtype=self.dtype,
            rank=fabric.global_rank,
            world=fabric.world_size,
            augmentation=config.augment,
            balanced=config.balanced,
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``[b, C, H, W]``, cut and mirrored, and their labels."""
        return self.batches(step)

    def logits(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits of some images, unchanged."""
        return model_logits(self.model, self.dataset.batch, indices, self.config.batch_size)


def labels_of(dataset: ImageDataset) -> NDArray[np.int64]:
    """The labels of a data set.

    Raises:
        ValueError: it has none, or fewer than two classes.
    """
    if dataset.labels is None:
        raise ValueError(
            f"{dataset.name}: its images have no labels, which a classifier needs: a folder has "
            "one subfolder for each class, by its name"
        )
    if dataset.num_classes < 2:
        raise ValueError(
            f"{dataset.name}: labels must name at least 2 classes, got {dataset.num_classes}"
        )
    return dataset.labels


def split_training(
    config: ImagesRunConfig, dataset: ImageDataset
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images that train and those that validate, both ascending.

    Those that validate are drawn, where the data set does not say which.

    Raises:
        ValueError: there are no labels, none to validate, or fewer to train than asked for.
    """
    labels, train, val = labels_of(dataset), dataset.train, dataset.val
    if val is None:
        train, val = draw_validation(labels, train, config.val_fraction, config.split_seed)
    if not len(val):
        raise ValueError(
            f"{dataset.name}: no class has two training images, so that one could validate"
        )
    if config.train_images is not None:
        if config.train_images > len(train):
            raise ValueError(
                f"{dataset.name}: train_images must be at most {len(train)}, those that do not "
                f"validate, got {config.train_images}"
            )
        draw = np.random.default_rng([config.split_seed, _SUBSET, len(train)])
        train = np.sort(draw.permutation(train)[: config.train_images])
    return train, val


def fit_to_images(config: ImagesRunConfig, dataset: ImageDataset) -> ImagesRunConfig:
    """The same run with a network for these images.

    Raises:
        ValueError: the model is for other channels, another size or other classes, or the images
            have no labels.
    """
    labels_of(dataset)
    found = {
        "in_channels": dataset.channels,
        "size": dataset.size,
        "num_classes": dataset.num_classes,
    }
    preset = CLASSIFIER_PRESETS.get(config.preset)
    return replace(config, model=fit_model(config.model, found, dataset.name, preset))


def fit_model(model: Any, found: dict[str, Any], name: str, preset: Any = None) -> Any:
    """The config of a model with the fields that the data decide about.

    Args:
        model: its config.
        found: these fields.
        name: of the data set.
        preset: the config that the model's started from; what is as there was not asked for.

    Raises:
        ValueError: one of the fields was set to something else.
    """
    usual = {f.name: {f.default} for f in fields(model)}
    if type(preset) is type(model):
        usual = {key: {*values, getattr(preset, key)} for key, values in usual.items()}
    for key, value in found.items():
        given = getattr(model, key)
        if given not in {value, *usual[key]}:
            raise ValueError(
                f"model: {key} must be {value}, that of {name}, or be left out, got {given}"
            )
    return replace(model, **found)


def build_network(config: ImagesRunConfig) -> nn.Module:
    """A network initialised from the seed."""
    torch.manual_seed(config.train.seed)
    return build(config.model)


def train_images(
    config: ImagesRunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    dataset: ImageDataset | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train, select on validation, measure the test images once.

    A run that was resumed ends with the same bits as one that was never stopped. With several
    processes each takes BatchNorm's statistics from its own part of a batch, and the first one's
    running statistics count.

    Args:
        config: the run.
        folder: receives ``run.json``, ``last.safetensors``, ``best.safetensors``, ``log.jsonl``,
            ``curve.csv`` and ``result.json``; enough to use the model without the data.
        resume: go on from the last checkpoint when there is one.
        dataset: opened already; default: opened from ``config.data``.
        say: called with lines for people: what is trained on, and what goes wrong.

    Returns:
        What ``result.json`` holds, the same on every process: ``test`` and ``val`` (of
        `classification_summary`, accuracies and confusion matrix among it), ``parameters``,
        ``seconds``, ``seconds_per_epoch`` and what the run was.

    Raises:
        ValueError: the data are bad, or do not fit the model.
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss that is not finite, a full disk, no memory.
    """
    dataset = open_images(config.data) if dataset is None else dataset
    remember(config.data.kind, config.data.path, config.data.cache_dir)
    config = fit_to_images(config, dataset)
    train, val = split_training(config, dataset)
    return run_supervised(
        config,
        Path(folder),
        lambda fabric: ImagesTask(fabric, config, build_network(config), dataset, train, val),
        kind="images",
        dataset=dataset,
        identity={"split_hash": rows_sha256(train, val, dataset.test)},
        meta={"family": family_of(config.model), "classes": list(dataset.classes)},
        parts={"val": val, "test": dataset.test},
        about=(
            f"{dataset.name}: images of {dataset.channels} x {dataset.size} x {dataset.size}, "
            f"{dataset.num_classes} classes: {len(train):,} train, {len(val):,} validate, "
            f"{len(dataset.test):,} test"
        ),
        resume=resume,
        say=say,
    )


def describe_result(result: dict[str, Any]) -> str:
    """What `train_images` reached, in a line."""
    test, val = result["test"], result["val"]
    top = f" ({test['top5_accuracy']:.1%} among the first 5)" if "top5_accuracy" in test else ""
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: "
        f"{test['accuracy']:.1%} of {test['num_samples']:,} test images right{top}"
        f"{describe_nonfinite(test)}, loss {test['loss']:.3f} (validation {val['accuracy']:.1%})"
    )
