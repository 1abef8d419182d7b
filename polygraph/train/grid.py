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
import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._files import sha256_of
from polygraph._json import sealed
from polygraph.data import MeshDataConfig, MeshDataset, Split, open_dataset
from polygraph.models.presets import PRESETS
from polygraph.nn._choices import check_choice, check_positive
from polygraph.report.grid_rows import read_rows
from polygraph.report.summary import markdown_summary, text_summary
from polygraph.train.checkpoint import (
    CheckpointError,
    read_json_object,
    seal,
    write_atomic,
    write_json,
)
from polygraph.train.config import TrainConfig
from polygraph.train.costs import Subject, measure_costs
from polygraph.train.loop import LAST, NotFinite, TrainingStopped
from polygraph.train.mesh import (
    MeshRunConfig,
    build_hierarchy,
    build_model,
    get_split,
    preset_run,
    train_mesh,
    write_array,
)
from polygraph.train.provenance import provenance
from polygraph.train.rows import (
    COSTS,
    LINEAR,
    MEAN_SHAPE,
    PCA_FILE,
    ROW,
    SAMPLES,
    diverged_result,
    fit_linear,
    linear_digest,
    load_pca,
    network_row,
    write_samples,
)
from polygraph.train.run import load_run

RESULTS, TABLE, COST_FILE, LOCK = "results.json", "table.md", "costs.json", "lock"
DEFAULT_MODELS = (
    "first-order",
    "first-order-noact",
    "first-order-spiralnet++",
    "chebyshev",
    "gat",
    "feastnet",
    "monet",
    "edgeconv",
    "ecc",
    *(f"{kind}-2{rest}" for kind in ("simple", "full", "skip") for rest in ("", "-noact")),
    *(f"full-{order}{rest}" for order in (3, 4) for rest in ("", "-noact")),
    "full-2-batchnorm",
    *LINEAR,
)
SHOWN_MESHES = 8
_OF_ROW = ("data_hash", "split_hash", "cost_key", "status", "mean_mm", "seconds")


