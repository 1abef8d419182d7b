"""Nearest neighbors, exactly ordered, with differentiable distances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops._autograd import Gradients, in_front, only_batched, register_autograd
from polygraph.ops.common import check_devices, wide_dtype
from polygraph.ops.edge_sum import dot_along, sum_along
from polygraph.ops.graph import Graph, graph_from_table
from polygraph.ops.graph_side import GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph


def knn(
    x: Tensor,
    k: int,
    *,
    y: Tensor | None = None,
    ptr: Tensor | None = None,
    y_ptr: Tensor | None = None,
    exclude_self: bool = False,
    grid: tuple[int, int] | None = None,
    exclude_radius: int | None = None,
    search_radius: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest points of every query, by Euclidean distance.

    The squared distance is a sum of rounded squares ``(y_c - x_c)²`` in a fixed order (eight
    lanes ``c mod 8``, see `polygraph.reference.knn`), in float32 (also for half types) or
    float64. The list is sorted by it, ties by index, and is the same list, bit for bit, on every
    device, for any number of threads, and for any instruction set. Nothing of size N x M is
    ever stored.

    Args:
        x: points ``[B, N, C]``, or ``[N, C]`` (one sample, or ragged ones with ``ptr``); float32,
            float64, float16 or bfloat16, any strides. Autocast does not touch them.
        k: neighbors of each query, from 1 to the number of its candidates.
        y: queries ``[B, M, C]`` or ``[M, C]``, dtype of ``x``; None: the points themselves.
        ptr: int64 ``[S + 1]``, rising from 0 to N: sample ``s`` has the rows ``ptr[s]:ptr[s + 1]``
            of ``x``; it may be empty.
        y_ptr: as ``ptr``, for the rows of ``y``; needed where both ``y`` and ``ptr`` are given.
        exclude_self: point ``m`` is no candidate of query ``m`` (needs M = N).
        grid: (height, width): points and queries are the pixels of an image, row by row.
        exclude_radius: pixels at most this many rows and columns away are no
            candidates (0: the pixel itself; None: all are).
        search_radius: only pixels at most this many rows and columns away are candidates (None:
            all are).

    Returns:
        ``index`` int64 ``[B, M, k]`` (``[M, k]`` for 2-D ``x``): rows of the query's sample, or of
        ``x`` when ragged. ``dist2`` of the same shape, float32 or float64: squared distances,
        ascending; ``inf`` where a square overflows. ``dist2`` is differentiable any number of
        times in ``x`` and ``y``; ``index`` is not. Deterministic.

    Raises:
        ValueError: an option that does not fit the others.
        RuntimeError: a shape, dtype or device is wrong; ``k`` exceeds the candidates of a sample
            (the message names it); ``ptr`` falls or does not end with N; a value is NaN or
            inf (the message says how many and where the first is). On CUDA, what concerns values
            is a device-side assertion.

    Example:
        >>> import torch
        >>> from polygraph.ops import knn
        >>> x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        >>> index, dist2 = knn(x, 2, exclude_self=True)
        >>> index
        tensor([[1, 2],
                [0, 2],
                [1, 0],
                [2, 1]])
        >>> dist2
        tensor([[ 1.,  9.],
                [ 1.,  4.],
                [ 4.,  9.],
                [16., 36.]])

    See Also:
        `polygraph.nn.knn_graph` and `polygraph.nn.knn` give edges, as PyG does;
        `polygraph.nn.pixel_knn` searches among the pixels of an image; `graph_from_table` makes a
        graph of the result.
    """
    check_tensors("knn", x=x, y=y, ptr=ptr, y_ptr=y_ptr)
    queries = x if y is None else y
    check_devices("knn", "x", x, y=y, ptr=ptr, y_ptr=y_ptr)
    if x.dim() not in (2, 3) or queries.dim() != x.dim():
        raise ValueError(
            "knn: x and y must both have shape [B, N, C] or [N, C], got "
            f"{list(x.shape)} and {list(queries.shape)}"
        )
    if ptr is not None and x.dim() == 3:
        raise ValueError(f"knn: with ptr, x must have shape [N, C], got {list(x.shape)}")
    if ptr is None and y_ptr is not None:
        raise ValueError("knn: y_ptr needs ptr")
    if ptr is not None and y is not None and y_ptr is None:
        raise ValueError("knn: y_ptr is needed where both y and ptr are given")
    if ptr is not None and y_ptr is None:
        y_ptr = ptr
    if grid is None and not (exclude_radius is None and search_radius is None):
        raise ValueError("knn: exclude_radius and search_radius need a grid")
    for name, radius in (("exclude_radius", exclude_radius), ("search_radius", search_radius)):
        if radius is not None and radius < 0:
            raise ValueError(f"knn: {name} must not be negative, got {radius}")
    height, width = (0, 0) if grid is None else grid
    if grid is not None and not (height > 0 and width > 0):
        raise ValueError(f"knn: grid must be positive, got {height} x {width}")
    settings = (
        k,
        exclude_self,
        height,
        width,
        -1 if exclude_radius is None else exclude_radius,
        -1 if search_radius is None else search_radius,
    )
    single = x.dim() == 2
    if single:
        x, queries = x[None], queries[None]
    index, dist2 = _ops.knn(x, queries, ptr, y_ptr, *settings)
    return (index[0], dist2[0]) if single else (index, dist2)


