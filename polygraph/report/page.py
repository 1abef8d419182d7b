"""The report of a grid: one HTML file that needs neither network nor server.

Everything is embedded: plotly, style, script, numbers and meshes. The numbers come from the grid's
rows alone (`polygraph.report.grid_rows`); the script only arranges them.
"""

from __future__ import annotations

import html
import importlib
import json
import re
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

import polygraph
from polygraph._files import write_atomic
from polygraph.mesh.up import Up
from polygraph.report.grid_rows import (
    AVERAGED,
    COUNTED,
    LINEAR,
    Model,
    Row,
    View,
    describe_view,
    make_views,
    read_rows,
)
from polygraph.report.headline import headline
from polygraph.report.order_lines import order_lines
from polygraph.report.page_meshes import (
    SampleMeshes,
    Stage,
    color_limits,
    plan,
    read_reconstructions,
    read_samples,
)
from polygraph.report.palette import FAMILIES
from polygraph.report.render import error_colormap

MAX_MB = 15.0
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
_OF_MODEL = ("family", "operator", "order", "activation", "norm", "latent", "group_hash")
_OF_RUN = (
    "seed", "status", "message", "steps", "best_step", *AVERAGED, *COUNTED, "config_hash", "run",
)  # fmt: skip
_OF_MACHINE = ("machine", "threads", "torch", "python", "polygraph", "commit")


def write_report(
    grid: str | Path,
    out: str | Path,
    *,
    title: str = "Mesh autoencoders",
    max_mb: float = MAX_MB,
    up: Up = "auto",
) -> Path:
    """Write the report of a grid (`polygraph benchmark mesh`) as one HTML file.

    Args:
        grid: the folder of the grid, which may be unfinished; or its ``results.json`` alone, then
            there are no meshes on the page.
        out: the file; its folder is made.
        title: heading of the page.
        max_mb: size to stay below, in millions of bytes; meshes are thinned out to fit, and test
            samples left out.
        up: axis of the meshes that points up; ``auto``: as the grid says.

    Returns:
        The path of the file.

    Raises:
        GridError: there is no grid, a row or a file of it is damaged.
        ImportError: plotly or matplotlib is missing; the message names the extra.
        OSError: the file cannot be written.
    """
    library = plotly_library()
    content = build_payload(grid, budget=1e6 * max_mb - len(library.encode()), up=up)
    text = page(title, content, library)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text.encode())
    return out


def plotly_library() -> str:
    """The source of plotly.js.

    Raises:
        ImportError: plotly is missing; the message names the extra.
    """
    try:
        offline = importlib.import_module("plotly.offline")
    except ImportError as error:
        raise ImportError("the report needs plotly: pip install 'polygraph-nn[report]'") from error
    source: str = offline.get_plotlyjs()
    return source


def page(title: str, content: dict[str, Any], library: str) -> str:
    """The whole HTML document."""
    values = {
        "title": title,
        "data": embedded(content),
        "script": script(),
        "plotly": library.replace("</script", "<\\/script"),
    }
    return fill("report.html", values)


def fill(template: str, values: dict[str, str], styles: tuple[str, ...] = ("report.css",)) -> str:
    """A document of ``assets`` with its style and with values in the place of their names.

    Args:
        template: the document's name.
        values: name -> text; ``title`` is escaped, all others are taken as they are.
        styles: names of style sheets, one after the other.
    """
    assets = resources.files("polygraph.report").joinpath("assets")
    document = assets.joinpath(template).read_text("utf-8")
    style = "".join(assets.joinpath(name).read_text("utf-8") for name in styles)
    texts = {**values, "title": html.escape(values["title"]), "style": style}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match[1]], document)


def embedded(content: dict[str, Any]) -> str:
    """JSON for a script element."""
    # A "<" within a script element could end it or open another, also within a string of JSON.
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def script(main: str = "main.js") -> str:
    """A page's script: the modules of ``assets/script`` that one of them needs, joined.

    A browser imports no modules from files without a server. Their names are all different, so each
    stands behind those that it imports, and neither imports nor exports are left.
    """
    folder = resources.files("polygraph.report").joinpath("assets").joinpath("script")
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        source = folder.joinpath(name).read_text("utf-8")
        for needed in _IMPORT.findall(source):
            if needed not in parts:
                add(needed)
        parts[name] = _EXPORT.sub("", _IMPORT.sub("", source))

    add(main)
    return '"use strict";\n' + "".join(parts.values())


