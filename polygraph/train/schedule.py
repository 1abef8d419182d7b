"""Learning rates by name: what a step's rate is, and what the plateau remembers.

All schedules but ``plateau`` are functions of (configuration, step): nothing has to be remembered
to go on after a crash. One-cycle and plateau are PyTorch's own; the others are one line each and
equal PyTorch's to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from polygraph._checks import check_choice
from polygraph.train.optimizer import (
    OptimizerConfig,
    check_belongs,
    check_counts,
    check_flags,
    check_ranges,
    is_number,
)

# setting -> the schedules that it is for; published's lr_decay may stand in any configuration
_BELONGS: dict[str, tuple[str, ...]] = {
    "milestones": ("multistep",),
    "lr_factor": ("multistep", "plateau"),
    "patience": ("plateau",),
    "min_learning_rate": ("cosine", "linear", "plateau"),
    "onecycle_rise": ("onecycle",),
    "cycle_momentum": ("onecycle",),
}


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(OptimizerConfig):
    """How long a run is, and its learning rates; a part of `polygraph.train.config.TrainConfig`.

    An epoch is a pass over the training set: step t (0-based) of batches of B out of N samples is
    at epoch t B / N, which need not be whole.

    Attributes:
        steps: optimiser steps; when given it wins over ``epochs``.
        epochs: passes over the training set.
        batch_size: samples per step over all processes together.
        schedule: ``published`` (times ``lr_decay`` after every epoch), ``cosine`` (half a wave) or
            ``linear``, both to ``min_learning_rate`` after the last step, ``constant``,
            ``multistep`` (times ``lr_factor`` at each of ``milestones``), ``plateau`` (times
            ``lr_factor`` when the validated score has not improved for longer than ``patience``) or
            ``onecycle`` (Smith and Topin 2018: from 1/25 of the rate up to it, and down to 4e-6 of
            it, along half waves).
        lr_decay: factor per epoch of the published schedule.
        milestones: of multistep, epochs in rising order, such as [40, 60, 80, 100].
        lr_factor: of multistep and plateau, in (0, 1).
        patience: of plateau, validations in a row without an improvement by 1e-4 of the best score
            that are let pass. A validation is an epoch, unless ``eval_every`` says otherwise.
        min_learning_rate: where cosine and linear end, and below which plateau does not go.
        warmup_epochs: epochs over which a factor rises linearly to 1, which multiplies any schedule
            but one-cycle, whose own epochs count from the first step (Goyal et al. 2017).
        onecycle_rise: share of the steps of one-cycle in which the rate rises, in (0, 1).
        cycle_momentum: with one-cycle, SGD's ``momentum`` or Adam's ``beta1`` goes from 0.95 to
            0.85 while the rate rises, and back.
    """

    steps: int | None = None
    epochs: int = 300
    batch_size: int = 16
    schedule: str = "published"
    lr_decay: float = 0.99
    milestones: tuple[float, ...] = ()
    lr_factor: float = 0.1
    patience: int = 10
    min_learning_rate: float = 0.0
    warmup_epochs: float = 0.0
    onecycle_rise: float = 0.3
    cycle_momentum: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot train, or that the schedule would not look at."""
        super().__post_init__()
        check_counts(self, ("steps", "epochs", "batch_size"))
        check_choice("train", "schedule", self.schedule, SCHEDULES)
        object.__setattr__(self, "milestones", _checked_milestones(self.milestones))
        check_ranges(self, ("lr_decay",), low=0, low_open=True)
        if self.lr_decay > 2:
            raise ValueError(f"train: lr_decay must be at most 2, got {self.lr_decay!r}")
        check_ranges(self, ("lr_factor", "onecycle_rise"), low=0, high=1, low_open=True)
        check_ranges(self, ("min_learning_rate", "warmup_epochs"), low=0)
        check_flags(self, ("cycle_momentum",))
        check_counts(self, ("patience",), low=0)
        check_belongs(self, "schedule", _BELONGS)
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("train: milestones must name at least one epoch for multistep, got []")
        if self.schedule == "onecycle" and self.warmup_epochs:
            raise ValueError(
                "train: onecycle has its own warm-up (onecycle_rise), got warmup_epochs "
                f"{self.warmup_epochs}"
            )
        self._check_rates()

    def _check_rates(self) -> None:
        """Refuse settings of the optimizer and the schedule that do not go together."""
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"train: min_learning_rate must be at most learning_rate, {self.learning_rate}, "
                f"got {self.min_learning_rate}"
            )
        name = "momentum" if self.optimizer == "sgd" else "beta1"
        if self.schedule == "onecycle" and self.cycle_momentum and getattr(self, name) != 0.9:
            raise ValueError(
                f"train: {name} goes from 0.95 to 0.85 and back with cycle_momentum, got "
                f"{getattr(self, name)}"
            )

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

    def learning_rate_at(self, step: int, num_samples: int) -> float:
        """Learning rate of ``step`` (0-based), warm-up included.

        Raises:
            ValueError: the schedule is ``plateau`` or ``onecycle``: ask a `Schedule`.
        """
        if self.schedule not in _RATES:
            raise ValueError(
                f"train: the rate of schedule {self.schedule} is its Schedule's to say"
            )
        rate = _RATES[self.schedule](self, step, num_samples)
        return rate * warmup_at(self, step, num_samples)


