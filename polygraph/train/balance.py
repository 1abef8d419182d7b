"""Passes over a training set in which all classes come equally often, in every batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_BALANCED = 4  # sets these draws apart from others of the same seed and epoch


def balanced_order(labels: Indices, seed: int, epoch: int) -> Indices:
    """The order of a pass in which every class comes equally often, to one.

    So it does in any stretch of it: one sample of each class, in random order, then the next of
    each. A batch as large as a multiple of the number of classes, begun with a pass, has them all
    alike. A class that has fewer samples than its share gives each of them several times, equally
    often to one; of one that has more, some are left out.

    Args:
        labels: int64 ``[N]`` of the training set.
        seed: of the run.
        epoch: number of the pass.

    Returns:
        int64 ``[N]`` with entries in [0, N).
    """
    rng = np.random.default_rng([seed, epoch, _BALANCED])
    classes = rng.permutation(np.unique(labels))  # the first of them have one more
    share, more = divmod(len(labels), len(classes))
    columns = []
    for number in classes:
        members = np.flatnonzero(labels == number)
        passes = -(-(share + 1) // len(members))
        columns.append(np.concatenate([rng.permutation(members) for _ in range(passes)]))
    rounds = np.stack([column[: share + 1] for column in columns], 1)
    whole = rng.permuted(rounds[:share], axis=1).ravel()
    found: Indices = np.concatenate([whole, rng.permutation(rounds[share, :more])])
    return found


class BalancedBatches:
    """Batches of a training set, by step: an endless sequence of balanced passes.

    Args:
        labels: int64 ``[N]``.
        seed: of the run.
        batch_size: over all processes.
    """

    def __init__(self, labels: Indices, seed: int, batch_size: int) -> None:
        self.labels, self.seed, self.batch_size = labels, seed, batch_size
        self._orders: dict[int, Indices] = {}

    def __call__(self, step: int) -> tuple[Indices, Indices, Indices]:
        """The batch of ``step`` (0-based), all ``[batch_size]``.

        Returns:
            places in the training set, their epochs, and which of the pass they are: a sample that
            comes twice in a pass is told apart by that.
        """
        first, size = step * self.batch_size, len(self.labels)
        epochs, places = np.divmod(np.arange(first, first + self.batch_size), size)
        found = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self._order(int(epoch))[places[chosen]]
        return found, epochs, places

    def _order(self, epoch: int) -> Indices:
        """The order of a pass. The last two are kept: consecutive steps need the same ones."""
        if epoch not in self._orders:
            while len(self._orders) >= 2:
                self._orders.pop(next(iter(self._orders)))
            self._orders[epoch] = balanced_order(self.labels, self.seed, epoch)
        return self._orders[epoch]
