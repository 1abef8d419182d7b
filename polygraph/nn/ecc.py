"""Edge-conditioned convolutions: PyG's NNConv without matrices of edges; the lightweight one."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch_geometric
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn.conv import MessagePassing

from polygraph._checks import check_positive
from polygraph.nn.centre import centred
from polygraph.nn.edge_mlp import steps_of
from polygraph.nn.message_passing import Steps, graph_of, takes_strided, warn_once, with_int64
from polygraph.nn.ordinary import input_width, is_lazy, is_linear, slope_of
from polygraph.nn.tables import Tables
from polygraph.ops import ecc, edge_dist2, light_ecc
from polygraph.ops.ecc import EdgeLayer
from polygraph.ops.graph import Graph, targets_of

SUMS = {"add": "sum", "sum": "sum", "mean": "mean"}
STEPS = Steps(torch_geometric.nn.NNConv)


class NNConv(torch_geometric.nn.NNConv):  # type: ignore[misc]  # PyG's base class has no types
    """``x'_i = W x_i + aggr_j Θ(e_ij)ᵀ x_j + b``: PyG's NNConv, the same in every respect but cost.

    The edge network's last linear layer, which makes a matrix ``Θ`` for every edge, is taken to the
    nodes: see `polygraph.ops.ecc`. An edge network that does not end with one, or has hooks, and
    aggregations other than sums and means, are computed by PyG, with one warning. So is, without
    one, whatever lets anybody see the edges: hooks on the way, an explainer, a method such as
    ``message`` replaced by a descendant or on the instance.

    Source: Gilmer et al., "Neural Message Passing for Quantum Chemistry", ICML 2017; Simonovsky and
    Komodakis, "Dynamic Edge-Conditioned Filters", CVPR 2017.

    Args:
        in_channels: C, or a pair of sources' and targets'.
        out_channels: D.
        nn: maps edge features ``[E, F]`` to ``[E, C * D]``.
        aggr: ``"add"`` (``"sum"``) or ``"mean"``; any other of PyG's, a module or a list of them is
            computed by PyG.
        root_weight: add ``W x_i``.
        bias: add ``b``.
        **kwargs: of PyG's `MessagePassing`, such as ``flow``.

    Call it with nodes ``[N, C]`` or a pair, ``edge_index [2, E]`` of any integer dtype and
    ``edge_attr [E, F]``; it returns ``[M, D]``. Deterministic, differentiable any number of times.

    Raises:
        ValueError: ``edge_index`` is out of range, ``edge_attr`` has other than E rows, ``x`` or
            the edge network's output another width than C or C * D.
    """

    propagate = MessagePassing.propagate  # to which explainers return, not what PyG's layer has got

    def forward(
        self, x: Any, edge_index: Any, edge_attr: Tensor | None = None, size: Any = None
    ) -> Tensor:
        """``x`` is ``[N, C]`` or ``([N, C], [M, C'] or None)``."""
        # propagate_type: (x: OptPairTensor, edge_attr: OptTensor)
        pair = (x, x) if isinstance(x, Tensor) else tuple(x)
        edge_index = with_int64(edge_index)
        aggr = STEPS.aggregation(self)
        steps = None
        if edge_attr is not None and takes_strided(edge_index, *pair):
            steps = self._fused_steps(aggr)
        if edge_attr is None or aggr is None or steps is None:
            return self._plain(x, edge_index, edge_attr, size)
        sources, targets = pair
        if size is not None:
            num_targets = size[1 if self.flow == "source_to_target" else 0]
        else:
            num_targets = sources.shape[0] if targets is None else targets.shape[0]
        graph = graph_of("NNConv", edge_index, self.flow, sources.shape[0], num_targets)
        last: Any = steps[-1]
        C, D = self.in_channels_l, self.out_channels
        if sources.shape[1] != C:
            raise ValueError(f"NNConv: x must have {C} channels, got {sources.shape[1]}")
        weight, bias = last.weight, last.bias  # read once: they may be computed
        if weight.shape[0] != C * D:
            raise ValueError(
                f"NNConv: nn must make {C} * {D} = {C * D} features, its last layer makes "
                f"{weight.shape[0]}"
            )
        if edge_attr.shape[0] != graph.num_slots:
            raise ValueError(
                f"NNConv: edge_attr must have one row per edge, {graph.num_slots}, got "
                f"{list(edge_attr.shape)}"
            )
        width = input_width(steps[0])
        if edge_attr.dim() != 2 or (width is not None and edge_attr.shape[1] != width):
            wanted = "F" if width is None else width
            raise ValueError(
                f"NNConv: edge_attr must have shape [E, {wanted}], which nn takes, got "
                f"{list(edge_attr.shape)}"
            )
        weight = weight.t().view(weight.shape[1], C, D)
        bias = None if bias is None else bias.view(C, D)
        phi = hidden_of(edge_attr, steps[:-1])
        out = ecc(sources, phi, weight, graph, aggr, bias=bias)
        if targets is not None and self.root_weight:
            out = out + self.lin(targets)
        return out if self.bias is None else out + self.bias

    def _fused_steps(self, aggr: str | None) -> list[Any] | None:
        """The edge network's steps, the last of which is taken to the nodes; None: PyG computes."""
        if aggr is not None and aggr not in SUMS:
            warn_once("NNConv", f"aggregation {aggr} needs the messages of edges")
        if aggr not in SUMS:
            return None
        steps = steps_of(self.nn)
        if steps and is_linear(steps[-1]):
            return steps
        if not is_lazy(self.nn):
            warn_once("NNConv", "nn does not end with a linear layer, or has hooks")
        return None

    def _plain(self, *arguments: Any) -> Tensor:
        out: Tensor = super().forward(*arguments)
        return out


def hidden_of(features: Tensor, steps: list[Any]) -> Tensor | EdgeLayer:
    """What the steps make of edge features; a last linear layer and its activation unmade."""
    slope = slope_of(steps[-1]) if len(steps) > 1 else None
    layer: Any = steps[-2] if slope is not None and slope >= 0 else None
    bias = layer.bias if is_linear(layer) else None
    for step in steps if bias is None else steps[:-2]:
        features = step(features)
    return features if bias is None else EdgeLayer(features, layer.weight, bias, slope or 0.0)


ECConv = NNConv


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


class DifferenceHidden(torch.nn.Module):
    """Hidden features of edges from the difference of their ends: ``act(W (x_j - x_i) + b)``.

    Made from nodes, as ``u_i + v_j`` with ``u = b - (x - c) Wᵀ`` and ``v = (x - c) Wᵀ``; any c will
    do, one in the midst of the nodes keeps the digits of their differences.

    Args:
        in_channels: C.
        hidden: H.
        slope: of the leaky ReLU.
    """

    def __init__(self, in_channels: int, hidden: int, slope: float = 0.2) -> None:
        super().__init__()
        self.lin = torch.nn.Linear(in_channels, hidden)
        self.slope = slope
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Hidden features start with a mean square of 1, for independent ends of variance 1."""
        mean_square = (1 + self.slope**2) / 2
        spread = 1 / math.sqrt(2 * self.lin.in_features * mean_square)
        torch.nn.init.normal_(self.lin.weight, std=spread)
        torch.nn.init.zeros_(self.lin.bias)

    def forward(self, x: Tensor, graph: Graph) -> Tensor | tuple[Tensor, Tensor, float]:
        """``(u, v, slope)``, as `polygraph.ops.ecc` takes them.

        Or, where the linear layer must be called (see `polygraph.nn.ordinary`), the features of the
        edges of ``graph`` themselves, ``[E, H]``.

        Args:
            x: ``[N, C]``.
            graph: of these nodes.
        """
        if not is_linear(self.lin):
            differences = edge_differences(x, graph)
            return functional.leaky_relu(self.lin(differences), self.slope)
        near, _ = centred(x, x)
        v, bias = functional.linear(near, self.lin.weight), self.lin.bias
        return -v if bias is None else bias - v, v, self.slope


def edge_differences(x: Tensor, graph: Graph) -> Tensor:
    """``[E, C]``: ``x_j - x_i`` of every edge, in the rows of edge features.

    Of empty slots, which nobody reads, those of an edge from node 0.
    """
    targets = targets_of(graph.ptr, graph.num_slots)
    found = x.index_select(0, graph.source.clamp(min=0)) - x.index_select(0, targets)
    if graph.edge is None:
        return found
    return torch.zeros_like(found).index_copy(0, graph.edge, found)


def attention(x: Tensor, graph: Graph, delta: float) -> Tensor:
    """``γ_ij = exp(-|x_j - x_i|² / delta)`` of every edge ``[E]``, in the order of its features."""
    return torch.exp(edge_dist2(x, graph) / -delta)


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
