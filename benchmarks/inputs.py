"""Inputs that the benchmarks share."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(*shape: int, seed: int, device: str) -> Tensor:
    """Standard normal float32 numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device)


def near_table(rows: int, slots: int, sources: int, device: str) -> Tensor:
    """A table as a mesh gives: each row reads sources near its own place, in no order.

    Mesh files number vertices so that neighbours are mostly near in memory; a fully random table
    would be slower for everybody. No entry is -1, which the peers cannot read.
    """
    generator = torch.Generator().manual_seed(rows + slots)
    centre = torch.arange(rows)[:, None] * sources // rows
    offset = torch.randint(-64, 65, (rows, slots), generator=generator)
    offset[:, 0] = 0
    return ((centre + offset) % sources).to(device)


def to_float64(*tensors: Tensor) -> list[Tensor]:
    """Float64 copies on the CPU that gradients can be taken of."""
    return [t.detach().cpu().double().requires_grad_() for t in tensors]
