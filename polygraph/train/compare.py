"""Several models on one data set at equal steps, seeds and schedule, beside PCA and the mean shape.

Everything lands in one folder: a run per model and seed, ``results.json``, ``table.md`` and
pictures. Calling it again goes on: finished runs are taken as they are, a killed one resumes from
its last checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph import metrics
from polygraph.data import MeshDataConfig, MeshDataset, Split, open_dataset
from polygraph.models.mesh_autoencoder import MeshAutoencoder
from polygraph.models.pca import PCA
from polygraph.report.table import markdown_table, text_table
from polygraph.train.batches import NormalizedBatches
from polygraph.train.checkpoint import CheckpointError, read_json, write_atomic, write_json
from polygraph.train.config import TrainConfig
from polygraph.train.log import read_log
from polygraph.train.loop import LAST
from polygraph.train.mesh import (
    PER_SAMPLE,
    RESULT,
    MeshRunConfig,
    ReconstructionLoss,
    get_split,
    preset_run,
    train_mesh,
)
from polygraph.train.provenance import peak_memory_mb, provenance
from polygraph.train.run import Run, load_run

COLUMNS = {
    "model": "model",
    "test_mean_mm": "error mm",
    "test_std_mm": "std",
    "test_median_mm": "median",
    "val_mean_mm": "val mm",
    "ratio": "x first order",
    "parameters": "parameters",
    "step_ms": "step ms",
    "inference_1_ms": "infer 1 ms",
    "inference_16_ms": "infer 16 ms",
    "peak_mb": "peak MB",
    "seconds": "train s",
}
FIRST_ORDER = "first-order"
MEAN_SHAPE = "mean shape"


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` made.

    Attributes:
        rows: one per model and seed, then the baselines; JSON values.
        table: aligned text, seeds averaged.
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
    up: Any = "auto",
    say: Callable[[str], None] = print,
    **settings: Any,
) -> Comparison:
    """Train presets, measure them and the baselines on the same meshes, write table and pictures.

    Args:
        presets: names (see :mod:`polygraph.models.presets`), in the order of the table.
        data: data set and split.
        train: steps, schedule and the rest; its seed is replaced by each of ``seeds``.
        folder: for the runs, the table and the pictures.
        seeds: every preset is trained once per seed.
        latent_channels: of every model, and components of the PCA.
        pictures: write heat maps and curves (needs matplotlib).
        up: axis that points up in the pictures (see :func:`polygraph.report.render.make_view`).
        say: called with a line for people at every stage.
        **settings: further fields of every run, such as ``normalization`` and ``loss`` (see
            :class:`polygraph.train.mesh.MeshRunConfig`).

    Raises:
        ValueError: no preset or seed, an unknown preset.
        CheckpointError: the folder holds runs of another data set or with other settings.
    """
    if not presets or not seeds:
        raise ValueError(f"compare: needs a preset and a seed, got {list(presets)}, {list(seeds)}")
    folder = Path(folder)
    configs = [
        preset_run(
            name, data, replace(train, seed=seed), latent_channels=latent_channels, **settings
        )
        for name in dict.fromkeys(presets)
        for seed in dict.fromkeys(seeds)
    ]
    dataset = open_dataset(data)
    split = get_split(dataset, data.split)
    say(_describe(dataset, split))
    rows, runs = [], []
    for config in configs:
        rows.append(_train(config, folder, dataset, say))
        runs.append(load_run(folder / rows[-1]["run"]))
    say("measuring inference and memory")
    for row, cost in zip(rows, _costs(runs, configs[0], dataset, split), strict=True):
        row.update(cost)
    pca, baselines = _baselines(dataset, split, latent_channels, train.batch_size)
    rows += baselines
    _add_ratios(rows)
    table = text_table(average_seeds(rows), COLUMNS)
    write_json(folder / "results.json", rows)
    write_atomic(folder / "table.md", _document(rows, configs[0]).encode())
    written: list[Path] = []
    if pictures:
        say("drawing")
        first = [i for i, row in enumerate(rows) if row.get("seed") == seeds[0]]
        written = _pictures(
            [(rows[i], runs[i]) for i in first], pca, rows, dataset, split, folder, up
        )
    return Comparison(rows, table, written, folder)


def _describe(dataset: MeshDataset, split: Split) -> str:
    sizes = ", ".join(
        f"{len(getattr(split, part)):,} {name}"
        for part, name in (("train", "training"), ("val", "validation"), ("test", "test"))
    )
    return f"{dataset.name}: {dataset.num_vertices:,} vertices; {split.name} split: {sizes} meshes"


def _train(
    config: MeshRunConfig, folder: Path, dataset: MeshDataset, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train one model unless its result is there already; its row."""
    name = f"{config.preset}-seed{config.train.seed}"
    run = folder / name
    result = None
    if (run / RESULT).is_file():
        found = read_json(run / RESULT)
        if (found["config_hash"], found["dataset_hash"]) == (
            config.digest(),
            dataset.content_hash,
        ):
            result = found
            say(f"{name}: finished before")
    if result is None:
        say(f"{name}: {'resuming' if (run / LAST).is_file() else 'training'}")
        try:
            result = train_mesh(config, run, resume=True, dataset=dataset)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; choose another folder, or delete {run}") from error
    row = {
        "model": config.preset,
        "seed": config.train.seed,
        "latent_channels": config.model.latent_channels,
        **_error_columns(result["test"], result["val"]),
        **{k: result[k] for k in ("parameters", "seconds", "step_ms", "steps", "best_step")},
        "run": name,
        **{k: result[k] for k in ("config_hash", "dataset_hash", "hierarchy_hash", "split")},
        **{k: result[k] for k in ("polygraph", "commit", "torch", "python", "machine", "threads")},
    }
    say(f"{name}: {row['test_mean_mm']:.2f} mm on test, {row['seconds']:.0f} s")
    return row


