"""Training of mesh autoencoders: the model, what identifies a run, and its folder.

Recipe (Bouritsas et al., ICCV 2019; Chrysos et al., T-PAMI 2021): L1 loss on coordinates normalised
per vertex, Adam 1e-3 times 0.99 per epoch, weight decay 5e-5, batch 16. The validation split
selects the weights; the test split is measured once. ``normalization="shared"`` and
``loss="distance"`` train on the error that is reported instead. Variational ones are trained on
their objective (`polygraph.tasks.mesh.variational`).
"""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph import metrics
from polygraph._arrays import array_sha256
from polygraph.data import open_dataset
from polygraph.data.known import remember
from polygraph.mesh.hierarchy import MeshHierarchy
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder
from polygraph.tasks.mesh.config import MeshRunConfig as MeshRunConfig
from polygraph.tasks.mesh.config import build_hierarchy as build_hierarchy
from polygraph.tasks.mesh.config import preset_run as preset_run
from polygraph.tasks.mesh.depth import fit_to_mesh
from polygraph.tasks.mesh.learning import MeshTask as MeshTask
from polygraph.tasks.mesh.learning import ReconstructionLoss as ReconstructionLoss
from polygraph.tasks.mesh.learning import get_split as get_split
from polygraph.tasks.mesh.learning import model_errors as model_errors
from polygraph.tasks.mesh.learning import topology_hash as topology_hash
from polygraph.tasks.mesh.opening import opening_lines
from polygraph.tasks.mesh.variational import make_task
from polygraph.train.checkpoint import seal, write_atomic, write_json
from polygraph.train.distributed import make_fabric, process_group
from polygraph.train.log import Say
from polygraph.train.loop import Progress, Trainer
from polygraph.train.provenance import provenance
from polygraph.train.variational import describe_bounds

if TYPE_CHECKING:
    from polygraph.data.registered import MeshDataset
    from polygraph.data.splits import Split

RUN, RESULT, HIERARCHY = "run.json", "result.json", "hierarchy.npz"
PER_VERTEX, PER_SAMPLE = "test_error_per_vertex_mm.npy", "test_error_per_mesh_mm.npy"


def build_model(
    config: MeshRunConfig, hierarchy: MeshHierarchy, dataset: MeshDataset, split: Split
) -> MeshAutoencoder:
    """A model initialised from the seed, with the normalisation of the training meshes."""
    torch.manual_seed(config.train.seed)
    model = MeshAutoencoder(config.model, hierarchy)
    mean, std = dataset.mean_std(split.train)
    if config.normalization == "shared":
        std = np.full_like(std, np.sqrt(np.mean(np.square(std, dtype=np.float64))))
    model.set_normalization(mean, std)
    model.origin, model.up = dataset.origin, dataset.up
    return model


def run_identity(
    config: MeshRunConfig, hierarchy: MeshHierarchy, dataset: MeshDataset, split: Split, model: Any
) -> dict[str, Any]:
    """What must be equal for two runs to be the same run."""
    return {
        **config.semantics(),
        "hierarchy_hash": hierarchy.hash,
        "template_hash": topology_hash(len(hierarchy.vertices[0]), hierarchy.faces[0]),
        "normalization_hash": array_sha256(model.mean.numpy(), model.std.numpy()),
        "split": {"name": split.name, "sha256": split.sha256},
        "dataset_hash": dataset.content_hash,
    }


def train_mesh(
    config: MeshRunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    dataset: MeshDataset | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train, select on validation, measure the test split once.

    Args:
        config: the run.
        folder: receives ``run.json``, ``hierarchy.npz``, ``last.safetensors``,
            ``best.safetensors``, ``log.jsonl``, ``curve.csv``, ``result.json`` and the test error
            per vertex; enough to use the model without the data.
        resume: go on from the last checkpoint when there is one.
        dataset: opened already; default: opened from ``config.data``.
        say: called with lines for people: what is trained on, and what goes wrong.

    Returns:
        What ``result.json`` holds, the same on every process.

    Raises:
        MeshError, ValueError: the data are bad, too few, or do not fit the model.
        CheckpointError: the folder holds another run, or one and ``resume`` is False.
        TrainingStopped: a loss that is not finite, a full disk, no memory.
    """
    folder = Path(folder)
    fabric = make_fabric(config.train)
    with process_group(fabric) as owned:
        with fabric.rank_zero_first():  # one process converts and builds, the others find the cache
            dataset = open_dataset(config.data) if dataset is None else dataset
            remember(config.data.kind, config.data.path, config.data.cache_dir)
            split = get_split(dataset, config.data.split)
            chosen = config.factors is None
            config = fit_to_mesh(config, dataset)
            hierarchy = build_hierarchy(config, dataset)
        if say is not None and fabric.global_rank == 0:
            for line in opening_lines(config, dataset, split, hierarchy, chosen=chosen):
                say(line)
        model = build_model(config, hierarchy, dataset, split)
        identity = run_identity(config, hierarchy, dataset, split, model)
        meta = {
            "config": asdict(config),
            "config_hash": config.digest(),
            "to_mm": dataset.to_mm,
            "origin": list(dataset.origin),
            "up": dataset.up,
            "dataset": dataset.name,
            **provenance(fabric.device),
        }
        task = make_task(fabric, config, model, dataset, split)
        trainer = Trainer(task, config.train, fabric, folder, meta=meta, identity=identity, say=say)
        owned += [task, trainer]

        def describe() -> None:
            hierarchy.save(folder / HIERARCHY)
            write_json(folder / RUN, {**meta, "identity": identity})

        progress = trainer.run(resume=resume, describe=describe)
        result = _finish(task, progress, folder, {**meta, **identity})
        del model, task, trainer
    return result


def _finish(
    task: MeshTask, progress: Progress, folder: Path, meta: dict[str, Any]
) -> dict[str, Any]:
    """Measure the best weights on the test split and write the result."""
    task.load_best(progress, folder)
    val = metrics.summarize(task.errors(task.split.val))
    test = metrics.summarize(task.errors(task.split.test))
    result = {
        **progress.columns(),
        **measured(val, test),
        **task.more_results(),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "processes": task.fabric.world_size,
        **meta,
    }
    result = seal(result)
    if task.fabric.global_rank == 0:
        write_errors(folder, test)
        write_json(folder / RESULT, result)
    return result


def describe_result(result: dict[str, Any]) -> str:
    """What `train_mesh` reached, in a line."""
    test, val = result["test"], result["val"]
    bounds = result.get("bounds")
    more = "" if bounds is None else f"; {describe_bounds(bounds['test'])}"
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: vertex error on "
        f"test {test['mean']:.3f} mm mean, {test['std']:.3f} std, {test['median']:.3f} median "
        f"(validation {val['mean']:.3f}){more}"
    )


def measured(val: metrics.VertexErrorResult, test: metrics.VertexErrorResult) -> dict[str, Any]:
    """What a result says about the errors."""
    return {
        "val": val.summary(),
        "test": test.summary(),
        "test_quantiles": test.quantiles.tolist(),
    }


def write_errors(folder: Path, test: metrics.VertexErrorResult) -> None:
    """Write the test errors per vertex and per mesh."""
    for name, values in ((PER_VERTEX, test.per_vertex), (PER_SAMPLE, test.per_sample)):
        write_array(folder / name, values)


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write a ``.npy`` file, which appears complete or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_atomic(path, buffer.getvalue())
