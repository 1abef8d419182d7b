"""Graphs of nearest neighbours: of points, of batches of clouds, of an image's pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph import ops
from polygraph.nn._choices import check_choice, check_positive

FLOWS = ("source_to_target", "target_to_source")


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
    library and with no limit to ``k``. Where they leave something open, this does not: neighbours
    are ordered by `polygraph.ops.knn`'s (distance, index), the same list on every device; and a
    point has ``k`` neighbours besides itself also where more than ``k`` others lie at the same
    place (torch-cluster searches ``k + 1`` and drops the point if it finds it, so it may give
    ``k + 1`` others).

    Source: Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", ACM TOG 2019, section
    3.3, which rebuilds such a graph from the features of every layer.

    Args:
        x: points ``[N, C]``, or ``[N]`` for one channel; float32, float64, float16 or bfloat16
            (half types are compared in float32), any strides. No gradient flows through edges.
        k: neighbours of each point, at least 1. In a sample with fewer candidates every one of
            them becomes a neighbour, as in torch-cluster: a sample of n points has
            ``min(k, n - 1)`` neighbours each (``min(k, n)`` with ``loop``), a single point none.
            (`polygraph.ops.knn`, whose result has a fixed shape, raises instead.)
        batch: int64 ``[N]``, the sample of each point, never falling; samples without points are
            fine. None: all points are one sample, and nothing waits for the device.
        loop: whether a point is a candidate of itself.
        flow: ``"source_to_target"``: row 0 holds the neighbour, row 1 the point whose neighbour it
            is; ``"target_to_source"``: the other way round.
        cosine: compare directions: the points are scaled to length 1 first. A point at the origin
            has no direction; it is equally far from all others.
        num_workers: without effect (PyTorch's threads are used); for compatibility.
        batch_size: without effect (it is not needed); for compatibility.
        as_edge_index: return a `torch_geometric.EdgeIndex` that knows its size and that it is
            sorted: by column for ``"source_to_target"``, by row otherwise.

    Returns:
        int64 ``[2, E]``, ordered by the point, then by (distance, index) of the neighbour.
        Deterministic.

    Raises:
        ValueError: ``k``, ``flow``, or the shape or dtype of ``x`` or ``batch`` is wrong;
            ``batch`` falls.
        RuntimeError: from `polygraph.ops.knn`: a dtype or device is wrong, a value is NaN or inf.
    """
    check_choice("knn_graph", "flow", flow, FLOWS)
    x = _points("knn_graph", "x", x)
    ptr = None if batch is None else _pointers("knn_graph", x, x, batch=batch)
    centre, near = _neighbours("knn_graph", x, x, k, ptr, not loop, cosine)
    forward = flow == "source_to_target"
    edges = torch.stack((near, centre) if forward else (centre, near)).flatten(1)
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
        k: neighbours of each query, at least 1; all points of the sample where it has fewer.
        batch_x: int64 ``[N]``, the sample of each point, never falling; None: all in sample 0.
        batch_y: the same for the queries. A sample without points gives its queries no neighbours.
        cosine: as in `knn_graph`.
        num_workers: without effect; for compatibility.
        batch_size: without effect; for compatibility.

    Returns:
        int64 ``[2, E]``: row 0 the query, row 1 the point; ordered by the query, then by
        (distance, index) of the point. Deterministic.

    Raises:
        ValueError: ``k``, or the shape or dtype of an argument is wrong; a batch vector falls.
        RuntimeError: from `polygraph.ops.knn`: a dtype or device is wrong, a value is NaN or inf.
    """
    x, y = _points("knn", "x", x), _points("knn", "y", y)
    ptr = None
    if batch_x is not None or batch_y is not None:
        ptr = _pointers("knn", x, y, batch_x=batch_x, batch_y=batch_y)
    query, near = _neighbours("knn", x, y, k, ptr, False, cosine)
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
        k: neighbours of each pixel, from 1 to the number of its candidates; in a corner, where
            there are fewest, with ``exclude_radius=r`` alone these are ``H*W - (r + 1)²``.
        exclude_radius: pixels at most so many rows and at most so many columns away are no
            candidates; 0: the pixel itself; None: all are. At the border only pixels that exist
            are left out.
        search_radius: only pixels at most so many rows and columns away are candidates; None: all.

    Returns:
        ``index`` int64 ``[B, H*W, k]``: pixels as ``row * W + column``, and ``dist2`` of the same
        shape, float32 or float64: squared distances, ascending, ties by index; differentiable any
        number of times in ``x``. Deterministic.

    Raises:
        ValueError: ``x`` is not ``[B, C, H, W]``, or a radius is negative.
        RuntimeError: from `polygraph.ops.knn`: the dtype is wrong, a pixel has fewer than ``k``
            candidates, a value is NaN or inf.
    """
    if x.dim() != 4:
        raise ValueError(f"pixel_knn: x must have shape [B, C, H, W], got {list(x.shape)}")
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # a view in both orders of memory
    grid = (x.shape[2], x.shape[3])
    return ops.knn(pixels, k, grid=grid, exclude_radius=exclude_radius, search_radius=search_radius)


