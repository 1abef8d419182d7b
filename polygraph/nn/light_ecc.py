"""Lightweight edge-conditioned convolution: matrices of low rank, none of which is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polygraph._checks import check_choice, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.ecc import SUMS, DifferenceHidden, attention
from polygraph.nn.message_passing import graph_of
from polygraph.ops import light_ecc
from polygraph.ops.graph import Graph

SHIFTS = ("stride", "row")
COMPATS = (None, "gcdn")
_BEFORE = (
    "it is of a layer that is no more, whose matrices were circulant blocks of single vectors and "
    "not the replicas of one matrix that the source describes; train anew"
)


class PartialCirculant(torch.nn.Module):
    """The matrix ``W [R, C, H]`` of a lightweight ECC: p replicas of one learned ``M [R, C/p, H]``.

    Side by side, the replicas make the C channels of every rank: ``θ_r = W_r φ`` has as channels
    b C/p to (b + 1) C/p the product of ``M_r`` with φ rolled b times. W is made of M in every call:
    R C H copies, where every node then takes 2 R C H operations with it.

    Args:
        channels: C, without the tail; p must divide it.
        hidden: H.
        rank: R.
        replicas: p; 1: a full matrix.
        shift: how far one replica sees φ rolled beyond the one before: ``"stride"``, by H/p, or
            ``"row"``, by one.
        compat: ``"gcdn"``: see `LightECConv`.
        tail: channels more, whose rows of W are learned as they are.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        rank: int,
        replicas: int,
        shift: str = "stride",
        compat: str | None = None,
        tail: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.compat = channels, compat
        rows = channels // replicas
        self.weight = torch.nn.Parameter(torch.empty(rank, rows, hidden))
        self.tail = torch.nn.Parameter(torch.empty(rank, tail, hidden)) if tail else None
        self.bias = torch.nn.Parameter(torch.empty(rank, channels + tail))
        step = 1 if shift == "row" else hidden // replicas
        self.rolls = [b * step for b in range(replicas)]
        if compat == "gcdn":
            # As published: by no step, then by two, by three, and so on.
            self.rolls = [(b + (b > 0)) * step for b in range(replicas)]

    def forward(self) -> Tensor:
        """``[R, C + tail, H + 1]``: W and, as the last column, the bias."""
        rank, _, hidden = self.weight.shape
        # φ rolled by n, times M, is φ times M rolled back by n.
        replicas = [self.weight.roll(-n, 2) if n else self.weight for n in self.rolls]
        if self.compat == "gcdn":
            # Whole replicas follow each other, and are then cut into ranks.
            matrix = torch.cat(replicas).view(rank, self.channels, hidden)
        else:
            matrix = torch.cat(replicas, 1)
        parts = [matrix] if self.tail is None else [matrix, self.tail]
        return torch.cat([torch.cat(parts, 1), self.bias[..., None]], 2)