@torch.library.register_fake("polygraph::knn")
def _(
    x: Tensor,
    y: Tensor,
    x_ptr: Tensor | None,
    y_ptr: Tensor | None,
    k: int,
    exclude_self: bool,
    height: int,
    width: int,
    exclude_radius: int,
    search_radius: int,
) -> tuple[Tensor, Tensor]:
    shape = (y.shape[0], y.shape[1], k)
    return y.new_empty(shape, dtype=torch.int64), y.new_empty(shape, dtype=wide_dtype(x.dtype))


# With g the gradient of dist2, d/dy = 2 Σ_k g (y - x_index): a weighted sum of differences along
# the edges of the table's graph, and d/dx is that sum over the graph seen from the points.
# Differences are formed before anything is multiplied, so they are good far from the origin; of
# halves, so that none overflows. The operator has derivatives of every order, and makes nothing of
# size M·k·C.


def _save(ctx: Any, given: Any, output: tuple[Tensor, Tensor]) -> None:
    index, _ = output
    ctx.mark_non_differentiable(index)
    ctx.save_for_backward(given.x, given.y, index)


def _as_graph(x: Tensor, y: Tensor, index: Tensor) -> tuple[Graph, Tensor, Tensor]:
    """All samples as one graph, and y / 2 and -x / 2 in float64 as its targets and sources."""
    graph = graph_from_table(index, x.shape[1])
    return graph, 0.5 * y.double().flatten(0, 1), -0.5 * x.double().flatten(0, 1)


def _backward(ctx: Any, saved: tuple[Any, ...], needs: Any, _: Tensor, grad: Tensor) -> Gradients:
    x, y, index = saved
    graph, near, far = _as_graph(x, y, index)
    weight = grad.double().reshape(-1)
    if needs.x:
        graph = graph.with_transposed(far.shape[0])
    side, rows = GraphSide.of(graph), graph.num_slots
    found: Gradients = {}
    if needs.y:
        grad_y = 4 * sum_along(side, far.shape[0], rows, near=near, far=far, weight=weight)
        found["y"] = grad_y.reshape(y.shape).to(y.dtype)
    if needs.x:
        back = side.turned(far.shape[0])
        grad_x = -4 * sum_along(back, near.shape[0], rows, near=far, far=near, weight=weight)
        found["x"] = grad_x.reshape(x.shape).to(x.dtype)
    return found


def _vmap(size: int, dims: Any, given: Any) -> tuple[Tensor, Tensor] | None:
    if not only_batched(dims, "x", "y") or given.x_ptr is not None:
        return None
    x = in_front(given.x, dims.x, size).flatten(0, 1)
    y = in_front(given.y, dims.y, size).flatten(0, 1)
    index, dist2 = _ops.knn(*given._replace(x=x, y=y))
    samples = (size, index.shape[0] // size)
    return index.unflatten(0, samples), dist2.unflatten(0, samples)


def _jvp(given: Any, output: tuple[Tensor, Tensor], tangents: Any) -> tuple[None, Tensor]:
    index, dist2 = output
    for_x, for_y = tangents.x, tangents.y
    if for_x is None and for_y is None:
        return None, torch.zeros_like(dist2)
    # 2 Σ_c (y - x)(dy - dx), over the edges of all samples.
    graph, near, far = _as_graph(given.x, given.y, index)
    for_x = None if for_x is None else -for_x.double().reshape(far.shape)
    for_y = None if for_y is None else for_y.double().reshape(near.shape)
    ends = (GraphSide.of(graph), far.shape[0], graph.num_slots)
    moved = 4 * dot_along(*ends, near, far, near=for_y, far=for_x)
    return None, moved.view(dist2.shape).to(dist2.dtype)


register_autograd("knn", _backward, save=_save, jvp=_jvp, vmap=_vmap)
