"""What a training run is told: steps, batch, optimiser, schedule, seeds.

The learning rate and the sampled indices depend on (configuration, step) alone. Nothing has to be
remembered to go on after a crash, and every model of a comparison sees the same meshes at the same
rates.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph._checks import check_numbers

# Fields that do not say what is trained: a run may be resumed with other values.
_FREE_FIELDS = (
    "accelerator",
    "checkpoint_every",
    "eval_every",
    "log_every",
    "num_threads",
    "progress",
    "tensorboard",
)
_OF_ANY_SIZE = ("steps", "epochs", "seed", "eval_every", "checkpoint_every", "log_every")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. The defaults are the published recipe for mesh autoencoders.

    Attributes:
        steps: optimiser steps; when given it wins over ``epochs``.
        epochs: passes over the training set.
        batch_size: samples per step over all processes together.
        learning_rate: Adam's rate at the first step.
        schedule: ``published`` (times ``lr_decay`` after every epoch), ``cosine`` or ``linear`` (to
            zero at the last step) or ``constant``.
        lr_decay: factor per epoch of the published schedule.
        weight_decay: L2 penalty inside Adam, as published.
        grad_clip: largest norm of the gradient; None for no limit (published).
        seed: initialisation and sampling.
        eval_every: steps between validations; default one epoch, but at most 100 times per run.
        checkpoint_every: steps between checkpoints; default as ``eval_every``.
        log_every: steps between lines of the log.
        num_threads: threads for CPU operators; None leaves torch's choice.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        precision: ``32-true``, ``64-true`` or ``bf16-mixed``.
        progress: show a progress bar; None shows it on a terminal only.
        tensorboard: also write TensorBoard events (needs the package tensorboard).
    """

    steps: int | None = None
    epochs: int = 300
    batch_size: int = 16
    learning_rate: float = 1e-3
    schedule: Literal["published", "cosine", "linear", "constant"] = "published"
    lr_decay: float = 0.99
    weight_decay: float = 5e-5
    grad_clip: float | None = None
    seed: int = 0
    eval_every: int | None = None
    checkpoint_every: int | None = None
    log_every: int = 20
    num_threads: int | None = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true"
    progress: bool | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        at_least_one = ("epochs", "batch_size", "log_every")
        for name in (*at_least_one, "steps", "eval_every", "checkpoint_every", "num_threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"train: {name} must be at least 1, got {value!r}")
        for name in ("learning_rate", "lr_decay", "grad_clip"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"train: {name} must be positive and finite, got {value!r}")
        if self.lr_decay > 2:
            raise ValueError(f"train: lr_decay must be at most 2, got {self.lr_decay!r}")
        if not (_is_number(self.weight_decay) and 0 <= self.weight_decay < math.inf):
            raise ValueError(f"train: weight_decay must be 0 or more, got {self.weight_decay!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ValueError(f"train: seed must be in [0, 2^63), got {self.seed!r}")
        check_numbers("train", self, _OF_ANY_SIZE)

    def total_steps(self, num_samples: int) -> int:
        """Optimiser steps of the whole run on a training set of ``num_samples``."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * num_samples / self.batch_size))

    def length(self) -> dict[str, int]:
        """What the run's length is given by: steps or epochs."""
        return {"epochs": self.epochs} if self.steps is None else {"steps": self.steps}

    def epoch(self, step: int, num_samples: int) -> int:
        """Completed passes over the training set before ``step`` (0-based)."""
        return step * self.batch_size // num_samples

    def eval_interval(self, num_samples: int) -> int:
        """Steps between validations."""
        if self.eval_every is not None:
            return self.eval_every
        epoch = math.ceil(num_samples / self.batch_size)
        return max(epoch, math.ceil(self.total_steps(num_samples) / 100))

    def learning_rate_at(self, step: int, num_samples: int) -> float:
        """Learning rate of ``step`` (0-based)."""
        if self.schedule == "published":
            return self.learning_rate * float(self.lr_decay ** self.epoch(step, num_samples))
        if self.schedule == "cosine":
            done = step / self.total_steps(num_samples)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "linear":
            return self.learning_rate * (1 - step / self.total_steps(num_samples))
        return self.learning_rate

    def semantics(self) -> dict[str, Any]:
        """The fields that decide about the weights, for comparing a run with its checkpoint.

        The published schedule at a given step does not depend on the number of steps, so such a run
        may be prolonged.
        """
        fields = {k: v for k, v in asdict(self).items() if k not in _FREE_FIELDS}
        for name in ("steps", "epochs"):
            del fields[name]
        if self.schedule in ("cosine", "linear"):
            fields["length"] = self.length()
        return fields


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sample_indices(seed: int, num_samples: int, batch_size: int, step: int) -> NDArray[np.int64]:
    """Positions in the training set of the batch of ``step``: a pure function of its arguments.

    The training set is read as an endless sequence of passes, each in its own random order (one
    permutation per seed and epoch); step t takes the positions t*B to (t+1)*B of that sequence. So
    all batches are full, every sample is used equally often, and a set smaller than a batch works.

    Args:
        seed: seed of the run.
        num_samples: size of the training set.
        batch_size: B, over all processes.
        step: 0-based.

    Returns:
        int64 [B] with entries in [0, num_samples).
    """
    if num_samples < 1:
        raise ValueError(
            f"train: the training set must hold at least one sample, got {num_samples}"
        )
    position = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epoch, offset = position // num_samples, position % num_samples
    indices = np.empty(batch_size, dtype=np.int64)
    for number in np.unique(epoch):
        order = _permutation(seed, int(number), num_samples)
        chosen = epoch == number
        indices[chosen] = order[offset[chosen]]
    return indices


_permutations: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """Order of one epoch. The last two are kept: consecutive steps need the same ones."""
    key = (seed, epoch, size)
    if key not in _permutations:
        while len(_permutations) >= 2:
            _permutations.pop(next(iter(_permutations)))
        _permutations[key] = np.random.default_rng([seed, epoch]).permutation(size)
    return _permutations[key]


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch, numpy and random for one step: noise is a function of (seed, step, rank)."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(2)
    if torch.accelerator.is_available():
        torch.manual_seed(int(state[0]))
    else:  # of a device that is not there, manual_seed remembers who asked: a millisecond
        torch.default_generator.manual_seed(int(state[0]))
    np.random.seed(int(state[0]))  # noqa: NPY002 - third-party code still draws from the global one
    random.seed(int(state[1]))


def config_hash(value: Any) -> str:
    """SHA-256 of a configuration (dataclass or plain data), whatever the order of its keys."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
