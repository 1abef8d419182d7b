"""The training loop: steps, log, validation, checkpoints, resume; nothing about meshes.

What is trained comes as a :class:`Task`. A run killed at any moment and resumed ends with the same
weights, bit for bit, as one that was never killed: learning rate, samples and noise are functions
of (configuration, step), the rest is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from polygraph.train.checkpoint import (
    CheckpointError,
    all_finite,
    fill_module,
    load_checkpoint,
    part_of,
    remove_temporaries,
    save_checkpoint,
)
from polygraph.train.config import TrainConfig, seed_step
from polygraph.train.distributed import same_buffers
from polygraph.train.lock import locked_folder
from polygraph.train.log import RunLog

LAST = "last.safetensors"
BEST = "best.safetensors"


class TrainingStopped(RuntimeError):
    """Training had to stop; the message says why and names the last good checkpoint."""


class Task(ABC):
    """What a loop trains. An adversarial pair is a task with two modules and two optimizers.

    Attributes:
        modules: what checkpoints hold, unwrapped, by name.
        optimizers: by name; the loop sets their learning rate (``rate_scale`` times the schedule)
            before every step.
        num_samples: size of the training set.
        score: name of the validated value that selects the best weights; smaller is better. None
            where no value does: ``best.safetensors`` is not written then.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    num_samples: int
    score: str | None = "val_loss"

    @abstractmethod
    def training_step(self, step: int) -> dict[str, Tensor]:
        """Do one step (0-based): batch, backward, optimizers. Returns scalars, ``loss`` too."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Measure on the validation set: the same numbers on every rank, ``score`` among them."""


def descend(
    fabric: Any, module: Any, optimizer: Any, loss: Tensor, grad_clip: float | None
) -> None:
    """One step down the gradient of a loss: what `Task.training_step` does with one optimizer.

    Args:
        fabric: launched Fabric.
        module: as Fabric wrapped it.
        optimizer: as Fabric wrapped it.
        loss: scalar.
        grad_clip: largest norm of the gradient, or None.
    """
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(loss)
    if grad_clip is not None:
        fabric.clip_gradients(
            module,
            optimizer,
            max_norm=grad_clip,
            error_if_nonfinite=False,  # the loop stops with its own message
        )
    optimizer.step()


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


