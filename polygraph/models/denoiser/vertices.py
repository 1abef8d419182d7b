"""A denoiser of vertices: of meshes of one topology, and of point clouds.

What `GCDN` is for pictures (Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image
Denoising", IEEE TIP 2020), with a spiral convolution (Bouritsas et al., ICCV 2019; Gong et al.,
ICCV-W 2019) or EdgeConv over the nearest points (Wang et al., ACM TOG 2019) in the place of the
3 x 3 convolution, and neighbours in feature space from anywhere on the shape. Without batch
normalisation, which would tie the vertices of a shape to those beside it in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from polygraph import ops
from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.spiral_conv import SpiralConv
from polygraph.nn.tables import check_table, table_of

KINDS = ("mesh", "cloud")
GRAPHS = ("light", "ecc", "edge-max", "none")
_SLOPE = 0.2  # of every leaky ReLU


@dataclass(frozen=True)
class VertexDenoiserConfig:
    """A `VertexDenoiser`.

    Attributes:
        kind: ``mesh``: the local part is a spiral convolution on one topology; ``cloud``: EdgeConv
            over the nearest points.
        width: features.
        blocks: residual blocks, each with a local part and a graph convolution.
        graph: kind of the graph convolutions over vertices that look alike: ``light``
            (`polygraph.nn.LightECConv`), ``ecc`` (`polygraph.nn.NNConv`), ``edge-max``
            (`polygraph.nn.EdgeConv`); ``none``: the twin that sees its neighbourhood alone.
        k: neighbours of each vertex in feature space, wherever they lie, itself excluded.
        rank: of ``light``.
        spiral_length: of a mesh: slots of the spirals, the vertex itself among them; 16 reach
            into the second ring.
        local_k: of a cloud: nearest points of the local part.
    """

    kind: Literal["mesh", "cloud"] = "mesh"
    width: int = 32
    blocks: int = 3
    graph: Literal["light", "ecc", "edge-max", "none"] = "light"
    k: int = 8
    rank: int = 8
    spiral_length: int = 16
    local_k: int = 12

    def __post_init__(self) -> None:
        """Refuse what no network can be made of."""
        owner = "VertexDenoiserConfig"
        check_numbers(owner, self)
        names = ("width", "blocks", "k", "rank", "spiral_length", "local_k")
        check_positive(owner, **{name: getattr(self, name) for name in names})
        check_choice(owner, "kind", self.kind, KINDS)
        check_choice(owner, "graph", self.graph, GRAPHS)
        if self.spiral_length < 2:
            raise ValueError(
                f"{owner}: spiral_length must be at least 2, a vertex and one beside it, got "
                f"{self.spiral_length}"
            )

    @property
    def smallest(self) -> int:
        """The least number of vertices: each has its neighbours, itself excluded."""
        local = self.local_k if self.kind == "cloud" else 1
        return 1 + (local if self.graph == "none" else max(local, self.k))


class _Block(nn.Module):
    """``x + leaky((local(x) + graph(x)) / 2)``; without a graph ``x + leaky(local(x))``."""

    def __init__(self, config: VertexDenoiserConfig, spirals: Tensor | None, back: Any) -> None:
        super().__init__()
        from polygraph.nn.ecc import NNConv  # slow to import, as torch_geometric is
        from polygraph.nn.edge_conv import EdgeConv
        from polygraph.nn.light_ecc import LightECConv

        width, self.k = config.width, config.k
        self.local: Any
        if spirals is None:
            self.local = EdgeConv(nn.Linear(2 * width, width), "max")
        else:
            self.local = SpiralConv(width, width, spirals, transposed=back)
        self.graph: Any = None
        self.labelled = config.graph == "ecc"
        if config.graph == "light":
            self.graph = LightECConv(width, width, rank=config.rank, replicas=1)
        elif config.graph == "ecc":
            hidden = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(_SLOPE))
            self.graph = NNConv(
                width, width, nn.Sequential(*hidden, nn.Linear(width, width * width)), "mean"
            )
        elif config.graph == "edge-max":
            self.graph = EdgeConv(nn.Linear(2 * width, width), "max")

    def forward(self, x: Tensor, edges: Tensor | None) -> Tensor:
        """Features ``[B, V, C]``; ``edges`` are those of a cloud's local part."""
        nodes = x.flatten(0, 1)
        found: Tensor = self.local(x) if edges is None else self.local(nodes, edges).view_as(x)
        if self.graph is not None:
            near, _ = ops.knn(x.detach(), self.k, exclude_self=True)
            pairs = _edges(near)
            if self.labelled:
                labels = nodes.index_select(0, pairs[0]) - nodes.index_select(0, pairs[1])
                alike = self.graph(nodes, pairs, labels)
            else:
                alike = self.graph(nodes, pairs)
            found = (found + alike.view_as(x)) / 2
        return x + functional.leaky_relu(found, _SLOPE)


