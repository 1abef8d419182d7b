"""Graph convolution on images, and graph convolutions as maps of features on a fixed graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph._checks import as_index, check_choice, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.ecc import DifferenceHidden, edge_differences
from polygraph.nn.edge_mlp import edge_network, split
from polygraph.nn.light_ecc import LightEdgeFilter, refuse_blocks
from polygraph.nn.ordinary import is_linear
from polygraph.nn.pixel_graph import MERGES, PADDINGS, PixelGraph, check_kind
from polygraph.nn.tables import Tables
from polygraph.ops import ecc, edge_aggregate, edge_values, graph_from_table, light_ecc
from polygraph.ops.common import autocast_disabled
from polygraph.ops.graph import Graph, targets_of


class NonLocalGraphConv2d(torch.nn.Module):
    """The mean of a 3 x 3 convolution and of a graph convolution over pixels that look alike.

    For every pixel the k pixels nearest in feature space, outside of the window that the local
    convolution sees, are found anew in every call; then each pixel's row and column, from -1 to
    1, join its features. The result is ``(non-local + local) / 2 + b``. The non-local part is, over
    the neighbors j,

    - ``"edge-sum"``, ``"edge-max"``: the sum or maximum of ``ReLU(Wψ x_i + Wφ (x_j - x_i))``,
    - ``"ecc"``: the mean of ``γ_ij Θ_ijᵀ x_j`` with ``Θ_ij = W_H + Σ_h φ_ij,h W_h``,
    - ``"light"``: that mean with Θ of low rank (`polygraph.nn.LightECConv`); the replicas of θR are
      over the C features, and the two coordinates have rows of their own,
    - ``"edge-mean"``, which is of no paper: the mean of ``Wψ x_i + Wφ (x_j - x_i)``. Linear in the
      mean of the neighbors, it cannot tell k of them from one,

    with ``φ_ij = leaky ReLU(W (x_j - x_i) + b)`` and ``γ_ij = exp(-|x_j - x_i|² / delta)``, or 1.

    Source: D'Amico, "Image generation using deep adversarial generative models on graphs",
    Politecnico di Torino 2020: the layer with coordinates in section 4.2, equations 3.14 to 3.21,
    and the other merges and graphs as questions in chapter 5; after Valsesia, Fracastoro and Magli,
    "Learning Localized Generative Models for 3D Point Clouds via Graph Convolution", ICLR 2019, and
    "Deep Graph-Convolutional Image Denoising", IEEE TIP 2020, section III.

    Args:
        in_channels: C.
        out_channels: D.
        k: neighbors of each pixel.
        kind: one of the five.
        hidden: H, of φ; None: C.
        exclude_radius: the window that is left out, 1 for 3 x 3; None: none.
        search_radius: how far away neighbors may be; None: anywhere in the image.
        delta: of γ, over the features without row and column (10 in the papers); None: γ is 1. Not
            for the three of EdgeConv.
        rank: of ``"light"``.
        replicas: of ``"light"``: p, which divides C, D and H, or two numbers, of θL and of θR.
        coordinates: whether row and column join the features.
        bias: add b.
        merge: how the two parts meet: ``"mean"``; ``"sum"``; ``"gate"``: ``g non-local + (1 - g)
            local``, g learned for each channel, 1/2 at first; ``"concat"``: a learned 1 x 1
            convolution of both; ``"max"``: the larger of the two.
        graph: see `polygraph.nn.PixelGraph`.
        metric: see `polygraph.nn.PixelGraph`. ``"projected"``: a linear map to C/8 features, as
            self-attention has it; it learns through γ, and needs ``delta``.
        radius: see `polygraph.nn.PixelGraph`.
        padding_mode: of the local convolution, as of `torch.nn.Conv2d`: ``"zeros"``, ``"reflect"``,
            ``"replicate"`` or ``"circular"``.
        shift: of ``"light"``: see `LightECConv`.
        compat: of ``"light"``: see `LightECConv`.

    Call it with images ``[B, C, H, W]``; it returns ``[B, D, H, W]``. With neighbors that another
    layer has found, ``layer(x, near)``, several layers share one graph, of whose edges each takes
    its own differences and weights. Deterministic (but for the graph ``"random"``), differentiable
    any number of times (the choice of neighbors has no gradient).

    Raises:
        ValueError: an argument is none of those above, or the input is not an image.
        RuntimeError: a pixel has fewer than k candidates, or a value is not finite.

    Example:
        >>> import torch
        >>> from polygraph.nn import NonLocalGraphConv2d
        >>> layer = NonLocalGraphConv2d(8, 16, k=4)
        >>> layer(torch.randn(2, 8, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
        >>> second = NonLocalGraphConv2d(16, 16, k=4)  # on the graph of the first
        >>> x = torch.randn(2, 8, 8, 8)
        >>> near, _ = layer.neighbors(x)
        >>> second(layer(x, near), near).shape
        torch.Size([2, 16, 8, 8])

    See Also:
        `PixelGraph`, which finds the neighbors; `LightECConv`, `NNConv`, `EdgeConv` on given
        graphs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        k: int = 8,
        kind: str = "edge-sum",
        *,
        hidden: int | None = None,
        exclude_radius: int | None = 1,
        search_radius: int | None = None,
        delta: float | None = None,
        rank: int = 11,
        replicas: int | tuple[int, int] = 3,
        coordinates: bool = True,
        bias: bool = True,
        merge: str = "mean",
        graph: str = "knn",
        metric: str = "euclidean",
        radius: float | None = None,
        padding_mode: str = "zeros",
        shift: str = "stride",
        compat: str | None = None,
        **removed: Any,
    ) -> None:
        super().__init__()
        refuse_blocks("NonLocalGraphConv2d", removed)
        check_kind("NonLocalGraphConv2d", "kind", kind)
        check_choice("NonLocalGraphConv2d", "merge", merge, MERGES)
        check_choice("NonLocalGraphConv2d", "padding_mode", padding_mode, PADDINGS)
        check_positive(
            "NonLocalGraphConv2d", in_channels=in_channels, out_channels=out_channels, k=k
        )
        if delta is not None and kind.startswith("edge"):
            raise ValueError(f"NonLocalGraphConv2d: delta is for ecc and light, not for {kind!r}")
        if metric == "projected" and delta is None:
            raise ValueError(
                "NonLocalGraphConv2d: metric 'projected' needs delta: only through the weights of "
                "edges does the projection learn"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.k, self.kind, self.delta = as_index(k), kind, delta
        self.coordinates, self.merge = coordinates, merge
        self.graph = PixelGraph(self.k, graph, metric, radius, exclude_radius, search_radius)
        self.projection = (
            torch.nn.Conv2d(in_channels, max(1, in_channels // 8), 1, bias=False)
            if metric == "projected"
            else None
        )
        tail = 2 * coordinates
        width = in_channels + tail
        hidden = in_channels if hidden is None else hidden
        padded: Any = {"padding": 1, "padding_mode": padding_mode}
        self.local = torch.nn.Conv2d(width, out_channels, 3, bias=False, **padded)
        self.hidden = None if kind.startswith("edge") else DifferenceHidden(width, hidden)
        self.weight: torch.nn.Parameter | None = None
        if kind.startswith("edge"):
            self.lin = torch.nn.Linear(2 * width, out_channels, bias=False)
            self.activation = None if kind == "edge-mean" else torch.nn.ReLU()
        elif kind == "ecc":
            self.weight = torch.nn.Parameter(torch.empty(hidden + 1, width, out_channels))
        else:
            sizes = (in_channels, out_channels, hidden, rank)
            self.filter = LightEdgeFilter(*sizes, replicas, shift, compat, tail)
        self.gate = torch.nn.Parameter(torch.empty(out_channels)) if merge == "gate" else None
        self.joint = (
            torch.nn.Conv2d(2 * out_channels, out_channels, 1, bias=False)
            if merge == "concat"
            else None
        )
        self.bias = torch.nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise anew."""
        for part in ("local", "lin", "filter", "hidden", "projection", "joint"):
            module = getattr(self, part, None)
            if module is not None:
                module.reset_parameters()
        if self.kind in ("edge-sum", "edge-max"):
            torch.nn.init.normal_(self.lin.weight, std=self._edge_spread())
        if self.weight is not None:
            # A sum over C channels and H + 1 hidden features, whose mean square is about 1.
            torch.nn.init.normal_(self.weight, std=self.weight[:, :, 0].numel() ** -0.5)
        for zero in (self.gate, self.bias):
            if zero is not None:
                torch.nn.init.zeros_(zero)

    def _edge_spread(self) -> float:
        """The deviation of weights with which the aggregated ReLU has a mean square of about 1.

        For independent pixels of variance 1 a pre-activation has variance 3 C times the weights',
        two thirds of it shared by all neighbors of a pixel: the products of two ReLUs have then a
        mean of 0.36 of that variance, a square one of a half.
        """
        many = self.k / 2 + self.k * (self.k - 1) * 0.363
        square = many if self.kind == "edge-sum" else 1.0
        return float((3 * self.lin.in_features / 2 * square) ** -0.5)

    def forward(self, x: Tensor, near: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` to ``[B, D, H, W]``.

        Args:
            x: the images.
            near: int64 ``[B, H W, k]``, neighbors that `neighbors` of a layer has found, -1 for
                none; None: found in ``x``.
        """
        if near is None:
            return self.joined(*self.parts(x))
        self._check(x)
        if near.dim() != 3 or near.shape[:2] != (x.shape[0], x.shape[2] * x.shape[3]):
            raise ValueError(
                f"NonLocalGraphConv2d: near must have shape [{x.shape[0]}, "
                f"{x.shape[2] * x.shape[3]}, k], got {list(near.shape)}"
            )
        dist2 = None if self.delta is None else self.graph.distances(self.compared(x), near)
        return self.joined(*self.parts_with(x, near, dist2))

    def joined(self, found: Tensor, local: Tensor) -> Tensor:
        """The two parts as one, and b."""
        out = self.merged(found, local)
        return out if self.bias is None else out + self.bias[:, None, None]

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The non-local and the local part, each ``[B, D, H, W]``."""
        return self.parts_with(x, *self.neighbors(x))

    def neighbors(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `PixelGraph.find` finds for ``x [B, C, H, W]``; distances where they have weights.

        Raises:
            ValueError: ``x`` is not an image of C features.
        """
        self._check(x)
        return self.graph.find(self.compared(x), self.delta is not None)

    def _check(self, x: Tensor) -> None:
        check_tensors("NonLocalGraphConv2d", x=x)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"NonLocalGraphConv2d: x must have shape [B, {self.in_channels}, H, W], got "
                f"{list(x.shape)}"
            )
        check_dtype("NonLocalGraphConv2d", "x", x, self.local.weight)

    def parts_with(self, x: Tensor, near: Tensor, dist2: Tensor | None) -> tuple[Tensor, Tensor]:
        """`parts`, with these neighbors ``[B, H W, k]``."""
        batch, _, height, width = x.shape
        x = self.located(x)
        local: Tensor = self.local(x)
        nodes = x.permute(0, 2, 3, 1).flatten(1, 2)
        found = self.aggregated(nodes, near, dist2).to(local.dtype)
        return found.view(batch, height, width, -1).permute(0, 3, 1, 2), local

    def located(self, x: Tensor) -> Tensor:
        """The features that are convolved: those of ``x``, and row and column where they count."""
        return torch.cat([x, self.pixel_coordinates(x)], 1) if self.coordinates else x

    def aggregated(self, nodes: Tensor, near: Tensor, dist2: Tensor | None) -> Tensor:
        """The graph convolution of pixels in any order.

        Args:
            nodes: ``[B, N, C]``, with row and column where they count.
            near: int64 ``[B, N, k]``, each pixel's neighbors, -1 for none.
            dist2: squared distances of the features that are compared, of that shape; read where
                edges have weights.

        Returns:
            ``[B * N, D]``.
        """
        graph = graph_from_table(near, nodes.shape[1])
        nodes = nodes.flatten(0, 1)
        gamma = None
        if self.delta is not None and dist2 is not None:
            gamma = torch.exp(dist2.flatten() / -self.delta).to(nodes.dtype)
        return self._nonlocal(nodes, graph, gamma)

    def compared(self, x: Tensor) -> Tensor:
        """The features of which the graph takes distances."""
        if self.projection is None:
            return x
        # Not in a half type: that would choose other neighbors.
        with autocast_disabled(x):
            found: Tensor = self.projection(x.to(self.projection.weight.dtype))
        return found

    def merged(self, found: Tensor, local: Tensor) -> Tensor:
        """The two parts as one."""
        if self.gate is not None:
            return local + torch.sigmoid(self.gate)[:, None, None] * (found - local)
        if self.joint is not None:
            out: Tensor = self.joint(torch.cat([found, local], 1))
            return out
        if self.merge == "max":
            return torch.maximum(found, local)
        return found + local if self.merge == "sum" else (found + local) / 2

    @staticmethod
    def pixel_coordinates(x: Tensor) -> Tensor:
        """Row and column of each pixel of ``x [B, C, H, W]`` in [-1, 1]: ``[B, 2, H, W]``."""
        batch, _, height, width = x.shape
        # Not torch.linspace, which is compiled for one length.
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        row, column = (
            torch.arange(size, device=x.device, dtype=wide) * 2 / max(size - 1, 1) - 1
            for size in (height, width)
        )
        both = torch.stack(torch.meshgrid(row, column, indexing="ij"))
        return both.to(x.dtype).expand(batch, -1, -1, -1)

    def _nonlocal(self, nodes: Tensor, graph: Graph, gamma: Tensor | None) -> Tensor:
        if self.hidden is None:
            aggr = self.kind.removeprefix("edge-")
            steps: list[Any] = [step for step in (self.lin, self.activation) if step is not None]
            if is_linear(self.lin):
                return edge_network(split(steps), nodes, nodes, graph, aggr)
            center = nodes.index_select(0, targets_of(graph.ptr, graph.num_slots))
            ends = torch.cat([center, edge_differences(nodes, graph)], 1)
            made: Tensor = self.lin(ends)
            if self.activation is not None:
                made = self.activation(made)
            return edge_aggregate(made, graph, aggr)
        graph = graph.with_transposed(nodes.shape[0])
        phi = self.hidden(nodes, graph)
        if self.weight is None:
            left, right, kappa = self.filter()
            return light_ecc(nodes, phi, left, right, kappa, graph, "mean", edge_weight=gamma)
        if gamma is None:
            return ecc(nodes, phi, self.weight, graph, "mean")
        if not isinstance(phi, Tensor):
            u, v, slope = phi
            phi = edge_values(u, v, graph, slope)
        return ecc(nodes, phi, self.weight, graph, "mean", edge_weight=gamma)

    def extra_repr(self) -> str:
        """Sizes and kind."""
        return f"{self.in_channels}, {self.out_channels}, k={self.k}, kind={self.kind}"


class OnGraph(Tables):
    """A graph convolution with its graph: maps ``[N, C]``, or ``[B, N, C]``, to ``[..., N, D]``.

    With it, a polynomial block takes graph convolutions as its linear maps, such as
    ``lambda i, o, bias: OnGraph(EdgeConv(torch.nn.Linear(2 * i, o, bias), "add"), edge_index)``.
    An EdgeConv that adds up a single linear layer is linear in the nodes; so are NNConv and
    LightECConv with given edge features, or labels that do not come from the nodes.

    Args:
        conv: called as ``conv(x, edge_index)`` or ``conv(x, edge_index, edge_attr)``.
        edge_index: ``[2, E]``, of one graph.
        edge_attr: ``[E, F]``.

    Example:
        >>> import torch
        >>> from polygraph.nn import NCP, EdgeConv, OnGraph
        >>> edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> def operator(i, o, bias=True):
        ...     return OnGraph(EdgeConv(torch.nn.Linear(2 * i, o, bias), "add"), edges)
        >>> NCP(operator, 4, 8, order=2)(torch.randn(5, 3, 4)).shape  # 5 samples on one graph
        torch.Size([5, 3, 8])

    See Also:
        `NCP`, `CCP`; `ChebyshevConv` and others, operators on a mesh.
    """

    def __init__(
        self, conv: torch.nn.Module, edge_index: Tensor, edge_attr: Tensor | None = None
    ) -> None:
        super().__init__()
        self.conv = conv
        self.register_table("edge_index", edge_index)
        if edge_attr is None:
            self.register_buffer("edge_attr", None, persistent=False)
        else:
            self.register_table("edge_attr", edge_attr)

    def forward(self, x: Tensor) -> Tensor:
        """The graph of a batch: one copy for each sample."""
        check_tensors("OnGraph", x=x)
        if x.dim() not in (2, 3):
            raise ValueError(f"OnGraph: x must have shape [N, C] or [B, N, C], got {list(x.shape)}")
        samples, nodes = (x.shape[0] if x.dim() == 3 else 1), x.shape[-2]
        edge_index: Any = self.edge_index
        edge_attr: Any = self.edge_attr
        if x.dim() == 3:
            offset = torch.arange(samples, device=x.device)[:, None] * nodes
            edge_index = (edge_index[:, None] + offset).flatten(1)
            edge_attr = None if edge_attr is None else edge_attr.repeat(samples, 1)
        rest = () if edge_attr is None else (edge_attr,)
        out: Tensor = self.conv(x.reshape(samples * nodes, -1), edge_index, *rest)
        return out.view(*x.shape[:-1], -1)
