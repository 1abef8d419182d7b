"""Training of point cloud networks: what the loop needs to know of them, and a run's folder.

Recipe (Wang et al., ACM TOG 2019, and the authors' code): cross-entropy with 0.2 of the target
spread over the other classes, every cloud scaled by 2/3 to 3/2 and shifted by up to 0.2 along each
axis, batches of 32 for 250 epochs, Adam 1e-3 with weight decay 1e-4 on a cosine. The paper's own
optimizer, SGD from 0.1 to 0.001 with momentum 0.9, is ``--config points-sgd``. The validation
shapes select the weights; the test shapes are measured once.
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

from polygraph._checks import check_numbers
from polygraph._names import unknown_name
from polygraph.data.known import remember
from polygraph.data.shapes import ShapeDataConfig, ShapeDataset, open_shapes
from polygraph.models.points.dgcnn import (
    DGCNNClassifier,
    DGCNNClassifierConfig,
    DGCNNSegmenter,
    DGCNNSegmenterConfig,
)
from polygraph.tasks.points.segment import (
    SegmentTask,
    check_batch_size,
    describe_segmentation,
    fit_segmenter,
)
from polygraph.train.batches import PointBatches
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.frame import run_supervised
from polygraph.train.log import Say
from polygraph.train.optimizer import check_flags
from polygraph.train.orthogonality import check_orthogonality, orthogonality_settings
from polygraph.train.supervised import ClassificationLoss, ClassifierTask, model_logits

CLASSIFY, SEGMENT = TASKS = ("classify", "segment")
RECIPE: dict[str, Any] = {
    "epochs": 250,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 1e-4,
}  #: where the published recipe differs from the defaults of `TrainConfig`


def points_train_config(**settings: Any) -> TrainConfig:
    """The published recipe, with other ``settings`` of `TrainConfig` where they are given."""
    return TrainConfig(**{**RECIPE, **settings})


@dataclass(frozen=True)
class PointsRunConfig:
    """Everything that decides about a point cloud network.

    Attributes:
        task: "classify", one class for each cloud, or "segment", one part for each point.
        model: neighbours, channels, dropout; of the task's network.
        data: labelled clouds, and which of them validate.
        train: steps, batch, optimiser, schedule, seed.
        label_smoothing: share of the target that is spread evenly over the other classes, 0 to 0.5.
        scale: largest factor by which a training cloud is scaled along an axis; the smallest is its
            inverse; 1 leaves sizes alone.
        shift: largest distance by which a training cloud is moved along an axis.
        orthogonality: factor of a penalty that makes the classes' templates orthogonal; 0: none.
        orthogonality_on: ``weights``, ``templates`` or ``probes``: see
            `polygraph.train.supervised.ClassificationLoss`; of segmenters ``weights`` alone.
        orthogonality_unit: of rows of unit length.
        balanced: whether every class of clouds comes as often as the others, in every batch.
    """

    model: DGCNNClassifierConfig | DGCNNSegmenterConfig = field(
        default_factory=DGCNNClassifierConfig
    )
    data: ShapeDataConfig = field(default_factory=ShapeDataConfig)
    train: TrainConfig = field(default_factory=points_train_config)
    label_smoothing: float = 0.2
    scale: float = 1.5
    shift: float = 0.2
    task: str = CLASSIFY
    orthogonality: float = 0.0
    orthogonality_on: str = "weights"
    orthogonality_unit: bool = False
    balanced: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_numbers("train", self)
        check_flags(self, ("balanced",))
        if type(self.model) is not model_config(self.task):
            raise ValueError(
                f"model: must be {model_config(self.task).__name__} for task {self.task!r}, got "
                f"{type(self.model).__name__}"
            )
        if not 0 <= self.label_smoothing <= 0.5:
            raise ValueError(
                f"train: label_smoothing must be in [0, 0.5], got {self.label_smoothing}"
            )
        if not (self.scale >= 1 and math.isfinite(self.scale)):
            raise ValueError(f"train: scale must be finite and at least 1, got {self.scale}")
        if not (self.shift >= 0 and math.isfinite(self.shift)):
            raise ValueError(f"train: shift must be finite and 0 or more, got {self.shift}")
        check_orthogonality(
            "train", self.orthogonality, self.orthogonality_on, self.orthogonality_unit
        )
        if self.task == SEGMENT and self.orthogonality > 0 and self.orthogonality_on != "weights":
            raise ValueError(
                "train: orthogonality_on must be weights for task 'segment', whose points have no "
                f"templates of their own, got {self.orthogonality_on!r}"
            )
        if self.model.in_channels != 3:
            raise ValueError(
                f"model: in_channels must be 3, the coordinates, got {self.model.in_channels}"
            )

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights, besides the loop's settings and the clouds."""
        return {
            "model": asdict(self.model),
            **{name: getattr(self, name) for name in ("label_smoothing", "scale", "shift")},
            **self.options(),
        }

    def options(self) -> dict[str, Any]:
        """What decides about weights where it is asked for: nothing as before there was any."""
        balanced = {"balanced": True} if self.balanced else {}
        return balanced | orthogonality_settings(
            self.orthogonality, self.orthogonality_on, self.orthogonality_unit
        )

    def digest(self) -> str:
        """SHA-256 of what decides about the result, the same on every machine.

        Where the data lies does not count (its content has a hash of its own), nor what is only
        shown.
        """
        fields = asdict(self)
        del fields["data"]["path"], fields["data"]["built_in"]
        if self.task == CLASSIFY:  # as before there was another
            del fields["task"]
        for name in ("orthogonality", "orthogonality_on", "orthogonality_unit", "balanced"):
            del fields[name]
        fields |= self.options()
        fields["train"] = {**self.train.semantics(), "length": self.train.length()}
        return config_hash(fields)


