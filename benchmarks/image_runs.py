"""Runs of `polygraph train images` side by side: accuracies, losses over epochs and over time.

    python benchmarks/image_runs.py RUNS/conv-s0 RUNS/conv-s1 RUNS/edge-k8-s0 --out results/NAME/bed

A folder's name is that of the variant and ``-s`` with the seed. Writes ``bed.json``, a row per run,
and ``bed_curves.png``: of each variant the mean over its seeds, and a band from the least to the
largest. Runs that are not done are refused, and so are runs of other data, lengths or batches than
the first. With ``--keep`` the rows that bed.json has of other runs stay, whose folders may be gone.

Time is not what the runs took, beside other work: it is the time of the processor for a training
step of each variant (forward, backward), measured here on one thread and of all in turns, times the
steps.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finished_runs import Row, read_result

from polygraph.models.images.families import CLASSIFIERS, build, config_of
from polygraph.report.figures import COLORS
from polygraph.report.render import pyplot
from polygraph.train.log import read_log
from polygraph.train.supervised import ClassificationLoss

ALIKE = ("dataset", "dataset_hash", "split_hash", "steps", "augment")
COMPARED = ("dataset", "steps", "batch_size", "train_images")  # of rows whose folders are gone
POINTS = 10  # of a curve of training losses, each a mean
REPEATS = 15  # of a timed step; the least counts
MOST = 1.5  # what is shown of losses, in largest training losses


def read_run(folder: Path) -> tuple[Row, list[Any]]:
    """The row of a run, without its time; and what must be the same in all of them."""
    result, row = read_result(folder)
    row["model"] = result["model"]
    row["train_images"] = result["config"]["train_images"]
    for part in ("val", "test"):
        found = result[part]
        row[part] = {k: found[k] for k in ("num_samples", "accuracy", "top5_accuracy", "loss")}
        if "num_nonfinite" in found:  # runs of before it have none
            row[part]["num_nonfinite"] = found["num_nonfinite"]
    records = read_log(folder / "log.jsonl")
    validated = [r for r in records if "val_loss" in r]
    row["validation"] = {
        name: [r[name] for r in validated] for name in ("step", "val_loss", "val_error")
    }
    row["training"] = _means([r for r in records if "loss" in r], row["steps"] // POINTS)
    return row, [[result[key] for key in ALIKE], row["batch_size"], row["train_images"]]


def _means(records: list[Row], window: int) -> dict[str, list[float]]:
    """Training losses as means of about `window` steps each, at the last of them."""
    losses, weights, last, start = [], [], 0, 0
    found: dict[str, list[float]] = {"step": [], "loss": []}
    for record in records:
        losses.append(record["loss"])
        weights.append(record["step"] - last)
        last = record["step"]
        if last - start >= window:
            found["step"].append(last)
            found["loss"].append(round(float(np.average(losses, weights=weights)), 5))
            losses, weights, start = [], [], last
    return found


def step_seconds(rows: list[Row]) -> dict[str, float]:
    """The processor's time for forward and backward of a batch in each variant's network.

    Of one thread, in turns, the least of all rounds.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    losses = {}
    for variant, (row, *_) in of_variants(rows).items():
        fields = dict(row["model"])
        model = build(config_of(CLASSIFIERS, fields.pop("family"), fields)).train()
        images = torch.rand(row["batch_size"], model.config.in_channels, *[model.config.size] * 2)
        labels = torch.randint(model.config.num_classes, (row["batch_size"],))
        losses[variant] = partial(ClassificationLoss(model), images * 2 - 1, labels)
    taken: dict[str, list[float]] = {variant: [] for variant in losses}
    for _ in range(REPEATS):
        for variant, loss in losses.items():
            start = time.process_time()
            loss()[0].backward()
            taken[variant].append(time.process_time() - start)
    return {variant: round(min(found), 5) for variant, found in taken.items()}