def _checked_milestones(values: Any) -> tuple[float, ...]:
    """Rising, positive, finite epochs as a tuple of floats."""
    good = isinstance(values, Sequence) and not isinstance(values, str)
    good = good and all(is_number(v) and 0 < v < math.inf for v in values)
    if not good or any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError(f"train: milestones must be positive epochs that rise, got {values!r}")
    return tuple(float(v) for v in values)


# ---- functions of (configuration, step) ----


def _published(config: ScheduleConfig, step: int, num_samples: int) -> float:
    return config.learning_rate * float(config.lr_decay ** config.epoch(step, num_samples))


def _cosine(config: ScheduleConfig, step: int, num_samples: int) -> float:
    done, low = step / config.total_steps(num_samples), config.min_learning_rate
    return low + (config.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * done))


def _linear(config: ScheduleConfig, step: int, num_samples: int) -> float:
    done, low = step / config.total_steps(num_samples), config.min_learning_rate
    return low + (config.learning_rate - low) * (1 - done)


def _constant(config: ScheduleConfig, step: int, num_samples: int) -> float:
    return config.learning_rate


def _multistep(config: ScheduleConfig, step: int, num_samples: int) -> float:
    seen = step * config.batch_size
    passed = sum(seen >= milestone * num_samples for milestone in config.milestones)
    return config.learning_rate * float(config.lr_factor**passed)


_RATES: dict[str, Callable[[ScheduleConfig, int, int], float]] = {
    "published": _published,
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "multistep": _multistep,
}
SCHEDULES = (*_RATES, "plateau", "onecycle")
DEAD = 0.01  #: of the first rate; below it hardly anything is learned
TO_THE_END = ("cosine", "linear", "onecycle")  #: those for which the number of steps matters


def warmup_at(config: ScheduleConfig, step: int, num_samples: int) -> float:
    """The factor of ``step`` (0-based) that warms up: (step + 1) / steps of warm-up, at most 1."""
    steps = config.warmup_epochs * num_samples / config.batch_size
    return 1.0 if step + 1 >= steps else (step + 1) / steps


def dead_from(config: ScheduleConfig, num_samples: int, total: int) -> int | None:
    """The first of a run's steps at which the rate is below 1 % of its start, long before the end.

    None where it stays above, where that is within the last twentieth, for schedules that fall to
    the last step by design, and for plateau, whose rates are not known before.
    """
    if config.schedule not in ("published", "multistep"):
        return None
    low, high = 0, total  # the rate falls: the first step below, by bisection
    while low < high:
        middle = (low + high) // 2
        if _RATES[config.schedule](config, middle, num_samples) < DEAD * config.learning_rate:
            high = middle
        else:
            low = middle + 1
    return low if low < 0.95 * total else None


def decay_of(config: ScheduleConfig) -> str:
    """How published and multistep fall, in words."""
    if config.schedule == "published":
        return f"times {config.lr_decay:g} after every epoch"
    epochs = ", ".join(f"{epoch:g}" for epoch in config.milestones)
    return f"times {config.lr_factor:g} at epochs {epochs}"


# ---- a run's schedule ----


