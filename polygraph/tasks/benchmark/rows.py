"""Rows of a grid: what is known about one trained model, as JSON values."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph import metrics
from polygraph._arrays import read_npz
from polygraph.data import MeshDataset, Split
from polygraph.models.mesh.pca import PCA
from polygraph.tasks.mesh.run import load_run
from polygraph.tasks.mesh.training import (
    MeshRunConfig,
    measured,
    model_errors,
    write_array,
    write_errors,
)
from polygraph.train.checkpoint import CheckpointError, read_meta, write_atomic
from polygraph.train.config import config_hash
from polygraph.train.loop import BEST, LAST
from polygraph.train.provenance import provenance

PCA_NAME, MEAN_SHAPE = "pca", "mean-shape"
LINEAR = (PCA_NAME, MEAN_SHAPE)
ROW, SAMPLES, PCA_FILE = "row.json", "samples.npy", "pca.npz"
COSTS = ("inference_1_ms", "inference_16_ms", "train_step_ms", "peak_mib")
_PEERS = {
    "chebyshev": "peer",
    "gat": "peer",
    "feastnet": "peer",
    "monet": "peer",
    "edgeconv": "graph",
    "ecc": "graph",
}
_OWN_FILTERS = ("neural3dmm", "spiralnet++")
_PROVENANCE = ("commit", "polygraph", "torch", "python", "machine", "threads")


def finite(value: Any) -> Any:
    """The same JSON value with None for every number that is not finite, which JSON lacks."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def recipe_of(config: MeshRunConfig) -> dict[str, Any]:
    """How a run is trained, whatever its model, seed and data."""
    train = config.train.semantics()
    del train["seed"]
    own = ("normalization", "loss", "augmentation", "factors", "upsampling")
    shared = {name: getattr(config, name) for name in own}
    return {**train, "length": config.train.length(), **shared}


def family_of(config: MeshRunConfig) -> str:
    """What kind of model a run's is, for colours and legends."""
    if config.model.variational:
        return "variational"
    if config.preset in _OWN_FILTERS:
        return "spiral"
    if config.model.operator != "spiral":
        return _PEERS[config.model.operator]
    return config.model.block.replace("_", "-")


def data_columns(dataset: MeshDataset, split: Split) -> dict[str, Any]:
    """Which meshes a row is about."""
    return {
        "data": dataset.name,
        "data_hash": dataset.content_hash,
        "num_vertices": dataset.num_vertices,
        "to_mm": dataset.to_mm,
        "split": split.name,
        "split_hash": split.sha256,
        **{f"num_{part}": len(getattr(split, part)) for part in ("train", "val", "test")},
    }


def error_columns(result: dict[str, Any] | None) -> dict[str, Any]:
    """The errors of a result of `tasks.mesh.training.measured`; None where there is none."""
    test = {} if result is None else result["test"]
    columns = {f"{name}_mm": test.get(name) for name in ("mean", "std", "median", "p90", "max")}
    columns["val_mean_mm"] = None if result is None else result["val"]["mean"]
    for column, name in (
        ("nonfinite", "num_nonfinite"),
        ("nonfinite_meshes", "num_nonfinite_meshes"),
        ("outlier_meshes", "num_outliers"),
    ):
        columns[column] = None if result is None else int(test[name])
    columns["quantiles_mm"] = None if result is None else result["test_quantiles"]
    return columns


def network_row(
    config: MeshRunConfig,
    dataset: MeshDataset,
    split: Split,
    result: dict[str, Any],
    message: str | None,
) -> dict[str, Any]:
    """The row of a trained model; ``message`` says why training stopped, if it did."""
    model, recipe = config.model, recipe_of(config)
    first = model.block == "first_order"
    return finite(  # type: ignore[no-any-return]
        {
            **data_columns(dataset, split),
            "model": config.preset,
            "family": family_of(config),
            "operator": model.operator,
            "order": 1 if first else max(model.orders),
            "activation": model.activation,
            "norm": None if first else model.norm,
            "latent": model.latent_channels,
            "seed": config.train.seed,
            "config_hash": config.digest(),
            "group_hash": replace(config, train=replace(config.train, seed=0)).digest(),
            "recipe_hash": config_hash(recipe),
            "recipe": recipe,
            "status": "done" if message is None else "diverged",
            "message": message,
            "steps": result["steps"],
            "best_step": result["best_step"],
            **error_columns(result if "test" in result else None),
            **{name: result[name] for name in ("parameters", "seconds", "step_ms")},
            **dict.fromkeys(COSTS),
            **{name: result[name] for name in _PROVENANCE},
        }
    )


