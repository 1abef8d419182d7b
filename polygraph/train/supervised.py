"""Supervised training: one network, one loss, one optimizer; classifiers above all.

A long run is a `SupervisedTask` in a `polygraph.train.loop.Trainer`, with checkpoints and a log. A
small network that is done within a minute goes through `fit`, which writes nothing.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polygraph.data.store import progress
from polygraph.train.checkpoint import load_weights, seal, write_json
from polygraph.train.config import TrainConfig
from polygraph.train.distributed import gather_rows, shard
from polygraph.train.loop import BEST, LAST, NotFinite, Progress, Task
from polygraph.train.optimizer import descend, make_optimizer
from polygraph.train.orthogonality import check_orthogonality, network_penalty

RESULT = "result.json"
_CHECK_EVERY = 100  # steps between looks at the loss, each of which waits for the device


class ClassificationLoss(nn.Module):
    """The loss of a classifier: cross-entropy with label smoothing, and the share of right answers.

    Of samples, or of all points of samples. A penalty may be added that makes what the classes look
    for orthogonal: see `polygraph.train.orthogonality`; and of a model of sparse codes how far the
    codes are from being the inputs, which learns its dictionaries.

    Fabric wraps a module of which only scalars come out: what a wrapped module returns is rounded
    to float32, also where everything is computed in float64.

    Args:
        model: maps inputs to logits ``[B, K]``, or of points ``[B, N, K]``.
        smoothing: share of the target that is not the label's alone, in [0, 1).
        spread: the classes over which that share is spread evenly: ``others``, all but the label's
            (Wang et al., ACM TOG 2019, the authors' code), or ``all``, the label's among them
            (Szegedy et al., CVPR 2016, section 7, and PyTorch).
        orthogonality: factor of the penalty; 0: none.
        on: what is penalised: ``weights``, the rows of the last linear layer; ``templates``, the
            gradients of the logits, at the cost of a backward pass for each class; ``probes``, the
            same estimated from two, together with the templates' size.
        unit: whether rows are divided by their lengths first; not of ``probes``.
        reconstruction: factor of the mean over samples of what
            `polygraph.models.SparseCodingClassifier.with_reconstruction` returns; 0: none, and any
            model.

    Attributes:
        names: of the scalars that come out.
    """

    def __init__(
        self,
        model: nn.Module,
        smoothing: float = 0.0,
        spread: Literal["others", "all"] = "others",
        *,
        orthogonality: float = 0.0,
        on: str = "weights",
        unit: bool = False,
        reconstruction: float = 0.0,
    ) -> None:
        super().__init__()
        if spread not in ("others", "all"):
            raise ValueError(f"ClassificationLoss: spread must be others or all, got {spread!r}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"ClassificationLoss: smoothing must be in [0, 1), got {smoothing}")
        check_orthogonality("ClassificationLoss", orthogonality, on, unit)
        if not 0 <= reconstruction < math.inf:
            raise ValueError(
                "ClassificationLoss: reconstruction must be finite and at least 0, got "
                f"{reconstruction}"
            )
        if reconstruction > 0 and not hasattr(model, "with_reconstruction"):
            raise ValueError(
                "ClassificationLoss: reconstruction needs a model of sparse codes, such as "
                f"SparseCodingClassifier, got {type(model).__name__}"
            )
        self.model, self.smoothing, self.spread = model, smoothing, spread
        self.orthogonality, self.on, self.unit = orthogonality, on, unit
        self.reconstruction = reconstruction
        self.names = ("loss", "accuracy", *(("orthogonality",) if orthogonality > 0 else ()))
        self.names += ("reconstruction",) if reconstruction > 0 else ()

    def forward(self, inputs: Tensor, labels: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """The loss and the accuracy of a batch, two scalars; with penalties also these.

        A penalty, times its factor, is a part of the loss.

        Args:
            inputs: as the model takes them, B samples.
            labels: int64 ``[B]``, or ``[B, N]``, in [0, K).
            *more: what the model takes behind the inputs.
        """
        if self.orthogonality > 0 and self.on != "weights":
            inputs = inputs.detach().requires_grad_()
        distance = None
        if self.reconstruction > 0:
            found, distance = self.model.with_reconstruction(inputs, *more)  # type: ignore[operator]
        else:
            found = self.model(inputs, *more)
        logits = found.flatten(0, -2)
        labels = labels.flatten()
        classes, share = logits.shape[-1], self.smoothing
        if self.spread == "others" and share > 0:  # PyTorch spreads its share over all
            if share * classes > classes - 1:
                raise ValueError(
                    "ClassificationLoss: smoothing over the others must be at most (K - 1) / K "
                    f"with K = {classes} classes, got {share}"
                )
            share = share * classes / (classes - 1)
        loss = functional.cross_entropy(logits, labels, label_smoothing=share)
        accuracy = (logits.detach().argmax(-1) == labels).float().mean()
        penalties = []
        if self.orthogonality > 0:
            penalty = network_penalty(self.model, self.on, found, inputs, unit=self.unit)
            loss, penalties = loss + self.orthogonality * penalty, [penalty.detach()]
        if distance is not None:
            penalty = distance.mean()
            loss, penalties = loss + self.reconstruction * penalty, [*penalties, penalty.detach()]
        return loss, accuracy, *penalties


class SupervisedTask(Task):
    """A network, its loss, its optimizer. A descendant gives batches and validates.

    Args:
        fabric: launched Fabric.
        config: the loop's settings, the optimizer's among them.
        model: the network, on the CPU; what checkpoints hold.
        loss: maps a batch to scalars, through the model, which it holds.
        num_samples: size of the training set.
        logged: names of the scalars, ``loss`` first.

    Attributes:
        device: where batches are wanted, and of which dtype (``dtype``).
    """

    def __init__(
        self,
        fabric: Any,
        config: TrainConfig,
        model: nn.Module,
        loss: nn.Module,
        num_samples: int,
        logged: tuple[str, ...] = ("loss",),
    ) -> None:
        self.fabric, self.config, self.model = fabric, config, model
        self.num_samples, self.logged = num_samples, logged
        optimizer = make_optimizer(config, model)
        self.modules, self.optimizers = {"model": model}, {"model": optimizer}
        self._loss, self._optimizer = fabric.setup(loss, optimizer)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @abstractmethod
    def batch(self, step: int) -> tuple[Tensor, ...]:
        """What the loss takes in ``step`` (0-based): this process's part, on the device."""

    def training_step(self, step: int) -> dict[str, Tensor]:
        """Forward, backward, clipping, optimizer."""
        values = self._loss(*self.batch(step))
        values = (values,) if isinstance(values, Tensor) else values
        config = self.config
        descend(
            self.fabric,
            self._loss,
            self._optimizer,
            values[0],
            config.grad_clip,
            config.clip_value,
        )
        return dict(zip(self.logged, values, strict=True))

    def load_best(self, progress: Progress, folder: Path) -> None:
        """Put the weights that did best on the validation into the model; without any, the last."""
        self.fabric.barrier()  # the first process has written what all of them read
        load_weights(self.model, folder / (LAST if progress.best_step is None else BEST))


class ClassifierTask(SupervisedTask):
    """A classifier. A descendant gives batches of inputs and labels, and logits of any samples.

    Weights are chosen by the validation error; of equal ones, which are common where few samples
    validate, by the loss.

    Args:
        fabric: launched Fabric.
        config: the loop's settings.
        model: maps inputs to logits ``[B, K]``, on the CPU.
        loss: of the classifier, with its smoothing.
        num_samples: size of the training set.
        labels: int64 ``[S]``, of all samples, those that validate and test among them.
        classes: names of the K classes.
        val: int64, the samples that validate.
    """

    score = "val_score"

    def __init__(
        self,
        fabric: Any,
        config: TrainConfig,
        model: nn.Module,
        loss: ClassificationLoss,
        num_samples: int,
        *,
        labels: NDArray[np.int64],
        classes: tuple[str, ...],
        val: NDArray[np.int64],
    ) -> None:
        super().__init__(fabric, config, model, loss, num_samples, loss.names)
        self.labels, self.classes, self.val = labels, classes, val

    @abstractmethod
    def logits(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits ``[len(indices), K]`` of some samples, from the model in eval mode."""

    def validate(self) -> dict[str, float]:
        """Error, loss and score on the samples that validate."""
        found = self.measure(self.val)
        return validation_score(1 - found["accuracy"], found["loss"], len(self.val))

    def measure(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        """`classification_summary` of some samples, shared among the processes."""
        mine = shard(indices, self.fabric)
        rows = self.logits(mine) if len(mine) else None
        return self.summarize(gather_rows(rows, len(indices), self.fabric), indices)

    def summarize(self, logits: NDArray[np.float64], indices: NDArray[np.int64]) -> dict[str, Any]:
        """What logits ``[len(indices), K]`` of some samples are worth; descendants add to it."""
        return classification_summary(logits, self.labels[indices], self.classes)


def validation_score(error: float, loss: float, count: int) -> dict[str, float]:
    """What decides about weights: the error, of equal ones the loss.

    Errors of ``count`` samples differ by 1 / count or not at all: the loss adds half of that at
    most.
    """
    tie = loss / (1 + loss) / (2 * count)
    return {"val_error": error, "val_loss": loss, "val_score": error + tie}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the mode is put back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def model_logits(
    model: nn.Module,
    inputs: Callable[[NDArray[np.int64]], Tensor],
    indices: NDArray[np.int64],
    batch_size: int,
) -> NDArray[np.float64]:
    """Logits ``[len(indices), K]`` of a model in eval mode; its mode is put back.

    Args:
        model: maps inputs to logits.
        inputs: gives the inputs of some samples, on any device.
        indices: int64, the samples; at least one.
        batch_size: samples at a time.
    """
    parameter = next(model.parameters())
    rows = []
    with evaluating(model):
        for start in range(0, len(indices), batch_size):
            x = inputs(indices[start : start + batch_size])
            rows.append(model(x.to(parameter.device, parameter.dtype)).double().cpu())
    return np.asarray(torch.cat(rows).numpy(), dtype=np.float64)


def classification_summary(
    logits: NDArray[np.float64], labels: NDArray[np.int64], classes: tuple[str, ...]
) -> dict[str, Any]:
    """How often the largest logit is the label's.

    Args:
        logits: ``[S, K]``.
        labels: ``[S]``, in ``[0, K)``.
        classes: K names.

    Returns:
        ``num_samples``, ``num_nonfinite`` (of them, those with a logit that is not finite: the
        network overflows there; they are wrong everywhere here), ``accuracy`` (of samples),
        ``mean_class_accuracy`` (the mean of the accuracy of each class that occurs), ``loss`` (mean
        cross-entropy without smoothing) and ``per_class``: the accuracy of each class that occurs,
        by name. Of more than five classes also ``top5_accuracy``: how often the label is among the
        five largest logits, of equal ones those of the first classes. ``confusion``: integers
        ``[K][K]``, how many samples of a class (rows) were taken for which (columns), without those
        that are not finite.
    """
    count = len(classes)
    found = likeliest(logits)
    told = found >= 0
    right = found == labels
    scores = torch.from_numpy(logits)
    loss = float(functional.cross_entropy(scores, torch.from_numpy(labels)))
    per_class = {classes[n]: float(right[labels == n].mean()) for n in np.unique(labels)}
    return {
        "num_samples": len(labels),
        "num_nonfinite": int((~told).sum()),
        "accuracy": float(right.mean()),
        "mean_class_accuracy": float(np.mean(list(per_class.values()))),
        "loss": loss,
        "per_class": per_class,
        **({"top5_accuracy": _top_accuracy(logits, labels, 5)} if count > 5 else {}),
        "confusion": np.bincount((labels * count + found)[told], minlength=count**2)
        .reshape(count, count)
        .tolist(),
    }


def likeliest(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class of the largest of ``scores [..., K]``; -1 where one of them is not finite."""
    found: NDArray[np.int64] = np.where(np.isfinite(scores).all(-1), scores.argmax(-1), -1)
    return found


def predicted(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """`likeliest`, where every sample has a class.

    Raises:
        ValueError: a score is not finite.
    """
    found = likeliest(scores)
    if (found < 0).any():
        raise ValueError(
            f"predict: the network's output is not finite for {(found < 0).sum():,} of "
            f"{found.size:,} samples: it overflows there, as polynomials can"
        )
    return found


def _top_accuracy(logits: NDArray[np.float64], labels: NDArray[np.int64], k: int) -> float:
    """How often a label is among the k largest logits; never where one is not finite."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    right = (best == labels[:, None]).any(1) & np.isfinite(logits).all(1)
    return float(right.mean())


def describe_nonfinite(summary: dict[str, Any]) -> str:
    """The words that follow a number of samples, where the network overflows for some of them."""
    count = summary.get("num_nonfinite", 0)  # results of before have none
    return f" (output not finite for {count:,})" if count else ""


def write_result(
    task: Any, progress: Progress, folder: Path, parts: dict[str, Any], meta: dict[str, Any]
) -> dict[str, Any]:
    """Measure the best weights and write ``result.json``.

    Args:
        task: a `SupervisedTask` with ``measure``, which gives a summary of some samples.
        progress: of its training.
        folder: of the run.
        parts: name -> samples: ``val``, and ``test``, which nothing has looked at before.
        meta: what the run was.

    Returns:
        What the file holds, the same on every process: of each part its summary, steps, seconds,
        parameters, processes and ``meta``.
    """
    task.load_best(progress, folder)
    reached = progress.columns()
    result = {
        **reached,
        **{name: task.measure(samples) for name, samples in parts.items()},
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "seconds_per_epoch": reached["step_ms"] / 1000 * task.num_samples / task.config.batch_size,
        "processes": task.fabric.world_size,
        **meta,
    }
    result = seal(result)
    if task.fabric.global_rank == 0:
        write_json(folder / RESULT, result)
    return result


def fit(
    loss: nn.Module,
    batch: Callable[[int], tuple[Tensor, ...]],
    optimizer: Optimizer,
    steps: int,
    *,
    schedule: LRScheduler | None = None,
    label: str = "network",
) -> None:
    """Train in memory, in one process: for what is done within a minute and kept by its caller.

    Args:
        loss: maps a batch to a scalar, or to several of which the first is descended on.
        batch: gives what the loss takes in a step (0-based), on its device.
        optimizer: of the parameters.
        steps: of the optimizer.
        schedule: moved on after each step; None for a constant rate.
        label: of the network, for the progress bar and messages.

    Raises:
        NotFinite: the loss is not finite; looked at every 100 steps and after the last.
    """
    for step in progress(range(steps), f"training {label}", steps):
        values = loss(*batch(step))
        value = values if isinstance(values, Tensor) else values[0]
        if step % _CHECK_EVERY == _CHECK_EVERY - 1 or step == steps - 1:
            if not math.isfinite(value.item()):  # NaN stays: no need to wait for every step
                raise NotFinite(f"{label}: the loss is {value.item()} at step {step + 1}")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimizer.step()
        if schedule is not None:
            schedule.step()
