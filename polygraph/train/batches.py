"""Training batches, functions of (seed, step) alone.

Of meshes, normalised: from memory when they fit, else from the memory map. Of point clouds, scaled
and shifted at random, always from memory. Of images, as bytes in memory or in the map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph._memory import available_bytes
from polygraph.data.images import ImageDataset, to_float
from polygraph.data.shapes import ShapeDataset
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder
from polygraph.train.config import TrainConfig, sample_indices

_AUGMENTATION = 1  # sets its draws apart from others of the same seed and step
MEMORY_LIMIT = 1 << 30  # training sets up to this many bytes are held normalised in memory


def memory_limit_on(device: torch.device) -> int:
    """Bytes of a training set that are held in memory: on the CPU a quarter of what is left."""
    return min(MEMORY_LIMIT, available_bytes() // 4) if device.type == "cpu" else MEMORY_LIMIT


class NormalizedBatches:
    """Training batches, normalised, by step.

    A set up to ``memory_limit`` bytes is read once into memory (on the device of the model); a
    larger one is gathered row by row from its memory map. Both give the same numbers.

    Args:
        vertices: float32 [N, V, 3], array or memory map.
        indices: training meshes.
        model: its ``normalize`` is applied.
        config: batch size and seed.
        rank: of this process.
        world: number of processes; each takes every world-th mesh of a batch.
        augmentation: standard deviation of α in ``x + α (x' - x'')``, where x' and x'' are other
            meshes of the batch; the draws depend on seed and step alone.
        memory_limit: bytes; None for :func:`memory_limit_on` the device.
    """

    def __init__(
        self,
        vertices: Any,
        indices: NDArray[np.int64],
        model: MeshAutoencoder,
        config: TrainConfig,
        *,
        rank: int = 0,
        world: int = 1,
        augmentation: float = 0.0,
        memory_limit: int | None = None,
    ) -> None:
        self.vertices, self.indices, self.model, self.config = vertices, indices, model, config
        self.rank, self.world, self.augmentation = rank, world, augmentation
        self._held: Tensor | None = None
        size = len(indices) * vertices.shape[1] * 3 * model.mean.element_size()
        if memory_limit is None:
            memory_limit = memory_limit_on(model.mean.device)
        if size <= memory_limit:
            held = torch.empty(
                (len(indices), *vertices.shape[1:]),
                dtype=model.mean.dtype,
                device=model.mean.device,
            )
            for start in range(0, len(indices), 64):
                held[start : start + 64] = self._gather(indices[start : start + 64])
            self._held = held

    def _gather(self, indices: NDArray[np.int64]) -> Tensor:
        rows = np.ascontiguousarray(self.vertices[indices], dtype=np.float32)
        mean = self.model.mean
        return self.model.normalize(torch.from_numpy(rows).to(mean.device, mean.dtype))

    def __call__(self, step: int) -> Tensor:
        """This process's part of the batch of ``step``: [batch_size / world, V, 3]."""
        config = self.config
        chosen = sample_indices(config.seed, len(self.indices), config.batch_size, step)
        mine = slice(self.rank, None, self.world)
        x = self._rows(chosen[mine])
        if self.augmentation == 0:
            return x
        draw = np.random.default_rng([config.seed, step, _AUGMENTATION])
        one, other = (self._rows(draw.permutation(chosen)[mine]) for _ in range(2))
        factor = self.augmentation * draw.standard_normal(len(chosen))[mine]
        return torch.addcmul(x, torch.from_numpy(factor).to(x)[:, None, None], one - other)

    def _rows(self, chosen: NDArray[np.int64]) -> Tensor:
        if self._held is None:
            return self._gather(self.indices[chosen])
        return self._held.index_select(0, torch.from_numpy(chosen).to(self._held.device))


class PointBatches:
    """Training batches of clouds, scaled and shifted at random, by step.

    Args:
        dataset: its training shapes are used.
        config: batch size and seed.
        device: where batches are wanted.
        dtype: of the points.
        scale: see `polygraph.tasks.points.training.PointsRunConfig`.
        shift: see `polygraph.tasks.points.training.PointsRunConfig`.
        rank: of this process.
        world: number of processes; each takes every world-th cloud of a batch.
    """

    def __init__(
        self,
        dataset: ShapeDataset,
        config: TrainConfig,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        scale: float = 1.0,
        shift: float = 0.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.config, self.scale, self.shift = config, scale, shift
        self.rank, self.world = rank, world
        self._points = torch.from_numpy(dataset.points[dataset.train]).to(device, dtype)
        self._labels = torch.from_numpy(dataset.labels[dataset.train]).to(device)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of the batch of ``step``: points ``[b, N, 3]`` and int64 ``[b]``."""
        config = self.config
        chosen = sample_indices(config.seed, len(self._labels), config.batch_size, step)
        draw = np.random.default_rng([config.seed, step, _AUGMENTATION])
        size = (len(chosen), 1, 3)
        drawn = (
            draw.uniform(1 / self.scale, self.scale, size),
            draw.uniform(-self.shift, self.shift, size),
        )
        mine = slice(self.rank, None, self.world)
        rows = torch.from_numpy(chosen[mine]).to(self._labels.device)
        points = self._points[rows]
        factor, offset = (torch.from_numpy(part[mine]).to(points) for part in drawn)
        return torch.addcmul(offset, points, factor), self._labels[rows]


class ImageBatches:
    """Training batches of images, float in [-1, 1], by step.

    Bytes up to ``memory_limit`` are held on the device; more are gathered from where they lie.

    Args:
        dataset: its training images are used.
        config: batch size and seed.
        device: where batches are wanted.
        dtype: of the batches.
        rank: of this process.
        world: number of processes; each takes every world-th image of a batch.
        memory_limit: bytes; None for :func:`memory_limit_on` the device.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        config: TrainConfig,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
        memory_limit: int | None = None,
    ) -> None:
        self.dataset, self.config = dataset, config
        self.device, self.dtype = torch.device(device), dtype
        self.rank, self.world = rank, world
        self._held: Tensor | None = None
        if memory_limit is None:
            memory_limit = memory_limit_on(self.device)
        if dataset.images[:1].nbytes * len(dataset.train) <= memory_limit:
            self._held = torch.from_numpy(dataset.images[dataset.train]).to(self.device)

    def __call__(self, step: int) -> Tensor:
        """This process's part of the batch of ``step``: ``[b, C, H, W]``."""
        config, train = self.config, self.dataset.train
        chosen = sample_indices(config.seed, len(train), config.batch_size, step)
        chosen = chosen[self.rank :: self.world]
        if self._held is None:
            return self.dataset.batch(train[chosen]).to(self.device, self.dtype)
        return to_float(self._held[torch.from_numpy(chosen).to(self.device)]).to(self.dtype)