def of_variants(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each variant, in the order in which they came."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row)
    return found


def curves(path: Path, rows: list[Row]) -> None:
    """Training and validation loss against epochs and against time.

    Validation losses far above all training losses, of networks that overflow, are cut off.
    """
    plt = pyplot()
    highest = max(max(row["training"]["loss"]) for row in rows)
    figure, grid = plt.subplots(2, 2, figsize=(10.4, 7.6), sharey="row", layout="constrained")
    epoch = rows[0]["train_images"] / rows[0]["batch_size"]
    columns: list[tuple[str, Callable[[Row], float]]] = [
        ("epochs", lambda row: 1 / epoch),
        ("minutes of one thread", lambda row: row["step_seconds"] / 60),
    ]
    lines = [("training loss", "training", "loss"), ("validation loss", "validation", "val_loss")]
    for axes_row, (title, part, name) in zip(grid, lines, strict=True):
        for axes, (label, scale) in zip(axes_row, columns, strict=True):
            for number, (variant, found) in enumerate(of_variants(rows).items()):
                # Logs of unlike spacing are compared at the steps of the shortest.
                steps = min((row[part]["step"] for row in found), key=len)
                x = np.array(steps) * scale(found[0])
                y = np.array(
                    [np.interp(steps, row[part]["step"], row[part][name]) for row in found]
                )
                style = {"color": COLORS[number % len(COLORS)]}
                dashes = "-" if number < len(COLORS) else "--"
                axes.plot(x, y.mean(0), dashes, label=variant, linewidth=1.6, **style)
                if len(found) > 1:
                    axes.fill_between(x, y.min(0), y.max(0), alpha=0.2, linewidth=0, **style)
            axes.set_xlabel(label)
            axes.grid(True, color="#e4e4e4", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        axes_row[0].set_ylabel(title)
        low, high = axes_row[0].get_ylim()
        axes_row[0].set_ylim(max(low, 0), min(high, MOST * highest))
    for axes in grid[:, 1]:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(plt.NullFormatter())
    grid[0, 0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def table(rows: list[Row]) -> str:
    """Markdown: of each variant the mean over seeds, with every seed's number behind it."""
    variants = of_variants(rows)
    plain = next(iter(variants.values()))[0]["step_seconds"]
    first = next(iter(variants))
    lines = [
        "| variant | parameters | test accuracy | test loss | validation accuracy | "
        f"time of a step / {first} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for variant, found in variants.items():
        lines.append(
            f"| {variant} | {found[0]['parameters']:,} | "
            f"{_seeds([row['test']['accuracy'] for row in found])} | "
            f"{_seeds([row['test']['loss'] for row in found])} | "
            f"{_seeds([row['val']['accuracy'] for row in found])} | "
            f"{found[0]['step_seconds'] / plain:.1f} |"
        )
    return "\n".join(lines)


def _seeds(values: list[float]) -> str:
    """Their mean, and all of them where there are several."""
    each = f" ({', '.join(f'{value:.3f}' for value in values)})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{each}"


def merged(kept: list[Row], rows: list[Row]) -> list[Row]:
    """The rows kept from before and the new ones, which replace theirs; a variant's together."""
    made = {row["run"] for row in rows}
    every = [row for row in kept if row["run"] not in made] + rows
    for row in every:
        for name in COMPARED:
            if row[name] != every[-1][name]:
                raise SystemExit(f"{row['run']}: {name} is {row[name]}, not {every[-1][name]}")
    return [row for found in of_variants(every).values() for row in found]


def _losses(value: Any, change: Callable[[Any], Any], *, inside: bool = False) -> Any:
    """Rows with every loss changed: JSON has no NaN, which those of networks that overflow are."""
    if isinstance(value, dict):
        return {k: _losses(v, change, inside=k in ("loss", "val_loss")) for k, v in value.items()}
    if isinstance(value, list):
        return [_losses(one, change, inside=inside) for one in value]
    return change(value) if inside else value


def as_json(rows: list[Row]) -> str:
    """Rows as a file has them: null where a loss is not finite."""
    finite = _losses(rows, lambda loss: loss if math.isfinite(loss) else None)
    return json.dumps(finite, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> list[Row]:
    """The rows of a file; NaN where it has null for a loss."""
    found: list[Row] = _losses(json.loads(text), lambda loss: math.nan if loss is None else loss)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, help="path without its ending")
    parser.add_argument("--keep", action="store_true", help="keep the file's rows of other runs")
    options = parser.parse_args()
    if not options.runs and not options.keep:
        parser.error("no runs are named")
    out: Path = options.out
    file = out.with_name(f"{out.name}.json")
    rows: list[Row] = []
    alike: list[Any] | None = None
    for folder in options.runs:
        row, same = read_run(folder)
        if alike not in (None, same):
            raise SystemExit(f"{folder}: of other data, length or batch than {options.runs[0]}")
        alike = same
        rows.append(row)
    if options.keep:
        rows = merged(from_json(file.read_text()), rows)
    timed = step_seconds(rows)
    for row in rows:
        row["step_seconds"] = timed[row["variant"]]
    out.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(as_json(rows))
    curves(out.with_name(f"{out.name}_curves.png"), rows)
    print(table(rows))


if __name__ == "__main__":
    main()
