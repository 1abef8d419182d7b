"""What a training run is told: steps, batch, optimiser, schedule, seeds.

The sampled indices and all learning rates but the plateau's depend on (configuration, step) alone.
Nothing has to be remembered to go on after a crash, and every model of a comparison sees the same
meshes at the same rates.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph._checks import check_choice, check_numbers
from polygraph.train.optimizer import check_counts
from polygraph.train.schedule import TO_THE_END, ScheduleConfig

ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
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
# Settings that every run has had. The others count only where they differ from their defaults, so
# that runs and hashes of earlier versions stay what they are.
_OLD_FIELDS = (
    *("learning_rate", "weight_decay", "grad_clip"),
    *("batch_size", "schedule", "lr_decay"),
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ScheduleConfig):
    """Settings of a training run. The defaults are the published recipe for mesh autoencoders.

    Those of the optimizer are in `polygraph.train.optimizer.OptimizerConfig`, the run's length and
    its learning rates in `polygraph.train.schedule.ScheduleConfig`.

    Attributes:
        seed: initialisation and sampling.
        eval_every: steps between validations; default one epoch, but at most 100 times per run.
        checkpoint_every: steps between checkpoints; default as ``eval_every``.
        log_every: steps between lines of the log.
        num_threads: threads for CPU operators; None leaves torch's choice.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        precision: ``32-true``, ``64-true``, ``bf16-mixed`` or ``16-mixed``. The mixed ones keep
            weights in float32 and compute products and convolutions in the half type; 16-mixed
            scales the loss so that small gradients are not lost, and needs CUDA.
        progress: show a progress bar; None shows it on a terminal only.
        tensorboard: also write TensorBoard events (needs the package tensorboard).
    """

    seed: int = 0
    eval_every: int | None = None
    checkpoint_every: int | None = None
    log_every: int = 20
    num_threads: int | None = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    progress: bool | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        super().__post_init__()
        check_counts(self, ("eval_every", "checkpoint_every", "log_every", "num_threads"))
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ValueError(f"train: seed must be in [0, 2^63), got {self.seed!r}")
        check_choice("train", "accelerator", self.accelerator, ACCELERATORS)
        check_choice("train", "precision", self.precision, PRECISIONS)
        check_numbers("train", self, _OF_ANY_SIZE)

    def eval_interval(self, num_samples: int) -> int:
        """Steps between validations."""
        if self.eval_every is not None:
            return self.eval_every
        epoch = math.ceil(num_samples / self.batch_size)
        return max(epoch, math.ceil(self.total_steps(num_samples) / 100))

    def semantics(self) -> dict[str, Any]:
        """The fields that decide about the weights, for comparing a run with its checkpoint.

        The published schedule at a given step does not depend on the number of steps, so such a run
        may be prolonged. When there is a validation matters to the plateau alone.
        """
        settings = {k: v for k, v in asdict(self).items() if k not in _FREE_FIELDS}
        for field in fields(ScheduleConfig):
            as_ever = field.name not in _OLD_FIELDS and settings[field.name] == field.default
            if as_ever or field.name in ("steps", "epochs"):
                del settings[field.name]
        if self.schedule == "plateau":
            settings["eval_every"] = self.eval_every
        if self.schedule in TO_THE_END or (self.schedule == "plateau" and not self.eval_every):
            settings["length"] = self.length()
        return settings


def sample_indices(
    seed: int, num_samples: int, batch_size: int, step: int, *, drop_last: bool = False
) -> NDArray[np.int64]:
    """Positions in the training set of the batch of ``step``: a pure function of its arguments.

    The training set is read as an endless sequence of passes, each in its own random order (one
    permutation per seed and epoch); step t takes the positions t*B to (t+1)*B of that sequence. So
    all batches are full, every sample is used equally often, and a set smaller than a batch works.

    Args:
        seed: seed of the run.
        num_samples: size of the training set.
        batch_size: B, over all processes.
        step: 0-based.
        drop_last: end a pass where no full batch is left, and begin the next.

    Returns:
        int64 [B] with entries in [0, num_samples).

    Raises:
        ValueError: there are no samples, or with ``drop_last`` fewer than a batch.
    """
    return sample_batch(seed, num_samples, batch_size, step, drop_last=drop_last)[0]


def sample_batch(
    seed: int, num_samples: int, batch_size: int, step: int, *, drop_last: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`sample_indices`, and for each of them its epoch (0-based), both int64 [B]."""
    least = batch_size if drop_last else 1
    if num_samples < least:
        raise ValueError(
            f"train: the training set must hold at least {'one sample' if least == 1 else least}, "
            f"got {num_samples}"
        )
    position = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    size = num_samples // batch_size * batch_size if drop_last else num_samples
    epoch, offset = position // size, position % size
    indices = np.empty(batch_size, dtype=np.int64)
    for number in np.unique(epoch):
        order = _permutation(seed, int(number), num_samples)
        chosen = epoch == number
        indices[chosen] = order[offset[chosen]]
    return indices, epoch


_permutations: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """Order of one epoch. The last two are kept: consecutive steps need the same ones."""
    key = (seed, epoch, size)
    if key not in _permutations:
        while len(_permutations) >= 2:
            _permutations.pop(next(iter(_permutations)))
        _permutations[key] = np.random.default_rng([seed, epoch]).permutation(size)
    return _permutations[key]


def torch_seed(seed: int, step: int, rank: int = 0) -> int:
    """What `seed_step` gives torch's own generator."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(2)[0])


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
