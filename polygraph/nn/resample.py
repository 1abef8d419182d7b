"""Mesh resampling layers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polygraph import ops
from polygraph._inputs import check_dtype, check_vertices
from polygraph.nn.ordinary import has_values
from polygraph.nn.tables import Tables, check_table, table_of


class Resample(Tables):
    """Sparse resampling of vertices: ``out_m = Σ_t weight[m, t] x[index[m, t]]``.

    Args:
        index: int64 ``[M, T]``, the source vertices of each output vertex; ``-1`` adds nothing.
        weight: floating ``[M, T]``; kept in the default dtype and moved with the module.
        num_sources: vertices V of the input.

    Raises:
        ValueError: on a table of the wrong dtype, rank or range, or other weights than indices.

    Example:
        >>> import torch
        >>> from polygraph.nn import Resample
        >>> index, weight = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
        >>> layer = Resample(index, weight, num_sources=3)
        >>> layer, layer(torch.tensor([[0.0], [10.0], [20.0]]))
        (Resample(3 -> 2), tensor([[ 5.],
                [10.]]))

    See Also:
        `SelectVertices`; `polygraph.mesh.barycentric`, which makes such tables.
    """

    index: Tensor
    weight: Tensor
    transposed_ptr: Tensor
    transposed_entry: Tensor

    def __init__(
        self, index: Tensor | np.ndarray, weight: Tensor | np.ndarray, num_sources: int
    ) -> None:
        super().__init__()
        index, weight = table_of(index), table_of(weight)
        check_table("Resample", "index", index, num_sources)
        wrong = weight.shape != index.shape
        if wrong or (has_values(weight) and not bool(torch.isfinite(weight).all())):
            raise ValueError(
                f"Resample: weight must be finite with the shape of index, {list(index.shape)}, "
                f"got {list(weight.shape)}" + ("" if wrong else " with values that are not finite")
            )
        ptr, entry = ops.transpose_table(index, num_sources)
        self.num_sources = num_sources
        self.num_targets = index.shape[0]
        self.register_table("index", index)
        self.register_table("weight", weight.to(torch.get_default_dtype()))
        self.register_table("transposed_ptr", ptr)
        self.register_table("transposed_entry", entry)

    def forward(self, x: Tensor) -> Tensor:
        """Resample ``x [V, C]`` or ``[B, V, C]`` to ``[M, C]`` or ``[B, M, C]``.

        Raises:
            ValueError: x has other vertices, or another dtype than the weights.
        """
        table = (self.transposed_ptr, self.transposed_entry)
        check_vertices("Resample", x, self.num_sources)
        check_dtype("Resample", "x", x, self.weight, what="weights")
        return ops.resample(x, self.index, self.weight, transposed=table)

    def __repr__(self) -> str:
        """One line: how many vertices become how many."""
        return f"Resample({self.num_sources} -> {self.num_targets})"


class SelectVertices(Tables):
    """Mesh down-sampling that keeps some vertices as they are: ``out = x[..., keep, :]``.

    Args:
        keep: int64 ``[M]``, the vertices that stay, in [0, num_sources).
        num_sources: vertices V of the input.

    Example:
        >>> import torch
        >>> from polygraph.nn import SelectVertices
        >>> layer = SelectVertices(torch.tensor([2, 0]), 3)
        >>> layer, layer(torch.tensor([[0.0], [10.0], [20.0]]))
        (SelectVertices(3 -> 2), tensor([[20.],
                [ 0.]]))

    See Also:
        `Resample`, which takes means of vertices.
    """

    keep: Tensor

    def __init__(self, keep: Tensor | np.ndarray, num_sources: int) -> None:
        super().__init__()
        keep = table_of(keep)
        check_table("SelectVertices", "keep", keep.unsqueeze(-1), num_sources)
        if keep.numel() and has_values(keep) and int(keep.min()) < 0:
            raise ValueError(f"SelectVertices: keep must not be negative, got {int(keep.min())}")
        self.num_sources = num_sources
        self.register_table("keep", keep)

    def forward(self, x: Tensor) -> Tensor:
        """Select from ``x [V, C]`` or ``[B, V, C]``; gives ``[M, C]`` or ``[B, M, C]``.

        Raises:
            ValueError: x has other vertices.
        """
        check_vertices("SelectVertices", x, self.num_sources)
        return x.index_select(-2, self.keep)

    def __repr__(self) -> str:
        """One line: how many vertices become how many."""
        return f"SelectVertices({self.num_sources} -> {self.keep.shape[0]})"
