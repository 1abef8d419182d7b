"""The first derivatives of `polygraph.ops.ecc`, in the ways of `polygraph.ops.ecc.choice`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops.ecc.choice import way_of
from polygraph.ops.ecc.chunks import CHUNK_NODES, NARROW, chunks, flat
from polygraph.ops.ecc.forward import summed
from polygraph.ops.ecc.hidden import Hidden, through_layer, widened
from polygraph.ops.edge_sum import sum_along
from polygraph.ops.graph_side import GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph

WIDEST_VECTOR = 16  # elements; rows of hidden features are read in whole vectors


class Wanted(NamedTuple):
    """Which derivatives are wanted."""

    x: bool = False
    phi: bool = False
    layer: bool = False  #: that of its shift, too
    weight: bool = False
    bias: bool = False


class EccGradients(NamedTuple):
    """Derivatives by the arguments of ``polygraph::ecc``; None: not wanted."""

    x: Tensor | None = None
    phi: Tensor | None = None
    layer: Tensor | None = None
    shift: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


def ecc_gradients(
    grad: Tensor,
    x: Tensor,
    phi: Tensor,
    slope: float,
    layer: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    by_source: bool,
    wanted: Sequence[bool],
    graph: Sequence[Tensor],
    tables: int,
) -> tuple[Tensor, ...]:
    """The operator ``polygraph::ecc_backward``; what is not wanted is empty."""
    dtype = x.dtype
    grad, x, weight, bias = widened(grad.contiguous(), x.contiguous(), weight, bias)
    hidden = Hidden.widened(phi, None, None, slope, layer, shift)
    side = GraphSide.unpacked(graph, tables)
    way = way_of(
        x,
        weight.shape[0],
        side,
        stored=hidden.stored,
        ones=bias is not None,
        by_source=by_source,
    )
    if way == "lanes":
        found = _by_lanes(grad, x, hidden, weight, bias, Wanted(*wanted), side)
    else:
        found = _by_products(grad, x, hidden, weight, bias, Wanted(*wanted), side, way)
    return tuple((x.new_empty(0) if g is None else g).to(dtype) for g in found)


def _by_lanes(
    grad: Tensor,
    x: Tensor,
    hidden: Hidden,
    weight: Tensor,
    bias: Tensor | None,
    wanted: Wanted,
    side: GraphSide,
) -> EccGradients:
    """Of some targets at a time, with the hidden features of their edges made anew."""
    phi, layer, edge, graph = hidden.phi, hidden.layer, side.edge, side.packed()
    assert phi is not None
    H, C, D = weight.shape
    rows, targets, sources = phi.shape[0], side.num_segments, x.shape[0]
    message = x.new_zeros(rows, C) if wanted.x else None
    inner = x.new_zeros(phi.shape) if wanted.phi else None
    grad_layer = None if layer is None or not wanted.layer else torch.zeros_like(layer)
    grad_shift = None if layer is None or not wanted.layer else x.new_zeros(H)
    grad_weight = x.new_zeros(C, D, H) if wanted.weight else None
    width = -(-H // WIDEST_VECTOR) * WIDEST_VECTOR
    step = CHUNK_NODES["cpu"]
    starts = torch.arange(0, targets + step, step).clamp(max=targets)
    bounds = [int(p) for p in side.ptr[starts]]
    for part, first in enumerate(range(0, targets, step)):
        last = min(first + step, targets)
        start, end = bounds[part], bounds[part + 1]
        if start == end:
            continue
        slots = slice(start, end)
        # Rows of empty slots stay 0.
        a = x.new_zeros(end - start, H) if wanted.phi or wanted.layer else None
        f = None if grad_weight is None else x.new_zeros(end - start, width)
        options = (*hidden.packed(), x, grad, weight, bias, [first, last])
        _ops.ecc_lane_backward_(*options, *graph, message, a, f)
        at = slots if edge is None else edge[slots]
        if grad_weight is not None:
            _ops.ecc_lane_weight_(f, x, grad, [first, last], *graph, grad_weight)
        if a is None:
            continue
        if grad_layer is not None and grad_shift is not None:
            grad_layer.addmm_(a.t(), phi[at])
            grad_shift += a.sum(0)
        if inner is not None:
            inner[at] = a if layer is None else a @ layer
    grad_x = grad_bias = None
    if message is not None:
        grad_x = summed(message, side.turned(sources))
    if bias is not None and wanted.bias:
        grad_bias = sum_along(side, sources, rows, far=x).t() @ grad
    if grad_weight is not None:
        grad_weight = laid_out(grad_weight.permute(2, 0, 1), weight)
    return EccGradients(grad_x, inner, grad_layer, grad_shift, grad_weight, grad_bias)


def laid_out(grad: Tensor, weight: Tensor) -> Tensor:
    """A gradient ``[H, C, D]`` as the weight lies in memory: contiguous, or with H last."""
    if weight.is_contiguous():
        return grad.contiguous()
    return grad.permute(1, 2, 0).contiguous().permute(2, 0, 1)


class _OfProduct(NamedTuple):
    """Derivatives by x ``[N, C]``, φ ``[E', H]`` and W ``[H', C, D]``; None: not wanted."""

    x: Tensor | None
    phi: Tensor | None
    weight: Tensor | None


def _by_products(
    grad: Tensor,
    x: Tensor,
    hidden: Hidden,
    weight: Tensor,
    bias: Tensor | None,
    wanted: Wanted,
    side: GraphSide,
    way: str,
) -> EccGradients:
    """With a layer's hidden features stored, and gradients to them."""
    made = hidden.without_layer()
    matrices = weight if bias is None else torch.cat([weight, bias[None]])
    to_made = wanted.phi or (wanted.layer and hidden.layer is not None)
    of = wanted._replace(phi=to_made, weight=wanted.weight or wanted.bias)
    if way == "tiles":
        found = _by_tiles(grad, x, made, matrices, of, side)
    else:
        found = _by_nodes(grad, x, made, matrices, of, side, way == "sources")
    inner, grad_layer, grad_shift = found.phi, None, None
    if hidden.layer is not None and inner is not None:
        assert made.phi is not None
        inner, grad_layer, grad_shift = through_layer(
            inner, made.phi, hidden, to_phi=wanted.phi, to_layer=wanted.layer
        )
    grad_weight = grad_bias = None
    total = found.weight
    if total is not None and wanted.weight:
        grad_weight = laid_out(total if bias is None else total[:-1].clone(), weight)
    if total is not None and bias is not None and wanted.bias:
        grad_bias = total[-1].clone(memory_format=torch.contiguous_format)
    return EccGradients(found.x, inner, grad_layer, grad_shift, grad_weight, grad_bias)