def knn_neighbours(
    owner: str,
    x: Tensor,
    y: Tensor,
    k: int,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
) -> ops.Graph:
    """The graph of what `knn` finds, from points ``x`` (sources) to queries ``y`` (targets)."""
    points, queries = _points(owner, "x", x), _points(owner, "y", y)
    ptr = None
    if batch_x is not None or batch_y is not None:
        ptr = _pointers(owner, points, queries, batch_x=batch_x, batch_y=batch_y)
    query, near = _neighbours(owner, points, queries, k, ptr, False, False)
    if near.dim() == 2:
        return ops.graph_from_table(near, points.shape[0])
    sizes = (points.shape[0], queries.shape[0])
    return ops.graph_from_coo(near, query, *sizes, sorted_by_target=True)


def _points(owner: str, name: str, x: Tensor) -> Tensor:
    """``x`` as ``[N, C]``, without its graph."""
    if x.dim() not in (1, 2):
        raise ValueError(f"{owner}: {name} must have shape [N, C] or [N], got {list(x.shape)}")
    return x.detach() if x.dim() == 2 else x.detach().unsqueeze(1)


def _pointers(owner: str, x: Tensor, y: Tensor, **batches: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where each sample begins in ``x`` and in ``y``: of the samples that have any row at all."""
    vectors, found = [], []
    for (name, batch), points in zip(batches.items(), (x, y), strict=False):
        if batch is None:
            batch = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
        if batch.dtype != torch.int64 or batch.shape != points.shape[:1]:
            raise ValueError(
                f"{owner}: {name} must be int64 of shape [{points.shape[0]}], "
                f"got {batch.dtype} of shape {list(batch.shape)}"
            )
        if batch.device != points.device:
            raise ValueError(
                f"{owner}: {name} must be on the device of the points ({points.device}), "
                f"got {batch.device}"
            )
        samples = torch.unique_consecutive(batch)
        if (samples[1:] < samples[:-1]).any():
            at = int((batch[1:] < batch[:-1]).nonzero()[0])
            raise ValueError(
                f"{owner}: {name} must not fall, got {int(batch[at + 1])} after {int(batch[at])} "
                f"at position {at + 1}"
            )
        vectors.append(batch)
        found.append(samples)
    # Only the samples that occur: a gap in the numbers costs nothing, however wide.
    if len(found) == 2:
        samples = torch.cat(found).unique()  # type: ignore[no-untyped-call]
    pointers = []
    for batch in vectors:
        start = torch.searchsorted(batch, samples)
        pointers.append(torch.nn.functional.pad(start, (0, 1), value=batch.shape[0]))
    return pointers[0], pointers[-1]


def _neighbours(
    owner: str,
    x: Tensor,
    y: Tensor,
    k: int,
    ptr: tuple[Tensor, Tensor] | None,
    exclude_self: bool,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    """Queries and their neighbours, both ``[M, slots]``, or ``[E]`` where the rows differ."""
    check_positive(owner, k=k)
    if cosine:
        x, y = _directions(x), _directions(y)
    if ptr is None:
        length = min(k, x.shape[0] - int(exclude_self))
        if length < 1 or y.shape[0] == 0:
            nothing = torch.empty(0, dtype=torch.int64, device=x.device)
            return nothing, nothing
        return _with_query(ops.knn(x, length, y=y, exclude_self=exclude_self)[0])
    x_size, y_size = ptr[0].diff(), ptr[1].diff()
    slots = (x_size - int(exclude_self)).clamp(0, k)
    # Most often all samples are large enough. Else the operator, whose rows are all of one length,
    # is asked once for each length that occurs, about the samples of that length.
    lengths = slots[y_size > 0].unique().tolist()  # type: ignore[no-untyped-call]
    if lengths == [k]:
        index, _ = ops.knn(x, k, y=y, ptr=ptr[0], y_ptr=ptr[1], exclude_self=exclude_self)
        return _with_query(index)
    queries = [torch.empty(0, dtype=torch.int64, device=x.device)]
    points = list(queries)
    for length in lengths:
        if length == 0:
            continue
        chosen = (slots == length) & (y_size > 0)
        x_rows = chosen.repeat_interleave(x_size).nonzero().squeeze(1)
        y_rows = chosen.repeat_interleave(y_size).nonzero().squeeze(1)
        x_ptr, y_ptr = (
            torch.nn.functional.pad(size[chosen].cumsum(0), (1, 0)) for size in (x_size, y_size)
        )
        index, _ = ops.knn(
            x[x_rows], length, y=y[y_rows], ptr=x_ptr, y_ptr=y_ptr, exclude_self=exclude_self
        )
        query, near = _with_query(index)
        queries.append(y_rows[query].flatten())
        points.append(x_rows[near].flatten())
    query = torch.cat(queries)
    order = query.argsort(stable=True)
    return query[order], torch.cat(points)[order]


def _with_query(index: Tensor) -> tuple[Tensor, Tensor]:
    """A table and, of the same shape, the query of every entry."""
    query = torch.arange(index.shape[0], device=index.device)
    return query[:, None].expand_as(index), index


def _directions(x: Tensor) -> Tensor:
    """Rows of length 1; rows of zeros stay. Divided twice, so that no square overflows."""
    if x.shape[1] == 0:
        return x
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    largest = x.abs().amax(1, keepdim=True)
    return torch.nn.functional.normalize(x / largest.masked_fill(largest == 0, 1))