class LightEdgeFilter(torch.nn.Module):
    """The weights of lightweight ECC: from an edge's hidden features to a matrix of rank R.

    ``Θ = Σ_r κ_r θL_r θR_rᵀ``, with θL, θR and κ linear in the H hidden features.

    The weights of θL and θR start with variance 1/(H √(C D)), those of κ with 10 √(C D)/(H R): for
    H = C = D the published standard deviations 1/(√H √C) and 1/√R, and for other sizes the same
    scale of what comes out, but for the 10. It makes up for the mean over about as many neighbours,
    without which output and gradients have 0.1 to 0.3 and 0.2 to 0.6 of the scale of the input.

    Args:
        in_channels: C, without the tail.
        out_channels: D.
        hidden: H.
        rank: R.
        replicas: p of θL and p of θR; or one number for both.
        shift: see `PartialCirculant`.
        compat: see `LightECConv`.
        tail: channels more of the input, for which θR is a full matrix.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        rank: int,
        replicas: int | tuple[int, int] = 3,
        shift: str = "stride",
        compat: str | None = None,
        tail: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "hidden": hidden}
        check_positive("LightECConv", **sizes, rank=rank)
        check_choice("LightECConv", "shift", shift, SHIFTS)
        if compat not in COMPATS:
            raise ValueError(f"LightECConv: compat must be None or 'gcdn', got {compat!r}")
        both = tuple(replicas) if isinstance(replicas, Sequence) else (replicas, replicas)
        _check_replicas(both, sizes, shift)
        self.in_channels, self.out_channels = in_channels + tail, out_channels
        self.hidden, self.rank, self.replicas = hidden, rank, both
        how = (shift, compat)
        self.left = PartialCirculant(out_channels, hidden, rank, both[0], *how)
        self.right = PartialCirculant(in_channels, hidden, rank, both[1], *how, tail)
        self.kappa_weight = torch.nn.Parameter(torch.empty(rank, hidden))
        self.kappa_bias = torch.nn.Parameter(torch.empty(rank, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Output and gradients start at the scale of the input."""
        both = math.sqrt(self.in_channels * self.out_channels)
        for side in (self.left, self.right):
            for weight in (side.weight, side.tail):
                if weight is not None:
                    torch.nn.init.normal_(weight, std=1 / math.sqrt(self.hidden * both))
            torch.nn.init.zeros_(side.bias)
        torch.nn.init.normal_(
            self.kappa_weight, std=math.sqrt(10 * both / (self.hidden * self.rank))
        )
        torch.nn.init.zeros_(self.kappa_bias)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """``left [R, D, H + 1]``, ``right [R, C + tail, H + 1]`` and ``kappa [R, H + 1]``."""
        return self.left(), self.right(), torch.cat([self.kappa_weight, self.kappa_bias], 1)

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        """Full matrices of older checkpoints are these; their circulant blocks are refused."""
        for name in ("left", "right"):
            side: PartialCirculant = getattr(self, name)
            before = f"{prefix}{name}_weight"  # [R C, H], or [blocks, H]
            old = state.pop(before, None)
            if old is None:
                continue
            (rank, rows, hidden), channels = side.weight.shape, side.bias.shape[1]
            if rows != side.channels or old.shape != (rank * channels, hidden):
                rest[-1].append(f"{before} has shape {list(old.shape)}: {_BEFORE}.")
                continue
            old = old.view(rank, channels, hidden)
            state[f"{prefix}{name}.weight"] = old[:, :rows]
            if side.tail is not None:
                state[f"{prefix}{name}.tail"] = old[:, rows:]
            state[f"{prefix}{name}.bias"] = state.pop(f"{prefix}{name}_bias").view_as(side.bias)
        super()._load_from_state_dict(state, prefix, *rest)


def _check_replicas(replicas: tuple[int, ...], sizes: dict[str, int], shift: str) -> None:
    if len(replicas) != 2:
        raise ValueError(f"LightECConv: replicas must be one number or two, got {replicas}")
    check_positive("LightECConv", replicas_of_left=replicas[0], replicas_of_right=replicas[1])
    for p, name in zip(replicas, ("out_channels", "in_channels"), strict=True):
        for size in (name, "hidden") if shift == "stride" else (name,):
            if sizes[size] % p:
                raise ValueError(
                    f"LightECConv: replicas must divide {size} = {sizes[size]}, got {p}; "
                    "replicas=1 takes full matrices"
                )


