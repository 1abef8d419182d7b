"""Which points and queries of ragged batches belong together, from their batch vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph._checks import as_index, check_positive
from polygraph.ops import common


class Samples(NamedTuple):
    """Which points and queries belong together.

    Attributes:
        x_ptr: ``[S + 1]``, where each sample begins in the points.
        y_ptr: first row of each sample in the queries.
        shortest: the fewest neighbors that a query has, k at most.
        known: points and queries of each, where the host knows them.
    """

    x_ptr: Tensor
    y_ptr: Tensor
    shortest: int
    known: list[list[int]] | None

    def sizes(self) -> Tensor:
        """``[2, S]``: points and queries of each."""
        return _sizes(self.x_ptr, self.y_ptr)


def _sizes(x_ptr: Tensor, y_ptr: Tensor) -> Tensor:
    return torch.stack((x_ptr, y_ptr)).diff()


def read(numbers: Tensor) -> list[Any]:
    """Values on the host. Nothing else here waits for the device, unless a value is wrong."""
    found: list[Any] = numbers.tolist()
    return found


def samples_of(
    owner: str,
    x: Tensor,
    y: Tensor,
    k: int,
    exclude_self: bool,
    batch_size: int | None,
    **batches: Tensor | None,
) -> Samples | None:
    """From the batch vectors of ``x`` and of ``y``, or the one of both; None: all is one sample."""
    if batch_size is not None:
        check_positive(owner, batch_size=batch_size)
        batch_size = as_index(batch_size)
    if all(batch is None for batch in batches.values()):
        return None
    vectors = {}
    for (name, batch), points in zip(batches.items(), (x, y), strict=False):
        if batch is None:
            batch = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
        batch = _checked_batch(owner, name, batch, points)
        vectors[name] = batch
    if batch_size == 1 and common.takes_cuda_kernels(x):
        for name, batch in vectors.items():
            torch._assert_async((batch == 0).all(), f"{owner}: {name} must lie in [0, 1)")
        return None
    pointers, occurring = _pointers(list(vectors.values()), batch_size)
    x_ptr, y_ptr = pointers[0], pointers[-1]
    slots = (x_ptr.diff() - int(exclude_self)).clamp(0, k).masked_fill(y_ptr.diff() == 0, k)
    facts = [torch.nn.functional.pad(slots, (0, 1), value=k).amin(), occurring]
    for batch, ptr in zip(vectors.values(), pointers, strict=True):
        facts += [(batch[1:] < batch[:-1]).any().long(), ptr[0], ptr[-1]]
    numbers = torch.stack(facts)
    if batch_size is not None:  # as many sizes as are known in advance: read with the rest
        numbers = torch.cat([numbers, _sizes(x_ptr, y_ptr).flatten()])
    least, count, *found = read(numbers)
    for place, (name, batch) in enumerate(vectors.items()):
        if found[3 * place : 3 * place + 3] != [0, 0, len(batch)]:
            _refuse(owner, name, batch, batch_size)
    known = None
    if batch_size is not None:
        rest = found[3 * len(vectors) :]
        known = [rest[:batch_size], rest[batch_size:]]
    return Samples(x_ptr[: count + 1], y_ptr[: count + 1], least, known)


def _checked_batch(owner: str, name: str, batch: Tensor, points: Tensor) -> Tensor:
    """In int64; refused where that can be told without its values."""
    if batch.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        batch = batch.long()
    if batch.dtype != torch.int64 or batch.shape != points.shape[:1]:
        raise ValueError(
            f"{owner}: {name} must be int64 of shape [{points.shape[0]}], "
            f"got {batch.dtype} of shape {list(batch.shape)}"
        )
    if batch.device != points.device:
        raise ValueError(
            f"{owner}: {name} must be on the device of the points ({points.device}), "
            f"got {batch.device}"
        )
    return batch


def _refuse(owner: str, name: str, batch: Tensor, batch_size: int | None) -> None:
    """Say what is wrong with the values of a batch vector."""
    falls = (batch[1:] < batch[:-1]).nonzero()
    if len(falls):
        at = int(falls[0])
        raise ValueError(
            f"{owner}: {name} must not fall, got {int(batch[at + 1])} after {int(batch[at])} "
            f"at position {at + 1}"
        )
    at = int(((batch < 0) | (batch >= (batch_size or 0))).nonzero()[0])
    raise ValueError(
        f"{owner}: {name} must lie in [0, {batch_size}), got {int(batch[at])} at position {at}"
    )


def _pointers(vectors: list[Tensor], batch_size: int | None) -> tuple[list[Tensor], Tensor]:
    """Where each sample begins in each of the vectors, and how many samples there are.

    Without ``batch_size`` only the samples that occur are counted: a gap in the numbers costs
    nothing, however wide. On CUDA empty ones follow, as many as any values could need.
    """
    device = vectors[0].device
    if batch_size is not None:
        bounds = torch.arange(batch_size + 1, device=device)
        return [torch.searchsorted(b, bounds) for b in vectors], bounds[-1]
    if common.takes_cuda_kernels(vectors[0]):
        vectors, count = _ranks(vectors)
        samples = torch.arange(sum(len(rank) for rank in vectors), device=device)
    else:
        found = [torch.unique_consecutive(batch) for batch in vectors]
        samples = found[0] if len(found) == 1 else torch.cat(found).unique()
        count = torch.tensor(len(samples))
    pad = torch.nn.functional.pad
    return [pad(torch.searchsorted(b, samples), (0, 1), value=len(b)) for b in vectors], count


def _ranks(vectors: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """For every row how many smaller samples occur in all, and how many occur, by fixed shapes."""
    counts = []
    for place, batch in enumerate(vectors):
        first = torch.ones_like(batch, dtype=torch.bool)
        first[1:] = batch[1:] != batch[:-1]
        for other in vectors[:place]:
            after = torch.searchsorted(other, batch, right=True)
            first &= torch.searchsorted(other, batch) == after
        counts.append(torch.nn.functional.pad(first.cumsum(0), (1, 0)))
    ranks = [torch.zeros_like(batch) for batch in vectors]
    for batch, rank in zip(vectors, ranks, strict=True):
        for other, count in zip(vectors, counts, strict=True):
            rank += count[torch.searchsorted(other, batch)]
    return ranks, torch.stack([count[-1] for count in counts]).sum()