class VertexDenoiser(nn.Module):
    """A denoiser of vertices: what of them is noise is told by those beside and those alike.

    The first layer sees the offsets from a vertex to its local neighbours, divided by their mean
    length on the shape: on a mesh as a spiral convolution does, slot after slot, on a cloud as
    EdgeConv does, with the mean offset beside each. So the result moves and grows with what is
    given. Each block adds the mean of a local part and of a graph convolution over the k vertices
    of the same shape that are nearest in feature space, found anew by each. The last layer, which
    begins with zeros, makes the noise: an untrained network changes nothing.

    Args:
        config: what to build.
        spirals: of a mesh: int64 ``[V, spiral_length]``, of `polygraph.mesh.spiral_table`; each row
            begins with its vertex, -1 means no vertex. Part of the ``state_dict``.
        faces: of a mesh: int64 ``[F, 3]``; not looked at, kept beside the spirals so that another
            topology can be told.

    Call it with noisy vertices ``[B, V, 3]`` of the weights' dtype, in any unit; it returns them
    without their noise. Vertices far from 0, seen from the size of the shape, lose digits: take
    their middle off first, as `polygraph.tasks.denoise` does. Deterministic.

    Raises:
        ValueError: the tables do not fit the config, or the vertices have another shape or dtype,
            or are too few for their neighbours.
        RuntimeError: a vertex is not finite, where neighbours are searched: by all but a mesh's
            ``graph="none"``, which returns NaN.

    Example:
        >>> import torch
        >>> from polygraph.models import VertexDenoiser, VertexDenoiserConfig
        >>> cloud = VertexDenoiser(VertexDenoiserConfig("cloud", width=8, blocks=1))
        >>> cloud(torch.randn(2, 50, 3)).shape
        torch.Size([2, 50, 3])

        Of a mesh, here a piece of ground:

        >>> import numpy as np
        >>> from polygraph.mesh import spiral_table
        >>> from scipy.spatial import Delaunay
        >>> vertices = np.random.default_rng(0).random((100, 3))
        >>> faces = Delaunay(vertices[:, :2]).simplices.astype(np.int64)
        >>> config = VertexDenoiserConfig("mesh", width=8, blocks=1)
        >>> spirals = spiral_table(vertices, faces, hops=2, length=config.spiral_length)
        >>> VertexDenoiser(config, spirals, faces)(torch.rand(4, 100, 3)).shape
        torch.Size([4, 100, 3])

    See Also:
        `GCDN`, of pictures; `polygraph.tasks.denoise`, which trains it.
    """

    spirals: Tensor | None
    faces: Tensor | None

    def __init__(
        self, config: VertexDenoiserConfig, spirals: Any = None, faces: Any = None
    ) -> None:
        super().__init__()
        self.config = config
        table = _checked_tables(config, spirals, faces)
        self.register_buffer("spirals", None if table is None else torch.as_tensor(table))
        self.register_buffer("faces", None if table is None else torch.as_tensor(table_of(faces)))
        back = None if table is None else ops.transpose_table(table, len(table))
        offsets = 6 if table is None else 3 * (config.spiral_length - 1)
        self.first = nn.Linear(offsets, config.width)
        self.blocks = nn.ModuleList(_Block(config, table, back) for _ in range(config.blocks))
        self.last = nn.Linear(config.width, 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, y: Tensor) -> Tensor:
        """Vertices without their noise, ``[B, V, 3]``."""
        return y - self.noise(y)

    def noise(self, y: Tensor) -> Tensor:
        """What of noisy vertices ``y [B, V, 3]`` is noise, of the same shape."""
        self._check(y)
        spirals = self.spirals
        if spirals is None:
            near, _ = ops.knn(y.detach(), self.config.local_k, exclude_self=True)
            edges = _edges(near)
            beside = y.flatten(0, 1).index_select(0, edges[0]).view(*near.shape, 3)
            offsets = beside - y[:, :, None]
            length = offsets.norm(dim=-1).mean((1, 2))
        else:
            edges = None
            others = spirals[:, 1:]
            there = (others >= 0).to(y.dtype)
            beside = y.index_select(1, others.clamp(min=0).flatten()).view(len(y), *others.shape, 3)
            offsets = (beside - y[:, :, None]) * there[..., None]
            length = offsets.norm(dim=-1).sum((1, 2)) / there.sum().clamp(min=1)
        unit = length.clamp(min=torch.finfo(y.dtype).tiny)[:, None, None]
        offsets = offsets / unit[..., None]
        if edges is None:
            x = self.first(offsets.flatten(2))
        else:
            mean = offsets.mean(2, keepdim=True).expand_as(offsets)
            x = self.first(torch.cat([offsets, mean], -1)).amax(2)
        x = functional.leaky_relu(x, _SLOPE)
        for block in self.blocks:
            x = block(x, edges)
        found: Tensor = unit * self.last(x)
        return found

    def _check(self, y: Tensor) -> None:
        check_tensors("VertexDenoiser", y=y)
        wanted = "V" if self.spirals is None else len(self.spirals)
        if y.dim() != 3 or y.shape[2] != 3 or wanted not in ("V", y.shape[1]):
            raise ValueError(
                f"VertexDenoiser: y must have shape [B, {wanted}, 3], got {list(y.shape)}"
            )
        if y.shape[1] < self.config.smallest:
            raise ValueError(
                f"VertexDenoiser: y must have at least {self.config.smallest} vertices, each with "
                f"its neighbours, got {y.shape[1]}"
            )
        check_dtype("VertexDenoiser", "y", y, self.last.weight, of="model")


