"""What the loop needs to know of embeddings: batches, the loss of a head, what validates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polygraph.data.identities import IdentityDataset
from polygraph.data.images import ImageDataset, to_float
from polygraph.data.pairs import PairList
from polygraph.metrics.verification import best_threshold, pair_scores, roc
from polygraph.tasks.verify.config import VerifyRunConfig
from polygraph.tasks.verify.embedder import Embedder
from polygraph.tasks.verify.protocol import (
    all_pairs_summary,
    identification_summary,
    pairs_summary,
)
from polygraph.train.batches import LabelledImageBatches, PointBatches
from polygraph.train.distributed import gather_rows, shard
from polygraph.train.orthogonality import network_penalty, orthogonality_penalty
from polygraph.train.supervised import SupervisedTask, model_logits, validation_score

IntArray = NDArray[np.int64]
Floats = NDArray[np.float64]


class Learner(nn.Module):
    """What is trained: an embedder and its head.

    Args:
        embedder: maps samples to embeddings ``[B, D]``.
        head: maps embeddings and labels to the loss and logits.
    """

    def __init__(self, embedder: Embedder, head: nn.Module) -> None:
        super().__init__()
        self.embedder, self.head = embedder, head


class VerificationLoss(nn.Module):
    """The loss of a head, and the share of training samples whose identity it tells.

    Args:
        learner: the embedder and its head.
        orthogonality: factor of a penalty, see `polygraph.train.supervised.ClassificationLoss`;
            0: none.
        on: what is penalised: ``weights``, the head's; ``templates`` or ``probes``, of the head's
            logits without margin.
        unit: whether rows are divided by their lengths first.

    Attributes:
        names: of the scalars that come out.

    Call it with samples and labels int64 ``[B]``; it returns two scalars, with a penalty three.
    """

    def __init__(
        self,
        learner: Learner,
        orthogonality: float = 0.0,
        on: str = "weights",
        unit: bool = False,
    ) -> None:
        super().__init__()
        self.learner = learner
        self.orthogonality, self.on, self.unit = orthogonality, on, unit
        self.names = ("loss", "accuracy", *(("orthogonality",) if orthogonality > 0 else ()))

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """The loss and the accuracy of a batch, and the penalty."""
        head: Any = self.learner.head
        of_inputs = self.orthogonality > 0 and self.on != "weights"
        if of_inputs:
            inputs = inputs.detach().requires_grad_()
        embeddings = self.learner.embedder(inputs)
        loss, logits = head(embeddings, labels)
        accuracy = (logits.detach().argmax(-1) == labels).float().mean()
        if self.orthogonality == 0:
            return loss, accuracy
        if of_inputs:
            logits = head.logits(embeddings)
            penalty = network_penalty(head, self.on, logits, inputs, unit=self.unit)
        else:
            penalty = orthogonality_penalty(head.rows(), unit=self.unit)
        return loss + self.orthogonality * penalty, accuracy, penalty.detach()


class VerifyTask(SupervisedTask):
    """An embedder with its head, their optimizer, the data.

    Weights are chosen by the equal error rate of validation pairs; of equal ones, which are common
    where few identities validate, by how far genuine and impostor scores lie apart.

    Args:
        fabric: launched Fabric.
        config: the run's; ``config.model`` is not looked at.
        learner: the embedder and its head, on the CPU.
        dataset: samples of identities, in parts that share none.
        pairs: ``val`` and ``test``: the pairs that are measured.

    Raises:
        ValueError: a process would get fewer than two samples of a batch.
    """

    score = "val_score"

    def __init__(
        self,
        fabric: Any,
        config: VerifyRunConfig,
        learner: Learner,
        dataset: IdentityDataset,
        pairs: dict[str, PairList],
    ) -> None:
        train = config.train
        if train.batch_size < 2 * fabric.world_size:
            raise ValueError(
                "train: batch_size must be at least 2 for each process, whose statistics BatchNorm "
                f"takes, got {train.batch_size} for {fabric.world_size}"
            )
        loss = VerificationLoss(
            learner, config.orthogonality, config.orthogonality_on, config.orthogonality_unit
        )
        super().__init__(fabric, train, learner, loss, len(dataset.train), loss.names)
        self.embedder, self.run = learner.embedder, config
        self.dataset, self.pairs = dataset, pairs
        self.batches = self._batches()

    def _batches(self) -> LabelledImageBatches | PointBatches:
        """Training batches with the training identities numbered from 0 on."""
        fabric, config, dataset = self.fabric, self.run, with_training_labels(self.dataset)
        common: dict[str, Any] = {
            "device": self.device,
            "dtype": self.dtype,
            "rank": fabric.global_rank,
            "world": fabric.world_size,
            "balanced": config.balanced,
        }
        if isinstance(dataset, ImageDataset):
            common["augmentation"] = config.augment
            return LabelledImageBatches(dataset, config.train, **common)
        return PointBatches(
            dataset, config.train, scale=config.point_scale, shift=config.point_shift, **common
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Samples, changed at random, and the numbers of their identities in training."""
        return self.batches(step)

    def embeddings(self, indices: IntArray) -> Floats:
        """Embeddings ``[len(indices), D]`` of some samples, shared among the processes."""
        mine = shard(indices, self.fabric)
        rows = None
        if len(mine):
            rows = embed_samples(
                self.embedder, self.dataset, mine, self.config.batch_size, self.run.mirror
            )
        return gather_rows(rows, len(indices), self.fabric)

    def _scored(self, part: str) -> tuple[IntArray, Floats, Floats]:
        """Samples of a part, their embeddings, and the similarities of its pairs."""
        rows, pairs = getattr(self.dataset, part), self.pairs[part]
        embeddings = self.embeddings(rows)
        first, second = (np.searchsorted(rows, index) for index in (pairs.first, pairs.second))
        return rows, embeddings, pair_scores(embeddings, first, second)

    def validate(self) -> dict[str, float]:
        """Equal error rate, area under the curve, separation and score of the validation pairs."""
        scores, same = self._scored("val")[2], self.pairs["val"].same
        curve, apart = roc(scores, same), separation(scores, same)
        chosen = validation_score(curve.eer, math.exp(-max(apart, -50.0)), len(same))["val_score"]
        return {
            "val_eer": curve.eer,
            "val_auc": curve.auc,
            "val_separation": apart,
            "val_score": chosen,
        }

    def measure(self, part: str) -> dict[str, Any]:
        """Everything about a part, ``val`` or ``test``, the same on every process."""
        assert self.dataset.labels is not None  # it has identities
        _, others, tried = self._scored("val")
        threshold = best_threshold(tried, self.pairs["val"].same)
        rows, embeddings, scores = self._scored(part)
        labels, pairs = self.dataset.labels[rows], self.pairs[part]
        found: dict[str, Any] = {
            "num_samples": len(rows),
            "num_identities": len(np.unique(labels)),
            "threshold": threshold,
            "accuracy_at_threshold": float(((scores >= threshold) == pairs.same).mean()),
            "pairs": pairs_summary(scores, pairs, self.dataset.labels, self.run.resamples),
        }
        if part == "test":
            found["all_pairs"] = all_pairs_summary(embeddings, labels)
            found["identification"] = identification_summary(embeddings, labels, others)
        return found