class Schedule:
    """The learning rate of every step of a run, set in its optimizers.

    PyTorch's schedulers act on an optimizer of their own without parameters to train: one rate for
    all optimizers of a task, each of which takes it times the ``rate_scale`` of its groups.

    Args:
        config: of the run.
        num_samples: size of the training set.

    Raises:
        ValueError: one-cycle rises in no more than one step.
    """

    def __init__(self, config: ScheduleConfig, num_samples: int) -> None:
        self.config, self.num_samples = config, num_samples
        own = torch.optim.SGD([torch.zeros(1)], lr=config.learning_rate, momentum=0.9)
        self._group: dict[str, Any] = own.param_groups[0]
        self._plateau: ReduceLROnPlateau | None = None
        self._cycle: OneCycleLR | None = None
        if config.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(
                own,
                factor=config.lr_factor,
                patience=config.patience,
                min_lr=config.min_learning_rate,
            )
        if config.schedule == "onecycle":
            self._cycle = _one_cycle(own, config, config.total_steps(num_samples))

    def rate(self, step: int) -> float:
        """Learning rate of ``step`` (0-based); of plateau, with what was validated so far."""
        if self._plateau is not None:
            return float(self._group["lr"]) * warmup_at(self.config, step, self.num_samples)
        if self._cycle is not None:
            self._move(step)
            return float(self._group["lr"])
        return self.config.learning_rate_at(step, self.num_samples)

    def momentum(self, step: int) -> float | None:
        """What one-cycle makes of SGD's momentum or Adam's beta1 at ``step``; None elsewhere."""
        if self._cycle is None or not self.config.cycle_momentum:
            return None
        self._move(step)
        return float(self._group["momentum"])

    def _move(self, step: int) -> None:
        assert self._cycle is not None
        self._cycle.last_epoch = step - 1  # its values are a function of this number alone
        self._cycle.step()

    def apply(self, optimizers: Iterable[Optimizer], step: int) -> None:
        """Set rate and momentum of ``step`` in all groups."""
        rate, momentum = self.rate(step), self.momentum(step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("rate_scale", 1.0)
                if momentum is not None and "betas" in group:
                    group["betas"] = (momentum, group["betas"][1])
                elif momentum is not None:
                    group["momentum"] = momentum

    @property
    def alive(self) -> bool:
        """Whether the plateau's rate is at least 1 % of its start."""
        return float(self._group["lr"]) >= DEAD * self.config.learning_rate

    def validated(self, score: float) -> None:
        """Tell the score of a validation, of which smaller is better."""
        if self._plateau is not None:
            self._plateau.step(score)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold: of plateau the rate, the best score and the patience."""
        if self._plateau is None:
            return {}
        return {
            "rate": float(self._group["lr"]),
            "best": float(self._plateau.best),
            "num_bad_epochs": self._plateau.num_bad_epochs,
        }

    def load_state_dict(self, state: Any) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it is not the state of this schedule.
        """
        if self._plateau is None:
            return
        names = {"rate", "best", "num_bad_epochs"}
        if not isinstance(state, dict) or set(state) != names:
            raise ValueError(f"the plateau has {sorted(names)}, got {str(state)[:200]}")
        rate, best, bad = state["rate"], state["best"], state["num_bad_epochs"]
        good = is_number(rate) and 0 < rate <= self.config.learning_rate
        good = good and is_number(best) and not math.isnan(best)
        if not good or type(bad) is not int or not 0 <= bad <= self.config.patience:
            raise ValueError(f"no rate, best score and patience of this run: {str(state)[:200]}")
        self._group["lr"] = float(rate)
        self._plateau.best, self._plateau.num_bad_epochs = float(best), bad


def _one_cycle(own: Optimizer, config: ScheduleConfig, total: int) -> OneCycleLR:
    """PyTorch's one-cycle over ``total`` steps, with its defaults."""
    if config.onecycle_rise * total <= 1:
        raise ValueError(
            f"train: onecycle_rise must be more than one step, got {config.onecycle_rise} of "
            f"{total} steps"
        )
    cycle = OneCycleLR(
        own,
        max_lr=config.learning_rate,
        total_steps=total,
        pct_start=config.onecycle_rise,
        cycle_momentum=config.cycle_momentum,
    )
    own.step()  # PyTorch wants to see one before the schedule moves
    return cycle
