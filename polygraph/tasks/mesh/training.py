"""Training of mesh autoencoders: what the loop needs to know about meshes, and the folder of a run.

Recipe (Bouritsas et al., ICCV 2019; Chrysos et al., T-PAMI 2021): L1 loss on coordinates normalised
per vertex, Adam 1e-3 times 0.99 per epoch, weight decay 5e-5, batch 16. The validation split
selects the weights; the test split is measured once. ``normalization="shared"`` and
``loss="distance"`` train on the error that is reported instead.
"""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph import metrics
from polygraph._arrays import array_sha256
from polygraph.data import open_dataset
from polygraph.data.known import remember
from polygraph.mesh.hierarchy import MeshHierarchy
from polygraph.metrics.vertex_error import check_errors_fit
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder
from polygraph.tasks.mesh.config import MeshRunConfig as MeshRunConfig
from polygraph.tasks.mesh.config import build_hierarchy as build_hierarchy
from polygraph.tasks.mesh.config import preset_run as preset_run
from polygraph.tasks.mesh.depth import fit_to_mesh
from polygraph.tasks.mesh.opening import opening_lines
from polygraph.train.batches import NormalizedBatches
from polygraph.train.checkpoint import seal, write_atomic, write_json
from polygraph.train.config import TrainConfig
from polygraph.train.distributed import gather_rows, make_fabric, process_group, shard
from polygraph.train.log import Say
from polygraph.train.loop import Progress, Trainer
from polygraph.train.provenance import provenance
from polygraph.train.supervised import SupervisedTask

if TYPE_CHECKING:
    from polygraph.data.registered import MeshDataset
    from polygraph.data.splits import Split

RUN, RESULT, HIERARCHY = "run.json", "result.json", "hierarchy.npz"
PER_VERTEX, PER_SAMPLE = "test_error_per_vertex_mm.npy", "test_error_per_mesh_mm.npy"


def topology_hash(num_vertices: int, faces: Any) -> str:
    """SHA-256 of a connectivity: meshes with the same one can go through the same model."""
    return array_sha256(np.int64(num_vertices), np.asarray(faces, dtype=np.int64))


def get_split(dataset: MeshDataset, name: str) -> Split:
    """A split of a data set by name, with meshes in every part.

    Raises:
        ValueError: there is none of that name (the nearest is suggested), or it has no validation
            meshes.
    """
    split = dataset.split(name)
    if len(split.train) < 2:
        raise ValueError(
            f"{dataset.name}: {len(dataset)} meshes leave {len(split.train)} to train on (split "
            f"{name!r}: {len(split.val)} validate, {len(split.test)} test): it takes at least two "
            "that differ, so four meshes or more; hundreds are usual"
        )
    for part in ("train", "val", "test"):
        if len(getattr(split, part)) == 0:
            raise ValueError(f"{dataset.name}: split {name!r} has no {part} meshes")
    return split


class ReconstructionLoss(torch.nn.Module):
    """The loss of reconstructions of normalised meshes [B, V, 3].

    ``l1`` is the mean over all coordinates of the absolute difference. ``distance`` is the mean
    over all vertices of the Euclidean distance, in units of the root mean square of all deviations.

    Fabric wraps a module of which only the loss comes out: what a wrapped module returns is rounded
    to float32, also where everything is computed in float64.

    Attributes:
        value: the last loss before that, without its graph.
    """

    value: Tensor

    def __init__(self, model: MeshAutoencoder, kind: str) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def forward(self, batch: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        made = self.model.forward_normalized(batch)
        if self.kind == "l1":
            loss = torch.nn.functional.l1_loss(made, batch)
        else:
            std = self.model.std
            lengths = std / std.square().mean().sqrt()
            loss = torch.linalg.vector_norm((made - batch) * lengths, dim=-1).mean()
        self.value = loss.detach()
        return loss


class MeshTask(SupervisedTask):
    """A mesh autoencoder, its optimizer, its data.

    Args:
        fabric: launched Fabric.
        config: training settings.
        model: normalisation set, on the CPU.
        dataset: the meshes.
        split: which of them train and validate.
        loss: ``l1`` or ``distance``.
        augmentation: see :class:`MeshRunConfig`.
    """

    model: MeshAutoencoder
    score = "val_error_mm"

    def __init__(
        self,
        fabric: Any,
        config: TrainConfig,
        model: MeshAutoencoder,
        dataset: MeshDataset,
        split: Split,
        loss: str = "l1",
        augmentation: float = 0.0,
    ) -> None:
        # Before the first step, and not after the last one.
        check_errors_fit(max(len(split.val), len(split.test)), dataset.num_vertices)
        self._unwrapped = ReconstructionLoss(model, loss)
        super().__init__(fabric, config, model, self._unwrapped, len(split.train))
        self.dataset, self.split = dataset, split
        self.batches = NormalizedBatches(
            dataset.vertices,
            split.train,
            model,
            config,
            rank=fabric.global_rank,
            world=fabric.world_size,
            augmentation=augmentation,
        )

    def batch(self, step: int) -> tuple[Tensor]:
        """Normalised meshes ``[b, V, 3]``."""
        return (self.batches(step),)

    def training_step(self, step: int) -> dict[str, Tensor]:
        """Forward, backward, optimizer; the loss is logged before it is rounded."""
        super().training_step(step)
        return {"loss": self._unwrapped.value}

    def validate(self) -> dict[str, float]:
        """Vertex error in mm on the validation meshes."""
        result = metrics.summarize(self.errors(self.split.val))
        return {"val_error_mm": result.mean, "val_median_mm": result.median}

    def errors(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Error matrix [len(indices), V] in mm, shared among the processes, the same on each."""
        mine = shard(indices, self.fabric)
        rows = None
        if len(mine):
            data = self.dataset
            size = self.config.batch_size
            rows = model_errors(self.model, data.vertices, mine, data.to_mm, size)
        return gather_rows(rows, len(indices), self.fabric)


def model_errors(
    model: MeshAutoencoder,
    vertices: NDArray[np.float32],
    indices: NDArray[np.int64],
    to_mm: float,
    batch_size: int = 16,
) -> NDArray[np.float64]:
    """Error matrix [len(indices), V] in mm of a model in eval mode; its mode is put back.

    Args:
        model: any.
        vertices: ``[N, V, 3]``, as the model takes them.
        indices: which of them.
        to_mm: millimetres per unit.
        batch_size: meshes per call.
    """
    training = model.training
    model.eval()
    try:
        return metrics.evaluate(
            model,
            vertices,
            indices,
            to_mm=to_mm,
            batch_size=batch_size,
            device=model.mean.device,
        )
    finally:
        model.train(training)


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
        "model": asdict(config.model),
        "hierarchy_hash": hierarchy.hash,
        "template_hash": topology_hash(len(hierarchy.vertices[0]), hierarchy.faces[0]),
        "normalization_hash": array_sha256(model.mean.numpy(), model.std.numpy()),
        "split": {"name": split.name, "sha256": split.sha256},
        "dataset_hash": dataset.content_hash,
        "loss": config.loss,
        "augmentation": config.augmentation,
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
        task = MeshTask(
            fabric, config.train, model, dataset, split, config.loss, config.augmentation
        )
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
    return (
        f"{result['steps']:,} steps, weights of step {result['best_step']}: vertex error on "
        f"test {test['mean']:.3f} mm mean, {test['std']:.3f} std, {test['median']:.3f} median "
        f"(validation {val['mean']:.3f})"
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
