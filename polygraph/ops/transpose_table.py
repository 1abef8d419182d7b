"""The transposed neighbor table, through which gradients flow back to the sources."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors

_load.load_libraries()


def transpose_table(index: Tensor, num_sources: int) -> tuple[Tensor, Tensor]:
    """List, for every source, the positions of a neighbor table that hold it.

    A gradient that flows to the sources gathers through this list instead of scattering through
    the table, so no sum is contended and results repeat bit for bit. It depends on the table
    alone: make it once per mesh. On the CPU a counting sort, on CUDA a radix sort.

    Args:
        index: int64 ``[M, S]``, entries in ``[-1, num_sources)``; ``-1`` is no neighbor.
        num_sources: number of source vertices V.

    Returns:
        ``ptr`` int64 ``[V + 1]`` and ``entry`` int64 ``[M * S]``: the flat positions
        ``m * S + s`` with ``index[m, s] == u``, ascending, are ``entry[ptr[u]:ptr[u + 1]]``. What
        follows ``ptr[V]`` are the places that hold ``-1``. Shapes do not depend on values, so
        it traces and captures.

    Raises:
        ValueError: ``index`` is not a 2-D int64 tensor, or ``num_sources`` is negative.
        RuntimeError: an entry is out of range (on CUDA: a device-side assertion).

    Example:
        >>> import torch
        >>> from polygraph.ops import transpose_table
        >>> ptr, entry = transpose_table(torch.tensor([[0, 1], [1, 2]]), 3)
        >>> ptr, entry  # vertex 1 is at the flat positions 1 and 2
        (tensor([0, 1, 3, 4]), tensor([0, 1, 2, 3]))

    See Also:
        `spiral_conv` and `resample`, which take it as ``transposed``.
    """
    check_tensors("transpose_table", index=index)
    if index.dim() != 2 or index.dtype != torch.int64:
        raise ValueError(
            "transpose_table: index must be an int64 tensor of shape [M, S], got "
            f"{index.dtype} {list(index.shape)}"
        )
    if num_sources < 0:
        raise ValueError(f"transpose_table: num_sources must not be negative, got {num_sources}")
    ptr, entry = torch.ops.polygraph.transpose_table(index, num_sources)
    return ptr, entry


@torch.library.register_fake("polygraph::transpose_table")
def _(index: Tensor, num_sources: int) -> tuple[Tensor, Tensor]:
    return index.new_empty(num_sources + 1), index.new_empty(index.shape[0] * index.shape[1])


def table_or_transpose(
    index: Tensor, num_sources: int, ptr: Tensor | None, entry: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The transposed table as given, or made now."""
    if ptr is None or entry is None:
        return transpose_table(index, num_sources)
    return ptr, entry