def _by_nodes(
    grad: Tensor,
    x: Tensor,
    hidden: Hidden,
    weight: Tensor,
    wanted: Wanted,
    side: GraphSide,
    by_source: bool,
) -> _OfProduct:
    """``weight [H', C, D]``, of which the last matrix may be that of a column of ones of φ."""
    assert hidden.phi is not None
    H, C, D = weight.shape
    rows, width = hidden.phi.shape
    targets, sources = side.num_segments, x.shape[0]
    # Seen from the side whose nodes take the products: `near` has their other factor.
    segments, others = (sources, targets) if by_source else (targets, sources)
    graph = (side.turned(sources) if by_source else side).packed()
    columns, near, far = (D, x, grad) if by_source else (C, grad, x)
    matrices = weight.transpose(1, 2) if by_source else weight  # [H', columns, D or C]
    inner = x.new_zeros(rows, H) if wanted.phi else None
    message = x.new_zeros(rows, C) if wanted.x and not by_source else None
    grad_x = x.new_zeros(x.shape) if wanted.x and by_source else None
    grad_matrices = None
    if wanted.weight and matrices.shape[2] < NARROW:
        grad_matrices = x.new_zeros(matrices.shape[2], *matrices.shape[:2]).permute(1, 2, 0)
    elif wanted.weight:
        grad_matrices = x.new_zeros(matrices.shape)
    buffer = x.new_empty(0)
    for chunk in chunks(segments, H, columns, x):
        part = near[chunk.nodes]
        made = (*hidden.columns(chunk), [far], False, others, chunk.first, *graph)
        matrix = flat(matrices[chunk.columns])
        product = chunk.part_of(buffer, columns)
        buffer = product if buffer.numel() < product.numel() else buffer
        if inner is not None or message is not None:
            torch.mm(part, matrix.t(), out=product.flatten(1))
            a = None if inner is None else inner[:, chunk.columns]
            _ops.edge_inner_(product, *made, a, message, True)
        if grad_matrices is not None or grad_x is not None:
            _ops.edge_outer_(*made, product)
            if grad_matrices is not None:
                size = (chunk.shape[1] * columns, part.shape[1])
                to = grad_matrices[chunk.columns].view(size)
                to.addmm_(product.flatten(1).t(), part)
            if grad_x is not None:
                grad_x[chunk.nodes].addmm_(product.flatten(1), matrix)
    if message is not None:
        grad_x = summed(message, side.turned(sources))
    if grad_matrices is not None and by_source:
        grad_matrices = grad_matrices.transpose(1, 2).contiguous()
    if inner is not None and H > width:
        inner = inner[:, :width].contiguous()
    return _OfProduct(grad_x, inner, grad_matrices)


def _by_tiles(
    grad: Tensor, x: Tensor, hidden: Hidden, weight: Tensor, wanted: Wanted, side: GraphSide
) -> _OfProduct:
    """As `_by_nodes`, for the targets."""
    phi = hidden.phi
    assert phi is not None
    H, C, _ = weight.shape
    rows, width = phi.shape
    # Only rows that slots name are written, and of the messages only these are read.
    make = x.new_empty if side.edge is None else x.new_zeros
    inner = make((rows, H)) if wanted.phi else None
    message = x.new_empty(rows, C) if wanted.x else None
    total = x.new_empty(weight.shape) if wanted.weight else None
    _ops.ecc_tile_backward_(phi, x, grad, weight, *side.packed(), inner, message, total)
    grad_x = None
    if message is not None:
        grad_x = summed(message, side.turned(x.shape[0]))
    if inner is not None and H > width:
        inner = inner[:, :width].contiguous()
    return _OfProduct(grad_x, inner, total)
