"""Where a run stands, and what of a checkpoint must fit before a run goes on from it.

Everything here is read from a file that may be damaged or of another run: what does not fit is a
`CheckpointError` that says what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from polygraph.train.checkpoint import CheckpointError
from polygraph.train.schedule import Schedule


@dataclass
class Progress:
    """Where a run stands; stored in every checkpoint.

    Attributes:
        step: completed steps.
        best_step: step of the best validation so far, or None.
        best_score: its score.
        seconds: time spent in training steps, over all starts of the run.
    """

    step: int = 0
    best_step: int | None = None
    best_score: float = math.inf
    seconds: float = 0.0

    def columns(self) -> dict[str, Any]:
        """What the result of every run says of it: steps, seconds, milliseconds a step."""
        return {
            "steps": self.step,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "step_ms": 1000 * self.seconds / max(1, self.step),
        }


def read_progress(values: Any, path: Path) -> Progress:
    """The progress in a checkpoint, if it is one."""
    try:
        progress = Progress(**values)
        step, best = progress.step, progress.best_step
        good = (
            type(step) is int
            and step >= 0
            and (best is None or (type(best) is int and 0 <= best <= step))
            and type(progress.best_score) in (int, float)
            and type(progress.seconds) in (int, float)
            and 0 <= progress.seconds < math.inf
        )
    except TypeError:
        good = False
    if not good:
        raise CheckpointError(f"{path}: progress is none of a run: {str(values)[:200]}")
    return progress


def read_log_sums(values: Any, path: Path) -> tuple[dict[str, float], int]:
    """What the next line of the log has added up so far; nothing in earlier versions' files."""
    if values is None:
        return {}, 0
    try:
        sums, count = {str(k): float(v) for k, v in values["sums"].items()}, values["count"]
        good = type(count) is int and count >= 0
    except (KeyError, TypeError, ValueError, AttributeError):
        good = False
    if not good:
        raise CheckpointError(f"{path}: log must have sums and a count, got {str(values)[:200]}")
    return sums, count


def fill_optimizer(optimizer: Optimizer, stored: Any, name: str) -> None:
    """Put the state of a checkpoint into an optimizer, which keeps its own settings.

    Raises:
        CheckpointError: it is the state of other parameters.
    """
    own = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        groups, state = stored["param_groups"], stored["state"]
        if [group["params"] for group in groups] != [g["params"] for g in own["param_groups"]]:
            raise ValueError("it has other parameters")
        for number, values in state.items():
            shape = parameters[number].shape
            for key, value in values.items():
                if isinstance(value, Tensor) and not (
                    value.is_floating_point() and value.shape in (shape, torch.Size([]))
                ):
                    raise ValueError(
                        f"{key} of parameter {number} must be floating with shape {list(shape)}, "
                        f"got {value.dtype} {list(value.shape)}"
                    )
        optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})
        match_layout(optimizer)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{name}: not the state of this optimizer ({error})") from error


def match_layout(optimizer: Optimizer) -> None:
    """Give what an optimizer remembers of a weight that weight's strides, in place.

    Checkpoints hold contiguous tensors. Fused optimizers walk the memory of a weight and of its
    moments side by side: with weights in channels-last they would mix up the moments, unnoticed.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.shape != weight.shape:
                continue
            if value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def fill_schedule(schedule: Schedule, stored: Any, path: Path) -> None:
    """Put the state of a checkpoint into a schedule.

    Raises:
        CheckpointError: it is the state of another schedule.
    """
    try:
        schedule.load_state_dict(stored)
    except ValueError as error:
        raise CheckpointError(f"{path}: schedule: {error}") from error


def fill_scaler(precision: Any, stored: Any, path: Path) -> None:
    """Put the state of a checkpoint into the loss scaler of Fabric's precision, if it has one.

    Raises:
        CheckpointError: it is not the state of a loss scaler.
    """
    own = precision.state_dict()
    if not own:
        return
    good = isinstance(stored, dict) and stored.keys() == own.keys()
    if not good or not all(type(stored[key]) is type(value) for key, value in own.items()):
        raise CheckpointError(f"{path}: no state of a loss scaler: {str(stored)[:200]}")
    precision.load_state_dict(stored)


def check_identity(wanted: dict[str, Any], found: dict[str, Any], path: Path) -> None:
    """Compare what a run is with what a checkpoint says it is.

    Raises:
        CheckpointError: names the first setting that differs, with both values.
    """
    for key in sorted({*wanted, *found}):
        ours, theirs = wanted.get(key), found.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            check_identity(
                {f"{key}.{k}": v for k, v in ours.items()},
                {f"{key}.{k}": v for k, v in theirs.items()},
                path,
            )
        elif _as_json(ours) != _as_json(theirs):
            why = ""
            if key.startswith("train.length"):
                why = (
                    ": its learning rate falls to the last step, so it cannot be prolonged (runs "
                    "with schedule published, constant or multistep can)"
                )
            raise CheckpointError(
                f"{path} belongs to another run: {key} is {theirs!r} there and {ours!r} here{why}"
            )


def _as_json(value: Any) -> Any:
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value
