"""The figures of a comparison: error heat maps side by side, and curves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph.mesh.up import Up
from polygraph.report.render import View, draw_mesh, error_colormap, make_view, pyplot

Floats = NDArray[np.float64]

COLORS = ("#4c6a92", "#d1603d", "#3d8f6e", "#8c5a9e", "#b08a2e", "#b2456e", "#5a5a5a", "#2f9fb0")


@dataclass(frozen=True)
class Panel:
    """One reconstruction in a heat map.

    Attributes:
        title: name of the model.
        vertices: [V, 3] as predicted.
        errors: [V] in mm.
    """

    title: str
    vertices: Floats
    errors: Floats


def heatmap_figure(
    path: str | Path,
    rows: Sequence[tuple[str, Floats, Sequence[Panel]]],
    faces: NDArray[np.int64],
    views: Sequence[View],
    *,
    title: str = "",
    percentile: float = 96.0,
) -> Path:
    """Write a figure: one row per mesh, the input first, then every model with its error as colour.

    Args:
        path: file to write (its suffix decides the format).
        rows: ``(label, input vertices [V, 3], panels)``; all rows have equally many panels.
        faces: int64 [F, 3].
        views: one per row.
        title: above everything.
        percentile: the colour bar ends at this percentile of all errors shown; larger ones take the
            last colour.

    Returns:
        The path.
    """
    plt = pyplot()
    if not rows or not rows[0][2]:
        raise ValueError("heatmap_figure: rows must hold at least one mesh with one panel")
    columns = 1 + len(rows[0][2])
    shown = np.concatenate([panel.errors for _, _, panels in rows for panel in panels])
    shown = shown[np.isfinite(shown)]
    vmax = max(float(np.percentile(shown, percentile)) if len(shown) else 1.0, 1e-9)
    aspect = max(view.half_width / view.half_height for view in views)
    height = float(np.clip(3.4 / max(aspect, 0.5), 1.6, 3.4))
    width = float(np.clip(height * aspect, 1.5, 3.4))
    # On a page the figure is shrunk to the width of the text, and must be read there.
    points = float(np.clip(width * columns, 10, 20))
    height += 0.04 * points  # two lines of title
    figure, grid = plt.subplots(
        len(rows),
        columns,
        figsize=(width * columns + 0.09 * points, height * len(rows) + 0.05 * points),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(h_pad=0.007 * points)
    letters = 130 / points  # in an inch
    for line, (label, vertices, panels), view in zip(grid, rows, views, strict=True):
        draw_mesh(line[0], vertices, faces, view)
        line[0].set_title(label, fontsize=points)
        for axes, panel in zip(line[1:], panels, strict=True):
            draw_mesh(axes, panel.vertices, faces, view, values=panel.errors, vmax=vmax)
            name = textwrap.fill(panel.title, int(letters * width))
            axes.set_title(f"{name}\n{panel.errors.mean():.1f} mm", fontsize=points)
    _color_bar(plt, figure, grid, vmax, points)
    if title:
        figure.suptitle(textwrap.fill(title, int(letters * width * columns)), fontsize=points)
    return save_figure(plt, figure, path)


def panels_view(vertices: Floats, panels: Sequence[Panel], *, up: Up = "auto") -> View:
    """A view in which a mesh and what models made of it have room.

    What flew off by more than a fifth of the mesh does not make all others small: it is cut.

    Args:
        vertices: of the true mesh, [V, 3].
        panels: of the same mesh.
        up: see :func:`polygraph.report.render.make_view`.
    """
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    room = 0.2 * float((high - low).max())
    made = [np.where(np.isfinite(p.vertices), p.vertices, vertices) for p in panels]
    near = [np.clip(mesh, low - room, high + room) for mesh in made]
    return make_view(np.stack([vertices, *near]), up=up)


def mesh_rows_figure(
    path: str | Path,
    rows: Sequence[tuple[str, Sequence[str], Floats]],
    faces: NDArray[np.int64],
    *,
    up: Up = "auto",
    columns: int = 9,
) -> Path:
    """Write a figure of meshes in rows, all seen from one side and at one scale.

    Args:
        path: file to write (its suffix decides the format).
        rows: ``(name, a label per mesh, meshes [T, V, 3])``; a row of more than ``columns`` meshes
            goes on below.
        faces: int64 [F, 3].
        up: see :func:`polygraph.report.render.make_view`.
        columns: meshes side by side.

    Returns:
        The path.
    """
    plt = pyplot()
    lines = [
        (name if start == 0 else "", labels[start : start + columns], meshes[start:][:columns])
        for name, labels, meshes in rows
        for start in range(0, len(meshes), columns)
    ]
    if not lines:
        raise ValueError("mesh_rows_figure: rows must hold at least one mesh")
    width = max(len(labels) for _, labels, _ in lines)
    centered = [meshes - meshes.mean(axis=1, keepdims=True) for _, _, meshes in lines]
    view = make_view(np.concatenate(centered), up=up)
    aspect = float(np.clip(view.half_width / view.half_height, 0.4, 2.5))
    height = 1.9 if aspect < 1.2 else 1.4
    figure, grid = plt.subplots(
        len(lines),
        width,
        figsize=(height * aspect * width + 0.6, (height + 0.35) * len(lines)),
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.ravel():
        axes.set_axis_off()
    for line, (name, labels, _), meshes in zip(grid, lines, centered, strict=True):
        for axes, label, vertices in zip(line, labels, meshes, strict=False):
            draw_mesh(axes, vertices, faces, view)
            axes.set_title(label, fontsize=9, color="#444444")
        if name:
            line[0].text(
                -0.04, 0.5, name, transform=line[0].transAxes, rotation=90, fontsize=10,
                ha="right", va="center",
            )  # fmt: skip
    return save_figure(plt, figure, path)


def _color_bar(plt: Any, figure: Any, grid: Any, vmax: float, points: float) -> None:
    norm = plt.Normalize(0, vmax)
    mappable = plt.cm.ScalarMappable(norm=norm, cmap=error_colormap())
    bar = figure.colorbar(
        mappable, ax=list(grid.ravel()), extend="max", shrink=0.75, pad=0.01, aspect=30
    )
    bar.set_label("vertex error in mm", fontsize=0.9 * points)
    bar.ax.tick_params(labelsize=0.8 * points)
    bar.outline.set_visible(False)


def curve_figure(
    path: str | Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    ylabel: str,
    title: str = "",
    lines: Mapping[str, float] | None = None,
) -> Path:
    """Write curves over training steps with a logarithmic vertical axis.

    Args:
        path: file to write.
        curves: name -> (steps, values); values that are not finite or not positive are gaps.
        ylabel: what the values are.
        title: above the picture.
        lines: name -> constant, drawn dashed (a baseline that is not trained).
    """
    plt = pyplot()
    height = 4.2 + 0.2 * (len(curves) + len(lines or {})) / 4  # of the legend
    figure, axes = plt.subplots(figsize=(7.2, height), layout="constrained")
    for number, (name, (steps, values)) in enumerate(curves.items()):
        y = np.asarray(values, dtype=np.float64)
        y = np.where(np.isfinite(y) & (y > 0), y, np.nan)
        color = COLORS[number % len(COLORS)]
        axes.plot(np.asarray(steps), y, label=name, color=color, linewidth=1.6)
    for name, value in (lines or {}).items():
        axes.axhline(value, label=name, color="#222222", linestyle="--", linewidth=1.1)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(plt.matplotlib.ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(plt.matplotlib.ticker.LogFormatter(minor_thresholds=(2, 0.5)))
    axes.set_xlabel("training step")
    axes.set_ylabel(ylabel)
    figure.suptitle(title, fontsize=11)
    axes.grid(True, which="both", color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if curves or lines:
        legend_above(axes, 4)
    return save_figure(plt, figure, path)


def legend_above(axes: Any, columns: int) -> None:
    """A legend that covers neither data, which may be anywhere within, nor the axes' labels."""
    axes.legend(
        frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns,
        borderaxespad=0.2, columnspacing=1.2, handlelength=1.8,
    )  # fmt: skip


def save_figure(plt: Any, figure: Any, path: str | Path) -> Path:
    """Write a picture, and close the figure; folders are made. Nothing of it is cut off."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)
    return path
