"""One test mesh of a grid and its reconstructions by rising order, coloured by error on one scale.

As in Chrysos et al., "Deep Polynomial Neural Networks", T-PAMI 2021, Fig. 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polygraph.mesh.up import Up, known_up
from polygraph.report.charts import picture_name
from polygraph.report.figures import Panel, heatmap_figure, panels_view
from polygraph.report.grid_rows import GridError, Model, View, make_views, read_rows
from polygraph.report.order_lines import START, order_lines
from polygraph.report.page_meshes import SampleMeshes, read_reconstructions, read_samples

NCP = "full"


def write_order_figures(
    grid: str | Path,
    folder: str | Path,
    *,
    models: Sequence[str] = (),
    mesh: int = 0,
    up: Up = "auto",
) -> list[Path]:
    """Write a PNG for each view of a grid: ``<data>-<split>-latent-<n>-errors.png``.

    The true mesh comes first, then the reconstruction by each model, of its run with the median
    error, with its error in mm as colour.

    Args:
        grid: folder of `polygraph benchmark mesh`.
        folder: made where it does not exist.
        models: names, in the order of the picture; default: first order and NCP (``full``) of
            every order, with spirals and activations, by their order.
        mesh: which of the test meshes that the grid has written.
        up: axis that points up; ``auto``: as the grid says.

    Returns:
        The files.

    Raises:
        GridError: ``grid`` is none, or lacks the models, the mesh or its reconstructions.
    """
    grid = Path(grid)
    views = make_views(read_rows(grid))
    figures = []
    for view in views:
        path = Path(folder) / f"{picture_name(view, views)}-errors.png"
        figures.append(_figure(grid, view, path, models, mesh, up))
    return figures


def _figure(grid: Path, view: View, path: Path, names: Sequence[str], mesh: int, up: Up) -> Path:
    where = f"{grid}: {view.data}, {view.split}, {view.latent} latents"
    chosen = _named(view, names, where) if names else _by_order(view)
    if not chosen:
        raise GridError(f"{where}: no model of {START} or {NCP} to draw; name some")
    samples = read_samples(grid, chosen[0].rows[0])
    if samples is None:
        raise GridError(f"{where}: no test meshes here: they are in the folder of a grid alone")
    if not 0 <= mesh < len(samples.inputs):
        raise GridError(f"{where}: mesh must be one of {len(samples.inputs)}, from 0, got {mesh}")
    panels = [_panel(grid, model, samples, mesh, where) for model in chosen]
    true = samples.inputs[mesh].astype(np.float64)
    label = f"ground truth\n{samples.labels[mesh]}".rstrip()
    rows = [(label, true, panels)]
    seen_from = panels_view(true, panels, up=known_up(up, samples.up))
    return heatmap_figure(path, rows, samples.faces, [seen_from])


def _by_order(view: View) -> list[Model]:
    """First order and NCP, with spirals, activations and the usual normalisation."""
    lines = order_lines(view.models)
    wanted = (
        line for line in lines if (line.family, line.without, line.norm) == (NCP, False, None)
    )
    return next((line.models for line in wanted), [m for m in view.models if m.name == START])


def _named(view: View, names: Sequence[str], where: str) -> list[Model]:
    known = {model.name: model for model in view.models}
    for name in names:
        if name not in known:
            raise GridError(f"{where}: has no model {name}, only {', '.join(known)}")
    return [known[name] for name in names]


def _panel(grid: Path, model: Model, samples: SampleMeshes, mesh: int, where: str) -> Panel:
    for row in model.from_median():
        made = read_reconstructions(grid, row, samples)
        if made is None:
            continue
        vertices = np.asarray(made[mesh], dtype=np.float64)
        if not np.isfinite(vertices).all():
            raise GridError(f"{where}: mesh {mesh} of {model.name} is not finite; leave it out")
        errors = np.linalg.norm(vertices - samples.inputs[mesh], axis=1) * row["to_mm"]
        return Panel(model.name, vertices, errors)
    raise GridError(f"{where}: no run of {model.name} has written its reconstructions")
