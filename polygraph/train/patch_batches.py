"""Training batches of noisy patches: functions of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.data.image_files import Images
from polygraph.train.config import TrainConfig, sample_batch

_PATCHES = 5  # sets these draws apart from others of the same seed and step
WHITE = 255.0  #: in whose units noise is told

Sigma = tuple[float, ...]  #: one standard deviation, or the least and the largest


def noise_like(shape: Sequence[int], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gaussian noise, not clipped: float32, in units in which white is 1.

    Args:
        shape: of the noise.
        sigma: standard deviation, in units in which white is 255.
        rng: draws it.
    """
    drawn: NDArray[np.float32] = rng.standard_normal(tuple(shape), np.float32)
    drawn *= np.float32(sigma / WHITE)
    return drawn


class PatchBatches:
    """Clean patches and their noise, by step.

    A batch takes the next pictures of a pass (in the order of `sample_batch`), and of each a patch
    at a place drawn at random, turned and mirrored in one of eight ways, with noise of its own.

    Args:
        pictures: uint8 ``[C, H, W]``, each at least as large as a patch.
        config: batch size and seed.
        patch: height and width of a patch.
        sigma: of the noise; a patch's is drawn evenly between two.
        device: where batches are wanted.
        dtype: of the batches.
        rank: of this process.
        world: number of processes; each takes every world-th patch of a batch.
    """

    def __init__(
        self,
        pictures: Sequence[Images],
        config: TrainConfig,
        patch: int,
        sigma: Sigma,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.pictures, self.config, self.patch, self.sigma = pictures, config, patch, sigma
        self.device, self.dtype, self.rank, self.world = device, dtype, rank, world

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of ``step``: clean patches in [0, 1], and noise, ``[b, C, P, P]``."""
        config = self.config
        chosen, _ = sample_batch(config.seed, len(self.pictures), config.batch_size, step)
        patches, noises = [], []
        for place in range(self.rank, config.batch_size, self.world):
            rng = np.random.default_rng([config.seed, step, place, _PATCHES])
            picture = self.pictures[chosen[place]]
            top, left = (int(rng.integers(0, side - self.patch + 1)) for side in picture.shape[1:])
            turns, mirror = divmod(int(rng.integers(0, 8)), 2)
            patch = picture[:, top : top + self.patch, left : left + self.patch]
            patch = np.rot90(patch, turns, (1, 2))
            patches.append(patch[:, :, ::-1] if mirror else patch)
            sigma = float(rng.uniform(self.sigma[0], self.sigma[-1]))
            noises.append(noise_like(patch.shape, sigma, rng))
        clean = torch.from_numpy(np.stack(patches)).to(self.device).to(self.dtype) / WHITE
        return clean, torch.from_numpy(np.stack(noises)).to(self.device).to(self.dtype)
