"""Charts of a grid of mesh autoencoders as pictures: for papers, and where no page can be shown.

What `polygraph.report.page` shows in a browser: every model's error, error against order, and how
many vertices have at most what error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polygraph.report.figures import legend_above, save_figure
from polygraph.report.grid_rows import LINEAR, POLYNOMIALS, Model, View, make_views, read_rows
from polygraph.report.order_lines import lacks_activations, order_lines, order_of
from polygraph.report.palette import FAMILIES
from polygraph.report.render import pyplot


def write_charts(grid: str | Path, folder: str | Path) -> list[Path]:
    """Write a PNG for each view of a grid: ``<data>-<split>-latent-<n>.png``.

    Args:
        grid: folder of `polygraph benchmark mesh`, or its ``results.json``.
        folder: made where it does not exist.

    Returns:
        The files.

    Raises:
        GridError: ``grid`` is none.
    """
    views = make_views(read_rows(grid))
    return [chart(view, Path(folder) / f"{picture_name(view, views)}.png") for view in views]


def picture_name(view: View, views: Sequence[View]) -> str:
    """``<data>-<split>-latent-<n>``, and a piece of the recipe's hash where views share that."""
    names = [f"{v.data}-{v.split}-latent-{v.latent}" for v in views]
    name = f"{view.data}-{view.split}-latent-{view.latent}"
    recipe = f"-{(view.recipe_hash or '')[:6]}" if names.count(name) > 1 else ""
    return re.sub(r"[^\w.+-]+", "-", name) + recipe


def chart(view: View, path: str | Path) -> Path:
    """Write the picture of one view."""
    plt = pyplot()
    models = view.models  # the lowest error first
    height = max(4.6, 1.8 + 0.24 * len(models))
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, height), layout="constrained", width_ratios=(1.1, 1, 1)
    )
    limit = _limit(models)
    _errors(left, models, limit)
    _orders(middle, models, limit)
    _shares(right, models, limit)
    for axes in (left, middle, right):
        axes.grid(True, color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    seeds = {row["seed"] for model in view.models for row in model.rows} - {None}
    first = view.models[0].rows[0]
    figure.suptitle(
        f"{_literal(view.data)}, {_literal(view.split)}, {view.latent} latents: "
        f"{first['num_train']:,} meshes to train, {first['num_test']:,} to test, "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)}",
        fontsize=12,
    )
    return save_figure(plt, figure, path)


def _literal(name: str) -> str:
    """A name from a file, of which matplotlib must take no dollar sign for mathematics."""
    return name.replace("$", r"\$")


def _mean(model: Model) -> float | None:
    return model.spread("mean_mm").mean


def _limit(models: Sequence[Model]) -> float:
    """The largest error that is drawn: one that is far beyond the others' would flatten them."""
    errors = [_mean(model) or 0.0 for model in models if model.rows[0]["latent"]]
    errors = [error for error in errors if error]
    typical = 3 * float(np.median(errors)) if errors else 1.0
    return 1.05 * max((error for error in errors if error <= typical), default=1.0)


def _errors(axes: Any, models: Sequence[Model], limit: float) -> None:
    """Mean errors, the best above; what has none is named all the same."""
    for place, model in enumerate(models):
        error = model.spread("mean_mm")
        color = FAMILIES[model.rows[0]["family"]].color
        if error.mean is None:
            axes.text(0.02 * limit, place, "not finite", va="center", fontsize=8, color="#b3261e")
            continue
        if error.mean > limit:
            text = f"{error.mean:.4g}, beyond the axis"
            axes.text(limit, place, text, va="center", ha="right", fontsize=8, color="#5a6470")
            continue
        face = "white" if lacks_activations(model) else color
        axes.errorbar(
            error.mean, place, xerr=error.std or 0.0, fmt="o", color=color, markerfacecolor=face,
            markersize=6, capsize=2.5, linewidth=1.2,
        )  # fmt: skip
        axes.annotate(
            f"{error.mean:.1f}", (error.mean + (error.std or 0), place), (8, 0),
            textcoords="offset points",
            va="center", fontsize=8, color="#5a6470",
        )  # fmt: skip
    axes.set_yticks(range(len(models)), [_literal(m.name) for m in models], fontsize=8.5)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * limit)
    axes.set_xlabel("mean vertex error on test meshes in mm (filled: with activations)")


def _orders(axes: Any, models: Sequence[Model], limit: float) -> None:
    """Error against order, one line per polynomial, with and without activations.

    Lines are of the normalisation that most models have: others stand in the list alone.
    """
    orders: set[int] = set()
    lines = [line for line in order_lines(models) if line.norm is None]
    for line in sorted(lines, key=lambda line: line.without):
        drawn = [model for model in line.models if 0 < (_mean(model) or 0) <= limit]
        if not drawn:
            continue
        orders.update(map(order_of, drawn))
        errors = [model.spread("mean_mm") for model in drawn]
        axes.errorbar(
            [order_of(m) + 0.04 * (POLYNOMIALS.index(line.family) - 1) for m in drawn],
            [e.mean for e in errors], yerr=[e.std or 0.0 for e in errors], capsize=3,
            marker="o", markersize=5, color=FAMILIES[line.family].color, linewidth=1.6,
            markerfacecolor="white" if line.without else None,
            linestyle="--" if line.without else "-",
            label=line.family + (", no activations" if line.without else ""),
        )  # fmt: skip
    for model in models:
        mean = _mean(model)
        if model.rows[0]["family"] == LINEAR and model.rows[0]["latent"] and mean is not None:
            axes.axhline(
                mean, color=FAMILIES[LINEAR].color, linestyle=":", label=_literal(model.name)
            )
    axes.set_xticks(sorted(orders))
    axes.set_xlabel("order")
    axes.set_ylabel("mean vertex error in mm")
    if axes.get_legend_handles_labels()[0]:
        legend_above(axes, 3)


def _shares(axes: Any, models: Sequence[Model], limit: float) -> None:
    """Share of vertices with at most an error: the best of each family."""
    best: dict[str, Model] = {}
    for model in models:
        if model.rows[0]["latent"] and 0 < (_mean(model) or 0) <= limit:
            best.setdefault(model.rows[0]["family"], model)
    share = np.linspace(0, 100, 101)
    far = 0.0
    for family, model in best.items():
        errors = np.array([np.nan if q is None else q for q in model.quantiles()])
        label = _literal(model.name)
        axes.plot(errors, share, color=FAMILIES[family].color, linewidth=1.6, label=label)
        far = max(far, float(np.nan_to_num(errors)[95]))
    axes.set_xlim(0, far or 1.0)
    axes.set_ylim(0, 100)
    axes.set_xlabel("vertex error in mm")
    axes.set_ylabel("% of vertices with at most that error")
    if best:
        legend_above(axes, 3)
