"""Tables of indices that belong to a layer: checked, and none of what is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polygraph.nn.ordinary import has_values


class Tables(nn.Module):
    """A module with tables: buffers that are part of the code, and so are not saved.

    Under ``torch.device("meta")`` their values are kept aside. When the module moves to a device
    that has values, they come along: ``to_empty`` would leave them to chance.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept_tables: dict[str, Tensor] = {}

    def register_table(self, name: str, table: Tensor) -> None:
        """Make ``table`` the buffer ``name``, on the device where new tensors are made."""
        placed = torch.as_tensor(table)
        if placed.is_meta and not table.is_meta:
            self._kept_tables[name] = table
        self.register_buffer(name, placed, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name in list(self._kept_tables):
            buffer: Any = getattr(self, name)
            if not buffer.is_meta:
                buffer.copy_(self._kept_tables.pop(name))
        return self


def table_of(values: Tensor | np.ndarray) -> Tensor:
    """A tensor that has its values, whatever the device of new tensors is."""
    if isinstance(values, Tensor):
        return values
    return torch.as_tensor(values, device="cpu")


def check_table(owner: str, argument: str, table: Tensor, num_sources: int) -> None:
    """Raise a ValueError unless ``table`` is int64 ``[M, S]`` with entries in [-1, num_sources)."""
    if table.dtype != torch.int64:
        raise ValueError(f"{owner}: {argument} must be int64, got {table.dtype}")
    if table.dim() != 2 or table.shape[1] == 0:
        shape = list(table.shape)
        raise ValueError(
            f"{owner}: {argument} must have shape [M, S] with at least one slot, got {shape}"
        )
    if num_sources < 1:
        raise ValueError(f"{owner}: num_sources must be a positive integer, got {num_sources}")
    if table.numel() and has_values(table) and (table.min() < -1 or table.max() >= num_sources):
        low, high = int(table.min()), int(table.max())
        raise ValueError(
            f"{owner}: {argument} must lie in [-1, {num_sources}), got values in [{low}, {high}]"
        )
