"""Spiral convolution layer."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from polygraph import ops
from polygraph._checks import check_positive
from polygraph._inputs import check_dtype, check_vertices
from polygraph.nn.tables import Tables, check_table, table_of


class SpiralConv(Tables):
    """Spiral convolution: ``out_m = W · concat_s x[indices[m, s]] + b`` (Neural3DMM, SpiralNet++).

    Args:
        in_channels: channels C of the input.
        out_channels: channels D of the output.
        indices: int64 ``[M, S]``, the spiral of each output vertex; entries in
            ``[-1, num_sources)``, where ``-1`` reads zeros. A tensor or a NumPy array.
        bias: whether a learned ``[D]`` is added.
        num_sources: vertices V of the input; default M. With M < V the convolution is evaluated
            on some vertices only: ``SpiralConv(..., indices[keep], num_sources=len(indices))``.
        transposed: ``ops.transpose_table(indices, num_sources)`` where layers share a mesh;
            default: computed here, once.

    Attributes:
        weight: ``[D, S*C]``, slot after slot; initialised like that of ``nn.Linear``.
        bias: ``[D]`` or None.

    Raises:
        ValueError: on a table of the wrong dtype, rank or range, or without slots.

    Example:
        >>> import numpy as np, torch
        >>> from polygraph.mesh import spiral_table
        >>> from polygraph.nn import SpiralConv
        >>> vertices = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
        >>> faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])  # a tetrahedron
        >>> layer = SpiralConv(3, 16, spiral_table(vertices, faces))
        >>> layer, layer(torch.randn(8, 4, 3)).shape  # 8 meshes
        (SpiralConv(3, 16, indices=[4, 4]), torch.Size([8, 4, 16]))

    See Also:
        `polygraph.ops.spiral_conv`; `polygraph.mesh.spiral_table`; `ChebyshevConv` and other
        operators on the edges of a mesh; `NCP`, which makes a polynomial of it.
    """

    layout = "vertices"
    indices: Tensor
    transposed_ptr: Tensor
    transposed_entry: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        indices: Tensor | np.ndarray,
        bias: bool = True,
        *,
        num_sources: int | None = None,
        transposed: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_positive("SpiralConv", in_channels=in_channels, out_channels=out_channels)
        indices = table_of(indices)
        num_sources = indices.shape[0] if num_sources is None and indices.dim() else num_sources
        check_table("SpiralConv", "indices", indices, num_sources or 0)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_sources = num_sources or 0
        self.num_targets, self.spiral_length = indices.shape
        ptr, entry = transposed or ops.transpose_table(indices, self.num_sources)
        # The mesh is part of the code, not of what was learned: none of this is saved.
        self.register_table("indices", indices)
        self.register_table("transposed_ptr", ptr)
        self.register_table("transposed_entry", entry)
        self.weight = nn.Parameter(torch.empty(out_channels, self.spiral_length * in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias from U(-1/√fan_in, 1/√fan_in), fan_in = S·C, as nn.Linear does."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x [V, C]`` or ``[B, V, C]`` into ``[M, D]`` or ``[B, M, D]``.

        Raises:
            ValueError: x has other vertices, channels or another dtype than the layer.
        """
        weight, table = self.weight, (self.transposed_ptr, self.transposed_entry)
        check_vertices("SpiralConv", x, self.num_sources, self.in_channels)
        check_dtype("SpiralConv", "x", x, weight)
        return ops.spiral_conv(x, self.indices, weight, self.bias, transposed=table)

    def __repr__(self) -> str:
        """One line: the channels, the table's shape, and the bias where there is none."""
        bias = "" if self.bias is not None else ", bias=False"
        table = f"[{self.num_targets}, {self.spiral_length}]"
        return f"SpiralConv({self.in_channels}, {self.out_channels}, indices={table}{bias})"
