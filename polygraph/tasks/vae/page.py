"""The page of a variational autoencoder's run: bounds, divergences, reconstructions, samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from polygraph.report.image_grid import image_grid_png
from polygraph.report.run_page import Picture, RunPage
from polygraph.train.checkpoint import CheckpointError
from polygraph.train.recorded import kind_of

_SHOWN = 8  # samples of a row
_BOUNDS = {
    "elbo": ("ELBO, nats", "{:.1f}"),
    "nll": ("−log p(x|z), nats", "{:.1f}"),
    "kl": ("divergence, nats", "{:.2f}"),
    "bits_per_dim": ("bits per dimension", "{:.3f}"),
    "active_units": ("active numbers", "{}"),
    "num_samples": ("samples", "{:,}"),
}
_SHAPES = {
    "specificity": "specificity of draws, mm",
    "test_specificity": "specificity of test meshes, mm",
    "coverage": "coverage, mm",
    "diversity": "diversity of draws, mm",
    "test_diversity": "diversity of test meshes, mm",
}


def write_run_report(folder: str | Path, out: str | Path) -> Path:
    """Write the page of a finished run of images or of meshes.

    Args:
        folder: of the run.
        out: the HTML file; its folder is made.

    Raises:
        CheckpointError: no run of a variational autoencoder is there, or it is not finished.
        OSError: the file cannot be written.
    """
    folder = Path(folder)
    page = _image_page(folder) if kind_of(folder) == "vae" else _mesh_page(folder)
    return page.write(out)


def _finished(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    if not result:
        raise CheckpointError(f"{folder}: the run is not finished: result.json is missing")
    return result


def _numbers(found: dict[str, Any]) -> dict[str, str]:
    return {
        title: form.format(found[name])
        for name, (title, form) in _BOUNDS.items()
        if found.get(name) is not None
    }


def _image_page(folder: Path) -> RunPage:
    from polygraph.tasks.vae.latent import ImageLatentRun
    from polygraph.tasks.vae.run import load_run

    run = load_run(folder)
    result = _finished(run.result, folder)
    walks = ImageLatentRun(run)

    def pictures() -> Iterator[Picture]:
        try:
            dataset = run.images_of()
            rows = dataset.test[:_SHOWN]
            both = np.concatenate([dataset.images[rows], run.reconstruct(dataset.images[rows])])
            words = "test images, and below them what the decoder makes of their codes"
            yield Picture("Reconstructions", words, image_grid_png(both, len(rows)))
            axes = walks.axes(min(4, run.model.config.latent_channels), steps=9)
            words = "a row for each of the widest axes of the training codes, -2.5 to 2.5 σ"
            yield Picture("Axes", words, image_grid_png(np.concatenate(axes.images), 9))
        except CheckpointError:
            pass  # the data are not at hand: samples need none
        drawn = run.sample(4 * _SHOWN).numpy()
        yield Picture("Samples", "decoded from z of N(0, I)", image_grid_png(drawn, _SHOWN))

    model = run.model.config
    return RunPage(
        f"Variational autoencoder of {result['dataset']}",
        f"{model.latent_channels} numbers per image, likelihood {model.likelihood}, "
        f"{result['steps']:,} steps, {result['parameters']:,} parameters.",
        {part: _numbers(result[part]) for part in ("val", "test")},
        {"Divergence of each number, nats": result["test"]["kl_per_latent"]},
        list(pictures()),
    )


def _mesh_page(folder: Path) -> RunPage:
    from polygraph.tasks.mesh.latent import LatentRun
    from polygraph.tasks.mesh.run import load_run

    run = load_run(folder)
    if not run.model.config.variational:
        raise CheckpointError(
            f"{folder}: the report of a run is of variational autoencoders; of others: "
            "polygraph evaluate, or a grid"
        )
    result = _finished(run.result, folder)
    walks = LatentRun(run)

    def pictures() -> Iterator[Picture]:
        with tempfile.TemporaryDirectory() as place:
            drawn = walks.sample(_SHOWN - 1).write(place)[-1].read_bytes()
            yield Picture("Samples", "the mean, and z of N(0, I)", drawn)
            try:
                made = walks.axes(min(3, run.model.config.latent_channels)).write(place)
            except CheckpointError:
                return  # the data are not at hand
            words = "a row for each of the widest axes of the training codes"
            yield Picture("Axes", words, made[-1].read_bytes())

    columns = {}
    for part in ("val", "test"):
        errors = {"vertex error, mm": f"{result[part]['mean']:.3f}"}
        columns[part] = errors | _numbers(result["bounds"][part])
    shapes = result["shapes"] or {}
    columns["test"] |= {title: f"{shapes[n]:.2f}" for n, title in _SHAPES.items() if n in shapes}
    columns["test"]["σ of a coordinate, mm"] = f"{result['sigma_mm']:.3f}"
    model = run.model.config
    return RunPage(
        f"Variational autoencoder of {result['dataset']}",
        f"{result['config']['preset']}: {model.latent_channels} numbers per mesh, likelihood "
        f"{model.likelihood}, {result['steps']:,} steps, {result['parameters']:,} parameters.",
        columns,
        {"Divergence of each number, nats": result["bounds"]["test"]["kl_per_latent"]},
        list(pictures()),
    )
