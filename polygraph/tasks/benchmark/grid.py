"""A grid of mesh autoencoders: models x latents x splits x seeds, trained alike, resumable.

Everything lands in one folder: a run per cell (its name ends with the hash of its settings), rows
in ``results.json``, a summary in ``table.md``. Calling it again goes on: finished runs are taken as
they are, a killed one resumes from its last checkpoint. Several processes may work on one folder;
each takes the runs that no other is busy with. Rows of runs that were finished elsewhere, on
another machine or before the folder was lost, can be brought along.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polygraph.report.grid_rows import read_rows
from polygraph.report.summary import markdown_summary, text_summary
from polygraph.tasks.benchmark.cells import Cell, Grid, make_cells, write_shown
from polygraph.tasks.benchmark.costs import Subject, measure_costs
from polygraph.tasks.benchmark.rows import (
    COSTS,
    MEAN_SHAPE,
    PCA_FILE,
    ROW,
    diverged_result,
    fit_linear,
    load_pca,
    network_row,
    write_samples,
)
from polygraph.tasks.mesh.run import load_run
from polygraph.tasks.mesh.training import (
    MeshRunConfig,
    build_hierarchy,
    build_model,
    train_mesh,
)
from polygraph.train.checkpoint import CheckpointError, read_json_object, write_atomic, write_json
from polygraph.train.loop import LAST, NotFinite, TrainingStopped
from polygraph.train.provenance import provenance

RESULTS, TABLE, COST_FILE, LOCK = "results.json", "table.md", "costs.json", "lock"
_OF_ROW = ("data_hash", "split_hash", "cost_key", "status", "mean_mm", "seconds")


@dataclass(frozen=True)
class GridResult:
    """What :func:`run_grid` made.

    Attributes:
        rows: of the cells asked for, as far as they are finished; JSON values.
        table: aligned text, seeds averaged, the best marked by a star.
        pending: cells that other processes are busy with.
        folder: where everything lies.
    """

    rows: list[dict[str, Any]]
    table: str
    pending: int
    folder: Path


def run_grid(
    grid: Grid,
    folder: str | Path,
    *,
    say: Callable[[str], None] = print,
    costs: bool = True,
    finished: Sequence[str | Path] = (),
) -> GridResult:
    """Train what is not trained yet, measure, write the rows and the table.

    Args:
        grid: what to run.
        folder: of the grid; see the top of this file.
        say: called with a line for people at every stage.
        costs: measure inference, training steps and memory once all are trained.
        finished: grids, or their ``results.json``, whose rows are taken for the cells that have
            none here and the same settings, data and split. Their weights do not come along: such
            runs have errors and costs, but no meshes to show.

    Raises:
        ValueError: a data set lacks a split, two data sets have one name, or a mesh has too few
            vertices for the hierarchy; several processes were started by torchrun.
        CheckpointError: the folder holds runs on other contents of the data.
        GridError: there are no rows in one of ``finished``, or they are damaged.
        TrainingStopped: no memory, or no room on the disk; the grid goes on from there when it is
            called again. A loss that is not finite does not stop it: that is a row.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "benchmark: every process trains runs of its own; start it several times on one folder "
            "instead of through torchrun"
        )
    folder = Path(folder)
    cells = list(make_cells(grid, folder, say))
    for cell in cells:  # before anything is written over
        _finished(cell)
    write_shown(cells, folder)
    _build_hierarchies(cells)
    for source in finished:
        say(f"{source}: {_take(cells, read_rows(source), folder)} runs were finished there")
    rows: list[dict[str, Any]] = []
    missing = 0
    for number, cell in enumerate(cells):
        row = _finished(cell)
        if row is None:
            row = _make(cell, folder, f"[{number + 1}/{len(cells)}]", say)
        if row is None:
            missing += 1
        else:
            rows.append(row)
    if missing:
        # Those that others were busy with may be done by now.
        rows = [row for row in (_finished(cell) for cell in cells) if row is not None]
    pending = len(cells) - len(rows)
    if pending:
        say(f"{pending} runs are in other processes' hands; call again when they are done")
    elif costs:
        _measure(cells, folder, say)
    rows = _with_costs(rows, folder)
    _write(folder)
    return GridResult(rows, text_summary(rows), pending, folder)


def _build_hierarchies(cells: Sequence[Cell]) -> None:
    """Put all that will be wanted into the cache: one that cannot be built stops the grid now."""
    done = set()
    for cell in cells:
        if cell.config is None:
            continue
        config = cell.config
        key = cell.dataset.content_hash, config.factors, config.spiral, config.upsampling
        if key not in done:
            try:
                build_hierarchy(config, cell.dataset)
            except ValueError as error:
                raise ValueError(f"benchmark: {cell.dataset.name}: {error}") from error
            done.add(key)


def _finished(cell: Cell) -> dict[str, Any] | None:
    """The row of a cell that is done.

    Raises:
        CheckpointError: it is about other contents of the data.
    """
    path = cell.folder / ROW
    if not path.is_file():
        return None
    row = read_json_object(path, *_OF_ROW)
    for name, now in (
        ("data_hash", cell.dataset.content_hash),
        ("split_hash", cell.split.sha256),
    ):
        if row[name] != now:
            raise CheckpointError(
                f"{cell.folder} is about other meshes: {name} is {row[name]} there and {now} now; "
                "choose another folder, or delete it"
            )
    return row


