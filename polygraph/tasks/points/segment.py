"""Training of segmenters of point clouds: their task, and how their answers are measured.

As of Wang et al., ACM TOG 2019, section 4.4, and Qi et al., CVPR 2017, section 5.2: the class of a
cloud is given to the network; the answer of a point is its largest logit among the parts of all
classes; the IoU of a cloud is the mean over the parts of its class, where a part that neither the
labels nor the answers have counts as 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from polygraph.data.shapes import ShapeDataset
from polygraph.models.points.dgcnn import DGCNNSegmenter, DGCNNSegmenterConfig
from polygraph.train.batches import PartBatches
from polygraph.train.config import TrainConfig
from polygraph.train.distributed import gather_rows, shard
from polygraph.train.supervised import (
    ClassificationLoss,
    SupervisedTask,
    evaluating,
    validation_score,
)

if TYPE_CHECKING:
    from polygraph.data.part_labels import PartLabels


def check_batch_size(train: TrainConfig, fabric: Any) -> None:
    """Refuse batches of which a process would get fewer than two clouds."""
    if train.batch_size // fabric.world_size < 2:
        raise ValueError(
            "train: batch_size must be at least 2 per process, whose statistics BatchNorm takes, "
            f"got {train.batch_size} for {fabric.world_size}"
        )


def parts_of(dataset: ShapeDataset) -> PartLabels:
    """The labels of points of a data set.

    Raises:
        ValueError: it has none.
    """
    if dataset.parts is None:
        raise ValueError(
            f"{dataset.name}: its points have no labels, which segmentation needs: the array part "
            "[S, N] of an archive, or parts from Python; of the built-in sets 'objects' has them"
        )
    return dataset.parts


def fit_segmenter(config: DGCNNSegmenterConfig, dataset: ShapeDataset) -> DGCNNSegmenterConfig:
    """The same network with the data set's numbers of parts and of classes.

    Raises:
        ValueError: the points have no labels, all the same, or of another number of parts; or the
            model is for another number of classes.
    """
    parts, classes = len(parts_of(dataset).names), dataset.num_classes
    if parts < 2:
        raise ValueError(f"{dataset.name}: part must name at least 2 parts, got {parts}")
    if config.num_parts not in (None, parts):
        raise ValueError(
            f"model: num_parts must be {parts}, the number of parts of {dataset.name}, or null, "
            f"got {config.num_parts}"
        )
    if config.num_categories not in (None, 0, classes):
        raise ValueError(
            f"model: num_categories must be {classes}, the number of classes of {dataset.name}, 0 "
            f"(the network is not told the class) or null, got {config.num_categories}"
        )
    categories = config.num_categories
    if categories is None:
        categories = classes if classes > 1 else 0
    return replace(config, num_parts=parts, num_categories=categories)


class SegmentTask(SupervisedTask):
    """A segmenter of point clouds, its optimizer, its data.

    Weights are chosen by the validation's mean IoU.

    Args:
        fabric: launched Fabric.
        config: the loop's settings.
        model: on the CPU.
        dataset: the clouds, with the labels of their points.
        smoothing: of labels, see `polygraph.tasks.points.training.PointsRunConfig`.
        scale: see there.
        shift: see there.
        orthogonality: see there; on the weights of the last layer.
        unit: whether these are divided by their lengths first.
        balanced: whether classes of clouds come equally often.

    Raises:
        ValueError: a process would get fewer than two clouds of a batch.
    """

    score = "val_score"

    def __init__(
        self,
        fabric: Any,
        config: TrainConfig,
        model: DGCNNSegmenter,
        dataset: ShapeDataset,
        *,
        smoothing: float,
        scale: float,
        shift: float,
        orthogonality: float = 0.0,
        unit: bool = False,
        balanced: bool = False,
    ) -> None:
        check_batch_size(config, fabric)
        loss = ClassificationLoss(model, smoothing, orthogonality=orthogonality, unit=unit)
        super().__init__(fabric, config, model, loss, len(dataset.train), loss.names)
        self.dataset, self.parts, self.segmenter = dataset, parts_of(dataset), model
        self.batches = PartBatches(
            dataset,
            config,
            device=self.device,
            dtype=self.dtype,
            scale=scale,
            shift=shift,
            balanced=balanced,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Clouds ``[b, N, 3]``, scaled and shifted, their parts, and their classes if wanted."""
        points, parts, classes = self.batches(step)
        return (points, parts, classes) if self.segmenter.num_categories else (points, parts)

    def validate(self) -> dict[str, float]:
        """Error (1 - mean IoU), loss and score on the samples that validate."""
        val = self.dataset.val
        found = self.measure(val)
        return validation_score(
            1 - found["mean_iou"], found["loss"], len(val) * self.dataset.points.shape[1]
        )

    def measure(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        """`segmentation_summary` of some samples, shared among the processes."""
        data = self.dataset
        mine = shard(indices, self.fabric)
        rows = None
        if len(mine):
            rows = answers(
                self.segmenter,
                data.points[mine],
                data.labels[mine],
                self.parts.labels[mine],
                self.config.batch_size,
            )
        found = gather_rows(rows, len(indices), self.fabric)
        return summarize(found, data, indices, self.parts.of_class)


def part_logits(
    model: DGCNNSegmenter,
    points: NDArray[np.float32],
    category: NDArray[np.int64] | None,
    batch_size: int,
) -> Iterator[Tensor]:
    """Logits float64 ``[b, N, P]`` of a model in eval mode, batch by batch, on the CPU.

    Args:
        model: its mode is put back.
        points: ``[B, N, 3]``.
        category: ``[B]``, looked at where the model takes it.
        batch_size: clouds at a time.
    """
    weight = next(model.parameters())
    with evaluating(model):
        for start in range(0, len(points), batch_size):
            rows = slice(start, start + batch_size)
            x = torch.from_numpy(points[rows]).to(weight.device, weight.dtype)
            kinds = None
            if model.num_categories and category is not None:
                kinds = torch.from_numpy(category[rows]).to(weight.device)
            yield model(x, kinds).double().cpu()


def answers(
    model: DGCNNSegmenter,
    points: NDArray[np.float32],
    category: NDArray[np.int64],
    parts: NDArray[np.int32],
    batch_size: int = 32,
) -> NDArray[np.float64]:
    """Of each cloud the mean cross-entropy of its points, then the answer of each: [B, 1 + N]."""
    rows, start = [], 0
    for logits in part_logits(model, points, category, batch_size):
        wanted = torch.from_numpy(parts[start : start + len(logits)]).long()
        loss = functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").mean(1)
        rows.append(torch.cat([loss[:, None], logits.argmax(-1).double()], 1))
        start += len(logits)
    return np.asarray(torch.cat(rows).numpy(), dtype=np.float64)


def summarize(
    rows: NDArray[np.float64],
    dataset: ShapeDataset,
    indices: NDArray[np.int64],
    of_class: NDArray[np.bool_],
) -> dict[str, Any]:
    """`segmentation_summary` of `answers` on some clouds, with the loss."""
    found = segmentation_summary(
        rows[:, 1:].astype(np.int64),
        parts_of(dataset).labels[indices],
        dataset.labels[indices],
        of_class,
        dataset.classes,
    )
    return {**found, "loss": float(rows[:, 0].mean())}


def segmentation_summary(
    found: NDArray[np.int64],
    parts: NDArray[Any],
    labels: NDArray[np.int64],
    of_class: NDArray[np.bool_],
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """How well the parts of clouds are found.

    Args:
        found: ``[S, N]``, the answers.
        parts: ``[S, N]``, the labels.
        labels: ``[S]``, classes of the clouds.
        of_class: ``[K, P]``, the parts of each class; each class that occurs has one or more.
        classes: K names.

    Returns:
        ``num_samples``; ``accuracy`` (of points); ``mean_iou`` (the mean over the clouds of each
        one's IoU, which is the mean over the parts of its class; one that is in neither counts as
        1); ``mean_class_iou`` (the mean of the means of the classes that occur) and ``per_class``:
        the mean IoU of each class that occurs, by name.
    """
    iou = np.empty(len(labels))
    for i, label in enumerate(labels):
        wanted = np.flatnonzero(of_class[label])[:, None]
        ours, theirs = found[i] == wanted, parts[i] == wanted
        union = (ours | theirs).sum(1)
        both = (ours & theirs).sum(1)
        iou[i] = np.where(union == 0, 1.0, both / np.maximum(union, 1)).mean()
    per_class = {classes[n]: float(iou[labels == n].mean()) for n in np.unique(labels)}
    return {
        "num_samples": len(labels),
        "accuracy": float((found == parts).mean()),
        "mean_iou": float(iou.mean()),
        "mean_class_iou": float(np.mean(list(per_class.values()))),
        "per_class": per_class,
    }


def describe_segmentation(result: dict[str, Any]) -> str:
    """What training reached, in a line."""
    test, val = result["test"], result["val"]
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: mean IoU "
        f"{test['mean_iou']:.1%} of {test['num_samples']} test shapes, "
        f"{test['mean_class_iou']:.1%} mean of {len(test['per_class'])} classes, "
        f"{test['accuracy']:.1%} of the points right (validation {val['mean_iou']:.1%})"
    )