def model_config(task: str) -> type[DGCNNClassifierConfig] | type[DGCNNSegmenterConfig]:
    """The configuration of the network of a task.

    Raises:
        ValueError: there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"train: {unknown_name('task', task, TASKS)}")
    return DGCNNClassifierConfig if task == CLASSIFY else DGCNNSegmenterConfig


class PointsTask(ClassifierTask):
    """A point cloud classifier, its optimizer, its data.

    Args:
        fabric: launched Fabric.
        config: the run's; ``config.model`` is not looked at.
        model: maps clouds ``[B, N, 3]`` to logits, on the CPU.
        dataset: the clouds.

    Raises:
        ValueError: a process would get fewer than two clouds of a batch.
    """

    def __init__(
        self, fabric: Any, config: PointsRunConfig, model: torch.nn.Module, dataset: ShapeDataset
    ) -> None:
        train = config.train
        check_batch_size(train, fabric)
        super().__init__(
            fabric,
            train,
            model,
            ClassificationLoss(
                model,
                config.label_smoothing,
                orthogonality=config.orthogonality,
                on=config.orthogonality_on,
                unit=config.orthogonality_unit,
            ),
            len(dataset.train),
            labels=dataset.labels,
            classes=dataset.classes,
            val=dataset.val,
        )
        self.dataset = dataset
        self.batches = PointBatches(
            dataset,
            train,
            device=self.device,
            dtype=self.dtype,
            scale=config.scale,
            shift=config.shift,
            balanced=config.balanced,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Clouds ``[b, N, 3]``, scaled and shifted, and their labels."""
        return self.batches(step)

    def logits(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """`class_logits` of some shapes."""
        return class_logits(self.model, self.dataset, indices, self.config.batch_size)


def class_logits(
    model: torch.nn.Module,
    dataset: ShapeDataset,
    indices: NDArray[np.int64],
    batch_size: int = 32,
) -> NDArray[np.float64]:
    """Logits ``[len(indices), classes]`` of a model in eval mode; its mode is put back."""

    def points(rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(dataset.points[rows])

    return model_logits(model, points, indices, batch_size)


def fit_to_data(config: PointsRunConfig, dataset: ShapeDataset) -> PointsRunConfig:
    """The same run with the data set's number of classes, or of parts.

    Raises:
        ValueError: the model is for another number of classes, or ``k`` exceeds the points of a
            cloud; or the data do not have what the task needs.
    """
    found, points = dataset.num_classes, dataset.points.shape[1]
    if config.model.k > points:
        raise ValueError(
            f"model: k must be at most {points}, the points of a cloud of {dataset.name}, got "
            f"{config.model.k}"
        )
    if isinstance(config.model, DGCNNSegmenterConfig):
        return replace(config, model=fit_segmenter(config.model, dataset))
    if found < 2:
        raise ValueError(f"{dataset.name}: label must name at least 2 classes, got {found}")
    if config.model.num_classes not in (None, found):
        raise ValueError(
            f"model: num_classes must be {found}, the number of classes of {dataset.name}, or "
            f"null, got {config.model.num_classes}"
        )
    return replace(config, model=replace(config.model, num_classes=found))


def describe_data(dataset: ShapeDataset) -> str:
    """What is trained on, in a line for people."""
    parts = "" if dataset.parts is None else f" of {len(dataset.parts.names)} parts"
    return (
        f"{dataset.name}: {len(dataset.points):,} clouds of {dataset.points.shape[1]:,} points, "
        f"{dataset.num_classes} classes{parts}: {len(dataset.train):,} train, {len(dataset.val):,} "
        f"validate, {len(dataset.test):,} test"
    )


def build_network(config: PointsRunConfig) -> DGCNNClassifier | DGCNNSegmenter:
    """A network initialised from the seed."""
    torch.manual_seed(config.train.seed)
    if isinstance(config.model, DGCNNSegmenterConfig):
        return DGCNNSegmenter(config.model)
    return DGCNNClassifier(config.model)


def train_points(
    config: PointsRunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    dataset: ShapeDataset | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train, select on validation, measure the test shapes once.

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
        `classification_summary`, or of `segmentation_summary`), ``parameters``,
        ``seconds``, ``seconds_per_epoch`` and what the run was.

    Raises:
        ValueError: the data are bad, or do not fit the model.
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss that is not finite, a full disk, no memory.
    """
    dataset = open_shapes(config.data) if dataset is None else dataset
    remember("points", config.data.path)
    config = fit_to_data(config, dataset)
    identity: dict[str, Any] = {"split_hash": dataset.split_hash}
    meta: dict[str, Any] = {"classes": list(dataset.classes), "origin": list(dataset.origin)}
    if dataset.parts is not None and isinstance(config.model, DGCNNSegmenterConfig):
        identity["parts_hash"] = dataset.parts.content_hash
        meta["parts"] = list(dataset.parts.names)
        meta["parts_of_class"] = dataset.parts.numbers()
    return run_supervised(
        config,
        Path(folder),
        lambda fabric: make_task(fabric, config, dataset),
        kind="points",
        dataset=dataset,
        identity=identity,
        meta=meta,
        parts={"val": dataset.val, "test": dataset.test},
        about=describe_data(dataset),
        resume=resume,
        say=say,
    )


def make_task(fabric: Any, config: PointsRunConfig, dataset: ShapeDataset) -> Any:
    """The task of a run whose model fits the data: `PointsTask` or `SegmentTask`."""
    model = build_network(config)
    if isinstance(model, DGCNNClassifier):
        return PointsTask(fabric, config, model, dataset)
    return SegmentTask(
        fabric,
        config.train,
        model,
        dataset,
        smoothing=config.label_smoothing,
        scale=config.scale,
        shift=config.shift,
        orthogonality=config.orthogonality,
        unit=config.orthogonality_unit,
        balanced=config.balanced,
    )


def describe_result(result: dict[str, Any]) -> str:
    """What `train_points` reached, in a line."""
    test, val = result["test"], result["val"]
    if "mean_iou" in test:
        return describe_segmentation(result)
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: "
        f"{test['accuracy']:.1%} of {test['num_samples']} test shapes right, "
        f"{test['mean_class_accuracy']:.1%} mean of {len(test['per_class'])} classes "
        f"(validation {val['accuracy']:.1%})"
    )