def _edges(near: Tensor) -> Tensor:
    """``[2, E]`` of a table of neighbours ``[B, V, k]``, those of each sample in its own nodes."""
    samples, vertices, k = near.shape
    first = torch.arange(samples, device=near.device)[:, None, None] * vertices
    source = (near + first).flatten()
    target = torch.arange(samples * vertices, device=near.device).repeat_interleave(k)
    return torch.stack((source, target))


def _checked_tables(config: VertexDenoiserConfig, spirals: Any, faces: Any) -> Tensor | None:
    """The spirals of a mesh; None of a cloud.

    Raises:
        ValueError: they are missing, superfluous, or do not fit.
    """
    if config.kind == "cloud":
        if spirals is not None or faces is not None:
            raise ValueError("VertexDenoiser: spirals and faces are of kind 'mesh', not 'cloud'")
        return None
    if spirals is None or faces is None:
        raise ValueError("VertexDenoiser: kind 'mesh' needs spirals and faces of its topology")
    table, triangles = table_of(spirals), table_of(faces)
    check_table("VertexDenoiser", "spirals", table, len(table) if table.dim() else 0)
    if table.shape[1] != config.spiral_length:
        raise ValueError(
            f"VertexDenoiser: spirals must have shape [V, {config.spiral_length}], got "
            f"{list(table.shape)}"
        )
    if triangles.dim() != 2 or triangles.shape[1] != 3 or triangles.dtype != torch.int64:
        raise ValueError(
            f"VertexDenoiser: faces must be int64 [F, 3], got {triangles.dtype} "
            f"{list(triangles.shape)}"
        )
    return table


#: name -> network; its ``kind`` is that of the data
VERTEX_PRESETS: dict[str, VertexDenoiserConfig] = {
    "vertex-light": VertexDenoiserConfig(),
    "vertex-ecc": VertexDenoiserConfig(graph="ecc", width=16),
    "vertex-edge": VertexDenoiserConfig(graph="edge-max"),
    "vertex-local": VertexDenoiserConfig(graph="none"),
}
