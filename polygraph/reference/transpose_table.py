"""The transposed neighbour table by a plain loop."""

from __future__ import annotations

import torch
from torch import Tensor


def transpose_table(index: Tensor, num_sources: int) -> tuple[Tensor, Tensor]:
    """List, source by source, the flat positions of ``index`` that name it.

    Arguments and result as in `polygraph.ops.transpose_table`.
    """
    positions: list[list[int]] = [[] for _ in range(num_sources + 1)]
    for position, source in enumerate(index.flatten().tolist()):
        positions[source if source >= 0 else num_sources].append(position)
    lengths = torch.tensor([len(p) for p in positions[:-1]], dtype=torch.int64)
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    entry = torch.tensor([p for row in positions for p in row], dtype=torch.int64)
    return ptr.to(index.device), entry.to(index.device)