def _take(cells: Sequence[Cell], rows: Sequence[dict[str, Any]], folder: Path) -> int:
    """Write the rows of networks trained elsewhere where their own would lie; how many fit."""
    known = {(row["config_hash"], row["data_hash"], row["split_hash"]): row for row in rows}
    taken = 0
    for cell in cells:
        if cell.config is None:
            continue  # fitted in a second
        key = cell.config.digest(), cell.dataset.content_hash, cell.split.sha256
        if key not in known:
            continue
        with _claimed(cell.folder) as ours:
            if not ours or (cell.folder / ROW).exists() or (cell.folder / LAST).exists():
                continue
            _write_row(cell, {**known[key], **dict.fromkeys(COSTS)}, folder)
        taken += 1
    return taken


def _write_row(cell: Cell, row: dict[str, Any], folder: Path) -> None:
    row["cost_key"] = cell.cost_key
    row["run"] = cell.folder.relative_to(folder).as_posix()
    write_json(cell.folder / ROW, row)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether this process may work on a run; the claim ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _make(
    cell: Cell, folder: Path, place: str, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Train or fit a cell; its row, or None where another process is at it."""
    name = f"{place} {cell.dataset.name}, {cell.split.name}, {cell.latent}: {cell.folder.name}"
    with _claimed(cell.folder) as ours:
        if not ours:
            return None
        row = _finished(cell)
        if row is not None:
            return row
        say(f"{name}: {'resuming' if (cell.folder / LAST).is_file() else 'working'}")
        if cell.config is None:
            row = fit_linear(
                cell.model, cell.latent, cell.dataset, cell.split, cell.folder, cell.samples
            )
        else:
            row = _train(cell, cell.config)
        _write_row(cell, row, folder)
    _write(folder)
    error = "no error" if row["mean_mm"] is None else f"{row['mean_mm']:.2f} mm"
    say(f"{name}: {row['status']}, {error} on test, {row['seconds']:.0f} s")
    return row


def _train(cell: Cell, config: MeshRunConfig) -> dict[str, Any]:
    message = None
    try:
        result = train_mesh(config, cell.folder, resume=True, dataset=cell.dataset)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; choose another folder, or delete {cell.folder}") from error
    except TrainingStopped as error:
        if not isinstance(error.__cause__, NotFinite):
            raise
        message = str(error.__cause__)
        result = diverged_result(cell.folder, cell.dataset, cell.split)
    if "test" in result:
        write_samples(cell.folder, cell.samples)
    return network_row(config, cell.dataset, cell.split, result, message)


def _measure(cells: Sequence[Cell], folder: Path, say: Callable[[str], None]) -> None:
    """Measure the costs of all cells in turns, unless they are known for this machine."""
    here = {name: provenance()[name] for name in ("machine", "threads", "torch")}
    measured = _costs(folder, here)
    for data in dict.fromkeys(cell.dataset.content_hash for cell in cells):
        first = {cell.cost_key: cell for cell in reversed(cells)}
        chosen = [c for c in first.values() if c.dataset.content_hash == data][::-1]
        chosen = [cell for cell in chosen if cell.model != MEAN_SHAPE]
        if all(cell.cost_key in measured for cell in chosen):
            continue
        say(f"{chosen[0].dataset.name}: measuring what {len(chosen)} models cost, in turns")
        subjects = [_subject(cell) for cell in chosen]
        found = measure_costs(subjects, chosen[0].dataset, chosen[0].split)
        measured |= {cell.cost_key: cost for cell, cost in zip(chosen, found, strict=True)}
        write_json(folder / COST_FILE, {"where": here, "measured": measured})


def _subject(cell: Cell) -> Subject:
    if cell.config is None:
        pca = load_pca(cell.folder / PCA_FILE)
        return Subject(pca.reconstruct)
    if (cell.folder / LAST).is_file():
        model = load_run(cell.folder).model
    else:  # trained elsewhere; what a model costs does not depend on its weights
        hierarchy = build_hierarchy(cell.config, cell.dataset)
        model = build_model(cell.config, hierarchy, cell.dataset, cell.split).eval()
    return Subject(model, model, cell.config)


def _costs(folder: Path, where: dict[str, Any] | None = None) -> dict[str, Any]:
    """The costs by their keys, as far as they were measured; with ``where``, there alone."""
    path = folder / COST_FILE
    known = read_json_object(path, "where", "measured") if path.is_file() else {}
    measured = known.get("measured", {})
    if not isinstance(measured, dict) or not all(isinstance(v, dict) for v in measured.values()):
        raise CheckpointError(f"{path}: measured must be objects by their keys")
    return measured if where is None or known.get("where") == where else {}


def _with_costs(rows: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    measured = _costs(folder)
    costs = [measured.get(row["cost_key"], {}) for row in rows]
    return [
        {**row, **{name: cost.get(name) for name in COSTS}}
        for row, cost in zip(rows, costs, strict=True)
    ]


def _write(folder: Path) -> None:
    """Write the rows of every run that is finished in the folder, and the table."""
    paths = sorted((folder / "runs").glob(f"*/*/*/*/{ROW}"))
    rows = _with_costs([read_json_object(path, "cost_key") for path in paths], folder)
    write_json(folder / RESULTS, rows)
    write_atomic(folder / TABLE, markdown_summary(rows).encode())
