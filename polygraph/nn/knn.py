"""Graphs of nearest neighbours: of points, of batches of clouds, of an image's pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph import ops
from polygraph._checks import as_index, check_choice, check_positive
from polygraph.nn.ordinary import is_shape_alone
from polygraph.ops import _common
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
        batch: integers ``[N]``, the sample of each point, never falling; samples without points are
            fine. None: all points are one sample, and nothing waits for the device. Else the host
            must wait for how many edges there are, once; without ``batch_size`` once more where a
            sample has too few candidates. `polygraph.ops.knn` with its ``ptr``, whose result has a
            fixed shape, never waits.
        loop: whether a point is a candidate of itself.
        flow: ``"source_to_target"``: row 0 holds the neighbour, row 1 the point whose neighbour it
            is; ``"target_to_source"``: the other way round.
        cosine: compare directions: the points are scaled to length 1 first. A point at the origin
            has none: its similarity to every point, itself too, is 0, as of
            `torch.nn.functional.cosine_similarity`; so it lies at a right angle to all others, and
            its own neighbours are the first of its sample.
        num_workers: without effect (PyTorch's threads are used); for compatibility.
        batch_size: how many samples there are: ``batch`` lies in ``[0, batch_size)``, some need
            not occur. With 1 nothing waits for the device, with more the host waits once. None:
            found from ``batch``, in which numbers may then be left out at no cost, however many.
        as_edge_index: return a `torch_geometric.EdgeIndex` that knows its size and that it is
            sorted: by column for ``"source_to_target"``, by row otherwise.

    Returns:
        int64 ``[2, E]``, ordered by the point, then by (distance, index) of the neighbour.
        Deterministic.

    Raises:
        ValueError: ``k``, ``flow``, ``batch_size``, or the shape or dtype of ``x`` or ``batch`` is
            wrong; ``batch`` falls, or names a sample past ``batch_size`` (on CUDA with a
            ``batch_size`` of 1 a device-side assertion).
        RuntimeError: from `polygraph.ops.knn`: a dtype or device is wrong, a value is NaN or inf.
    """
    check_choice("knn_graph", "flow", flow, FLOWS)
    x, k = _points("knn_graph", "x", x), _count("knn_graph", k)
    centre, near = _pairs("knn_graph", x, x, k, not loop, cosine, batch_size, batch=batch)
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
        batch_x: integers ``[N]``, the sample of each point, never falling; None: all in sample 0.
        batch_y: the same for the queries. A sample without points gives its queries no neighbours.
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
    """
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
    k = _count("pixel_knn", k)
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
    """Queries and their neighbours, both ``[M, slots]``, or ``[E]`` where the rows differ."""
    if torch.compiler.is_compiling() and any(batch is not None for batch in batches.values()):
        # How many edges there are depends on values: for a compiler it is one operator.
        options = (k, exclude_self, cosine, batch_size, list(batches))
        query, near = torch.ops.polygraph.knn_pairs(owner, x, y, *options, *_pair(batches))
        return query, near
    samples = _samples(owner, x, y, k, exclude_self, batch_size, **batches)
    return _neighbours(owner, x, y, k, samples, exclude_self, cosine)


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
    samples = _samples(owner, x, y, k, exclude_self, batch_size, **batches)
    query, near = _neighbours(owner, x, y, k, samples, exclude_self, cosine)
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


class _Samples(NamedTuple):
    """Which points and queries belong together.

    Attributes:
        x_ptr: ``[S + 1]``, where each sample begins in the points.
        y_ptr: the same in the queries.
        shortest: the fewest neighbours that a query has, k at most.
        known: points and queries of each, where the host knows them.
    """

    x_ptr: Tensor
    y_ptr: Tensor
    shortest: int
    known: list[list[int]] | None

    def sizes(self) -> Tensor:
        """``[2, S]``: points and queries of each."""
        return _sizes(self.x_ptr, self.y_ptr)


def _sizes(x_ptr: Tensor, y_ptr: Tensor) -> Tensor:
    return torch.stack((x_ptr, y_ptr)).diff()


def _read(numbers: Tensor) -> list[Any]:
    """Values on the host. Nothing else here waits for the device, unless a value is wrong."""
    found: list[Any] = numbers.tolist()
    return found


def _samples(
    owner: str,
    x: Tensor,
    y: Tensor,
    k: int,
    exclude_self: bool,
    batch_size: int | None,
    **batches: Tensor | None,
) -> _Samples | None:
    """From the batch vectors of ``x`` and of ``y``, or the one of both; None: all is one sample."""
    if batch_size is not None:
        check_positive(owner, batch_size=batch_size)
        batch_size = as_index(batch_size)
    if all(batch is None for batch in batches.values()):
        return None
    vectors = {}
    for (name, batch), points in zip(batches.items(), (x, y), strict=False):
        if batch is None:
            batch = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
        batch = _checked_batch(owner, name, batch, points)
        vectors[name] = batch
    if batch_size == 1 and _common.takes_cuda_kernels(x):
        for name, batch in vectors.items():
            torch._assert_async((batch == 0).all(), f"{owner}: {name} must lie in [0, 1)")
        return None
    pointers, occurring = _pointers(list(vectors.values()), batch_size)
    x_ptr, y_ptr = pointers[0], pointers[-1]
    slots = (x_ptr.diff() - int(exclude_self)).clamp(0, k).masked_fill(y_ptr.diff() == 0, k)
    facts = [torch.nn.functional.pad(slots, (0, 1), value=k).amin(), occurring]
    for batch, ptr in zip(vectors.values(), pointers, strict=True):
        facts += [(batch[1:] < batch[:-1]).any().long(), ptr[0], ptr[-1]]
    numbers = torch.stack(facts)
    if batch_size is not None:  # as many sizes as are known in advance: read with the rest
        numbers = torch.cat([numbers, _sizes(x_ptr, y_ptr).flatten()])
    least, count, *found = _read(numbers)
    for place, (name, batch) in enumerate(vectors.items()):
        if found[3 * place : 3 * place + 3] != [0, 0, len(batch)]:
            _refuse(owner, name, batch, batch_size)
    known = None
    if batch_size is not None:
        rest = found[3 * len(vectors) :]
        known = [rest[:batch_size], rest[batch_size:]]
    return _Samples(x_ptr[: count + 1], y_ptr[: count + 1], least, known)


def _checked_batch(owner: str, name: str, batch: Tensor, points: Tensor) -> Tensor:
    """In int64; refused where that can be told without its values."""
    if batch.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        batch = batch.long()
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
    return batch


def _refuse(owner: str, name: str, batch: Tensor, batch_size: int | None) -> None:
    """Say what is wrong with the values of a batch vector."""
    falls = (batch[1:] < batch[:-1]).nonzero()
    if len(falls):
        at = int(falls[0])
        raise ValueError(
            f"{owner}: {name} must not fall, got {int(batch[at + 1])} after {int(batch[at])} "
            f"at position {at + 1}"
        )
    at = int(((batch < 0) | (batch >= (batch_size or 0))).nonzero()[0])
    raise ValueError(
        f"{owner}: {name} must lie in [0, {batch_size}), got {int(batch[at])} at position {at}"
    )


def _pointers(vectors: list[Tensor], batch_size: int | None) -> tuple[list[Tensor], Tensor]:
    """Where each sample begins in each of the vectors, and how many samples there are.

    Without ``batch_size`` only the samples that occur are counted: a gap in the numbers costs
    nothing, however wide. On CUDA empty ones follow, as many as any values could need.
    """
    device = vectors[0].device
    if batch_size is not None:
        bounds = torch.arange(batch_size + 1, device=device)
        return [torch.searchsorted(b, bounds) for b in vectors], bounds[-1]
    if _common.takes_cuda_kernels(vectors[0]):
        vectors, count = _ranks(vectors)
        samples = torch.arange(sum(len(rank) for rank in vectors), device=device)
    else:
        found = [torch.unique_consecutive(batch) for batch in vectors]
        samples = found[0] if len(found) == 1 else torch.cat(found).unique()
        count = torch.tensor(len(samples))
    pad = torch.nn.functional.pad
    return [pad(torch.searchsorted(b, samples), (0, 1), value=len(b)) for b in vectors], count


def _ranks(vectors: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """For every row how many smaller samples occur in all, and how many occur, by fixed shapes."""
    counts = []
    for place, batch in enumerate(vectors):
        first = torch.ones_like(batch, dtype=torch.bool)
        first[1:] = batch[1:] != batch[:-1]
        for other in vectors[:place]:
            after = torch.searchsorted(other, batch, right=True)
            first &= torch.searchsorted(other, batch) == after
        counts.append(torch.nn.functional.pad(first.cumsum(0), (1, 0)))
    ranks = [torch.zeros_like(batch) for batch in vectors]
    for batch, rank in zip(vectors, ranks, strict=True):
        for other, count in zip(vectors, counts, strict=True):
            rank += count[torch.searchsorted(other, batch)]
    return ranks, torch.stack([count[-1] for count in counts]).sum()


def _neighbours(
    owner: str,
    x: Tensor,
    y: Tensor,
    k: int,
    samples: _Samples | None,
    exclude_self: bool,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    """Queries and their neighbours, both ``[M, slots]``, or ``[E]`` where the rows differ."""
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
    on_host = _read(sizes) if samples.known is None else samples.known
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
