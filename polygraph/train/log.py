"""The log of a run: one JSON object per line, a CSV of the curves, TensorBoard when asked."""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polygraph._files import read_regular
from polygraph.train.checkpoint import CheckpointError, write_atomic

_MOST_BYTES = 1 << 28
Say = Callable[[str], None]  #: is called with a line for people


def say_on_stdout(line: str) -> None:
    """Print a line for people without breaking the progress bar."""
    _say(line, sys.stdout)


def say_on_stderr(line: str) -> None:
    """Print a line for people without breaking the progress bar, and apart from results."""
    _say(line, sys.stderr)


def _say(line: str, file: Any) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=file)


class RunLog:
    """Appends records to ``log.jsonl``; :meth:`write_curve` derives ``curve.csv`` from it.

    Args:
        folder: folder of the run.
        resume_step: records after this step are dropped (they will be written again); None starts a
            new log.
        tensorboard: also write TensorBoard events into the folder.
        enabled: False on all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume_step: int | None = None,
        tensorboard: bool = False,
        enabled: bool = True,
    ) -> None:
        self.path = folder / "log.jsonl"
        self.enabled = enabled
        self._events: Any = None
        if not enabled:
            return
        kept = [] if resume_step is None else read_log(self.path)
        if self.path.is_file() or kept:
            lines = [json.dumps(r) for r in kept if r["step"] <= (resume_step or 0)]
            write_atomic(self.path, "".join(line + "\n" for line in lines).encode())
        if tensorboard:
            try:
                module = importlib.import_module("torch.utils.tensorboard")
            except ImportError as error:
                raise ImportError(
                    "tensorboard is asked for but not installed: pip install 'polygraph-nn[train]'"
                ) from error
            self._events = module.SummaryWriter(str(folder), purge_step=resume_step)

    def write(self, step: int, **values: Any) -> None:
        """Append one record.

        Raises:
            OSError: the disk is full.
        """
        if not self.enabled:
            return
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events is not None:
            for key, value in values.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(key, value, step)

    def write_curve(self) -> None:
        """Write ``curve.csv`` beside the log: one row per logged step, one column per value."""
        if self.enabled:
            write_atomic(self.path.with_name("curve.csv"), curve_csv(read_log(self.path)).encode())

    def close(self) -> None:
        """Flush what TensorBoard holds."""
        if self._events is not None:
            self._events.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a log; a last line cut off by a crash is ignored.

    Raises:
        CheckpointError: it is larger than 256 MiB.
    """
    if not path.is_file():
        return []
    records = []
    text = read_regular(path, _MOST_BYTES, CheckpointError).decode(errors="replace")
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def curve_csv(records: list[dict[str, Any]]) -> str:
    """Scalars of a log as CSV, the records of one step merged into one row."""
    rows: dict[int, dict[str, Any]] = {}
    columns = ["step"]
    for record in records:
        for key, value in record.items():
            if isinstance(value, int | float):
                rows.setdefault(record["step"], {})[key] = value
                if key not in columns:
                    columns.append(key)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows))
    return text.getvalue()
