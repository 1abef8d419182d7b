"""Training of the small classifier that scores are taken through, once per data set.

Cross-entropy, Adam from 1e-3 along a cosine to 0, batches of 128. Weights are kept in a folder and
belong to the content of the data set, its split and the settings: the same question is answered
from the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from polygraph.data.images import ImageDataset
from polygraph.models.images.lenet import LeNet, LeNetConfig
from polygraph.models.state import load_state
from polygraph.train.batches import LabelledImageBatches
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from polygraph.train.config import TrainConfig
from polygraph.train.optimizer import make_optimizer
from polygraph.train.supervised import ClassificationLoss, fit

_FORMAT = 1  # of the files; a change of the network or its training makes it another number


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier, ready to be an extractor.

    Attributes:
        model: in evaluation mode, on the device asked for; its label is "LeNet, <data set>".
        accuracy: share of the test images that it gets right: how far its scores can be trusted.
        path: where its weights are.
        trained: whether it was trained now, and not read.
    """

    model: LeNet
    accuracy: float
    path: Path
    trained: bool

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.model.label}: test accuracy {self.accuracy:.4f}"


def train_classifier(
    dataset: ImageDataset,
    folder: str | Path,
    steps: int = 1500,
    seed: int = 0,
    *,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> TrainedClassifier:
    """Train a LeNet on the data set, or read the one that was trained before.

    The weights are a function of the data set, `steps`, `seed` and `batch_size`, and on one
    machine and number of threads the same bit for bit. torch's global generator is left as it was.

    Args:
        dataset: labelled images; `dataset.train` trains, `dataset.test` measures.
        folder: where the weights are kept, as ``lenet-<key>.safetensors``; made if it is missing.
        steps: of the optimizer.
        seed: of the weights and of the batches.
        batch_size: images per step; no more than there are are taken.
        device: where it is trained, and where the model is returned.

    Raises:
        ValueError: the data set has no labels or fewer than two classes, or a number is out of
            range.
        RuntimeError: the loss is not finite, or no feature ever is above 0; nothing is kept.
        OSError: the weights cannot be written.
    """
    for name, value, low in (("steps", steps, 1), ("seed", seed, 0), ("batch_size", batch_size, 1)):
        if value < low:
            raise ValueError(f"train_classifier: {name} must be at least {low}, got {value}")
    if dataset.labels is None:
        raise ValueError(
            f"train_classifier: {dataset.name} must have labels, got none: score it through "
            "Inception-v3 (polygraph.models.load_inception)"
        )
    config = LeNetConfig(dataset.channels, dataset.size, dataset.num_classes)
    identity = {
        "format": _FORMAT,
        "content_hash": dataset.content_hash,
        "split_hash": dataset.split_hash,
        "model": json.loads(json.dumps(asdict(config))),
        "steps": steps,
        "seed": seed,
        "batch_size": batch_size,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(folder) / f"lenet-{key}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU alone, where the weights are made
        model = LeNet(config, f"LeNet, {dataset.name}")
    accuracy = _load(path, model, identity)
    trained = accuracy is None
    model.to(device)
    if accuracy is None:
        _train(model, dataset, steps, seed, batch_size)
        _set_scale(model, dataset)
        accuracy = measure_accuracy(model, dataset)
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {"dataset": dataset.name, "identity": identity, "accuracy": accuracy}
        save_checkpoint(path, {"model": model.state_dict()}, meta)
    return TrainedClassifier(model.eval().requires_grad_(False), accuracy, path, trained)


def _load(path: Path, model: LeNet, identity: dict[str, Any]) -> float | None:
    """Fill the model from the file and return its accuracy; None where there is no good file."""
    if not path.exists():
        return None
    try:
        state, meta = load_checkpoint(path)
        if meta.get("identity") != identity:
            raise CheckpointError(f"{path}: the weights of another classifier")
        accuracy = float(meta["accuracy"])
        if not 0 <= accuracy <= 1:
            raise CheckpointError(f"{path}: accuracy must be in [0, 1], got {accuracy}")
        load_state(model, state["model"])
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"{path}: unusable, training again ({error})", stacklevel=3)
        return None
    return accuracy


def _train(model: LeNet, dataset: ImageDataset, steps: int, seed: int, batch_size: int) -> None:
    size = min(batch_size, len(dataset.train))
    config = TrainConfig(steps=steps, batch_size=size, seed=seed, weight_decay=0.0)
    optimizer = make_optimizer(config, model, fused=False)  # of the bits of earlier versions
    fit(
        ClassificationLoss(model),
        LabelledImageBatches(
            dataset, config, device=next(model.parameters()).device, drop_last=True
        ),
        optimizer,
        steps,
        schedule=CosineAnnealingLR(optimizer, steps),
        label=model.label,
    )


@torch.no_grad()
def _set_scale(model: LeNet, dataset: ImageDataset, batch_size: int = 500) -> None:
    """Make the mean square of the features over the training images 1."""
    total = 0.0
    for start in range(0, len(dataset.train), batch_size):
        rows = dataset.train[start : start + batch_size]
        images = dataset.batch(rows).to(model.feature_scale.device)
        total += float(model.extract(images)[0].double().square().mean(1).sum())
    mean_square = total / len(dataset.train)
    if not (mean_square > 0 and math.isfinite(mean_square)):
        raise RuntimeError(
            f"{model.label}: the features must be finite and not all zero, got the mean square "
            f"{mean_square}"
        )
    model.feature_scale.div_(math.sqrt(mean_square))


@torch.no_grad()
def measure_accuracy(model: LeNet, dataset: ImageDataset, batch_size: int = 500) -> float:
    """Share of the test images whose largest logit is the label's.

    Args:
        model: on any device.
        dataset: labelled images.
        batch_size: images at a time.
    """
    if dataset.labels is None:
        raise ValueError(f"measure_accuracy: {dataset.name} must have labels, got none")
    device = next(model.parameters()).device
    right = 0
    for start in range(0, len(dataset.test), batch_size):
        rows = dataset.test[start : start + batch_size]
        found = model(dataset.batch(rows).to(device)).argmax(1).cpu().numpy()
        right += int((found == dataset.labels[rows]).sum())
    return right / len(dataset.test)
