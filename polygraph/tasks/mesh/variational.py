"""Variational mesh autoencoders: their objective, and bounds and samples beside the errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.metrics.shape_model import ShapeScores, shape_scores
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder
from polygraph.models.vae import GaussianLikelihood
from polygraph.tasks.mesh.config import MeshRunConfig
from polygraph.tasks.mesh.learning import MeshTask
from polygraph.train.distributed import gather_rows, shard
from polygraph.train.variational import (
    VariationalLoss,
    batch_noise,
    bound_rows,
    bound_summary,
)

if TYPE_CHECKING:
    from polygraph.data.registered import MeshDataset
    from polygraph.data.splits import Split

DRAWN = 100  #: meshes that a result scores


def make_task(
    fabric: Any,
    config: MeshRunConfig,
    model: MeshAutoencoder,
    dataset: MeshDataset,
    split: Split,
) -> MeshTask:
    """What the loop trains: by reconstruction, or by the objective of a variational one."""
    if config.model.variational:
        return VariationalMeshTask(fabric, config, model, dataset, split)
    return MeshTask(fabric, config.train, model, dataset, split, config.loss, config.augmentation)


class VariationalMeshTask(MeshTask):
    """A variational mesh autoencoder, its optimizer, its data.

    Weights are chosen by the objective on the meshes that validate.

    Args:
        fabric: launched Fabric.
        config: the run's.
        model: normalisation set, on the CPU.
        dataset: the meshes.
        split: which of them train and validate.
    """

    score = "val_loss"

    def __init__(
        self,
        fabric: Any,
        config: MeshRunConfig,
        model: MeshAutoencoder,
        dataset: MeshDataset,
        split: Split,
    ) -> None:
        self.objective = config.objective
        loss = VariationalLoss(model, config.objective)
        super().__init__(fabric, config.train, model, dataset, split, loss, config.augmentation)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Normalised meshes ``[b, V, 3]``, and the weight of the divergence.

        Of several processes also their part of the noise of the codes.
        """
        weight = torch.tensor(self.objective.weight(step), dtype=self.dtype, device=self.device)
        latent = self.model.config.latent_channels
        noise = batch_noise(self.config, step, latent, weight, self.fabric)
        return (*super().batch(step), weight, *(() if noise is None else (noise,)))

    def validate(self) -> dict[str, float]:
        """Bounds and the vertex error on the meshes that validate."""
        found = self.bounds(self.split.val)
        values = {f"val_{name}": float(found[name]) for name in ("loss", "elbo", "kl")}
        return {**super().validate(), **values}

    def bounds(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        """`bound_summary` of some meshes, shared among the processes."""
        mine = shard(indices, self.fabric)
        rows = None
        if len(mine):
            data = self.dataset
            rows = mesh_bound_rows(self.model, data.vertices, mine, self.config.batch_size)
        rows = gather_rows(rows, len(indices), self.fabric)
        return mesh_bound_summary(self.model, rows, self.dataset.to_mm, self.objective.beta)

    def more_results(self) -> dict[str, Any]:
        """Bounds on both parts, σ in mm, and scores of drawn meshes."""
        found = {"val": self.bounds(self.split.val), "test": self.bounds(self.split.test)}
        scores = score_samples(self.model, self.dataset, self.split)
        return {
            "bounds": found,
            "sigma_mm": sigma_mm(self.model, self.dataset.to_mm),
            "shapes": None if scores is None else scores.summary(),
        }


def mesh_bound_rows(
    model: MeshAutoencoder,
    vertices: Any,
    indices: NDArray[np.int64],
    batch_size: int = 16,
    *,
    samples: int = 1,
    seed: int = 0,
) -> NDArray[np.float64]:
    """`polygraph.train.variational.bound_rows` of meshes ``[N, V, 3]``."""

    def inputs(rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(vertices[rows], dtype=np.float32))

    return bound_rows(model, inputs, indices, batch_size, samples=samples, seed=seed)


def mesh_bound_summary(
    model: MeshAutoencoder, rows: NDArray[np.float64], to_mm: float, beta: float = 1.0
) -> dict[str, Any]:
    """`polygraph.train.variational.bound_summary` of meshes: bits of a coordinate to a millimetre.

    ``elbo`` and the rest are in nats of the normalised coordinates.
    """
    width = -(model.std.double() * to_mm).log().mean()  # a millimetre, in normalised units
    return bound_summary(rows, 3 * model.num_vertices, float(width), beta)


def sigma_mm(model: MeshAutoencoder, to_mm: float) -> float:
    """Root mean square over all coordinates of the likelihood's standard deviation, in mm."""
    likelihood = model.require_variational("sigma_mm")
    assert isinstance(likelihood, GaussianLikelihood)  # meshes have no other
    return likelihood.sigma * float(model.std.double().square().mean().sqrt()) * to_mm


def score_samples(
    model: MeshAutoencoder, dataset: MeshDataset, split: Split, count: int = DRAWN, seed: int = 0
) -> ShapeScores | None:
    """Scores of drawn meshes; None where fewer than two test, or a drawn one is not finite.

    Args:
        model: variational.
        dataset: in the model's origin.
        split: of it.
        count: drawn meshes; as many test meshes, spread over all, stand for the test meshes.
        seed: of the draws.
    """
    drawn = model.sample(count, seed=seed).cpu()
    if len(split.test) < 2 or not bool(torch.isfinite(drawn).all()):
        return None
    test = split.test[np.linspace(0, len(split.test) - 1, min(count, len(split.test))).astype(int)]
    return shape_scores(
        drawn, dataset.vertices[split.train], dataset.vertices[test], to_mm=dataset.to_mm
    )
