"""Lightweight edge-conditioned convolution: matrices of low rank, none of which is made."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polygraph._checks import check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.ecc import SUMS, DifferenceHidden, attention
from polygraph.nn.message_passing import graph_of
from polygraph.nn.tables import Tables
from polygraph.ops import light_ecc
from polygraph.ops.graph import Graph


class LightEdgeFilter(Tables):
    """The weights of lightweight ECC: from an edge's hidden features to a matrix of rank R.

    ``Θ = Σ_r κ_r θL_r θR_rᵀ``, with θL, θR and κ linear in the H hidden features. The matrices that
    make θL and θR, ``[R D, H]`` and ``[R C, H]``, are stacks of ``blocks`` circulant blocks: every
    row is the row above it, rolled by one, so a block has H parameters.

    The weights of θL and θR start with variance 1/(H √(C D)), those of κ with 10 √(C D)/(H R): for
    H = C = D the published standard deviations 1/(√H √C) and 1/√R, and for other sizes the same
    scale of what comes out, but for the 10. It makes up for the mean over about as many neighbours,
    without which output and gradients have 0.1 to 0.3 and 0.2 to 0.6 of the scale of the input.

    Args:
        in_channels: C.
        out_channels: D.
        hidden: H.
        rank: R.
        blocks: circulant blocks in each of the two; None: full matrices.

    Attributes:
        repeats: for each rank the first one whose matrix in θL, and in θR, is the same, biases
            aside: the rows of a block repeat after H.
    """

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, rank: int, blocks: int | None
    ) -> None:
        super().__init__()
        check_positive(
            "LightECConv",
            in_channels=in_channels,
            out_channels=out_channels,
            hidden=hidden,
            rank=rank,
        )
        if blocks is not None:
            for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
                if blocks < 1 or rank * channels % blocks:
                    raise ValueError(
                        f"LightECConv: blocks must divide rank * {name} = {rank * channels}, "
                        f"got {blocks}"
                    )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.hidden, self.rank, self.blocks = hidden, rank, blocks
        self.left_weight: torch.nn.Parameter
        self.left_bias: torch.nn.Parameter
        self.right_weight: torch.nn.Parameter
        self.right_bias: torch.nn.Parameter
        repeats = dict.fromkeys(("left", "right"), tuple(range(rank)))
        for side, channels in (("left", out_channels), ("right", in_channels)):
            rows = rank * channels if blocks is None else blocks
            setattr(self, f"{side}_weight", torch.nn.Parameter(torch.empty(rows, hidden)))
            setattr(self, f"{side}_bias", torch.nn.Parameter(torch.empty(rank, channels, 1)))
            if blocks is not None:
                row = torch.arange(rank * channels, device="cpu")
                block, shift = row // (rank * channels // blocks), row % (rank * channels // blocks)
                column = (torch.arange(hidden, device="cpu") - shift[:, None]) % hidden
                index = block[:, None] * hidden + column
                self.register_table(f"{side}_index", index)
                repeats[side] = _firsts(index.view(rank, -1))
        self.repeats = repeats["left"], repeats["right"]
        self.kappa_weight = torch.nn.Parameter(torch.empty(rank, hidden))
        self.kappa_bias = torch.nn.Parameter(torch.empty(rank, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Output and gradients start at the scale of the input."""
        spread = 1 / math.sqrt(self.hidden * math.sqrt(self.in_channels * self.out_channels))
        torch.nn.init.normal_(self.left_weight, std=spread)
        torch.nn.init.normal_(self.right_weight, std=spread)
        variance = 10 * math.sqrt(self.in_channels * self.out_channels) / (self.hidden * self.rank)
        torch.nn.init.normal_(self.kappa_weight, std=math.sqrt(variance))
        for bias in (self.left_bias, self.right_bias, self.kappa_bias):
            torch.nn.init.zeros_(bias)

    def _matrices(self, side: str, channels: int) -> Tensor:
        weight: Tensor = getattr(self, f"{side}_weight")
        if self.blocks is not None:
            weight = weight.flatten()[getattr(self, f"{side}_index")]
        bias: Tensor = getattr(self, f"{side}_bias")
        return torch.cat([weight.view(self.rank, channels, self.hidden), bias], 2)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """``left [R, D, H + 1]``, ``right [R, C, H + 1]`` and ``kappa [R, H + 1]``."""
        left = self._matrices("left", self.out_channels)
        right = self._matrices("right", self.in_channels)
        return left, right, torch.cat([self.kappa_weight, self.kappa_bias], 1)