def _error_columns(test: dict[str, float], val: dict[str, float]) -> dict[str, Any]:
    return {
        "test_mean_mm": test["mean"],
        "test_std_mm": test["std"],
        "test_median_mm": test["median"],
        "test_nonfinite": int(test["num_nonfinite"]),
        "val_mean_mm": val["mean"],
    }


def _baselines(
    dataset: MeshDataset, split: Split, latent_channels: int, batch_size: int
) -> tuple[PCA, list[dict[str, Any]]]:
    """PCA with as many components as the models have latents, and the mean training mesh."""
    started = time.perf_counter()
    pca = PCA.fit(dataset.vertices, latent_channels, indices=split.train)
    seconds = time.perf_counter() - started
    mean = torch.from_numpy(pca.mean)
    baselines: list[tuple[str, Callable[[Any], Any], int, float | None]] = [
        (f"PCA-{latent_channels}", lambda x: pca.reconstruct(x.double()), latent_channels, seconds),
        (MEAN_SHAPE, lambda x: mean.expand(len(x), -1, -1), 0, None),
    ]
    rows = []
    for name, reconstruct, latents, duration in baselines:
        parts = {
            part: metrics.summarize(
                metrics.evaluate(
                    reconstruct,
                    dataset.vertices,
                    getattr(split, part),
                    to_mm=dataset.to_mm,
                    batch_size=batch_size,
                )
            ).summary()
            for part in ("test", "val")
        }
        rows.append(
            {
                "model": name,
                "latent_channels": latents,
                **_error_columns(parts["test"], parts["val"]),
                "parameters": (latents + 1) * mean.numel(),
                "seconds": duration,
                "dataset_hash": dataset.content_hash,
                "split": {"name": split.name, "sha256": split.sha256},
                **provenance(),
            }
        )
    return pca, rows


def _costs(
    runs: Sequence[Run], config: MeshRunConfig, dataset: MeshDataset, split: Split
) -> list[dict[str, Any]]:
    """Inference time at batch 1 and 16, the models taking turns, and peak memory of a step."""
    device = torch.device(
        "cuda" if torch.cuda.is_available() and config.train.accelerator != "cpu" else "cpu"
    )
    models = [run.model.to(device) for run in runs]
    costs: list[dict[str, Any]] = [{} for _ in runs]
    for batch in (1, 16):
        rows = np.resize(split.test, batch)
        x = torch.from_numpy(dataset.gather(rows)).to(device, models[0].mean.dtype)
        times: list[list[float]] = [[] for _ in models]
        with torch.no_grad():
            for turn in range(18):
                for number, model in enumerate(models):
                    started = time.perf_counter()
                    model(x)
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    if turn >= 3:  # warm by then
                        times[number].append(time.perf_counter() - started)
        for cost, measured in zip(costs, times, strict=True):
            cost[f"inference_{batch}_ms"] = 1000 * float(np.median(measured))
    for cost, model in zip(costs, models, strict=True):
        cost["peak_mb"] = _step_memory(model, config, dataset, split, device)
        model.to("cpu")
    return costs


def _step_memory(
    model: MeshAutoencoder,
    config: MeshRunConfig,
    dataset: MeshDataset,
    split: Split,
    device: torch.device,
) -> float | None:
    """Peak memory of a forward and backward pass on one training batch, in MiB."""
    model.train()
    batches = NormalizedBatches(dataset.vertices, split.train, model, config.train, memory_limit=0)
    batch = batches(0)
    loss = ReconstructionLoss(model, config.loss)

    def step() -> None:
        loss(batch).backward()
        model.zero_grad(set_to_none=True)

    step()  # what is set up once does not count
    peak = peak_memory_mb(step, device)
    model.eval()
    return peak


