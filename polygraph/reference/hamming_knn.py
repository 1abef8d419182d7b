"""Nearest codes in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _entries(codes: Tensor) -> Tensor:
    """``[N, D]``: one element for each entry, of words of uint64 for each bit."""
    if codes.dtype != torch.uint64:
        return codes
    places = torch.arange(64, device=codes.device)
    return (codes.view(torch.int64)[..., None] >> places & 1).bool().flatten(1)


def hamming_knn(
    x: Tensor | Sequence[Tensor], k: int, *, y: Tensor | Sequence[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """All distances, sorted by (distance, index).

    Arguments and results as in `polygraph.ops.hamming_knn`. Needs memory for every distance at
    once, and for every truth value.
    """
    bank = [x] if isinstance(x, Tensor) else list(x)
    queries = bank if y is None else [y] if isinstance(y, Tensor) else list(y)
    distance = torch.zeros(len(queries[0]), len(bank[0]), dtype=torch.int64, device=bank[0].device)
    for of_bank, of_queries in zip(map(_entries, bank), map(_entries, queries), strict=True):
        for row, query in zip(distance, of_queries, strict=True):
            row += (of_bank != query).sum(1)
    found, index = distance.sort(dim=1, stable=True)
    return index[:, :k], found[:, :k]
