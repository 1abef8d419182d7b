"""Graphs of nearest neighbors: of points, of batches of clouds, of an image's pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph import ops
from polygraph._checks import as_index, check_choice, check_positive
from polygraph._inputs import check_tensors
from polygraph.nn import _samples
from polygraph.nn.ordinary import is_shape_alone
from polygraph.ops.graph import targets_of

FLOWS = ("source_to_target", "target_to_source")
_FAR = -(2.0**60)  # its square swallows all distances of directions, in float32 and in float64


def knn_graph(
    x: Tensor,
    k: int,
    batch: Tensor | None = None,
    loop: bool = False,
    flow: str = "source_to_target",
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
    *,
    as_edge_index: bool = False,
) -> Tensor:
    """Edges from the ``k`` nearest points of every point, by Euclidean distance.

    A drop-in for `torch_geometric.nn.knn_graph` and torch-cluster's, without either's compiled
    library and with no limit to ``k``. Where they leave something open, this does not: neighbors
    are ordered by `polygraph.ops.knn`'s (distance, index), the same list on every device; and a
    point has ``k`` neighbors besides itself also where more than ``k`` others lie at the same
    place (torch-cluster searches ``k + 1`` and drops the point if it finds it, so it may give
    ``k + 1`` others).

    Source: Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", ACM TOG 2019, section
    3.3, which rebuilds such a graph from the features of every layer.

    Args:
        x: points ``[N, C]``, or ``[N]`` for one channel; float32, float64, float16 or bfloat16
            (half types are compared in float32), any strides. No gradient flows through edges.
        k: neighbors of each point, at least 1. In a sample with fewer candidates every one of
            them becomes a neighbor, as in torch-cluster: a sample of n points has
            ``min(k, n - 1)`` neighbors each (``min(k, n)`` with ``loop``), a single point none.
            (`polygraph.ops.knn`, whose result has a fixed shape, raises instead.)
        batch: integers ``[N]``, the sample of each point, never falling; samples without points are
            fine. None: all points are one sample, and nothing waits for the device. Else the host
            must wait for how many edges there are, once; without ``batch_size`` once more where a
            sample has too few candidates. `polygraph.ops.knn` with its ``ptr``, whose result has a
            fixed shape, never waits.
        loop: whether a point is a candidate of itself.
        flow: ``"source_to_target"``: row 0 holds the neighbor, row 1 the point whose neighbor it
            is; ``"target_to_source"``: the other way round.
        cosine: compare directions: the points are scaled to length 1 first. A point at the origin
            has none: its similarity to every point, itself too, is 0, as of
            `torch.nn.functional.cosine_similarity`; so it lies at a right angle to all others, and
            its own neighbors are the first of its sample.
        num_workers: without effect (PyTorch's threads are used); for compatibility.
        batch_size: how many samples there are: ``batch`` lies in ``[0, batch_size)``, some need
            not occur. With 1 nothing waits for the device, with more the host waits once. None:
            found from ``batch``, in which numbers may then be left out at no cost, however many.
        as_edge_index: return a `torch_geometric.EdgeIndex` that knows its size and that it is
            sorted: by column for ``"source_to_target"``, by row otherwise.

    Returns:
        int64 ``[2, E]``, ordered by the point, then by (distance, index) of the neighbor.
        Deterministic.

    Raises:
        ValueError: ``k``, ``flow``, ``batch_size``, or the shape or dtype of ``x`` or ``batch`` is
            wrong; ``batch`` falls, or names a sample past ``batch_size`` (on CUDA with a
            ``batch_size`` of 1 a device-side assertion).
        RuntimeError: from `polygraph.ops.knn`: a dtype or device is wrong, a value is NaN or inf.

    Example:
        >>> import torch
        >>> from polygraph.nn import knn_graph
        >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        >>> knn_graph(x, k=1)
        tensor([[1, 0, 1, 2],
                [0, 1, 2, 3]])
        >>> knn_graph(x, k=1, batch=torch.tensor([0, 0, 1, 1]))  # two clouds
        tensor([[1, 0, 3, 2],
                [0, 1, 2, 3]])

    See Also:
        `knn`, for queries that are no points; `pixel_knn`, for images; `polygraph.ops.knn`, a table
        with distances; `polygraph.transforms.KNNGraph`; `DynamicEdgeConv`, which makes such a graph
        in every call.
    """
    check_choice("knn_graph", "flow", flow, FLOWS)
    check_tensors("knn_graph", batch=batch)
    x, k = _points("knn_graph", "x", x), _count("knn_graph", k)
    center, near = _pairs("knn_graph", x, x, k, not loop, cosine, batch_size, batch=batch)
    forward = flow == "source_to_target"
    edges = torch.stack((near, center) if forward else (center, near)).flatten(1)
    if not as_edge_index:
        return edges
    from torch_geometric import EdgeIndex  # slow to import, and seldom wanted

    size = (x.shape[0], x.shape[0])
    order = "col" if forward else "row"
    sorted_edges: Tensor = EdgeIndex(edges, sparse_size=size, sort_order=order)
    return sorted_edges


def knn(
    x: Tensor,
    y: Tensor,
    k: int,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """For every query in ``y`` its ``k`` nearest points in ``x``, as pairs.

    A drop-in for `torch_geometric.nn.knn` and torch-cluster's. For a table of fixed shape, and for
    distances with gradients, use `polygraph.ops.knn`.

    Args:
        x: points ``[N, C]`` (or ``[N]``).
        y: queries ``[M, C]`` (or ``[M]``), dtype of ``x``.
        k: neighbors of each query, at least 1; all points of the sample where it has fewer.
        batch_x: integers ``[N]``, the sample of each point, never falling; None: all in sample 0.
        batch_y: the sample of each query. A sample without points gives its queries no neighbors.
        cosine: as in `knn_graph`.
        num_workers: without effect; for compatibility.
        batch_size: as in `knn_graph`.

    Returns:
        int64 ``[2, E]``: row 0 the query, row 1 the point; ordered by the query, then by
        (distance, index) of the point. Deterministic.

    Raises:
        ValueError: ``k``, ``batch_size``, or the shape or dtype of an argument is wrong; a batch
            vector falls, or names a sample past ``batch_size``.
        RuntimeError: from `polygraph.ops.knn`: a dtype or device is wrong, a value is NaN or inf.

    Example:
        >>> import torch
        >>> from polygraph.nn import knn
        >>> points, queries = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[4.0]])
        >>> knn(points, queries, k=2)  # queries above, their points below
        tensor([[0, 0],
                [2, 1]])

    See Also:
        `knn_graph`, of points among themselves; `polygraph.ops.knn`, with distances that have
        gradients.
    """
    check_tensors("knn", batch_x=batch_x, batch_y=batch_y)
    x, y, k = _points("knn", "x", x), _points("knn", "y", y), _count("knn", k)
    batches = {"batch_x": batch_x, "batch_y": batch_y}
    query, near = _pairs("knn", x, y, k, False, cosine, batch_size, **batches)
    return torch.stack((query, near)).flatten(1)


def pixel_knn(
    x: Tensor, k: int, exclude_radius: int | None = 1, search_radius: int | None = None
) -> tuple[Tensor, Tensor]:
    """The ``k`` pixels of the same image whose features are nearest, for every pixel.

    Source: Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image Denoising", IEEE TIP
    2020, section III: the window that a convolution beside it sees already (3 x 3 for
    ``exclude_radius=1``) is left out, so that the graph adds pixels that are not near.
    ``search_radius`` bounds the search as in their implementation.

    Args:
        x: images ``[B, C, H, W]``; float32, float64, float16 or bfloat16. Neither the usual order
            in memory nor ``torch.channels_last`` is copied here.
        k: neighbors of each pixel, from 1 to the number of its candidates; away from the border,
            where there are fewest, with ``exclude_radius=r`` alone these are ``H*W - (2r + 1)²``.
        exclude_radius: pixels at most this many rows and columns away are no
            candidates; 0: the pixel itself; None: all are. At the border only pixels that exist
            are left out.
        search_radius: only pixels at most this many rows and columns away are candidates (None:
            all).

    Returns:
        ``index`` int64 ``[B, H*W, k]``: pixels as ``row * W + column``, and ``dist2`` of the same
        shape, float32 or float64: squared distances, ascending, ties by index; differentiable any
        number of times in ``x``. Deterministic.

    Raises:
        ValueError: ``x`` is not ``[B, C, H, W]``, or a radius is negative.
        RuntimeError: from `polygraph.ops.knn`: the dtype is wrong, a pixel has fewer than ``k``
            candidates, a value is NaN or inf.

    Example:
        >>> import torch
        >>> from polygraph.nn import pixel_knn
        >>> image = torch.tensor([[[[0.0, 1.0, 2.0, 0.0]]]])  # one row of four pixels
        >>> index, dist2 = pixel_knn(image, k=1)  # beyond the 3 x 3 window
        >>> index.flatten(), dist2.flatten()
        (tensor([3, 3, 0, 0]), tensor([0., 1., 4., 0.]))

    See Also:
        `NonLocalGraphConv2d`, which searches so; `knn_graph`, of points; `polygraph.ops.knn`.
    """
    check_tensors("pixel_knn", x=x)
    if x.dim() != 4:
        raise ValueError(f"pixel_knn: x must have shape [B, C, H, W], got {list(x.shape)}")
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # a view in both orders of memory
    grid = (x.shape[2], x.shape[3])
    k = _count("pixel_knn", k)
    return ops.knn(pixels, k, grid=grid, exclude_radius=exclude_radius, search_radius=search_radius)


def knn_neighbors(
    owner: str,
    x: Tensor,
    y: Tensor,
    k: int,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
) -> ops.Graph:
    """The graph of what `knn` finds, from points ``x`` (sources) to queries ``y`` (targets)."""
    points, queries, k = _points(owner, "x", x), _points(owner, "y", y), _count(owner, k)
    if not torch.compiler.is_compiling() and is_shape_alone(points):
        batch_x = batch_y = None  # whoever asks for the layer's shape needs no number of edges
    batches = {"batch_x": batch_x, "batch_y": batch_y}
    query, near = _pairs(owner, points, queries, k, False, False, None, **batches)
    if near.dim() == 2:
        return ops.graph_from_table(near, points.shape[0])
    sizes = (points.shape[0], queries.shape[0])
    return ops.graph_from_coo(near, query, *sizes, sorted_by_target=True)


def _count(owner: str, k: int) -> int:
    """``k`` as a positive int."""
    check_positive(owner, k=k)
    return as_index(k)


def _points(owner: str, name: str, x: Tensor) -> Tensor:
    """``x`` as ``[N, C]``, without its graph."""
    check_tensors(owner, **{name: x})
    if x.dim() not in (1, 2):
        raise ValueError(f"{owner}: {name} must have shape [N, C] or [N], got {list(x.shape)}")
    return x.detach() if x.dim() == 2 else x.detach().unsqueeze(1)


def _pairs(
    owner: str,
    x: Tensor,
    y: Tensor,
    k: int,
    exclude_self: bool,
    cosine: bool,
    batch_size: int | None,
    **batches: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Queries and their neighbors, both ``[M, slots]``, or ``[E]`` where the rows differ."""
    if torch.compiler.is_compiling() and any(batch is not None for batch in batches.values()):
        # How many edges there are depends on values: for a compiler it is one operator.
        options = (k, exclude_self, cosine, batch_size, list(batches))
        query, near = torch.ops.polygraph.knn_pairs(owner, x, y, *options, *_pair(batches))
        return query, near
    samples = _samples.samples_of(owner, x, y, k, exclude_self, batch_size, **batches)
    return _neighbors(owner, x, y, k, samples, exclude_self, cosine)