def separation(scores: Floats, same: NDArray[np.bool_]) -> float:
    """Difference of the means of genuine and impostor scores, in their root mean deviation (d')."""
    one, other = scores[same], scores[~same]
    spread = math.sqrt((one.var() + other.var()) / 2)
    return float((one.mean() - other.mean()) / max(spread, 1e-12))


def with_training_labels(dataset: IdentityDataset) -> IdentityDataset:
    """The set whose training identities are numbered from 0 on; others' samples have label 0."""
    assert dataset.labels is not None
    known = np.unique(dataset.labels[dataset.train])
    labels = np.zeros(len(dataset.labels), np.int64)
    labels[dataset.train] = np.searchsorted(known, dataset.labels[dataset.train])
    return replace(dataset, labels=labels)


def embed_samples(
    embedder: nn.Module,
    dataset: IdentityDataset,
    indices: IntArray,
    batch_size: int,
    mirror: bool = False,
) -> Floats:
    """Embeddings ``[len(indices), D]`` by a network in eval mode; its mode is put back.

    Args:
        embedder: maps samples to embeddings.
        dataset: of images or of clouds.
        indices: int64, samples.
        batch_size: samples at a time.
        mirror: add the embeddings of the mirrored images.
    """

    def inputs(rows: IntArray) -> Tensor:
        if isinstance(dataset, ImageDataset):
            return to_float(torch.from_numpy(dataset.images[rows]))
        return torch.from_numpy(dataset.points[rows])

    found = model_logits(embedder, inputs, indices, batch_size)
    if mirror:
        found = found + model_logits(embedder, lambda r: inputs(r).flip(-1), indices, batch_size)
    return found
