"""Runs of `polygraph train gan` side by side: losses, scores, samples, interpolations.

    python benchmarks/gan_runs.py RUNS/baseline RUNS/edge-k8 --out results/NAME/gan

The folders' names are the names of the runs, seeds last (``edge-k8-s1``). Writes ``gan.json``, a
row per run with its whole log, ``gan_curves.png``, ``gan_samples.png`` (the averaged generators,
the same z for all whose z have one size), ``gan_interpolations.png`` and ``gan_walks.png``, whose
rows go along the directions in which a generator's images change most. Seeds of a variant share a
colour; the first of them is pictured. Runs that are not done are refused. Of generators that are
polynomials of z before their tanh the degree is checked, in evaluation mode. With ``--keep`` the
rows that gan.json has of other runs stay, whose folders may be gone: pictures lack them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from polygraph.analysis import check_degree
from polygraph.report.figures import COLORS
from polygraph.report.image_grid import image_grid
from polygraph.report.render import pyplot
from polygraph.tasks.gan.latent import (
    deviation,
    generate,
    interpolations,
    latent_vectors,
    principal_directions,
    walks,
)
from polygraph.tasks.gan.run import load_generator
from polygraph.train.checkpoint import load_checkpoint
from polygraph.train.log import read_log

KEPT = ("config_hash", "dataset", "commit", "torch", "machine", "threads")
COLUMNS, STEPS = 16, 16  # images in a row of samples and of an interpolation
DIRECTIONS, REACH = 4, 2.0  # rows of walks, how far they go in deviations of z
LEAST_SHOWN = 0.03  # of gaps, penalties and FID: a gap may be 0 or less
LARGEST_DEGREE = 28  # that float64 shows
ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "ReLU", nn.LeakyReLU: "leaky ReLU"}


def read_run(folder: Path, at: int | None = None) -> dict[str, Any]:
    """The row of a run; as it was at a step, where one is given."""
    result = described(folder, at)
    records = [r for r in read_log(folder / "log.jsonl") if at is None or r["step"] <= at]
    scored = [r for r in records if "fid" in r]
    names = {name.split(" (")[0]: name for r in scored[:1] for name in r}
    config = result["config"]
    row: dict[str, Any] = {"run": folder.name, "variant": variant_of(folder.name)}
    row |= {"seed": config["train"]["seed"], "preset": config["preset"]}
    row |= {key: result[key] for key in KEPT if key in result}
    sizes = ("steps", "parameters", "critic_parameters", "step_ms", "best_step", "schedule_steps")
    row |= {key: result[key] for key in sizes if key in result}
    row["batch_size"] = config["train"]["batch_size"]
    row["scores"] = [
        {
            "step": r["step"],
            "val_critic_gap": r["val_critic_gap"],
            **{short: r[full] for short, full in names.items() if full in r and short != "step"},
        }
        for r in scored
    ]
    row["extractor"] = names["IS"].removeprefix("IS ").strip("()") if "IS" in names else None
    row["extractor_accuracy"] = accuracy(folder, config.get("classifier"))
    if at is not None and (not scored or scored[-1]["step"] != at):
        raise SystemExit(f"{folder}: it was not scored at step {at}")
    row |= polynomial(load_generator(folder / "last.safetensors")[0])
    losses = ("critic_gap", "critic_loss", "generator_loss", "penalty")
    trained = [r for r in records if "critic_loss" in r]
    row["curve"] = {"step": [r["step"] for r in trained]} | {
        name: [round(r[name], 5) for r in trained] for name in losses if name in trained[0]
    }
    return row


def described(folder: Path, at: int | None) -> dict[str, Any]:
    """What a finished run says of itself; at a step, also one that was stopped after it."""
    if at is None:
        if not (folder / "result.json").is_file():
            raise SystemExit(f"{folder}: no finished run here (result.json is missing)")
        found: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return found
    found = json.loads((folder / "run.json").read_text())
    generator, _ = load_generator(folder / "last.safetensors")
    found["parameters"] = sum(p.numel() for p in generator.parameters())
    found["steps"], found["schedule_steps"] = at, found["config"]["train"]["steps"]
    return found


def polynomial(generator: nn.Module) -> dict[str, Any]:
    """The activations of a generator; of a polynomial its degree, and whether that is its degree.

    Degrees are those of the values before the tanh, in evaluation mode.
    """
    found = {
        name for kind, name in ACTIVATIONS.items() for m in generator.modules() if type(m) is kind
    }
    row: dict[str, Any] = {"activations": ", ".join(sorted(found)) or "none"}
    degree = getattr(generator, "degree", None)
    if degree is None:
        return row
    row["degree"], row["degree_holds"] = degree, None
    if degree <= LARGEST_DEGREE:
        generator.double()
        shape = (generator.config.latent_channels,)
        row["degree_holds"] = bool(check_degree(generator.polynomial, shape, degree))
    return row


def degree_words(row: dict[str, Any]) -> str:
    """The degree and what its check found, for the table."""
    if "degree" not in row:
        return "none"
    words = {None: "not checked", True: "checked", False: "REFUTED"}[row["degree_holds"]]
    return f"{row['degree']}, {words}"


def accuracy(folder: Path, kept: str | None) -> float | None:
    """The share of test images that the classifier of the scores gets right."""
    found = sorted(Path(kept or folder / "classifier").glob("*.safetensors"))
    if len(found) != 1:
        return None
    return float(load_checkpoint(found[0])[1]["accuracy"])


def variant_of(run: str) -> str:
    """The name of a run without its seed."""
    return re.sub(r"-s\d+$", "", run)


def first_seeds(folders: list[Path]) -> list[Path]:
    """The first folder of each variant."""
    found: dict[str, Path] = {}
    for folder in folders:
        found.setdefault(variant_of(folder.name), folder)
    return list(found.values())


def curves(path: Path, rows: list[dict[str, Any]]) -> None:
    """The critic's gap, the penalty, FID and IS against steps."""
    plt = pyplot()
    scored = any(row["scores"] for row in rows)
    figure, grid_of_axes = plt.subplots(
        2 if scored else 1, 2, figsize=(9.6, 6.8 if scored else 3.6), layout="constrained"
    )
    panels = list(np.asarray(grid_of_axes).ravel())
    where = rows[0]["extractor"] or ""
    variants = list(dict.fromkeys(variant_of(row["run"]) for row in rows))
    firsts = [next(r for r in rows if variant_of(r["run"]) == name) for name in variants]
    wanted = [("critic_gap", "critic's gap", True), ("penalty", "gradient penalty", True)]
    if any("penalty" not in row["curve"] for row in rows):
        wanted[1] = ("generator_loss", "generator's loss", False)
    if scored:
        wanted += [("FID", f"FID ({where})", True), ("IS", f"IS ({where})", False)]
    for axes, (key, label, log) in zip(panels, wanted, strict=True):
        for row in rows:
            place = variants.index(variant_of(row["run"]))
            if key in ("FID", "IS"):
                x = [s["step"] for s in row["scores"]]
                y = [s[key] for s in row["scores"]]
            else:
                x, y = row["curve"]["step"], row["curve"][key]
            axes.plot(
                x,
                y,
                color=COLORS[place % len(COLORS)],
                linestyle="--" if place >= len(COLORS) else "-",
                label=variants[place] if row is firsts[place] else None,
                linewidth=1.3,
            )
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(plt.FuncFormatter(_minor))
            axes.set_ylim(bottom=max(axes.get_ylim()[0], LEAST_SHOWN))
        axes.set_ylabel(label)
        axes.set_xlabel("generator step")
        axes.grid(True, which="both", color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=6,
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _minor(value: float, _: int) -> str:
    """Twos, threes and sixes of a logarithmic axis."""
    return f"{value:g}" if f"{value:.0e}"[0] in "236" else ""


def samples(generator: nn.Module) -> Tensor:
    """Two rows of z, the same for all generators of as many numbers."""
    return latent_vectors(2 * COLUMNS, generator.config, 0)


def straight(generator: nn.Module) -> Tensor:
    """Two rows of z, each on the straight line between two."""
    return interpolations(latent_vectors(4, generator.config, 1), STEPS)


def principal(generator: nn.Module, *, from_zero: bool = False) -> Tensor:
    """Rows of z along the directions in which images change most, around a sample, or z = 0."""
    config, found = generator.config, principal_directions(generator, DIRECTIONS)
    start = latent_vectors(1, config, 0)[0] * (not from_zero)
    return walks(start, found, STEPS, REACH * deviation(config))


def pictures(path: Path, folders: list[Path], rows: Callable[[nn.Module], Tensor]) -> None:
    """Some rows of every run, the run's name beside them."""
    plt = pyplot()
    generators = [load_generator(folder / "last.safetensors")[0] for folder in folders]
    points = [rows(generator) for generator in generators]
    height = 0.64 * sum(len(z) // COLUMNS for z in points)
    figure, panels = plt.subplots(
        len(folders), 1, figsize=(9.6, height), squeeze=False, layout="constrained"
    )
    for axes, folder, generator, z in zip(panels[:, 0], folders, generators, points, strict=True):
        canvas = image_grid(generate(generator, z).numpy(), COLUMNS)
        axes.imshow(canvas[..., 0] if canvas.shape[2] == 1 else canvas, cmap="gray", vmin=0)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(folder.name, fontsize=8)
        for spine in axes.spines.values():
            spine.set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    if all(generator.config.out_channels == 1 for generator in generators):
        Image.open(path).convert("L").save(path, optimize=True)  # half the bytes


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    where = rows[0]["extractor"]
    lines = [
        "| run | degree in z | activations | steps | generator, parameters | "
        f"IS ({where}) | FID ({where}) | lowest FID, at | critic's gap, last | largest |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        last, best = row["scores"][-1], min(row["scores"], key=lambda s: s["FID"])
        gaps = row["curve"]["critic_gap"]
        lines.append(
            f"| {row['run']} | {degree_words(row)} | {row['activations']} | {row['steps']:,} | "
            f"{row['parameters']:,} | {last['IS']:.2f} ± "
            f"{last['IS std']:.2f} | {last['FID']:.2f} | {best['FID']:.2f}, {best['step']:,} | "
            f"{gaps[-1]:.2f} | {max(gaps):.1f} |"
        )
    return "\n".join(lines)


def merged(kept: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows kept from before and the new ones, which replace those of the same runs."""
    made = {row["run"]: row for row in rows}
    for row in kept:
        for name in ("dataset", "extractor", "extractor_accuracy"):
            if row[name] != rows[0][name]:
                raise SystemExit(f"{row['run']}: {name} is {row[name]}, not {rows[0][name]}")
    here = {row["run"] for row in kept}
    return [made.get(row["run"], row) for row in kept] + [r for r in rows if r["run"] not in here]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--at",
        type=int,
        metavar="STEP",
        help="all runs as they were at this step, stopped ones too; without pictures",
    )
    parser.add_argument("--out", type=Path, required=True, help="path without its ending")
    parser.add_argument("--keep", action="store_true", help="keep the file's rows of other runs")
    parser.add_argument(
        "--from-zero", action="store_true", help="walks go through z = 0, and not through a sample"
    )
    options = parser.parse_args()
    rows = [read_run(folder, options.at) for folder in options.runs]
    out: Path = options.out
    file = out.with_name(f"{out.name}.json")
    if options.keep:
        rows = merged(json.loads(file.read_text()), rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=1) + "\n")
    curves(out.with_name(f"{out.name}_curves.png"), rows)
    along = partial(principal, from_zero=options.from_zero)
    drawn = (("samples", samples), ("interpolations", straight), ("walks", along))
    for name, rows_of in drawn if options.at is None else ():
        pictures(out.with_name(f"{out.name}_{name}.png"), first_seeds(options.runs), rows_of)
    if all(row["scores"] for row in rows):
        print(table(rows))


if __name__ == "__main__":
    main()