def build_payload(grid: str | Path, *, budget: float, up: Up = "auto") -> dict[str, Any]:
    """Everything that the page shows, as JSON values.

    Args:
        grid: as of :func:`write_report`.
        budget: bytes for the whole payload.
        up: axis of the meshes that points up; ``auto``: as the grid says.
    """
    folder = Path(grid)
    rows = read_rows(folder)
    views = make_views(rows)
    shown = [_view(view) for view in views]
    size = len(json.dumps(shown))
    stages = _Stages(folder, views, budget - size, up)
    for view, values in zip(views, shown, strict=True):
        stages.add(view, values)
    colors = error_colormap()
    return {
        "views": shown,
        "stages": stages.payload,
        "machines": _machines(rows),
        "num_runs": len(rows),
        "num_diverged": sum(row["status"] == "diverged" for row in rows),
        "families": {name: look._asdict() for name, look in FAMILIES.items()},
        "colors": [_hex(colors(t)) for t in np.linspace(0, 1, 24)],
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "polygraph": polygraph.__version__,
        "grid": folder.resolve().name,
    }


def _hex(color: Any) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in color[:3])


def _machines(rows: list[Row]) -> list[dict[str, Any]]:
    """What the runs were made with; each combination once, with how many runs it made."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        values = {key: row[key] for key in _OF_MACHINE}
        entry = found.setdefault(json.dumps(values), {**values, "runs": 0})
        entry["runs"] += 1
    return list(found.values())


def _view(view: View) -> dict[str, Any]:
    models = [_model(model) for model in view.models]
    trained = {row["seed"] for m in view.models for row in m.rows if row["seed"] is not None}
    return {
        **describe_view(view),
        "latent": view.latent,
        "recipe_hash": view.recipe_hash,
        "recipe": view.recipe,
        "seeds": sorted(trained),
        "models": models,
        "headline": headline(view),
        "order_lines": [
            {**vars(line), "models": [model.name for model in line.models]}
            for line in order_lines(view.models)
        ],
        "missing_models": view.missing_models,
        "stage": None,
    }


def _model(model: Model) -> dict[str, Any]:
    first = model.rows[0]
    return {
        "name": model.name,
        **{key: first[key] for key in _OF_MODEL},
        "runs": [{key: row[key] for key in _OF_RUN} for row in model.rows],
        "missing_seeds": model.missing_seeds,
        **{key: vars(model.spread(key)) for key in AVERAGED},
        **{key: model.count(key) for key in COUNTED},
        "diverged": sum(row["status"] == "diverged" for row in model.rows),
        "quantiles": model.quantiles(),
        "frames": None,
        "shown_seed": None,
    }


class _Stages:
    """Meshes of all views, with one budget of bytes and one stage per data set and split."""

    def __init__(self, folder: Path, views: list[View], budget: float, up: Up) -> None:
        self.folder, self.up = folder, up
        self.payload: list[dict[str, Any]] = []
        self._known: dict[tuple[str, str], tuple[int, Stage] | None] = {}
        self._samples: dict[tuple[str, str], SampleMeshes | None] = {}
        for view in views:
            key = (view.data, view.split)
            if key not in self._samples:
                self._samples[key] = read_samples(folder, view.models[0].rows[0])
        with_meshes = [view for view in views if self._samples[view.data, view.split] is not None]
        self._meshes = sum(len(view.models) for view in with_meshes)
        self._budget = 0.98 * budget

    def add(self, view: View, values: dict[str, Any]) -> None:
        """Put the meshes of a view into its JSON values."""
        samples = self._samples[view.data, view.split]
        if samples is None:
            return
        number, stage = self._stage(view, samples)
        values["stage"] = number
        errors = []
        for model, entry in zip(view.models, values["models"], strict=True):
            for row in model.from_median():
                # A run that was taken from another grid's rows has left no meshes here.
                made = read_reconstructions(self.folder, row, samples)
                if made is not None:
                    break
            else:
                continue
            entry["frames"], entry["shown_seed"] = stage.frames(made), row["seed"]
            if row["family"] != LINEAR or len(view.models) == 1 or row["latent"]:
                errors.append(stage.errors(made))
        values["limits"] = color_limits(errors) if errors else [1.0] * len(stage.chosen)

    def _stage(self, view: View, samples: SampleMeshes) -> tuple[int, Stage]:
        key = (view.data, view.split)
        known = self._known.get(key)
        if known is None:
            total, size = samples.inputs.shape[:2]
            stages = sum(samples is not None for samples in self._samples.values())
            count, vertices = plan(self._meshes, total, size, self._budget, stages)
            to_mm = view.models[0].rows[0]["to_mm"]
            stage = Stage(samples, count, vertices, to_mm, self.up)
            known = self._known[key] = (len(self.payload), stage)
            self.payload.append(stage.payload())
        return known
