"""What the loop needs to know of mesh autoencoders: their losses, batches and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph import metrics
from polygraph._arrays import array_sha256
from polygraph.metrics.vertex_error import check_errors_fit
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder
from polygraph.train.batches import NormalizedBatches
from polygraph.train.config import TrainConfig
from polygraph.train.distributed import gather_rows, shard
from polygraph.train.supervised import SupervisedTask

if TYPE_CHECKING:
    from polygraph.data.registered import MeshDataset
    from polygraph.data.splits import Split


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
        loss: ``l1`` or ``distance``; or a module that gives scalars and has their ``names``.
        augmentation: see :class:`MeshRunConfig`.
    """

    model: MeshAutoencoder
    score: str = "val_error_mm"

    def __init__(
        self,
        fabric: Any,
        config: TrainConfig,
        model: MeshAutoencoder,
        dataset: MeshDataset,
        split: Split,
        loss: Any = "l1",
        augmentation: float = 0.0,
    ) -> None:
        # Before the first step, and not after the last one.
        check_errors_fit(max(len(split.val), len(split.test)), dataset.num_vertices)
        self._unwrapped = ReconstructionLoss(model, loss) if isinstance(loss, str) else loss
        names = getattr(loss, "names", ("loss",))
        super().__init__(fabric, config, model, self._unwrapped, len(split.train), names)
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

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Normalised meshes ``[b, V, 3]``."""
        return (self.batches(step),)

    def training_step(self, step: int) -> dict[str, Tensor]:
        """Forward, backward, optimizer; the loss is logged before it is rounded."""
        return {**super().training_step(step), "loss": self._unwrapped.value}

    def validate(self) -> dict[str, float]:
        """Vertex error in mm on the validation meshes."""
        result = metrics.summarize(self.errors(self.split.val))
        return {"val_error_mm": result.mean, "val_median_mm": result.median}

    def more_results(self) -> dict[str, Any]:
        """What a result says besides errors."""
        return {}

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
