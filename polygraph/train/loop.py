"""The training loop: steps, log, validation, checkpoints, resume; nothing about meshes.

What is trained comes as a :class:`Task`. A run killed at any moment and resumed ends with the same
weights, bit for bit, as one that was never killed: learning rate, samples and noise are functions
of (configuration, step), the rest (weights, optimizers, plateau, loss scaler) is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
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
from polygraph.train.log import RunLog, Say
from polygraph.train.optimizer import descend as descend
from polygraph.train.resume import Progress as Progress
from polygraph.train.resume import (
    check_identity,
    fill_optimizer,
    fill_scaler,
    fill_schedule,
    read_log_sums,
    read_progress,
)
from polygraph.train.schedule import Schedule, dead_from, decay_of

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
        say: called on the first process with lines for people: how long the run is, and a learning
            rate that has died.

    Raises:
        ValueError: the schedule is ``plateau`` and the task has no score; or one-cycle has too few
            steps.
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
        say: Say | None = None,
    ) -> None:
        self.task, self.config, self.fabric = task, config, fabric
        self._say = say if say is not None and fabric.global_rank == 0 else _quiet
        self.folder = Path(folder)
        self.total = config.total_steps(task.num_samples)
        self.schedule = Schedule(config, task.num_samples)
        if config.schedule == "plateau" and task.score is None:
            raise ValueError(
                "train: schedule plateau needs a validated score, and this run has none"
            )
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
            self._announce()
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
        progress = read_progress(meta.get("progress"), last)
        if progress.step > self.total:
            raise CheckpointError(
                f"{last} is at step {progress.step}, beyond the {self.total} steps asked for"
            )
        for name, module in self.task.modules.items():
            fill_module(module, state, last, name)
        stored = part_of(state, "optimizers", last)
        for name, optimizer in self.task.optimizers.items():
            fill_optimizer(optimizer, stored.get(name), f"{last}: optimizer {name}")
        fill_schedule(self.schedule, state.get("schedule"), last)
        fill_scaler(self.fabric.strategy.precision, state.get("precision"), last)
        self._sums, self._count = read_log_sums(meta.get("log"), last)
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
                    score = self._validate()
                    # A last validation out of turn does not count: the run may be prolonged.
                    if score is not None and done % eval_every == 0:
                        alive = self.schedule.alive
                        self.schedule.validated(score)
                        if alive and not self.schedule.alive and not final:
                            self._say(
                                f"the learning rate fell below 1 % of its start at step {done:,} "
                                f"of {self.total:,} (plateau): the rest hardly trains"
                            )
                if save:
                    self._save()
                clock = time.perf_counter()

    def _announce(self) -> None:
        """Say how long the run is, and where its learning rate would die before the end."""
        config, samples = self.config, self.task.num_samples
        at = f", from step {self.progress.step:,}" if self.progress.step else ""
        passes = self.total * config.batch_size / samples
        count = f"{passes:,.0f}" if passes >= 10 else f"{passes:.1f}"
        self._say(
            f"{self.total:,} steps of {config.batch_size} ({count} passes over {samples:,})"
            f"{at}, learning rate {config.learning_rate:g}, {config.schedule}"
        )
        dead = dead_from(config, samples, self.total)
        if dead is not None:
            self._say(
                f"the learning rate falls below 1 % of its start at step {dead:,} of "
                f"{self.total:,} ({config.schedule}: {decay_of(config)}): the rest hardly trains; "
                "--schedule cosine takes the whole run to fall"
            )

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

    def _step(self, step: int) -> None:
        self.schedule.apply(self.task.optimizers.values(), step)
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
            lr=self.schedule.rate(done - 1),
            seconds=round(self.progress.seconds, 3),
            **means,
        )
        return {name: f"{value:.4g}" for name, value in means.items()}

    def _validate(self) -> float | None:
        """Measure, log, keep the best weights; the score, if the task has one."""
        same_buffers(dict(self.task.modules), self.fabric)
        values = self.task.validate()
        self._log.write(self.progress.step, **values)
        if self.task.score is None:
            return None
        score = values[self.task.score]
        if score < self.progress.best_score and math.isfinite(score):
            self.progress.best_score, self.progress.best_step = score, self.progress.step
            self._write(BEST, {"modules": self._modules()})
        return score

    def _modules(self) -> dict[str, Any]:
        return {name: module.state_dict() for name, module in self.task.modules.items()}

    def _save(self) -> None:
        """Write the last checkpoint, unless a weight is not finite: the one before stays then."""
        damaged = all_finite(dict(self.task.modules))
        if damaged is not None:
            raise NotFinite(f"{damaged} is not finite after step {self.progress.step}")
        optimizers = {name: opt.state_dict() for name, opt in self.task.optimizers.items()}
        # Runs without a plateau or a loss scaler have files as ever.
        parts = {
            "schedule": self.schedule.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        parts = {name: part for name, part in parts.items() if part}
        self._write(LAST, {"modules": self._modules(), "optimizers": optimizers, **parts})
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


def _quiet(line: str) -> None:
    """Say nothing."""


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
