"""Graph convolution on images, and graph convolutions as maps of features on a fixed graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph._checks import as_index, check_choice, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.ecc import DifferenceHidden, edge_differences
from polygraph.nn.edge_mlp import edge_network, split
from polygraph.nn.knn import pixel_knn
from polygraph.nn.light_ecc import LightEdgeFilter
from polygraph.nn.ordinary import is_linear
from polygraph.nn.tables import Tables
from polygraph.ops import ecc, edge_aggregate, edge_values, graph_from_table, light_ecc
from polygraph.ops.graph import Graph, targets_of

KINDS = ("edge", "ecc", "light")


class NonLocalGraphConv2d(torch.nn.Module):
    """The mean of a 3 x 3 convolution and of a graph convolution over pixels that look alike.

    For every pixel the k pixels nearest in feature space, outside of the window that the local
    convolution sees, are found anew in every call; then each pixel's row and column, from -1 to
    1, join its features. The result is ``(non-local + local) / 2 + b``. The non-local part is the
    mean over the neighbors j of

    - ``"edge"``: ``Wψ x_i + Wφ (x_j - x_i)``,
    - ``"ecc"``: ``γ_ij Θ_ijᵀ x_j`` with ``Θ_ij = W_H + Σ_h φ_ij,h W_h``,
    - ``"light"``: that mean with Θ of low rank (`polygraph.nn.LightECConv`),

    with ``φ_ij = leaky ReLU(W (x_j - x_i) + b)`` and ``γ_ij = exp(-|x_j - x_i|² / delta)``, or 1.

    Source: Valsesia, Fracastoro and Magli, "Learning Localized Generative Models for 3D Point
    Clouds via Graph Convolution", ICLR 2019, and "Deep Graph-Convolutional Image Denoising", IEEE
    TIP 2020, section III.

    Args:
        in_channels: C.
        out_channels: D.
        k: neighbors of each pixel.
        kind: one of the three.
        hidden: H, of φ; None: C.
        exclude_radius: the window that is left out, 1 for 3 x 3; None: none.
        search_radius: how far away neighbors may be; None: anywhere in the image.
        delta: of γ, over the features without row and column; None: γ is 1. Not for ``"edge"``.
        rank: of ``"light"``.
        blocks: of ``"light"``: circulant blocks, which must divide rank (C + 2) and rank D.
        coordinates: whether row and column join the features.
        bias: add b.

    Call it with images ``[B, C, H, W]``; it returns ``[B, D, H, W]``. Deterministic, differentiable
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

    See Also:
        `pixel_knn`, by which it finds the neighbours; `LightECConv`, `NNConv`, `EdgeConv` on given
        graphs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        k: int = 8,
        kind: str = "edge",
        *,
        hidden: int | None = None,
        exclude_radius: int | None = 1,
        search_radius: int | None = None,
        delta: float | None = None,
        rank: int = 11,
        blocks: int | None = None,
        coordinates: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_choice("NonLocalGraphConv2d", "kind", kind, KINDS)
        check_positive(
            "NonLocalGraphConv2d", in_channels=in_channels, out_channels=out_channels, k=k
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.k, self.kind, self.delta = as_index(k), kind, delta
        self.exclude_radius, self.search_radius = exclude_radius, search_radius
        self.coordinates = coordinates
        width = in_channels + 2 * coordinates
        hidden = in_channels if hidden is None else hidden
        self.local = torch.nn.Conv2d(width, out_channels, 3, padding=1, bias=False)
        self.hidden = DifferenceHidden(width, hidden) if kind != "edge" else None
        self.weight: torch.nn.Parameter | None = None
        if kind == "edge":
            self.lin = torch.nn.Linear(2 * width, out_channels, bias=False)
        elif kind == "ecc":
            self.weight = torch.nn.Parameter(torch.empty(hidden + 1, width, out_channels))
        else:
            self.filter = LightEdgeFilter(width, out_channels, hidden, rank, blocks)
        self.bias = torch.nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise anew."""
        for part in ("local", "lin", "filter", "hidden"):
            module = getattr(self, part, None)
            if module is not None:
                module.reset_parameters()
        if self.weight is not None:
            # A sum over C channels and H + 1 hidden features, whose mean square is about 1.
            torch.nn.init.normal_(self.weight, std=self.weight[:, :, 0].numel() ** -0.5)
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, D, H, W]``."""
        check_tensors("NonLocalGraphConv2d", x=x)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"NonLocalGraphConv2d: x must have shape [B, {self.in_channels}, H, W], got "
                f"{list(x.shape)}"
            )
        check_dtype("NonLocalGraphConv2d", "x", x, next(self.parameters()))
        batch, _, height, width = x.shape
        near, dist2 = pixel_knn(
            x if self.delta is not None else x.detach(),
            self.k,
            self.exclude_radius,
            self.search_radius,
        )
        graph = graph_from_table(near, height * width)
        if self.coordinates:
            x = torch.cat([x, self.pixel_coordinates(x)], 1)
        local: Tensor = self.local(x)
        nodes = x.permute(0, 2, 3, 1).flatten(0, 2)
        gamma = None
        if self.delta is not None:
            gamma = torch.exp(dist2.flatten() / -self.delta).to(nodes.dtype)
        found = self._nonlocal(nodes, graph, gamma).to(local.dtype)
        found = found.view(batch, height, width, -1).permute(0, 3, 1, 2)
        out = (found + local) / 2
        return out if self.bias is None else out + self.bias[:, None, None]

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
            if is_linear(self.lin):
                return edge_network(split([self.lin]), nodes, nodes, graph, "mean")
            center = nodes.index_select(0, targets_of(graph.ptr, graph.num_slots))
            ends = torch.cat([center, edge_differences(nodes, graph)], 1)
            return edge_aggregate(self.lin(ends), graph, "mean")
        graph = graph.with_transposed(nodes.shape[0])
        phi = self.hidden(nodes, graph)
        if self.weight is not None and gamma is None:
            return ecc(nodes, phi, self.weight, graph, "mean")
        if not isinstance(phi, Tensor):
            u, v, slope = phi
            phi = edge_values(u, v, graph, slope)
        if self.weight is not None:
            return ecc(nodes, phi, self.weight, graph, "mean", edge_weight=gamma)
        left, right, kappa = self.filter()
        shared = self.filter.repeats
        return light_ecc(
            nodes, phi, left, right, kappa, graph, "mean", repeats=shared, edge_weight=gamma
        )

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
