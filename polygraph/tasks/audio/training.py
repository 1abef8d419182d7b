"""Training of classifiers of sounds: what the loop needs to know of them, and a run's folder.

A sound is an image of one channel, 32 bands by 32 moments (`polygraph.data.LogMel`), normalised
with the statistics of the training clips, which the run keeps. Any classifier of images reads it.
Recipe: that of images. The published one (Chrysos et al., T-PAMI 2021, section 4.2) is a
configuration, ``--config audio-sgd``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polygraph._arrays import rows_sha256
from polygraph._checks import check_numbers
from polygraph.data.audio.dataset import AudioDataConfig, AudioDataset, open_audio
from polygraph.data.audio.mel import FeatureConfig, LogMel, statistics_of
from polygraph.data.known import remember
from polygraph.data.splits import draw_validation
from polygraph.models.images.families import CLASSIFIERS, family_of
from polygraph.models.images.pixel_classifier import PixelClassifierConfig
from polygraph.tasks.images.training import (
    ImagesRunConfig,
    build_network,
    fit_to_images,
)
from polygraph.train.checkpoint import CheckpointError, read_meta
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.frame import run_supervised
from polygraph.train.log import Say
from polygraph.train.loop import LAST, Trainer
from polygraph.train.optimizer import check_flags
from polygraph.train.orthogonality import check_orthogonality, orthogonality_settings
from polygraph.train.sound_augment import SoundAugmentConfig
from polygraph.train.sound_batches import Levels, SoundBatches, clip_features
from polygraph.train.supervised import (
    ClassificationLoss,
    ClassifierTask,
    describe_nonfinite,
    likeliest,
    model_logits,
)

RECIPE: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 0.0,
}  #: where it differs from the defaults of `TrainConfig`
_MOST_SPEAKERS = 100  # whose accuracies a result lists


def audio_train_config(**settings: Any) -> TrainConfig:
    """The recipe, with other ``settings`` of `TrainConfig` where they are given."""
    return TrainConfig(**{**RECIPE, **settings})


@dataclass(frozen=True)
class AudioRunConfig:
    """Everything that decides about a classifier of sounds.

    Attributes:
        model: config of a family of `polygraph.models.images.families.CLASSIFIERS`. Channels, size
            and classes are those of the features.
        data: labelled sounds, and which of them test.
        features: how loudness is told.
        train: steps, batch, optimiser, schedule, seed.
        augment: random changes of training clips.
        preset: name that the model's settings started from; for people.
        balanced: whether every class is heard as often as the others, in every batch.
        label_smoothing: share of the target that is spread evenly over all classes, in [0, 1).
        orthogonality: factor of a penalty that makes the classes' templates orthogonal; 0: none.
        orthogonality_on: ``weights``, ``templates`` or ``probes``: see
            `polygraph.train.supervised.ClassificationLoss`.
        orthogonality_unit: of rows of unit length.
        val_fraction: share of the training clips of each class that validates instead, rounded; at
            least one of every class that has two or more. Not where the data set says which do, as
            a validation_list.txt.
        split_seed: draws the clips that validate.
    """

    model: Any = field(default_factory=PixelClassifierConfig)
    data: AudioDataConfig = field(default_factory=AudioDataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    train: TrainConfig = field(default_factory=audio_train_config)
    augment: SoundAugmentConfig = field(default_factory=SoundAugmentConfig)
    preset: str = ""
    balanced: bool = False
    label_smoothing: float = 0.0
    orthogonality: float = 0.0
    orthogonality_on: str = "weights"
    orthogonality_unit: bool = False
    val_fraction: float = 0.1
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
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"train: val_fraction must be in (0, 1), got {self.val_fraction}")
        if self.split_seed < 0:
            raise ValueError(f"train: split_seed must be at least 0, got {self.split_seed}")

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights, besides the loop's settings and the sounds."""
        return {
            "model": {"family": family_of(self.model), **asdict(self.model)},
            "features": asdict(self.features),
            "augment": asdict(self.augment),
            "balanced": self.balanced,
            "label_smoothing": self.label_smoothing,
            **orthogonality_settings(
                self.orthogonality, self.orthogonality_on, self.orthogonality_unit
            ),
        }

    def digest(self) -> str:
        """SHA-256 of what decides about the result, the same on every machine.

        Where the data lie does not count: their content has a hash of its own.
        """
        split = {n: getattr(self, n) for n in ("val_fraction", "split_seed")}
        data = {k: v for k, v in asdict(self.data).items() if k not in ("path", "cache_dir")}
        train = {**self.train.semantics(), "length": self.train.length()}
        return config_hash({**self.semantics(), **split, "data": data, "train": train})