def _add_ratios(rows: list[dict[str, Any]]) -> None:
    """Test error over the first-order model's of the same seed (for baselines, of all seeds)."""
    first = {r["seed"]: r["test_mean_mm"] for r in rows if r["model"] == FIRST_ORDER}
    if first:
        for row in rows:
            base = first.get(row.get("seed"), float(np.mean(list(first.values()))))
            row["ratio"] = row["test_mean_mm"] / base


def average_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per model: averages over its seeds; ``spread_mm`` is the range of the test error."""
    merged = []
    for model in dict.fromkeys(row["model"] for row in rows):
        group = [row for row in rows if row["model"] == model]
        row = dict(group[0])
        for key, value in row.items():
            if isinstance(value, float) and all(isinstance(r.get(key), float) for r in group):
                row[key] = float(np.mean([r[key] for r in group]))
        means = [r["test_mean_mm"] for r in group]
        row["spread_mm"] = max(means) - min(means)
        row["seeds"] = len(group)
        merged.append(row)
    return merged


def _document(rows: Sequence[dict[str, Any]], config: MeshRunConfig) -> str:
    """The table as markdown with what it was made from."""
    data, train = config.data, config.train
    columns = dict(COLUMNS)
    if any(row.get("seed") != rows[0].get("seed") for row in rows if "seed" in row):
        columns = {"model": "model", "seeds": "seeds", **columns, "spread_mm": "range over seeds"}
    origin = rows[0]
    source = data.kind if data.path is None else f"{data.kind} {Path(data.path).name}"
    return "\n".join(
        [
            markdown_table(average_seeds(rows), columns),
            "",
            f"Vertex error in mm on the test meshes of {source}, split {origin['split']['name']} "
            f"(sha256 {origin['split']['sha256'][:16]}, data {origin['dataset_hash'][:16]}); "
            f"{config.model.latent_channels} latents, {json.dumps(train.length())[1:-1]}, batch "
            f"{train.batch_size}, learning rate {train.learning_rate:g}, schedule "
            f"{train.schedule}, weight decay {train.weight_decay:g}, loss {config.loss}, "
            f"normalization {config.normalization}, augmentation {config.augmentation:g}; "
            "weights chosen on the validation split. "
            f"Commit {origin['commit']}, polygraph {origin['polygraph']}, "
            f"torch {origin['torch']}, {origin['threads']} threads of {origin['machine']}. "
            "Peak memory: one training step.",
            "",
        ]
    )


def _pictures(
    trained: Sequence[tuple[dict[str, Any], Run]],
    pca: PCA,
    rows: Sequence[dict[str, Any]],
    dataset: MeshDataset,
    split: Split,
    folder: Path,
    up: Any,
) -> list[Path]:
    """Heat maps of the median and the worst test mesh, loss curves, validation curves."""
    from polygraph.report.figures import Panel, curve_figure, heatmap_figure
    from polygraph.report.render import make_view

    mean_errors = np.mean([np.load(run.folder / PER_SAMPLE) for _, run in trained], axis=0)
    order = np.argsort(mean_errors, kind="stable")
    picked = {"median": split.test[order[len(order) // 2]], "worst": split.test[order[-1]]}
    name = f"PCA-{pca.latent_channels}"
    meshes, views = [], []
    for label, index in picked.items():
        x = torch.from_numpy(dataset.gather(np.array([index])))
        with torch.no_grad():
            made = [(row["model"], run.model(x.to(run.model.mean.dtype))) for row, run in trained]
        made.append((name, pca.reconstruct(x)))
        panels = [
            Panel(model, _array(y[0]), _array(metrics.vertex_distance(y, x, dataset.to_mm)[0]))
            for model, y in made
        ]
        original = _array(x[0])
        meshes.append((f"input ({label} error)", original, panels))
        views.append(make_view(original, up=up))
    written = [heatmap_figure(folder / "heatmaps.png", meshes, dataset.faces, views)]
    logs = {row["model"]: read_log(run.folder / "log.jsonl") for row, run in trained}
    curves = {m: _curve(records, "loss") for m, records in logs.items()}
    written.append(curve_figure(folder / "loss.png", curves, ylabel="training loss"))
    curves = {m: _curve(records, "val_error_mm") for m, records in logs.items()}
    lines = {row["model"]: row["val_mean_mm"] for row in rows if row["model"] == name}
    written.append(
        curve_figure(
            folder / "validation.png",
            curves,
            ylabel="validation error in mm",
            lines=lines,
        )
    )
    return written


def _array(x: torch.Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = x.detach().double().cpu().numpy()
    return array


def _curve(records: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    chosen = [record for record in records if key in record]
    return [record["step"] for record in chosen], [record[key] for record in chosen]