def _pair(batches: dict[str, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    values = list(batches.values())
    return values[0], values[1] if len(values) > 1 else None


def _knn_pairs(
    owner: str,
    x: Tensor,
    y: Tensor,
    k: int,
    exclude_self: bool,
    cosine: bool,
    batch_size: int | None,
    names: list[str],
    batch_x: Tensor | None,
    batch_y: Tensor | None,
) -> tuple[Tensor, Tensor]:
    batches = dict(zip(names, (batch_x, batch_y), strict=False))
    samples = _samples.samples_of(owner, x, y, k, exclude_self, batch_size, **batches)
    query, near = _neighbors(owner, x, y, k, samples, exclude_self, cosine)
    return query.flatten(), near.flatten()


_library = torch.library.Library("polygraph", "FRAGMENT")
_library.define(
    "knn_pairs(str owner, Tensor x, Tensor y, SymInt k, bool exclude_self, bool cosine, "
    "SymInt? batch_size, str[] names, Tensor? batch_x, Tensor? batch_y) -> (Tensor, Tensor)"
)
_library.impl("knn_pairs", _knn_pairs, "CompositeExplicitAutograd")


@torch.library.register_fake("polygraph::knn_pairs")
def _(owner: str, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    edges = torch.library.get_ctx().new_dynamic_size()
    return x.new_empty(edges, dtype=torch.int64), x.new_empty(edges, dtype=torch.int64)


def _neighbors(
    owner: str,
    x: Tensor,
    y: Tensor,
    k: int,
    samples: _samples.Samples | None,
    exclude_self: bool,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    """Queries and their neighbors, both ``[M, slots]``, or ``[E]`` where the rows differ."""
    if cosine:
        x, y = _directions(x, 1.0), _directions(y, _FAR)
    nothing = torch.empty(0, dtype=torch.int64, device=x.device)
    if samples is None:
        length = min(k, x.shape[0] - int(exclude_self))
        if length < 1 or y.shape[0] == 0:
            return nothing, nothing
        return _with_query(ops.knn(x, length, y=y, exclude_self=exclude_self)[0])
    if y.shape[0] == 0:
        return nothing, nothing
    if samples.shortest == k:
        index, _ = ops.knn(
            x, k, y=y, ptr=samples.x_ptr, y_ptr=samples.y_ptr, exclude_self=exclude_self
        )
        return _with_query(index)
    # The operator, whose rows are all of one length, is asked once for each length that occurs,
    # about the samples of that length.
    x_size, y_size = sizes = samples.sizes()
    slots = (x_size - int(exclude_self)).clamp(0, k)
    known: dict[int, list[tuple[int, int]]] = {}
    on_host = _samples.read(sizes) if samples.known is None else samples.known
    for points_of, queries_of in zip(*on_host, strict=True):
        length = min(points_of - int(exclude_self), k)
        if length > 0 and queries_of > 0:
            known.setdefault(length, []).append((points_of, queries_of))
    queries, points = [nothing], [nothing]
    for length, members in known.items():
        chosen = (slots == length) & (y_size > 0)
        x_rows = _rows(chosen, samples.x_ptr, x.shape[0], sum(n for n, _ in members))
        y_rows = _rows(chosen, samples.y_ptr, y.shape[0], sum(m for _, m in members))
        which = chosen.nonzero_static(size=len(members)).squeeze(1)
        x_ptr, y_ptr = torch.nn.functional.pad(sizes[:, which].cumsum(1), (1, 0))
        index, _ = ops.knn(
            x[x_rows], length, y=y[y_rows], ptr=x_ptr, y_ptr=y_ptr, exclude_self=exclude_self
        )
        query, near = _with_query(index)
        queries.append(y_rows[query].flatten())
        points.append(x_rows[near].flatten())
    query = torch.cat(queries)
    order = query.argsort(stable=True)
    return query[order], torch.cat(points)[order]


def _rows(chosen: Tensor, ptr: Tensor, rows: int, count: int) -> Tensor:
    """``[count]``: the rows of the samples that are chosen, of which the host knows the number."""
    of_rows = chosen[targets_of(ptr, rows)]
    return of_rows.nonzero_static(size=count).squeeze(1)


def _with_query(index: Tensor) -> tuple[Tensor, Tensor]:
    """A table and, of the same shape, the query of every entry."""
    query = torch.arange(index.shape[0], device=index.device)
    return query[:, None].expand_as(index), index


def _directions(x: Tensor, without: float) -> Tensor:
    """Rows of length 1 in ``[N, C + 1]``, whose last channel is 0; of zeros it is ``without``.

    A point without a direction gets the dimension that nobody else has: with 1 it is at a right
    angle to all others. A query without one is so far out there that all are equally far from it,
    to the last bit. Divided twice, so that no square overflows.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if x.shape[1] == 0:
        return x.new_zeros(x.shape[0], 1)
    largest = x.abs().amax(1, keepdim=True)
    zero = largest == 0
    unit = torch.nn.functional.normalize(x / largest.masked_fill(zero, 1))
    return torch.cat([unit, zero.to(x.dtype) * without], 1)