class LightECConv(torch.nn.Module):
    """Lightweight edge-conditioned convolution: matrices of low rank, none of which is made.

    ``x'_i = (1/|N_i|) Σ_j γ_ij Θ(φ_ij) x_j + b``, ``Θ = Σ_r κ_r θL_r θR_rᵀ``, with θL ``[R, D]``,
    θR ``[R, C]`` and κ ``[R]`` linear in hidden features ``φ_ij = leaky ReLU(W (x_j - x_i) + b)``
    (or a network of given edge features), and ``γ_ij = exp(-|x_j - x_i|² / delta)``. The matrices
    that make θL and θR are p replicas of one matrix, each on φ rolled further: 2 · 63,888 numbers
    at C = D = H = 132, R = 11 and p = 3, where full matrices have 2 · 191,664.

    Source: Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image Denoising", IEEE TIP
    2020, section III-B and C; D'Amico, "Image generation using deep adversarial generative models
    on graphs", Politecnico di Torino 2020, section 3.2.2.

    Args:
        in_channels: C.
        out_channels: D.
        hidden: H; None: C.
        rank: R.
        replicas: p, which divides C, D and H; two numbers: of θL, and of θR. 1: full matrices.
        delta: of γ, in units of squared distances of features (10 in the paper); None: γ is 1.
        nn: maps given edge features to ``[E, H]``; None: from the difference of the ends.
        aggr: ``"mean"`` or ``"sum"``.
        bias: add b.
        shift: how far a replica sees φ rolled beyond the one before: ``"stride"``, by H/p as in the
            public code, or ``"row"``, by one, which is the thesis's text read literally.
        compat: ``"gcdn"``: as the public code of the paper has it, whose rolls are 0, 2, 3, ...
            times H/p (of three replicas the last repeats the first), and in which the replicas, one
            after the other, are cut into ranks. For `load_gcdn`.

    Raises:
        ValueError: a size is not positive, ``replicas`` does not divide, ``edge_index`` is out of
            range, or edge features are missing.

    Example:
        >>> import torch
        >>> from polygraph.nn import LightECConv, knn_graph
        >>> x = torch.randn(50, 6)
        >>> layer = LightECConv(6, 6, rank=4)
        >>> layer, layer(x, knn_graph(x, k=4)).shape
        (LightECConv(6, 6, rank=4, replicas=3), torch.Size([50, 6]))

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
        replicas: int | tuple[int, int] = 3,
        delta: float | None = None,
        nn: torch.nn.Module | None = None,
        aggr: str = "mean",
        bias: bool = True,
        *,
        shift: str = "stride",
        compat: str | None = None,
        **removed: Any,
    ) -> None:
        super().__init__()
        refuse_blocks("LightECConv", removed)
        hidden = in_channels if hidden is None else hidden
        sizes = (in_channels, out_channels, hidden, rank)
        self.filter = LightEdgeFilter(*sizes, replicas, shift, compat)
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

    @torch.no_grad()
    def load_gcdn(
        self,
        *,
        hidden: Tensor,
        hidden_bias: Tensor,
        right: Tensor,
        right_bias: Tensor,
        left: Tensor,
        left_bias: Tensor,
        kappa: Tensor,
        kappa_bias: Tensor,
    ) -> None:
        """Take the weights of a layer that was trained with the public code of the paper.

        For a layer with ``compat="gcdn"``. All are laid out as that code has them, inputs first.

        Args:
            hidden: ``[C, H]``, from differences to φ.
            hidden_bias: ``[H]``.
            right: ``[H, R C/p]``, from φ to θR, the one that is multiplied with x_j.
            right_bias: ``[R C]``.
            left: ``[H, R D/p]``.
            left_bias: ``[R D]``.
            kappa: ``[H, R]``.
            kappa_bias: ``[R]``.

        Raises:
            ValueError: a shape is another.
        """
        f = self.filter
        if f.left.compat != "gcdn" or not isinstance(self.nn, DifferenceHidden):
            raise ValueError("LightECConv.load_gcdn: make the layer with compat='gcdn' and no nn")
        for name, given, parameter in (
            ("hidden", hidden.t(), self.nn.lin.weight),
            ("hidden_bias", hidden_bias, self.nn.lin.bias),
            ("right", right.t(), f.right.weight.flatten(0, 1)),
            ("right_bias", right_bias, f.right.bias.flatten()),
            ("left", left.t(), f.left.weight.flatten(0, 1)),
            ("left_bias", left_bias, f.left.bias.flatten()),
            ("kappa", kappa.t(), f.kappa_weight),
            ("kappa_bias", kappa_bias, f.kappa_bias[:, 0]),
        ):
            if given.shape != parameter.shape:
                wanted, got = list(parameter.shape)[::-1], list(given.shape)[::-1]
                raise ValueError(f"LightECConv.load_gcdn: {name} must be {wanted}, got {got}")
            parameter.copy_(given)

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
        check_dtype("LightECConv", "x", x, self.filter.left.bias)
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
        out = light_ecc(x, phi, left, right, kappa, graph, SUMS[self.aggr], edge_weight=gamma)
        return out if self.bias is None else out + self.bias

    def __repr__(self) -> str:
        """Sizes, rank and replicas."""
        f = self.filter
        left, right = f.replicas
        return (
            f"{type(self).__name__}({f.in_channels}, {f.out_channels}, rank={f.rank}, "
            f"replicas={left if left == right else f.replicas})"
        )


def refuse_blocks(owner: str, removed: dict[str, Any]) -> None:
    """Refuse ``blocks``, which was an argument once, by a sentence, and others as Python does."""
    if "blocks" in removed:
        raise ValueError(
            f"{owner}: blocks is no more: its circulant blocks of single vectors are not the layer "
            "of the source. replicas=3 makes that one, replicas=1 what blocks=None was"
        )
    if removed:
        raise TypeError(f"{owner}: unexpected arguments {', '.join(map(repr, removed))}")
