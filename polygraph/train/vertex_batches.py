"""Training batches of noisy vertices: functions of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.data.vertex_sets import noise_unit
from polygraph.train.config import TrainConfig, sample_batch

_SHAPES = 6  # sets these draws apart from others of the same seed and step


class VertexBatches:
    """Clean shapes, their noise and its unit, by step.

    A batch takes the next shapes of a pass (in the order of `sample_batch`), less their mean. Of a
    cloud those points that are nearest to one drawn at random, as many of every cloud: a patch as
    dense as the cloud.

    Args:
        shapes: gives float32 ``[V, 3]`` of a number: an array ``[N, V, 3]``, or a sequence.
        numbers: of the shapes that train.
        config: batch size and seed.
        sigma: of the noise, in its unit; a shape's is drawn evenly between two.
        edges: of meshes ``[E, 2]``; None of clouds. They decide what the unit is, see `noise_unit`.
        points: of a cloud's patch; None: whole shapes, of one size.
        device: where batches are wanted.
        dtype: of the batches.
        rank: of this process.
        world: number of processes; each takes every world-th shape of a batch.
    """

    def __init__(
        self,
        shapes: Any,
        numbers: Sequence[int],
        config: TrainConfig,
        sigma: tuple[float, ...],
        *,
        edges: NDArray[np.int64] | None = None,
        points: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shapes, self.numbers, self.config, self.sigma = shapes, numbers, config, sigma
        self.points, self.device, self.dtype = points, device, dtype
        self.rank, self.world = rank, world
        self.edges = edges

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This process's part of ``step``: clean ``[b, V, 3]``, noise, and its unit ``[b, 1, 1]``.

        The noise is in the unit of the coordinates.
        """
        config = self.config
        chosen, _ = sample_batch(config.seed, len(self.numbers), config.batch_size, step)
        clean, noise, units = [], [], []
        for place in range(self.rank, config.batch_size, self.world):
            rng = np.random.default_rng([config.seed, step, place, _SHAPES])
            shape = np.asarray(self.shapes[self.numbers[chosen[place]]], np.float32)
            unit = noise_unit(shape, self.edges)
            if self.points is not None:
                shape = patch_of(shape, self.points, int(rng.integers(len(shape))))
            drawn = rng.standard_normal(shape.shape, np.float32)
            scale = unit * float(rng.uniform(self.sigma[0], self.sigma[-1]))
            clean.append(shape - shape.mean(0, dtype=np.float64).astype(np.float32))
            noise.append(drawn * np.float32(scale))
            units.append(unit)
        made = (np.stack(clean), np.stack(noise), np.array(units, np.float32)[:, None, None])
        first, second, third = (torch.from_numpy(a).to(self.device).to(self.dtype) for a in made)
        return first, second, third


def patch_of(points: NDArray[np.float32], count: int, centre: int) -> NDArray[np.float32]:
    """The ``count`` points nearest to one of them, in the order of the cloud."""
    distance = np.square(points - points[centre]).sum(1)
    found: NDArray[np.float32] = points[np.sort(np.argsort(distance, kind="stable")[:count])]
    return found