@dataclass(frozen=True)
class Grid:
    """What a grid is made of.

    Attributes:
        data: the data sets; of each its ``split`` is replaced by each of ``splits``.
        models: presets (see :mod:`polygraph.models.presets`), ``pca`` and ``mean-shape``; patterns
            such as ``full-*`` stand for all that they fit.
        seeds: every network is trained once per seed.
        latents: numbers per mesh of every model.
        splits: names of splits.
        train: steps, schedule and the rest; its seed is replaced.
        settings: further fields of every run, such as ``normalization`` and ``loss`` (see
            :class:`polygraph.train.mesh.MeshRunConfig`).
    """

    data: tuple[MeshDataConfig, ...]
    models: tuple[str, ...] = DEFAULT_MODELS
    seeds: tuple[int, ...] = (0,)
    latents: tuple[int, ...] = (16,)
    splits: tuple[str, ...] = ("interpolation",)
    train: TrainConfig = field(default_factory=TrainConfig)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Expand patterns, drop what is named twice, refuse what does not exist."""
        for name in ("data", "models", "seeds", "latents", "splits"):
            values = tuple(dict.fromkeys(getattr(self, name)))
            if not values:
                raise ValueError(f"benchmark: needs at least one of {name}, got none")
            object.__setattr__(self, name, values)
        object.__setattr__(self, "models", tuple(_expanded(self.models)))
        for latent in self.latents:
            check_positive("benchmark", latents=latent)

    def run_config(
        self, data: MeshDataConfig, split: str, latent: int, model: str, seed: int
    ) -> MeshRunConfig:
        """The run of a network."""
        return preset_run(
            model,
            replace(data, split=split),
            replace(self.train, seed=seed),
            latent_channels=latent,
            **self.settings,
        )


def _expanded(names: Sequence[str]) -> list[str]:
    known = [*PRESETS, *LINEAR]
    found: list[str] = []
    for name in names:
        matching = fnmatch.filter(known, name) if set(name) & set("*?[") else [name]
        if not matching:
            raise ValueError(f"benchmark: no model fits {name!r}; known: {', '.join(known)}")
        for model in matching:
            check_choice("benchmark", "models", model, known)
        found += matching
    return list(dict.fromkeys(found))


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


@dataclass(frozen=True)
class _Cell:
    """One row to be: a network's run, or a linear model's fit (``config`` is None)."""

    dataset: MeshDataset
    split: Split
    latent: int
    model: str
    config: MeshRunConfig | None
    samples: NDArray[np.float32]
    folder: Path

    @property
    def cost_key(self) -> str:
        """Which cells cost the same: seeds and splits do not matter."""
        recipe = "" if self.config is None else f"{self.config.loss} {self.config.train.batch_size}"
        return f"{self.dataset.content_hash[:16]} {self.model} {self.latent} {recipe}".strip()


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
    cells = list(_cells(grid, folder, say))
    for cell in cells:  # before anything is written over
        _finished(cell)
    _write_shown(cells, folder)
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


def _cells(grid: Grid, folder: Path, say: Callable[[str], None]) -> Iterator[_Cell]:
    """All cells; whole tables of one seed come before the next seed."""
    opened: dict[str, tuple[MeshDataConfig, MeshDataset]] = {}
    for data in grid.data:
        dataset = open_dataset(replace(data, split=grid.splits[0]))
        name = _file_name(dataset.name)
        if name in opened:
            raise ValueError(f"benchmark: two data sets are called {name!r}: rename a folder")
        opened[name] = (data, dataset)
    places: list[tuple[str, MeshDataConfig, MeshDataset, Split, NDArray[np.float32]]] = []
    for name, (data, dataset) in opened.items():
        for split_name in grid.splits:
            split = get_split(dataset, split_name)
            sizes = f"{len(split.train):,} + {len(split.val):,} + {len(split.test):,}"
            say(
                f"{dataset.name}, {split_name}: {dataset.num_vertices:,} vertices, {sizes} meshes "
                "to train, choose and test"
            )
            samples = dataset.gather(_shown(split))
            places.append((name, data, dataset, split, samples))
    for seed in grid.seeds:
        for name, data, dataset, split, samples in places:
            for latent in grid.latents:
                for model in grid.models:
                    where = folder / "runs" / name / _file_name(split.name)
                    if model not in LINEAR:
                        config = grid.run_config(data, split.name, latent, model, seed)
                        place = where / f"latent-{latent}" / f"{model}-seed{seed}"
                        run = place.with_name(f"{place.name}-{config.digest()[:8]}")
                        yield _Cell(dataset, split, latent, model, config, samples, run)
                        continue
                    numbers = 0 if model == MEAN_SHAPE else latent
                    if seed != grid.seeds[0] or (not numbers and latent != grid.latents[0]):
                        continue
                    digest = linear_digest(model, numbers, dataset, split)
                    run = where / f"latent-{numbers}" / f"{model}-{digest[:8]}"
                    yield _Cell(dataset, split, numbers, model, None, samples, run)


def _build_hierarchies(cells: Sequence[_Cell]) -> None:
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


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "data"


def _shown(split: Split) -> NDArray[np.int64]:
    """The test meshes that the report shows, from all over the split."""
    count = min(SHOWN_MESHES, len(split.test))
    chosen: NDArray[np.int64] = split.test[
        np.linspace(0, len(split.test) - 1, count).round().astype(int)
    ]
    return chosen


def _write_shown(cells: Sequence[_Cell], folder: Path) -> None:
    """Write the meshes that the report shows, of each data set and split once."""
    places = {(_file_name(c.dataset.name), _file_name(c.split.name)): c for c in cells}
    for (data, split), cell in places.items():
        place = folder / "meshes" / data / split
        place.mkdir(parents=True, exist_ok=True)
        write_array(place.parent / "faces.npy", cell.dataset.faces.astype(np.int32))
        write_array(place / "inputs.npy", cell.samples)
        indices = _shown(cell.split)
        frames = cell.dataset.frames or [{} for _ in range(len(cell.dataset))]
        labels = [_label(frames[index]) for index in indices]
        files = {p.name: sha256_of(p) for p in (place.parent / "faces.npy", place / "inputs.npy")}
        about = {"indices": indices.tolist(), "labels": labels, "files": files}
        write_json(place / "samples.json", seal(about))


def _label(frame: Any) -> str:
    parts = [str(frame[key]) for key in ("clip", "frame") if key in frame]
    return " ".join(parts)


def _finished(cell: _Cell) -> dict[str, Any] | None:
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


def _take(cells: Sequence[_Cell], rows: Sequence[dict[str, Any]], folder: Path) -> int:
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


def _write_row(cell: _Cell, row: dict[str, Any], folder: Path) -> None:
    row["cost_key"] = cell.cost_key
    row["run"] = cell.folder.relative_to(folder).as_posix()
    there = [cell.folder / name for name in (SAMPLES, PCA_FILE) if (cell.folder / name).is_file()]
    row["files"] = {path.name: sha256_of(path, CheckpointError) for path in there}
    write_json(cell.folder / ROW, seal(row))


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
    cell: _Cell, folder: Path, place: str, say: Callable[[str], None]
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


def _train(cell: _Cell, config: MeshRunConfig) -> dict[str, Any]:
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


def _measure(cells: Sequence[_Cell], folder: Path, say: Callable[[str], None]) -> None:
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
        write_json(folder / COST_FILE, seal({"where": here, "measured": measured}))


def _subject(cell: _Cell) -> Subject:
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
        sealed({**row, **{name: cost.get(name) for name in COSTS}})
        for row, cost in zip(rows, costs, strict=True)
    ]


def _write(folder: Path) -> None:
    """Write the rows of every run that is finished in the folder, and the table."""
    paths = sorted((folder / "runs").glob(f"*/*/*/*/{ROW}"))
    rows = _with_costs([read_json_object(path, "cost_key") for path in paths], folder)
    write_json(folder / RESULTS, rows)
    write_atomic(folder / TABLE, markdown_summary(rows).encode())