def _firsts(rows: Tensor) -> tuple[int, ...]:
    """For each row the first that equals it."""
    seen: dict[tuple[int, ...], int] = {}
    return tuple(seen.setdefault(tuple(row), n) for n, row in enumerate(rows.tolist()))


class LightECConv(torch.nn.Module):
    """Lightweight edge-conditioned convolution: matrices of low rank, none of which is made.

    ``x'_i = (1/|N_i|) Σ_j γ_ij Θ(φ_ij) x_j + b`` with `LightEdgeFilter`'s Θ, the hidden features
    ``φ_ij = leaky ReLU(W (x_j - x_i) + b)`` (or a network of given edge features) and
    ``γ_ij = exp(-|x_j - x_i|² / delta)``.

    Source: Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image Denoising", IEEE TIP
    2020, section III-B and C.

    Args:
        in_channels: C.
        out_channels: D.
        hidden: H; None: C.
        rank: R.
        blocks: circulant blocks; must divide R C and R D. None: full matrices.
        delta: of γ, in units of squared distances of features (10 in the paper); None: γ is 1.
        nn: maps given edge features to ``[E, H]``; None: from the difference of the ends.
        aggr: ``"mean"`` or ``"sum"``.
        bias: add b.

    Raises:
        ValueError: a size is not positive, ``blocks`` does not divide, ``edge_index`` is out of
            range, or edge features are missing.

    Example:
        >>> import torch
        >>> from polygraph.nn import LightECConv, knn_graph
        >>> x = torch.randn(50, 6)
        >>> layer = LightECConv(6, 6, rank=4)
        >>> layer, layer(x, knn_graph(x, k=4)).shape
        (LightECConv(6, 6, rank=4, blocks=3), torch.Size([50, 6]))

    See Also:
        `NNConv`, of full rank; `NonLocalGraphConv2d` with ``kind="light"``, of images;
        `polygraph.ops.light_ecc`, the operator.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int | None = None,
        rank: int = 11,
        blocks: int | None = 3,
        delta: float | None = None,
        nn: torch.nn.Module | None = None,
        aggr: str = "mean",
        bias: bool = True,
    ) -> None:
        super().__init__()
        hidden = in_channels if hidden is None else hidden
        self.filter = LightEdgeFilter(in_channels, out_channels, hidden, rank, blocks)
        self.nn = DifferenceHidden(in_channels, hidden) if nn is None else nn
        self.delta, self.aggr = delta, aggr
        if aggr not in SUMS:
            raise ValueError(f"LightECConv: aggr must be one of {', '.join(SUMS)}, got {aggr!r}")
        self.bias = torch.nn.Parameter(torch.zeros(out_channels)) if bias else None

    def reset_parameters(self) -> None:
        """Initialise anew."""
        self.filter.reset_parameters()
        if hasattr(self.nn, "reset_parameters"):
            reset: Any = self.nn.reset_parameters
            reset()
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def forward(
        self, x: Tensor, edge_index: Tensor | Graph, edge_attr: Tensor | None = None
    ) -> Tensor:
        """``[N, C]`` to ``[N, D]``; ``edge_index`` is PyG's, or a `polygraph.ops.Graph`."""
        check_tensors("LightECConv", x=x, edge_attr=edge_attr)
        if x.dim() != 2 or x.shape[1] != self.filter.in_channels:
            raise ValueError(
                f"LightECConv: x must have shape [N, {self.filter.in_channels}], got "
                f"{list(x.shape)}"
            )
        check_dtype("LightECConv", "x", x, self.filter.left_bias)
        if not isinstance(edge_index, Graph):
            nodes = (x.shape[0], x.shape[0])
            edge_index = graph_of("LightECConv", edge_index, "source_to_target", *nodes)
        graph = edge_index.with_transposed(x.shape[0])
        if isinstance(self.nn, DifferenceHidden):
            phi = self.nn(x, graph)
        elif edge_attr is None:
            raise ValueError("LightECConv: edge_attr is needed, for nn is given")
        else:
            phi = self.nn(edge_attr)
        gamma = None if self.delta is None else attention(x, graph, self.delta)
        left, right, kappa = self.filter()
        shared = self.filter.repeats
        out = light_ecc(
            x, phi, left, right, kappa, graph, SUMS[self.aggr], repeats=shared, edge_weight=gamma
        )
        return out if self.bias is None else out + self.bias

    def __repr__(self) -> str:
        """Sizes, rank and blocks."""
        f = self.filter
        return (
            f"{type(self).__name__}({f.in_channels}, {f.out_channels}, rank={f.rank}, "
            f"blocks={f.blocks})"
        )
