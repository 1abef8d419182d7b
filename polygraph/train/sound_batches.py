"""Training batches of sounds: features and labels, functions of (seed, step) alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.data.audio.dataset import AudioDataset, to_float
from polygraph.data.audio.mel import LogMel
from polygraph.data.store import progress
from polygraph.train.balance import BalancedBatches
from polygraph.train.batches import memory_limit_on
from polygraph.train.config import TrainConfig, sample_batch
from polygraph.train.sound_augment import (
    SoundAugmentConfig,
    change_sounds,
    draw_sounds,
    make_noise,
)

_BLOCK = 256  # clips whose features are made at a time

Levels = NDArray[np.float32]


def clip_features(dataset: AudioDataset, features: LogMel) -> Levels:
    """Features float32 ``[N, 1, 32, 32]`` of all clips as they are: 4 KiB of a clip in memory."""
    found = np.empty((len(dataset), 1, dataset.size, dataset.size), np.float32)
    blocks = range(0, len(dataset), _BLOCK)
    with torch.no_grad():
        for start in progress(blocks, f"features of {dataset.name}", len(blocks)):
            rows = np.arange(start, min(start + _BLOCK, len(dataset)))
            clips = dataset.clips(rows).to(features.window.device)
            found[rows] = features(clips).cpu().numpy()
    return found


class SoundBatches:
    """Training batches of log-mel features and labels, by step.

    Sounds that are changed at random are changed in the batch, on the device, before their
    features are made. Samples up to ``memory_limit`` bytes are held on the device; more are
    gathered from where they lie. Sounds that are not changed have features that were made before.

    Args:
        dataset: its training clips are used.
        config: batch size and seed.
        features: on the device where batches are wanted, with its statistics.
        levels: float32 ``[N, 1, 32, 32]``, normalised features of all clips of the data set.
        dtype: of the batches.
        rank: of this process.
        world: number of processes; each takes every world-th sound of a batch.
        augmentation: random changes; None for none.
        balanced: whether each class is heard as often as the others: see
            `polygraph.train.balance.balanced_order`.
        memory_limit: bytes; None for `polygraph.train.batches.memory_limit_on` the device.
    """

    def __init__(
        self,
        dataset: AudioDataset,
        config: TrainConfig,
        features: LogMel,
        levels: Levels,
        *,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
        augmentation: SoundAugmentConfig | None = None,
        balanced: bool = False,
        memory_limit: int | None = None,
    ) -> None:
        self.dataset, self.config, self.features = dataset, config, features
        self.rank, self.world, self.dtype = rank, world, dtype
        self.device = features.window.device
        self.augmentation = augmentation
        labels = dataset.labels[dataset.train]
        self._labels = torch.from_numpy(labels).to(self.device)
        self._balanced = (
            BalancedBatches(labels, config.seed, config.batch_size) if balanced else None
        )
        self._held: Tensor | None = None
        if augmentation is None or augmentation.probability == 0:
            self.augmentation, self._lying = None, levels
        else:
            self._lying = dataset.samples
            noise = to_float(torch.from_numpy(np.array(dataset.noise)))
            self._noise = make_noise(noise, features.samples).to(self.device)
        limit = memory_limit_on(self.device) if memory_limit is None else memory_limit
        if self._lying[:1].nbytes * len(dataset.train) <= limit:
            self._held = torch.from_numpy(self._lying[dataset.train]).to(self.device)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of the batch of ``step``: ``[b, 1, 32, 32]`` and int64 ``[b]``."""
        config, size, batch = self.config, len(self._labels), self.config.batch_size
        places = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
        mine = slice(self.rank, None, self.world)
        epochs, places = (places // size)[mine], (places % size)[mine]
        if self._balanced is None:
            indices = sample_batch(config.seed, size, batch, step)[0][mine]
        else:
            indices = self._balanced(step)[0][mine]
        rows = self._rows(indices)
        if self.augmentation is not None:
            rows = self._changed(to_float(rows), epochs, places)
        labels = self._labels[torch.from_numpy(indices).to(self.device)]
        return rows.to(self.dtype), labels

    def _rows(self, indices: NDArray[np.int64]) -> Tensor:
        if self._held is not None:
            return self._held[torch.from_numpy(indices).to(self.device)]
        return torch.from_numpy(self._lying[self.dataset.train[indices]]).to(self.device)

    def _changed(
        self, clips: Tensor, epochs: NDArray[np.int64], places: NDArray[np.int64]
    ) -> Tensor:
        """Features of clips that are changed as drawn."""
        assert self.augmentation is not None
        size = len(self._labels)
        draws = draw_sounds(self.augmentation, self.config.seed, size, epochs, places)
        changed = change_sounds(clips, draws, self._noise, self.features.hop)
        pace = torch.from_numpy(draws.pace).to(self.device) if self.augmentation.stretch else None
        with torch.no_grad():
            found: Tensor = self.features(changed, pace)
        return found