class Trainer:
    """Runs a task to the end.

    Args:
        task: what to train.
        config: how.
        fabric: launched Fabric; the task's modules are already set up with it.
        folder: folder of the run: ``last.safetensors``, ``best.safetensors``, ``log.jsonl``,
            ``curve.csv``.
        meta: stored in every checkpoint (model and data configuration, hashes, versions).
        identity: what must be equal for a checkpoint to belong to this run; a difference stops a
            resume by name.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        fabric: Any,
        folder: str | Path,
        *,
        meta: dict[str, Any] | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        self.task, self.config, self.fabric = task, config, fabric
        self.folder = Path(folder)
        self.total = config.total_steps(task.num_samples)
        self.progress = Progress()
        self.identity = {"train": config.semantics(), **(identity or {})}
        self.meta = {**(meta or {}), "train": asdict(config), "identity": self.identity}
        self._losses: list[dict[str, Tensor]] = []
        self._sums: dict[str, float] = {}
        self._count = 0
        self._saved: int | None = None

    @property
    def _first(self) -> bool:
        return bool(self.fabric.global_rank == 0)

    def run(
        self,
        resume: bool = False,
        describe: Callable[[], None] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> Progress:
        """Train to the last step, from the last checkpoint when ``resume`` and there is one.

        Args:
            resume: go on where there is a checkpoint.
            prepare: called on every process when the folder is known to hold this run or none,
                for work that a refused run must not do.
            describe: called on the first process before the first step, to write what lies beside
                the checkpoints. What the folder holds is compared with this run before, so that
                nothing of another run is written over.

        Raises:
            CheckpointError: the folder holds a run and ``resume`` is False, or the run is another
                one.
            TrainingStopped: a loss or weight that is not finite, a full disk, no memory. The last
                checkpoint is good.
        """
        with self._locked():
            resumed = self._start(resume)
            if prepare is not None:
                prepare()
            return self._run(resumed, describe)

    def _run(self, resumed: bool, describe: Callable[[], None] | None) -> Progress:
        if describe is not None and self._first:
            describe()
        self._log = RunLog(
            self.folder,
            resume_step=self.progress.step if resumed else None,
            tensorboard=self.config.tensorboard,
            enabled=self._first,
        )
        try:
            if not resumed:
                self._save()
            self._loop()
            self._log.write_curve()
        except (MemoryError, OSError, RuntimeError) as error:
            reason = _reason(error)
            if reason is None:
                raise
            with contextlib.suppress(OSError):
                self._log.write_curve()
            raise TrainingStopped(self._stopped(reason)) from error
        finally:
            self._log.close()
        return self.progress

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it; the first process does so for all.

        The lock is the folder's own, and ends with the process, however that ends.

        Raises:
            CheckpointError: another process trains in the folder.
        """
        if not self._first:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked_folder(self.folder):
            yield

    def _start(self, resume: bool) -> bool:
        """Look into the folder; load the last checkpoint when resuming. True when there was one."""
        last = self.folder / LAST
        if self._first:
            remove_temporaries(self.folder)
        # Every process looks before the first one can go on to write its first checkpoint.
        self.fabric.barrier()
        there = last.is_file()
        self.fabric.barrier()
        if not there:
            return False
        if not resume:
            raise CheckpointError(
                f"{self.folder} already holds a run: resume it, or choose another"
            )
        state, meta = load_checkpoint(last)
        check_identity(self.identity, part_of(meta, "identity", last), last)
        progress = _progress(meta.get("progress"), last)
        if progress.step > self.total:
            raise CheckpointError(
                f"{last} is at step {progress.step}, beyond the {self.total} steps asked for"
            )
        for name, module in self.task.modules.items():
            fill_module(module, state, last, name)
        stored = part_of(state, "optimizers", last)
        for name, optimizer in self.task.optimizers.items():
            _fill_optimizer(optimizer, stored.get(name), f"{last}: optimizer {name}")
            match_layout(optimizer)
        self._sums, self._count = _log_sums(meta.get("log"), last)
        self.progress = progress
        self._saved = self.progress.step
        return True

    def _loop(self) -> None:
        config, task = self.config, self.task
        eval_every = config.eval_interval(task.num_samples)
        save_every = config.checkpoint_every or eval_every
        check_every = 1 if self.fabric.device.type == "cpu" else config.log_every
        with self._bar() as bar:
            clock = time.perf_counter()
            for step in range(self.progress.step, self.total):
                self._step(step)
                done = self.progress.step = step + 1
                final = done == self.total
                log, evaluate = done % config.log_every == 0, done % eval_every == 0 or final
                save = done % save_every == 0 or final
                bar.update(1)
                if done % check_every == 0 or log or evaluate or save:
                    self._check()
                if not (log or evaluate or save):
                    continue
                self.progress.seconds += time.perf_counter() - clock
                if log or final:
                    bar.set_postfix(self._write_log(), refresh=False)
                if evaluate:
                    self._validate()
                if save:
                    self._save()
                clock = time.perf_counter()

    def _bar(self) -> Any:
        from tqdm import tqdm

        shown = sys.stderr.isatty() if self.config.progress is None else self.config.progress
        return tqdm(
            total=self.total,
            initial=self.progress.step,
            disable=not (shown and self._first),
            unit="step",
            dynamic_ncols=True,
        )

    def _rate(self, step: int) -> float:
        return self.config.learning_rate_at(step, self.task.num_samples)

    def _step(self, step: int) -> None:
        for optimizer in self.task.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self._rate(step) * group.get("rate_scale", 1.0)
        seed_step(self.config.seed, step, self.fabric.global_rank)
        self._losses.append({k: v.detach() for k, v in self.task.training_step(step).items()})

    def _check(self) -> None:
        """Stop on a loss that is not finite, on all ranks alike; add up what the log will show."""
        if not self._losses:
            return
        names = sorted(self._losses[0])
        values = torch.stack([torch.stack([r[n].double() for n in names]) for r in self._losses])
        first = self.progress.step - len(self._losses) + 1
        self._losses = []
        if self.fabric.world_size > 1:
            values = self.fabric.all_reduce(values, reduce_op="mean")
        for row, loss in enumerate(values[:, names.index("loss")].tolist()):
            if not math.isfinite(loss):
                raise NotFinite(f"the loss is {loss} at step {first + row}")
        for name, value in zip(names, values.sum(dim=0).tolist(), strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += len(values)

    def _write_log(self) -> dict[str, str]:
        means = {name: value / max(1, self._count) for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        done = self.progress.step
        self._log.write(
            done,
            epoch=self.config.epoch(done, self.task.num_samples),
            lr=self._rate(done - 1),
            seconds=round(self.progress.seconds, 3),
            **means,
        )
        return {name: f"{value:.4g}" for name, value in means.items()}

    def _validate(self) -> None:
        same_buffers(dict(self.task.modules), self.fabric)
        values = self.task.validate()
        self._log.write(self.progress.step, **values)
        if self.task.score is None:
            return
        score = values[self.task.score]
        if score < self.progress.best_score and math.isfinite(score):
            self.progress.best_score, self.progress.best_step = score, self.progress.step
            self._write(BEST, {"modules": self._modules()})

    def _modules(self) -> dict[str, Any]:
        return {name: module.state_dict() for name, module in self.task.modules.items()}

    def _save(self) -> None:
        """Write the last checkpoint, unless a weight is not finite: the one before stays then."""
        damaged = all_finite(dict(self.task.modules))
        if damaged is not None:
            raise NotFinite(f"{damaged} is not finite after step {self.progress.step}")
        optimizers = {name: opt.state_dict() for name, opt in self.task.optimizers.items()}
        self._write(LAST, {"modules": self._modules(), "optimizers": optimizers})
        self._saved = self.progress.step

    def _write(self, name: str, state: dict[str, Any]) -> None:
        if self._first:
            log = {"sums": self._sums, "count": self._count}
            meta = {**self.meta, "progress": asdict(self.progress), "log": log}
            save_checkpoint(self.folder / name, state, meta)

    def _stopped(self, reason: str) -> str:
        text = f"training stopped at step {self.progress.step} of {self.total}: {reason}. "
        if self._saved is None:
            return text + "No checkpoint was written yet."
        return (
            text + f"The last good checkpoint is {self.folder / LAST} (step {self._saved}): resume."
        )


def _progress(values: Any, path: Path) -> Progress:
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


def _log_sums(values: Any, path: Path) -> tuple[dict[str, float], int]:
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


def _fill_optimizer(optimizer: Optimizer, stored: Any, name: str) -> None:
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
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{name}: not the state of this optimizer ({error})") from error


class NotFinite(RuntimeError):
    """A loss or weight is NaN or infinite; a task may raise it before a step is over."""


def _reason(error: BaseException) -> str | None:
    """What to tell the user about an error that stops training; None if it is a defect of ours."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, NotFinite):
        return text + " (try a smaller learning_rate or a grad_clip)"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"out of memory, try a smaller batch_size ({text})"
    if isinstance(error, OSError):
        return f"cannot write to the run folder ({text})"
    return None


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
            raise CheckpointError(
                f"{path} belongs to another run: {key} is {theirs!r} there and {ours!r} here"
            )


def _as_json(value: Any) -> Any:
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value
