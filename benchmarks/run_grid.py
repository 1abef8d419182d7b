"""The trainings of a results page, one after another: what `grids/*.toml` list, resumed or skipped.

    python benchmarks/run_grid.py benchmarks/grids/image_bed.toml --data CIFAR10 --out RUNS
    python benchmarks/run_grid.py GRID --data DIR --out RUNS --only 'conv-*' 'light-*' --dry-run

A grid has the ``command`` that all of its runs share, ``[variants]`` with what each adds to it, and
``seeds``: every variant runs with every seed, as ``RUNS/VARIANT-sSEED``, the first seed of all
variants first. ``[only]`` names the seeds of a variant that has fewer. Commands may have
``{data}``, ``{out}`` and ``{seed}`` in them. ``stop`` ends a run once it was scored at that step of
its longer schedule.

A run that is done is skipped and one that was interrupted goes on. Every run has one thread, and
``--workers`` of them run side by side; what they print is in ``RUNS/VARIANT-sSEED.txt``. The first
run that fails ends the grid, after those beside it.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import tomllib

POLL = 2.0  # seconds between two looks at a run that is to be stopped
KEYS = {"command", "seeds", "variants", "only", "stop"}


@dataclass(frozen=True)
class Run:
    """A training: its name, the words of its command, and where it stops early, if it does."""

    name: str
    words: tuple[str, ...]
    stop: int | None


def read_grid(path: Path, data: Path, out: Path) -> list[Run]:
    """The runs of a grid, in the order in which they are made."""
    grid = tomllib.loads(path.read_text())
    unknown = sorted(set(grid) - KEYS)
    missing = sorted({"command", "variants"} - set(grid))
    if unknown or missing:
        raise SystemExit(f"{path}: unknown keys {unknown}, missing keys {missing}")
    seeds, variants, only = grid.get("seeds", [0]), grid["variants"], grid.get("only", {})
    strays = sorted(set(only) - set(variants))
    if strays:
        raise SystemExit(f"{path}: [only] names variants that are not there: {strays}")
    runs = []
    for seed in seeds:
        for variant, more in variants.items():
            if seed not in only.get(variant, seeds):
                continue
            name = f"{variant}-s{seed}"
            fields = {"data": data, "out": out, "seed": seed}
            words = [word.format(**fields) for word in shlex.split(f"{grid['command']} {more}")]
            words += ["--seed", str(seed), "--out", str(out / name)]
            runs.append(Run(name, tuple(words), grid.get("stop")))
    return runs


def scored_at(folder: Path, step: int) -> bool:
    """Whether a run's log has scores of a step, or of a later one."""
    try:
        lines = (folder / "log.jsonl").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the last line, half written
            continue
        if record["step"] >= step and "fid" in record:
            return True
    return False


def is_done(run: Run, out: Path) -> bool:
    """Whether nothing of a run is left to do."""
    folder = out / run.name
    if run.stop is not None and scored_at(folder, run.stop):
        return True
    return (folder / "result.json").is_file()


def make(run: Run, out: Path, command: list[str], ended: Event) -> int:
    """Train, or go on; the exit status, 0 for a run that was stopped where it should."""
    if ended.is_set() or is_done(run, out):
        return 0
    words = [*command, *run.words]
    if (out / run.name / "last.safetensors").is_file():
        words.append("--resume")
    print(f"{time.strftime('%H:%M:%S')} {run.name}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (out / f"{run.name}.txt").open("a") as text:
        process = subprocess.Popen(words, stdout=text, stderr=subprocess.STDOUT, env=environment)
        while (status := _wait(process)) is None:
            if run.stop is not None and scored_at(out / run.name, run.stop):
                process.terminate()
                process.wait()
                return 0
    if status:
        ended.set()
        print(f"{run.name}: failed with status {status}: see {out / run.name}.txt", flush=True)
    return status


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(POLL)
    except subprocess.TimeoutExpired:
        return None


def main(command: list[str] | None = None) -> None:
    """Command line; `command` stands before the words of each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="{data} of the grid's command")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs' folders")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="of run names")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    options = parser.parse_args()
    data, out = options.data.resolve(), options.out.resolve()
    runs = read_grid(options.grid, data, out)
    runs = [run for run in runs if any(fnmatch.fnmatch(run.name, p) for p in options.only)]
    if not runs or options.workers < 1:
        raise SystemExit("no run is named so, or there are no workers")
    if options.dry_run:
        for run in runs:
            print(("done: " if is_done(run, out) else "") + shlex.join(["polygraph", *run.words]))
        return
    out.mkdir(parents=True, exist_ok=True)
    words = command or [sys.executable, "-m", "polygraph"]
    ended = Event()
    with ThreadPoolExecutor(options.workers) as pool:
        made = [pool.submit(make, run, out, words, ended) for run in runs]
        try:
            statuses = [future.result() for future in made]
        except KeyboardInterrupt:  # which the runs get, too
            ended.set()
            raise
    if any(statuses):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
