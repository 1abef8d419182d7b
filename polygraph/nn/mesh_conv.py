"""Convolutions on the edges of one mesh: what others put where the spirals are, and two of ours.

Every layer maps ``[V, C]`` or ``[B, V, C]`` to ``[..., M, D]``, is made by
``Layer(in_channels, out_channels, bias=True, mesh=MeshGraph(...))``, and so is an operator for the
blocks of `polygraph.nn.polynomial`. Parameters, their names and their initialisation are those of
torch_geometric's layer, which is the attribute ``layer``; the values are, too, but nothing is
computed edge by edge: see `polygraph.ops.ecc`. Where somebody would miss that ``layer`` is not
called (see `polygraph.nn.ordinary`), it is, with the edges of all vertices.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional

from polygraph import ops
from polygraph._checks import check_positive
from polygraph._inputs import check_dtype, check_vertices
from polygraph.nn import ecc
from polygraph.nn.center import centered
from polygraph.nn.edge_mlp import edge_network, split
from polygraph.nn.mesh_graph import MeshGraph
from polygraph.nn.message_passing import Steps
from polygraph.nn.ordinary import is_linear, is_ordinary, is_sequence
from polygraph.nn.tables import Tables
from polygraph.ops.graph import targets_of

# Weight matrices of a layer: as many as a one-ring spiral has slots, so that sizes compare.
KERNELS = 9
CHEBYSHEV_ORDER = 6


class MeshConv(Tables):
    """What the layers share; not used on its own.

    Attributes:
        linear: whether the layer, without its bias, is linear in its input.
        mesh: the edges.
        layer: torch_geometric's layer (for ECC `polygraph.nn.NNConv`), which holds the parameters.
    """

    layout = "vertices"
    linear: ClassVar[bool] = True
    kind: ClassVar[type]  #: of ``layer``
    steps: ClassVar[Steps]  #: of ``kind``
    labelled: ClassVar[bool] = False  #: whether ``layer`` reads the labels of edges

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = True, *, mesh: MeshGraph
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_positive(name, in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.mesh = mesh
        self.num_sources, self.num_targets = mesh.num_sources, mesh.num_targets
        # PyG makes some parameters on the CPU, whatever the device of new tensors is.
        self.layer: Any = self._layer(bias).to(torch.empty(0).device)

    def _layer(self, bias: bool) -> nn.Module:
        raise NotImplementedError

    def _convolve(self, x: Tensor) -> Tensor:
        """``[B, V, C]`` to ``[B, M, D]`` or ``[B * M, D]``."""
        raise NotImplementedError

    def _products(self) -> list[nn.Module]:
        """The linear layers within ``layer`` that `_convolve` looks into."""
        raise NotImplementedError

    def _first_parameter(self) -> Tensor:
        return next(self.layer.parameters())  # type: ignore[no-any-return]

    def _is_open(self) -> bool:
        """Whether ``layer`` may be looked into."""
        return (
            is_ordinary(self.layer, self.kind)
            and self.steps.aggregation(self.layer) is not None
            and all(is_linear(product) for product in self._products())
        )

    def _call_layer(self, x: Tensor) -> Tensor:
        """`_convolve` by calling ``layer``."""
        edges, labels = self.mesh.every_edge(x.shape[0], x)
        out = self.layer(x.flatten(0, 1), edges, *((labels,) if self.labelled else ()))
        return self._kept(out.view(x.shape[0], self.num_sources, self.out_channels))

    def _kept(self, x: Tensor) -> Tensor:
        """Of all vertices ``[B, V, C]`` those that are targets."""
        if self.mesh.keeps_all:
            return x
        return x.index_select(1, self.mesh.targets)

    def reset_parameters(self) -> None:
        """Initialise anew, as torch_geometric does."""
        self.layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x [V, C]`` or ``[B, V, C]`` into ``[M, D]`` or ``[B, M, D]``.

        Raises:
            ValueError: x has other vertices, channels or another dtype than the layer.
        """
        owner = type(self).__name__
        check_vertices(owner, x, self.num_sources, self.in_channels)
        check_dtype(owner, "x", x, self._first_parameter())
        batch = x if x.dim() == 3 else x[None]
        found = self._convolve(batch) if self._is_open() else self._call_layer(batch)
        out = found.view(batch.shape[0], self.num_targets, self.out_channels)
        return out if x.dim() == 3 else out[0]

    def _ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sources ``[B * V, C]`` and targets ``[B * M, C]``, as nodes of the batch's graph.

        One tensor where all vertices are targets.
        """
        sources, targets = x.flatten(0, 1), self._kept(x)
        return sources, sources if targets is x else targets.flatten(0, 1)

    def _mean(self, out: Tensor, degree: Tensor | None = None) -> Tensor:
        """``[B, M, D]``: sums ``[B * M, D]`` over terms, so many ``[M, 1]``; None: edges."""
        count = self.mesh.degree if degree is None else degree
        return out.view(-1, self.num_targets, self.out_channels) / count.clamp(min=1).to(out.dtype)

    def __repr__(self) -> str:
        """One line: channels and the mesh."""
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, {self.mesh})"


def _biased(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out + bias


def _matrices(weight: Tensor, count: int) -> Tensor:
    """``[count, C, D]`` of the weight ``[count * D, C]`` of a linear layer."""
    return weight.view(count, -1, weight.shape[1]).transpose(1, 2)


class ChebyshevConv(MeshConv):
    """``Σ_k T_k(L) x W_k + b``, k < 6, with the Chebyshev polynomials of the scaled Laplacian.

    ``L = -D^(-1/2) A D^(-1/2)``, the normalised Laplacian minus 1 (its largest eigenvalue is taken
    to be 2). Every power is one pass over a table of neighbors, for all samples at once.

    Source: Ranjan et al., "Generating 3D Faces using Convolutional Mesh Autoencoders", ECCV 2018,
    eq. 2; Defferrard et al., NeurIPS 2016. Values of `torch_geometric.nn.ChebConv`.

    Args:
        in_channels: C.
        out_channels: D.
        bias: whether b is added.
        mesh: the edges.

    Example:
        >>> import torch
        >>> from polygraph.nn import ChebyshevConv, MeshGraph
        >>> mesh = MeshGraph([[0, 1, 2], [0, 2, 3]], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> ChebyshevConv(3, 8, mesh=mesh)(torch.randn(2, 4, 3)).shape
        torch.Size([2, 4, 8])

    See Also:
        `GATMeshConv`, `FeaStMeshConv`, `MoNetMeshConv`, `EdgeMeshConv`, `ECMeshConv`; `SpiralConv`.
    """

    index: Tensor
    entries: Tensor
    transposed_ptr: Tensor
    transposed_entry: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = True, *, mesh: MeshGraph
    ) -> None:
        super().__init__(in_channels, out_channels, bias, mesh=mesh)
        index, entries, ptr, entry = mesh.laplacian()
        self.register_table("index", index)
        self.register_table("entries", entries)
        self.register_table("transposed_ptr", ptr)
        self.register_table("transposed_entry", entry)

    kind: ClassVar[type] = pyg.ChebConv
    steps: ClassVar[Steps] = Steps(pyg.ChebConv)

    def _layer(self, bias: bool) -> nn.Module:
        layer: nn.Module = pyg.ChebConv(
            self.in_channels, self.out_channels, CHEBYSHEV_ORDER, bias=bias
        )
        return layer

    def _products(self) -> list[nn.Module]:
        return list(self.layer.lins)

    def _convolve(self, x: Tensor) -> Tensor:
        tables = {"transposed": (self.transposed_ptr, self.transposed_entry)}
        terms = [x, ops.resample(x, self.index, self.entries, **tables)]
        twice = 2 * self.entries
        while len(terms) < CHEBYSHEV_ORDER:
            terms.append(ops.resample(terms[-1], self.index, twice, **tables) - terms[-2])
        columns = self._kept(torch.cat(terms, -1))
        weight = torch.cat([lin.weight for lin in self.layer.lins], 1)
        return functional.linear(columns, weight, self.layer.bias)


class GATMeshConv(MeshConv):
    """Graph attention: ``mean_h Σ_j softmax_j(leaky(a_h W_h x_i + b_h W_h x_j)) W_h x_j + b``.

    The neighbors j include i. Nine heads, averaged.

    Source: Veličković et al., "Graph Attention Networks", ICLR 2018. Values of
    `torch_geometric.nn.GATConv`.

    Args:
        in_channels: C.
        out_channels: D.
        bias: whether b is added.
        mesh: the edges.

    Example:
        >>> import torch
        >>> from polygraph.nn import GATMeshConv, MeshGraph
        >>> mesh = MeshGraph([[0, 1, 2], [0, 2, 3]], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> GATMeshConv(3, 8, mesh=mesh)(torch.randn(2, 4, 3)).shape
        torch.Size([2, 4, 8])
    """

    linear: ClassVar[bool] = False
    kind: ClassVar[type] = pyg.GATConv
    steps: ClassVar[Steps] = Steps(pyg.GATConv)

    def _layer(self, bias: bool) -> nn.Module:
        layer: nn.Module = pyg.GATConv(
            self.in_channels, self.out_channels, KERNELS, concat=False, bias=bias
        )
        return layer

    def _products(self) -> list[nn.Module]:
        return [self.layer.lin]

    def _convolve(self, x: Tensor) -> Tensor:
        sources, targets = self._ends(x)
        graph = self.mesh.graph(x.shape[0], loops=True)
        matrices = _matrices(self.layer.lin.weight, KERNELS)
        for_source = torch.einsum("hcd,hd->ch", matrices, self.layer.att_src[0])
        for_target = torch.einsum("hcd,hd->ch", matrices, self.layer.att_dst[0])
        attention = ops.edge_softmax(
            targets @ for_target, sources @ for_source, graph, self.layer.negative_slope
        )
        out = ops.ecc(sources, attention, matrices / KERNELS, graph)
        return _biased(out, self.layer.bias)


class FeaStMeshConv(MeshConv):
    """Feature-steered: ``mean_j Σ_h softmax_h(u_h (x_j - x_i) + c_h) W_h x_j + b``.

    The neighbors j include i. Nine matrices.

    Source: Verma, Boyer and Verbeek, "FeaStNet: Feature-Steered Graph Convolutions for 3D Shape
    Analysis", CVPR 2018, eq. 4. Values of `torch_geometric.nn.FeaStConv`.

    Args:
        in_channels: C.
        out_channels: D.
        bias: whether b is added.
        mesh: the edges.

    Example:
        >>> import torch
        >>> from polygraph.nn import FeaStMeshConv, MeshGraph
        >>> mesh = MeshGraph([[0, 1, 2], [0, 2, 3]], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> FeaStMeshConv(3, 8, mesh=mesh)(torch.randn(2, 4, 3)).shape
        torch.Size([2, 4, 8])
    """

    linear: ClassVar[bool] = False
    kind: ClassVar[type] = pyg.FeaStConv
    steps: ClassVar[Steps] = Steps(pyg.FeaStConv)

    def _layer(self, bias: bool) -> nn.Module:
        layer: nn.Module = pyg.FeaStConv(self.in_channels, self.out_channels, KERNELS, bias=bias)
        return layer

    def _products(self) -> list[nn.Module]:
        return [self.layer.lin, self.layer.u]

    def _convolve(self, x: Tensor) -> Tensor:
        sources, targets = self._ends(x)
        graph = self.mesh.graph(x.shape[0], loops=True)
        steering = self.layer.u.weight
        near_targets, near_sources = centered(targets, sources)
        here = functional.linear(near_targets, -steering, self.layer.c)
        there = functional.linear(near_sources, steering)
        shares = ops.edge_softmax(here, there, graph, over="features")
        matrices = _matrices(self.layer.lin.weight, KERNELS)
        out = self._mean(ops.ecc(sources, shares, matrices, graph), self.mesh.degree + 1)
        return _biased(out, self.layer.bias)


class MoNetMeshConv(MeshConv):
    """Mixture model: ``mean_j Σ_k w_k(e_ij) W_k x_j + W x_i + b``, nine learned Gaussians w_k.

    The label e_ij of an edge is where its source lies from its target (`MeshGraph.labels`).

    Source: Monti et al., "Geometric Deep Learning on Graphs and Manifolds using Mixture Model
    CNNs", CVPR 2017, eq. 11. Values of `torch_geometric.nn.GMMConv`.

    Args:
        in_channels: C.
        out_channels: D.
        bias: whether b is added.
        mesh: the edges.

    Example:
        >>> import torch
        >>> from polygraph.nn import MoNetMeshConv, MeshGraph
        >>> mesh = MeshGraph([[0, 1, 2], [0, 2, 3]], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> MoNetMeshConv(3, 8, mesh=mesh)(torch.randn(2, 4, 3)).shape
        torch.Size([2, 4, 8])
    """

    kind: ClassVar[type] = pyg.GMMConv
    steps: ClassVar[Steps] = Steps(pyg.GMMConv)
    labelled: ClassVar[bool] = True

    def _layer(self, bias: bool) -> nn.Module:
        layer: nn.Module = pyg.GMMConv(
            self.in_channels, self.out_channels, dim=3, kernel_size=KERNELS, bias=bias
        )
        return layer

    def _products(self) -> list[nn.Module]:
        return []

    def _convolve(self, x: Tensor) -> Tensor:
        sources, targets = self._ends(x)
        layer = self.layer
        distance = self.mesh.labels[:, None] - layer.mu
        precision = -0.5 / (1e-15 + layer.sigma.square())
        # Squares of all kernels and dimensions to sums over dimensions, as a product.
        to_kernels: Tensor = torch.block_diag(*precision[:, :, None])  # type: ignore[no-untyped-call]
        gaussians = (distance.square().flatten(1) @ to_kernels).exp().repeat(x.shape[0], 1)
        matrices = layer.g.view(self.in_channels, KERNELS, -1).transpose(0, 1)
        out = self._mean(ops.ecc(sources, gaussians, matrices, self.mesh.graph(x.shape[0])))
        return _biased(out + layer.root(targets).view_as(out), layer.bias)


class EdgeMeshConv(MeshConv):
    """`EdgeConv` on the edges of the mesh: ``max_j W [x_i, x_j - x_i] + b``.

    Source: Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", ACM TOG 2019, with the
    mesh as the graph. The activation is the block's.

    Args:
        in_channels: C.
        out_channels: D.
        bias: whether b is added.
        mesh: the edges.

    Example:
        >>> import torch
        >>> from polygraph.nn import EdgeMeshConv, MeshGraph
        >>> mesh = MeshGraph([[0, 1, 2], [0, 2, 3]], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> EdgeMeshConv(3, 8, mesh=mesh)(torch.randn(2, 4, 3)).shape
        torch.Size([2, 4, 8])
    """

    linear: ClassVar[bool] = False

    def _layer(self, bias: bool) -> nn.Module:
        return nn.Linear(2 * self.in_channels, self.out_channels, bias)

    def _is_open(self) -> bool:
        return is_linear(self.layer)

    def _convolve(self, x: Tensor) -> Tensor:
        sources, targets = self._ends(x)
        return edge_network(
            split([self.layer]), targets, sources, self.mesh.graph(x.shape[0]), "max"
        )

    def _call_layer(self, x: Tensor) -> Tensor:
        sources, targets = self._ends(x)
        graph = self.mesh.graph(x.shape[0])
        center = targets.index_select(0, targets_of(graph.ptr, graph.num_slots))
        ends = torch.cat([center, sources.index_select(0, graph.source) - center], 1)
        return ops.edge_aggregate(self.layer(ends), graph, "max")


class ECMeshConv(MeshConv):
    """Edge-conditioned: ``mean_j Θ(e_ij)ᵀ x_j + W x_i + b``.

    Θ is a network of the label of the edge (`MeshGraph.labels`): 3 to 8 values, ReLU, a matrix; so
    it is made of nine matrices, the last layer's bias being one.

    Source: Simonovsky and Komodakis, "Dynamic Edge-Conditioned Filters", CVPR 2017. Values of
    `polygraph.nn.NNConv`.

    Args:
        in_channels: C.
        out_channels: D.
        bias: whether b is added.
        mesh: the edges.

    Example:
        >>> import torch
        >>> from polygraph.nn import ECMeshConv, MeshGraph
        >>> mesh = MeshGraph([[0, 1, 2], [0, 2, 3]], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> ECMeshConv(3, 8, mesh=mesh)(torch.randn(2, 4, 3)).shape
        torch.Size([2, 4, 8])
    """

    kind: ClassVar[type] = ecc.NNConv
    steps: ClassVar[Steps] = ecc.STEPS
    labelled: ClassVar[bool] = True

    def _layer(self, bias: bool) -> nn.Module:
        sizes = self.in_channels, self.out_channels
        network = nn.Sequential(
            nn.Linear(3, KERNELS - 1), nn.ReLU(), nn.Linear(KERNELS - 1, sizes[0] * sizes[1])
        )
        return ecc.NNConv(*sizes, network, "mean", bias=bias)

    def _products(self) -> list[nn.Module]:
        return [self.layer.nn[-1]]

    def _is_open(self) -> bool:
        return is_sequence(self.layer.nn) and super()._is_open()

    def _convolve(self, x: Tensor) -> Tensor:
        sources, targets = self._ends(x)
        hidden, last = self.mesh.labels, self.layer.nn[-1]
        for step in self.layer.nn[:-1]:
            hidden = step(hidden)
        hidden = hidden.repeat(x.shape[0], 1)
        matrices = torch.cat([last.weight.t(), last.bias[None]])
        matrices = matrices.view(KERNELS, self.in_channels, self.out_channels)
        out = self._mean(ops.ecc(sources, hidden, matrices, self.mesh.graph(x.shape[0])))
        return _biased(out + self.layer.lin(targets).view_as(out), self.layer.bias)


MESH_CONVS: dict[str, type[MeshConv]] = {
    "chebyshev": ChebyshevConv,
    "gat": GATMeshConv,
    "feastnet": FeaStMeshConv,
    "monet": MoNetMeshConv,
    "edgeconv": EdgeMeshConv,
    "ecc": ECMeshConv,
}
