"""Several models on one data set, beside PCA and the mean shape: a small grid, with pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph import metrics
from polygraph._files import check_sha256
from polygraph.data import MeshDataConfig, MeshDataset, Split, open_dataset
from polygraph.mesh.up import Up, known_up
from polygraph.models.mesh.pca import PCA
from polygraph.report.grid_rows import by_error
from polygraph.tasks.benchmark.cells import Grid
from polygraph.tasks.benchmark.grid import TABLE, run_grid
from polygraph.tasks.benchmark.rows import LINEAR, PCA_FILE, PCA_NAME, load_pca
from polygraph.tasks.mesh.run import Run, load_run
from polygraph.tasks.mesh.training import PER_SAMPLE, get_split
from polygraph.train.checkpoint import CheckpointError
from polygraph.train.config import TrainConfig
from polygraph.train.log import read_log

__all__ = ["TABLE", "Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` made.

    Attributes:
        rows: one per model and seed, then PCA and the mean shape; see
            :mod:`polygraph.tasks.benchmark.rows`.
        table: aligned text, seeds averaged, the best marked by a star.
        pictures: files written.
        folder: where everything lies.
    """

    rows: list[dict[str, Any]]
    table: str
    pictures: list[Path]
    folder: Path


def compare(
    presets: Sequence[str],
    data: MeshDataConfig,
    train: TrainConfig,
    folder: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    latent_channels: int = 16,
    pictures: bool = True,
    up: Up = "auto",
    say: Callable[[str], None] = print,
    **settings: Any,
) -> Comparison:
    """Train presets, measure them and the baselines on the same meshes, write table and pictures.

    Args:
        presets: names (see :mod:`polygraph.models.mesh.presets`), in the order of the table.
        data: data set and split.
        train: steps, schedule and the rest; its seed is replaced by each of ``seeds``.
        folder: a grid's (see :mod:`polygraph.tasks.benchmark.grid`), and for the pictures.
        seeds: every preset is trained once per seed.
        latent_channels: of every model, and components of the PCA.
        pictures: write heat maps and curves (needs matplotlib).
        up: axis that points up in the pictures; ``auto``: as the data set says.
        say: called with a line for people at every stage.
        **settings: further fields of every run, such as ``normalization`` and ``loss`` (see
            :class:`polygraph.tasks.mesh.training.MeshRunConfig`).

    Raises:
        ValueError: no preset or seed, an unknown preset.
        CheckpointError: the folder holds runs of another data set.
    """
    if not presets or not seeds:
        raise ValueError(f"compare: needs a preset and a seed, got {list(presets)}, {list(seeds)}")
    folder = Path(folder)
    grid = Grid(
        (data,),
        (*presets, *LINEAR),
        tuple(seeds),
        (latent_channels,),
        (data.split,),
        train,
        settings,
    )
    made = run_grid(grid, folder, say=say)
    written: list[Path] = []
    if pictures:
        say("drawing")
        first = [row for row in made.rows if row["seed"] == seeds[0] and row["status"] == "done"]
        pca = next(row for row in made.rows if row["model"] == PCA_NAME)
        place = folder / pca["run"] / PCA_FILE
        check_sha256(place, pca.get("files"), CheckpointError)
        dataset = open_dataset(data)
        written = _pictures(
            [(row, load_run(folder / row["run"])) for row in first],
            load_pca(place),
            pca,
            dataset,
            get_split(dataset, data.split),
            folder,
            known_up(up, dataset.up),
        )
    return Comparison(made.rows, made.table, written, folder)


def _pictures(
    trained: Sequence[tuple[dict[str, Any], Run]],
    pca: PCA,
    pca_row: dict[str, Any],
    dataset: MeshDataset,
    split: Split,
    folder: Path,
    up: Up,
) -> list[Path]:
    """Heat maps of the median and the worst test mesh, loss curves, validation curves."""
    from polygraph.report.figures import Panel, curve_figure, heatmap_figure, panels_view

    measured = {row["model"]: row for row in (*(row for row, _ in trained), pca_row)}
    ranked = sorted(measured, key=lambda name: by_error(measured[name]["mean_mm"]))
    places = [folder / row["run"] / PER_SAMPLE for row in measured.values()]
    mean_errors = np.mean([np.load(place) for place in places], axis=0)
    order = np.argsort(mean_errors, kind="stable")
    picked = {"median": split.test[order[len(order) // 2]], "largest": split.test[order[-1]]}
    meshes, views = [], []
    for label, index in picked.items():
        x = torch.from_numpy(dataset.gather(np.array([index])))
        with torch.no_grad():
            made = [(row["model"], run.model(x.to(run.model.mean.dtype))) for row, run in trained]
        made.append((PCA_NAME, pca.reconstruct(x)))
        panels = [
            Panel(model, _array(y[0]), _array(metrics.vertex_distance(y, x, dataset.to_mm)[0]))
            for model, y in sorted(made, key=lambda item: ranked.index(item[0]))
        ]
        original = _array(x[0])
        meshes.append((f"test mesh of\n{label} error", original, panels))
        views.append(panels_view(original, panels, up=up))
    title = pictures_title([measured[name] for name in ranked])
    written = [heatmap_figure(folder / "heatmaps.png", meshes, dataset.faces, views, title=title)]
    logs = {row["model"]: read_log(run.folder / "log.jsonl") for row, run in trained}
    logs = {model: logs[model] for model in ranked if model in logs}
    curves = {m: _curve(records, "loss") for m, records in logs.items()}
    written.append(curve_figure(folder / "loss.png", curves, ylabel="training loss"))
    curves = {m: _curve(records, "val_error_mm") for m, records in logs.items()}
    lines = {PCA_NAME: pca_row["val_mean_mm"]}
    written.append(
        curve_figure(
            folder / "validation.png",
            curves,
            ylabel="validation error in mm",
            lines=lines,
        )
    )
    return written


def pictures_title(ranked: Sequence[dict[str, Any]]) -> str:
    """What two meshes cannot show: the mean errors over all of them.

    Args:
        ranked: rows of the models, the lowest error first.
    """
    known = {row["model"]: row["mean_mm"] for row in ranked}
    errors = ", ".join(
        f"{model} {'not finite' if mean is None else f'{mean:.1f}'}"
        for model, mean in known.items()
    )
    return f"Mean error in mm over all {ranked[0]['num_test']:,} test meshes: {errors}"


def _array(x: torch.Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = x.detach().double().cpu().numpy()
    return array


def _curve(records: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    chosen = [record for record in records if key in record]
    return [record["step"] for record in chosen], [record[key] for record in chosen]