class AudioTask(ClassifierTask):
    """A classifier of sounds, its optimizer, its data; `prepare` comes before the first step.

    Args:
        fabric: launched Fabric.
        config: the run's; ``config.model`` is not looked at.
        model: maps features ``[B, 1, 32, 32]`` to logits, on the CPU.
        dataset: the sounds; those of its ``train`` train.
        val: int64, clips that validate.
    """

    levels: Levels
    batches: SoundBatches

    def __init__(
        self,
        fabric: Any,
        config: AudioRunConfig,
        model: nn.Module,
        dataset: AudioDataset,
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
            ),
            len(dataset.train),
            labels=dataset.labels,
            classes=dataset.classes,
            val=val,
        )
        self.dataset, self._config = dataset, config

    def prepare(self, statistics: Any = None) -> dict[str, Any]:
        """Make the features of all clips, and what gives batches.

        Args:
            statistics: of the features, as a run has recorded them; None: of the training clips.

        Returns:
            The statistics.
        """
        config, dataset = self._config, self.dataset
        features = features_of(dataset, config.features).to(self.device)
        self.levels, found = normalized_features(dataset, features, statistics)
        self.batches = SoundBatches(
            dataset,
            config.train,
            features,
            self.levels,
            dtype=self.dtype,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            augmentation=config.augment,
            balanced=config.balanced,
        )
        return found

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Features ``[b, 1, 32, 32]`` of clips that were changed at random, and their labels."""
        return self.batches(step)

    def logits(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits of some clips, unchanged."""

        def inputs(rows: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(self.levels[rows])

        return model_logits(self.model, inputs, indices, self.config.batch_size)

    def summarize(self, logits: NDArray[np.float64], indices: NDArray[np.int64]) -> dict[str, Any]:
        """What logits are worth, of all clips and of each speaker's."""
        return super().summarize(logits, indices) | by_speaker(self.dataset, logits, indices)


def by_speaker(
    dataset: AudioDataset, logits: NDArray[np.float64], indices: NDArray[np.int64]
) -> dict[str, Any]:
    """How often the largest logit is the label's, for each speaker of some clips.

    Returns:
        ``num_speakers`` and, of up to 100 speakers, ``per_speaker``: accuracy by name. Empty where
        nothing says who speaks.
    """
    if dataset.speakers is None:
        return {}
    whose = np.array([dataset.speakers[n] for n in indices])
    right = likeliest(logits) == dataset.labels[indices]
    names = sorted(set(whose.tolist()))
    found: dict[str, Any] = {"num_speakers": len(names)}
    if len(names) <= _MOST_SPEAKERS:
        found["per_speaker"] = {name: float(right[whose == name].mean()) for name in names}
    return found


def split_training(
    config: AudioRunConfig, dataset: AudioDataset
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The clips that train and those that validate, both ascending.

    Those that validate are drawn, where the data set does not say which.

    Raises:
        ValueError: fewer than two classes, or nothing to validate.
    """
    if dataset.num_classes < 2:
        raise ValueError(
            f"{dataset.name}: sounds must be of at least 2 classes, got {dataset.num_classes}: a "
            "folder has one subfolder for each class, by its name"
        )
    if dataset.val is not None:
        return dataset.train, dataset.val
    train, val = draw_validation(
        dataset.labels, dataset.train, config.val_fraction, config.split_seed
    )
    if not len(val):
        raise ValueError(
            f"{dataset.name}: no class has two training clips, so that one could validate"
        )
    return train, val


def features_of(dataset: AudioDataset, config: FeatureConfig) -> LogMel:
    """What makes features of a data set's clips, without statistics."""
    return LogMel(dataset.rate, dataset.samples.shape[1], config.scale)


def normalized_features(
    dataset: AudioDataset, features: LogMel, statistics: Any
) -> tuple[Levels, dict[str, Any]]:
    """Features of all clips, normalised, and the statistics by which they are.

    Args:
        dataset: the sounds.
        features: takes the statistics.
        statistics: as a run has recorded them; None: those of the training clips.
    """
    levels = clip_features(dataset, features)
    found = statistics_of(levels, dataset.train) if statistics is None else statistics
    features.normalize_with(found)
    mean, std = (part.cpu().numpy()[:, None] for part in (features.mean, features.std))
    levels -= mean
    levels /= std
    return levels, found


def train_audio(
    config: AudioRunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    dataset: AudioDataset | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train, select on validation, measure the test clips once.

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
        `polygraph.train.supervised.classification_summary`, with `by_speaker`), ``parameters``,
        ``seconds``, ``seconds_per_epoch``, ``split``, ``split_hash`` and what the run was.

    Raises:
        ValueError: the data are bad, or do not fit the model.
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss that is not finite, a full disk, no memory.
    """
    dataset = open_audio(config.data) if dataset is None else dataset
    remember(config.data.kind, config.data.path, config.data.cache_dir)
    train, val = split_training(config, dataset)
    as_images: Any = dataset  # of one channel: that, size and classes are all that is looked at
    config = replace(config, model=fit_to_images(_as_images(config), as_images).model)
    dataset = replace(dataset, train=train)
    return run_supervised(
        config,
        Path(folder),
        lambda fabric: AudioTask(fabric, config, build_network(_as_images(config)), dataset, val),
        kind="audio",
        dataset=dataset,
        identity={"split_hash": rows_sha256(train, val, dataset.test)},
        meta={
            "family": family_of(config.model),
            "split": dataset.split,
            "rate": dataset.rate,
            "samples": dataset.samples.shape[1],
            "classes": list(dataset.classes),
        },
        parts={"val": val, "test": dataset.test},
        about=(
            f"{dataset.name}: {len(dataset):,} clips of {dataset.samples.shape[1]:,} samples at "
            f"{dataset.rate:,} Hz, {dataset.num_classes} classes, split {dataset.split}: "
            f"{len(train):,} train, {len(val):,} validate, {len(dataset.test):,} test"
        ),
        resume=resume,
        say=say,
        prepare=_prepare,
    )


def _prepare(task: AudioTask, trainer: Trainer, meta: dict[str, Any]) -> None:
    """Make the features, and note their statistics in all that describes the run.

    A run that goes on has the statistics that it began with: another machine may round its own to
    other numbers.

    Raises:
        CheckpointError: those of its checkpoint are damaged.
    """
    last, recorded = trainer.folder / LAST, None
    if last.is_file():
        try:
            recorded = read_meta(last)["statistics"]
            LogMel(task.dataset.rate, task.dataset.samples.shape[1]).normalize_with(recorded)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{last}: not of a classifier of sounds: {error}") from error
    meta["statistics"] = trainer.meta["statistics"] = task.prepare(recorded)


def _as_images(config: AudioRunConfig) -> ImagesRunConfig:
    """The part of the run that a classifier of images has, too."""
    return ImagesRunConfig(config.model, train=config.train, preset=config.preset)


def describe_result(result: dict[str, Any]) -> str:
    """What `train_audio` reached, in a line."""
    test, val = result["test"], result["val"]
    top = f" ({test['top5_accuracy']:.1%} among the first 5)" if "top5_accuracy" in test else ""
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: "
        f"{test['accuracy']:.1%} of {test['num_samples']:,} test clips right{top}"
        f"{describe_nonfinite(test)}, loss {test['loss']:.3f} (split {result['split']}, "
        f"validation {val['accuracy']:.1%})"
    )
