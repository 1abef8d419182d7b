"""Training batches, functions of (seed, step) alone.

Of meshes, normalised: from memory when they fit, else from the memory map. Of point clouds, scaled
and shifted at random, and of images, as bytes, cropped and mirrored at random: copied to the device
when they fit, else from where they lie.
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
from polygraph.train.augment import AugmentConfig, augment
from polygraph.train.balance import BalancedBatches
from polygraph.train.config import TrainConfig, sample_batch, sample_indices

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

    Points up to ``memory_limit`` bytes are held on the device; more are gathered from where they
    lie. Both give the same numbers.

    Args:
        dataset: its training shapes are used.
        config: batch size and seed.
        device: where batches are wanted.
        dtype: of the points.
        scale: see `polygraph.tasks.points.training.PointsRunConfig`.
        shift: see `polygraph.tasks.points.training.PointsRunConfig`.
        rank: of this process.
        world: number of processes; each takes every world-th cloud of a batch.
        balanced: whether classes come equally often: see `polygraph.train.balance.balanced_order`.
        memory_limit: bytes; None for :func:`memory_limit_on` the device.
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
        balanced: bool = False,
        memory_limit: int | None = None,
    ) -> None:
        self.config, self.scale, self.shift = config, scale, shift
        self.rank, self.world, self.dataset = rank, world, dataset
        self.device, self.dtype = torch.device(device), dtype
        self._held: Tensor | None = None
        size = dataset.points[0].size * len(dataset.train) * dtype.itemsize
        if memory_limit is None:
            memory_limit = memory_limit_on(self.device)
        if size <= memory_limit:
            self._held = torch.from_numpy(dataset.points[dataset.train]).to(device, dtype)
        labels = dataset.labels[dataset.train]
        self._labels = torch.from_numpy(labels).to(device)
        self._balanced = (
            BalancedBatches(labels, config.seed, config.batch_size) if balanced else None
        )

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of the batch of ``step``: points ``[b, N, 3]`` and int64 ``[b]``."""
        return self._batch(step, self._chosen(step))

    def _chosen(self, step: int) -> NDArray[np.int64]:
        """Places in the training set of the batch of ``step``, of all processes."""
        config = self.config
        if self._balanced is not None:
            return self._balanced(step)[0]
        return sample_indices(config.seed, len(self._labels), config.batch_size, step)

    def _batch(self, step: int, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        config = self.config
        draw = np.random.default_rng([config.seed, step, _AUGMENTATION])
        size = (len(chosen), 1, 3)
        drawn = (
            draw.uniform(1 / self.scale, self.scale, size),
            draw.uniform(-self.shift, self.shift, size),
        )
        mine = slice(self.rank, None, self.world)
        rows = torch.from_numpy(chosen[mine]).to(self._labels.device)
        if self._held is None:
            lying = torch.from_numpy(self.dataset.points[self.dataset.train[chosen[mine]]])
            points = lying.to(self.device, self.dtype)
        else:
            points = self._held[rows]
        factor, offset = (torch.from_numpy(part[mine]).to(points) for part in drawn)
        return torch.addcmul(offset, points, factor), self._labels[rows]


class PartBatches(PointBatches):
    """Training batches of clouds, the labels of their points and their classes, by step.

    Arguments as of `PointBatches`.
    """

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """This process's part of the batch of ``step``.

        Returns:
            points ``[b, N, 3]``, parts int64 ``[b, N]``, classes int64 ``[b]``.
        """
        chosen = self._chosen(step)
        points, classes = self._batch(step, chosen)
        assert self.dataset.parts is not None  # what trains on them has looked
        rows = self.dataset.train[chosen[self.rank :: self.world]]
        parts = torch.from_numpy(self.dataset.parts.labels[rows])
        return points, parts.to(self.device, torch.int64), classes


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
        augmentation: random changes of the bytes; None for none.
        drop_last: see `polygraph.train.config.sample_indices`.
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
        augmentation: AugmentConfig | None = None,
        drop_last: bool = False,
        memory_limit: int | None = None,
    ) -> None:
        self.dataset, self.config = dataset, config
        self.device, self.dtype = torch.device(device), dtype
        self.rank, self.world = rank, world
        self.augmentation, self.drop_last = augmentation or AugmentConfig(), drop_last
        self._held: Tensor | None = None
        if memory_limit is None:
            memory_limit = memory_limit_on(self.device)
        if dataset.images[:1].nbytes * len(dataset.train) <= memory_limit:
            self._held = torch.from_numpy(dataset.images[dataset.train]).to(self.device)

    def __call__(self, step: int) -> Tensor:
        """This process's part of the batch of ``step``: ``[b, C, H, W]``."""
        indices, epochs = self._chosen(step)
        return self._images(indices, epochs, indices)

    def _chosen(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places in the training set of this process's part of a batch, and their epochs."""
        config, size = self.config, len(self.dataset.train)
        indices, epochs = sample_batch(
            config.seed, size, config.batch_size, step, drop_last=self.drop_last
        )
        return indices[self.rank :: self.world], epochs[self.rank :: self.world]

    def _images(
        self, indices: NDArray[np.int64], epochs: NDArray[np.int64], drawn: NDArray[np.int64]
    ) -> Tensor:
        """Images at places of the training set; ``drawn`` tells their changes apart in a pass."""
        train = self.dataset.train
        if self._held is None:
            found = torch.from_numpy(self.dataset.images[train[indices]]).to(self.device)
        else:
            found = self._held[torch.from_numpy(indices).to(self.device)]
        found = augment(found, self.augmentation, self.config.seed, len(train), epochs, drawn)
        return to_float(found).to(self.dtype)


class LabelledImageBatches(ImageBatches):
    """Training batches of images and their labels, by step; arguments as of `ImageBatches`.

    Args:
        dataset: its training images are used.
        config: batch size and seed.
        balanced: whether classes come equally often: see `polygraph.train.balance.balanced_order`.
        settings: further ones of `ImageBatches`.

    Raises:
        ValueError: the data set has no labels.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        config: TrainConfig,
        *,
        balanced: bool = False,
        **settings: Any,
    ) -> None:
        if dataset.labels is None:
            raise ValueError(f"{dataset.name} must have labels to be classified, got none")
        super().__init__(dataset, config, **settings)
        labels = dataset.labels[dataset.train]
        self._labels = torch.from_numpy(labels).to(self.device)
        self._balanced = (
            BalancedBatches(labels, config.seed, config.batch_size) if balanced else None
        )

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """This process's part of the batch of ``step``: ``[b, C, H, W]`` and int64 ``[b]``."""
        if self._balanced is None:
            indices, epochs = self._chosen(step)
            drawn = indices
        else:
            mine = slice(self.rank, None, self.world)
            indices, epochs, drawn = (part[mine] for part in self._balanced(step))
        labels = self._labels[torch.from_numpy(indices).to(self.device)]
        return self._images(indices, epochs, drawn), labels
