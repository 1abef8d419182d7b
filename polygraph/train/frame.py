"""The frame of a supervised run: training in a folder, and what a finished one gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph.train.checkpoint import read_json_object, write_json
from polygraph.train.distributed import make_fabric, process_group
from polygraph.train.log import Say
from polygraph.train.loop import Trainer
from polygraph.train.provenance import provenance
from polygraph.train.recorded import recorded_data
from polygraph.train.supervised import RESULT, write_result

RUN = "run.json"
_PARTS = ("train", "val", "test")


def run_supervised(
    config: Any,
    folder: Path,
    make_task: Callable[[Any], Any],
    *,
    kind: str,
    dataset: Any,
    identity: dict[str, Any],
    meta: dict[str, Any],
    parts: dict[str, Any],
    about: str,
    resume: bool = False,
    say: Say | None = None,
    prepare: Callable[[Any, Trainer, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train a task in a folder, select on validation, and measure its parts once.

    Args:
        config: of the run, with ``train``, ``semantics`` and ``digest``.
        folder: of the run; see `polygraph.train.loop.Trainer`.
        make_task: makes a `polygraph.train.supervised.SupervisedTask` for a launched Fabric. It
            keeps no model itself: the last reference must go before the processes part.
        kind: a key of `polygraph.train.recorded.KINDS`.
        dataset: has ``name`` and ``content_hash``.
        identity: what decides about the weights, besides ``config.semantics()`` and the data.
        meta: what else describes the run.
        parts: name -> samples that are measured: ``val``, and ``test``.
        about: a line for people: what is trained on.
        resume: go on from the last checkpoint when there is one.
        say: called with lines for people.
        prepare: called with task, trainer and all that describes the run, before the first step.

    Returns:
        What ``result.json`` holds; see `polygraph.train.supervised.write_result`.
    """
    fabric = make_fabric(config.train)
    if say is not None and fabric.global_rank == 0:
        say(about)
    with process_group(fabric) as owned:
        identity = {**config.semantics(), "dataset_hash": dataset.content_hash, **identity}
        meta = {
            "kind": kind,
            "config": asdict(config),
            "config_hash": config.digest(),
            "dataset": dataset.name,
            **meta,
            **provenance(fabric.device),
        }
        task = make_task(fabric)
        trainer = Trainer(task, config.train, fabric, folder, meta=meta, identity=identity, say=say)
        owned += [task, trainer]

        def describe() -> None:
            write_json(folder / RUN, {**meta, "identity": identity})

        first = None if prepare is None else partial(prepare, task, trainer, meta)
        progress = trainer.run(resume=resume, describe=describe, prepare=first)
        result = write_result(task, progress, folder, parts, {**meta, **identity})
        del task, trainer, first
    return result


@dataclass(frozen=True)
class SupervisedRun:
    """A finished run; what it is of, a subclass says.

    Attributes:
        folder: where it lies.
        model: in eval mode.
        meta: configuration, hashes and versions, as in the checkpoint.
        dataset: what it was trained on, where that is at hand.
    """

    folder: Path
    model: Any
    meta: dict[str, Any]
    dataset: Any = None

    @cached_property
    def result(self) -> dict[str, Any]:
        """What ``result.json`` holds: measures, steps, seconds; empty where training goes on."""
        path = self.folder / RESULT
        return read_json_object(path, "steps", "test", "val") if path.is_file() else {}

    def opened(self, open_data: Callable[[Any], Any], config: type, path: Any = None) -> Any:
        """What the run was trained on, or data of its kind that lie elsewhere.

        Args:
            open_data: opens what a config describes.
            config: class of that config.
            path: of other data; None: the run's own.

        Raises:
            ValueError: the run's own are not what they were.
        """
        if path is None and self.dataset is not None:
            return self.dataset
        dataset = open_data(recorded_data(config, self.meta, self.folder, path, "as data"))
        then = self.meta["identity"]["dataset_hash"]
        if path is None and dataset.content_hash != then:
            raise ValueError(
                f"{dataset.name}: its content is not what {self.folder} was trained on: hash "
                f"{dataset.content_hash} now, {then} then"
            )
        return dataset


@dataclass(frozen=True, repr=False)
class ClassifierRun(SupervisedRun):
    """A finished run of a classifier."""

    def __repr__(self) -> str:
        """Folder and classes."""
        return f"Run({str(self.folder)!r}, {len(self.classes)} classes)"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what is told apart."""
        return tuple(str(name) for name in self.meta["classes"])

    def samples_of(
        self,
        dataset: Any,
        part: str,
        split: Callable[[], tuple[NDArray[np.int64], NDArray[np.int64]]],
    ) -> NDArray[np.int64]:
        """The samples of a part of a data set that has the classes of the run.

        Args:
            dataset: has ``classes``, ``name`` and ``test``.
            part: ``train``, ``val`` or ``test``.
            split: gives the samples that train, and those that validate.

        Raises:
            ValueError: other classes, or another part.
        """
        if dataset.classes != self.classes:
            raise ValueError(
                f"{dataset.name}: has the classes {', '.join(dataset.classes)}, the run "
                f"{', '.join(self.classes)}"
            )
        if part not in _PARTS:
            raise ValueError(f"part must be train, val or test, got {part!r}")
        found: NDArray[np.int64] = dataset.test if part == "test" else split()[part == "val"]
        return found