def diverged_result(folder: Path, dataset: MeshDataset, split: Split) -> dict[str, Any]:
    """What is left of a run whose loss was not finite: the errors of its best weights, if any."""
    meta = read_meta(folder / LAST)
    progress = meta["progress"]
    run = load_run(folder)
    result: dict[str, Any] = {
        "steps": progress["step"],
        "best_step": progress["best_step"],
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "seconds": progress["seconds"],
        "step_ms": 1000 * progress["seconds"] / max(1, progress["step"]),
        **{name: meta[name] for name in _PROVENANCE},
    }
    if (folder / BEST).is_file():
        val, test = (
            metrics.summarize(model_errors(run.model, dataset.vertices, part, dataset.to_mm))
            for part in (split.val, split.test)
        )
        write_errors(folder, test)
        result |= measured(val, test)
    return result


def linear_digest(name: str, latent: int, dataset: MeshDataset, split: Split) -> str:
    """SHA-256 of what decides about PCA and the mean shape."""
    return config_hash([name, latent, dataset.content_hash, split.sha256])


def fit_linear(
    name: str, latent: int, dataset: MeshDataset, split: Split, folder: Path, samples: Any
) -> dict[str, Any]:
    """Fit PCA or the mean shape, measure it, write what a run's folder holds; its row."""
    started = time.perf_counter()
    pca = PCA.fit(dataset.vertices, max(1, latent), indices=split.train)
    if name == MEAN_SHAPE:
        pca = PCA(pca.mean, pca.components[:0], pca.variance[:0])
    seconds = time.perf_counter() - started
    folder.mkdir(parents=True, exist_ok=True)
    save_pca(folder / PCA_FILE, pca)
    val, test = (
        metrics.summarize(
            metrics.evaluate(
                lambda x: pca.reconstruct(x.double()), dataset.vertices, part, to_mm=dataset.to_mm
            )
        )
        for part in (split.val, split.test)
    )
    write_errors(folder, test)
    write_array(folder / SAMPLES, pca.reconstruct(samples.astype(np.float64)).astype(np.float32))
    digest = linear_digest(name, latent, dataset, split)
    unknown = ("operator", "order", "activation", "norm", "seed", "recipe_hash", "recipe")
    return finite(  # type: ignore[no-any-return]
        {
            **data_columns(dataset, split),
            "model": name,
            "family": "linear",
            **dict.fromkeys(unknown),
            "latent": latent,
            "config_hash": digest,
            "group_hash": digest,
            "status": "done",
            **dict.fromkeys(("message", "steps", "best_step", "step_ms")),
            **error_columns(measured(val, test)),
            "parameters": (latent + 1) * pca.mean.size,
            "seconds": seconds,
            **dict.fromkeys(COSTS),
            **provenance(),
        }
    )


def save_pca(path: Path, pca: PCA) -> None:
    """Write a PCA to one ``.npz`` file."""
    import io

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **asdict(pca))
    write_atomic(path, buffer.getvalue())


def load_pca(path: Path) -> PCA:
    """Read what `save_pca` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or something else.
    """
    stored = read_npz(path, CheckpointError)
    try:
        pca = PCA(stored["mean"], stored["components"], stored["variance"])
    except KeyError as error:
        raise CheckpointError(f"{path}: not a PCA ({error} is missing)") from error
    if not all(np.isfinite(array).all() for array in stored.values()):
        raise CheckpointError(f"{path}: holds NaN or infinity")
    return pca


def write_samples(folder: Path, samples: NDArray[np.float32]) -> None:
    """Write a run's reconstructions of the meshes that the report shows."""
    model = load_run(folder).model
    with torch.no_grad():
        made = model(torch.from_numpy(samples).to(model.mean))
    write_array(folder / SAMPLES, made.float().cpu().numpy())
