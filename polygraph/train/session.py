"""From a task to a run's folder: train, then measure the best weights once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from polygraph.train.checkpoint import write_json
from polygraph.train.config import TrainConfig
from polygraph.train.distributed import process_group
from polygraph.train.log import Say
from polygraph.train.loop import Trainer
from polygraph.train.provenance import provenance
from polygraph.train.supervised import SupervisedTask, write_result

RUN = "run.json"


def train_task(
    make: Callable[[], SupervisedTask],
    fabric: Any,
    config: TrainConfig,
    folder: Path,
    *,
    meta: Mapping[str, Any],
    identity: dict[str, Any],
    parts: dict[str, Any],
    resume: bool = False,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train a task to the end and write ``run.json`` and ``result.json`` beside its checkpoints.

    Args:
        make: the task, on the fabric; it has ``measure``.
        fabric: launched Fabric.
        config: of the loop.
        folder: of the run.
        meta: what the run is; the machine and the versions are added.
        identity: what must be equal for two runs to be the same run.
        parts: name -> samples that are measured at the end.
        resume: go on from the last checkpoint when there is one.
        say: called with lines for people.

    Returns:
        What ``result.json`` holds, the same on every process.

    Raises:
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss that is not finite, a full disk, no memory.
    """
    with process_group(fabric) as owned:
        task = make()
        meta = {**meta, **provenance(fabric.device)}
        trainer = Trainer(task, config, fabric, folder, meta=meta, identity=identity, say=say)
        owned += [task, trainer]

        def describe() -> None:
            write_json(folder / RUN, {**meta, "identity": identity})

        progress = trainer.run(resume=resume, describe=describe)
        result = write_result(task, progress, folder, parts, {**meta, **identity})
        del task, trainer
    return result
