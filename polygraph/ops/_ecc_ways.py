"""How `polygraph.ops.ecc` and its first derivatives are computed.

On the CPU, where degrees differ little, targets lie side by side in vectors (lanes); or a few
targets at a time go from the edges through the weights (tiles). Else, and on a GPU, nodes are taken
in chunks: what the kernels write of a chunk's edges is multiplied by PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops import _common
from polygraph.ops.edge_conv import ANY_NODES, Sides, activate, turned

_load.load_libraries()
_ops = torch.ops.polygraph

# Nodes whose products exist at a time, and the bytes of these: in the cache of a CPU, enough to
# fill a GPU.
CHUNK_NODES = {"cpu": 256, "cuda": 1 << 16}
CHUNK_BYTES = {"cpu": 6 << 20, "cuda": 256 << 20}
# Four times as many nodes, or sixteen, where the products of a node are few and these fit.
SMALL_BYTES = 1 << 20
# Targets side by side in vectors are filled up to the most neighbours among them: up to this share
# more slots than there are, and this many bytes for what they need (see csrc/ecc/lane_ecc.h).
LANE_TARGETS, LANE_SHARE, LANE_BYTES = 16, 1.5, 4 << 20
# With at most as many numbers per target, targets one by one are quicker still, if hidden features
# are stored: a few go through the weights together (on a mesh, forward and with the backward pass,
# 1.5 and 2.7 times as fast at 9 x 16, 1.4 times at 33 x 32).
FEW = 1024
# MKL takes four times as long for a product of fewer columns, unless they come as rows.
NARROW = 8
WIDEST_VECTOR = 16  # numbers; rows of hidden features are read in whole vectors


class Chunk(NamedTuple):
    """Some nodes, and some columns of φ."""

    first: int
    last: int
    h0: int
    h1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Nodes and columns."""
        return self.last - self.first, self.h1 - self.h0

    def part_of(self, buffer: Tensor, columns: int) -> Tensor:
        """``[nodes, columns of φ, columns]`` in the memory of ``buffer``, if it is large enough."""
        shape = (*self.shape, columns)
        size = shape[0] * shape[1] * shape[2]
        return (buffer.view(-1)[:size] if size <= buffer.numel() else buffer.new_empty(size)).view(
            shape
        )


def _by_lanes(x: Tensor, hidden: int, sides: Sides) -> bool:
    """Whether the CPU takes targets side by side in its vectors: their degrees differ little."""
    ptr, other = sides[0], sides[2]
    assert ptr is not None
    assert other is not None
    if not _common.takes_cpu_kernels(x) or other.shape[0] == 0 or ptr.shape[0] < 2:
        return False
    degree = ptr.diff()
    most = int(degree.max())
    bytes_each = LANE_TARGETS * x.element_size()
    if most * (hidden + x.shape[1]) * bytes_each > LANE_BYTES or int(degree.min()) < 0:
        return False
    filled = torch.nn.functional.pad(degree, (0, -degree.shape[0] % LANE_TARGETS))
    slots = LANE_TARGETS * int(filled.view(-1, LANE_TARGETS).amax(1).sum())
    return slots <= LANE_SHARE * (other.shape[0] + LANE_TARGETS * most)


def by_tiles(x: Tensor, hidden: int, by_source: bool) -> bool:
    """Whether the CPU takes some targets at a time from the edges through the weights."""
    return _common.takes_cpu_kernels(x) and not by_source and hidden * x.shape[1] <= FEW


def _chunks(segments: int, hidden: int, columns: int, like: Tensor) -> Iterator[Chunk]:
    """Nodes, and of them columns of φ, whose products, ``columns`` numbers each, fit the budget.

    Many nodes come before many columns: a product with W must not read W for a few rows.
    """
    device = "cuda" if _common.takes_cuda_kernels(like) else "cpu"
    nodes = CHUNK_NODES[device]
    for _ in range(2):
        if 4 * nodes * hidden * columns * like.element_size() <= SMALL_BYTES:
            nodes *= 4
    step = min(max(1, segments), nodes)
    budget = CHUNK_BYTES[device] // (like.element_size() * step * max(1, columns))
    parts = -(-hidden // max(1, min(hidden, budget))) if hidden else 1
    for first in range(0, segments, step):
        for part in range(parts):
            yield Chunk(
                first,
                min(first + step, segments),
                hidden * part // parts,
                hidden * (part + 1) // parts,
            )


def _flat(weight: Tensor) -> Tensor:
    """``[H, C, D]`` as a matrix ``[H * C, D]``, whose columns are contiguous where they are few."""
    matrix = weight.flatten(0, 1)
    return matrix.t().contiguous().t() if weight.shape[2] < NARROW else matrix


class _Hidden:
    """φ and what it is made of, of some columns at a time."""

    def __init__(
        self, phi: Tensor | None, seg: Tensor | None, oth: Tensor | None, slope: float
    ) -> None:
        self.parts = (phi, seg, oth)
        self.slope = slope
        self.width = next(p for p in self.parts if p is not None).shape[1]

    def columns(self, chunk: Chunk) -> tuple[tuple[Any, ...], bool]:
        """φ, its two halves and the slope; whether the column of ones is the last of them."""
        end = min(chunk.h1, self.width)
        cut = [None if p is None else p[:, chunk.h0 : end] for p in self.parts]
        return (*cut, self.slope), chunk.h1 > self.width


def widened(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Half types in float32: so is all that lies between kernels and products.

    It would be rounded each time, and in float16 could overflow where the result does not. The
    copies, at most E x H numbers, go when the operator returns.
    """
    return tuple(_common.wide(t) for t in tensors)


def ecc_values(
    x: Tensor,
    phi: Tensor | None,
    u: Tensor | None,
    v: Tensor | None,
    slope: float,
    layer: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    by_source: bool,
    rows: int,
    *sides: Tensor | None,
) -> Tensor:
    """``[S, D]``: the operator ``polygraph::ecc``; arguments as in its schema.

    Of half types in float32: the caller rounds, for a mean after it has divided.
    """
    x, phi, u, v, weight = widened(x.contiguous(), phi, u, v, weight)  # type: ignore[assignment]
    layer, shift, bias = widened(layer, shift, bias)
    targets, sources = _nodes(sides, x)
    stored = phi is not None and layer is None
    tiles = stored and by_tiles(x, weight.shape[0] + (bias is not None), by_source)
    if not by_source and not tiles and _by_lanes(x, weight.shape[0], sides):
        out = x.new_empty(targets, weight.shape[2])
        options = (phi, layer, shift, u, v, slope)
        _ops.lane_ecc_(*options, x, weight, bias, rows, sides[0], sides[2], sides[3], out)
        return out
    if layer is not None:
        assert phi is not None
        phi = activate(torch.nn.functional.linear(phi, layer, shift), slope)
    weight = weight if bias is None else torch.cat([weight, bias[None]])
    hidden, C, D = weight.shape
    if by_tiles(x, hidden, by_source):
        out = x.new_empty(targets, D)
        made = v if phi is None else phi
        assert made is not None
        ones = hidden > made.shape[1]
        _ops.tile_ecc_(phi, u, v, slope, x, weight, ones, rows, *sides[:4], out)
        return out
    if not by_source:
        parts = _Hidden(phi, u, v, slope)
        out = x.new_zeros(targets, D)
        buffer = x.new_empty(0)
        for chunk in _chunks(targets, hidden, C, x):
            z = chunk.part_of(buffer, C)
            buffer = z if buffer.numel() < z.numel() else buffer
            options, ones = parts.columns(chunk)
            sizes = (sources, rows, chunk.first, chunk.last)
            _ops.edge_outer_(*options, x, None, False, ones, *sizes, *sides[:4], z)
            matrix = _flat(weight[chunk.h0 : chunk.h1])
            out[chunk.first : chunk.last].addmm_(z.flatten(1), matrix)
        return out
    parts = _Hidden(phi, v, u, slope)
    back = turned(sides, sources)
    message = x.new_zeros(rows, D)
    for chunk in _chunks(sources, hidden, D, x):
        matrix = weight[chunk.h0 : chunk.h1].transpose(0, 1).reshape(C, chunk.shape[1] * D)
        y = torch.mm(x[chunk.first : chunk.last], matrix).view(*chunk.shape, D)
        options, ones = parts.columns(chunk)
        sizes = (targets, rows, chunk.first, chunk.last)
        _ops.edge_inner_(
            y, *options, None, None, False, ones, *sizes, *back[:4], None, message, True
        )
    return _summed(message, sides)


def _summed(message: Tensor, sides: Sides) -> Tensor:
    """Sums over the edges of every node of their messages, a row of ``[rows, C]`` each."""
    values = (None, None, None, None, message, None)
    total: Tensor = _ops.edge_sum(*values, 1.0, ANY_NODES, message.shape[0], *sides)
    return total


def _nodes(sides: Sides, x: Tensor) -> tuple[int, int]:
    """Targets and sources."""
    assert sides[0] is not None
    return sides[0].shape[0] - 1, x.shape[0]


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
    to_x: bool,
    to_phi: bool,
    to_layer: bool,
    to_weight: bool,
    to_bias: bool,
    *sides: Tensor | None,
) -> tuple[Tensor, ...]:
    """The operator ``polygraph::ecc_backward``; what is not wanted is empty."""
    dtype = x.dtype
    grad, x = grad.contiguous(), x.contiguous()
    grad, x, phi, weight = widened(grad, x, phi, weight)  # type: ignore[assignment]
    layer, shift, bias = widened(layer, shift, bias)
    wanted = (to_x, to_phi, to_layer, to_weight, to_bias)
    tiles = layer is None and by_tiles(x, weight.shape[0] + (bias is not None), by_source)
    if not by_source and not tiles and _by_lanes(x, weight.shape[0], sides):
        found = _backward_by_lanes(grad, x, phi, slope, layer, shift, weight, bias, wanted, sides)
    else:
        found = _backward_by_nodes(
            grad, x, phi, slope, layer, shift, weight, bias, by_source, wanted, sides
        )
    return tuple((x.new_empty(0) if g is None else g).to(dtype) for g in found)


def _backward_by_lanes(
    grad: Tensor,
    x: Tensor,
    phi: Tensor,
    slope: float,
    layer: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    wanted: tuple[bool, ...],
    sides: Sides,
) -> list[Tensor | None]:
    """Of some targets at a time, with the hidden features of their edges made anew."""
    to_x, to_phi, to_layer, to_weight, to_bias = wanted
    ptr, _, other, edge = sides[:4]
    assert ptr is not None
    assert other is not None
    hidden, C = weight.shape[:2]
    rows = phi.shape[0]
    targets, sources = _nodes(sides, x)
    message = x.new_zeros(rows, C) if to_x else None
    inner = x.new_zeros(phi.shape) if to_phi else None
    grad_layer = None if layer is None or not to_layer else torch.zeros_like(layer)
    grad_shift = None if layer is None or not to_layer else x.new_zeros(hidden)
    grad_weight = x.new_zeros(C, weight.shape[2], hidden) if to_weight else None
    width = -(-hidden // WIDEST_VECTOR) * WIDEST_VECTOR
    step = CHUNK_NODES["cpu"]
    bounds = [int(p) for p in ptr[torch.arange(0, targets + step, step).clamp(max=targets)]]
    for part, first in enumerate(range(0, targets, step)):
        last = min(first + step, targets)
        start, end = bounds[part], bounds[part + 1]
        if start == end:
            continue
        slots = slice(start, end)
        # Rows of empty slots stay 0.
        a = x.new_zeros(end - start, hidden) if to_phi or to_layer else None
        f = None if grad_weight is None else x.new_zeros(end - start, width)
        options = (phi, layer, shift, None, None, slope, x, grad, weight, bias)
        graph = (ptr, other, edge)
        _ops.lane_ecc_backward_(*options, rows, first, last, *graph, message, a, f)
        at = slots if edge is None else edge[slots]
        if grad_weight is not None:
            _ops.lane_ecc_weight_(f, x, grad, first, last, ptr, other, grad_weight)
        if a is None:
            continue
        if grad_layer is not None and grad_shift is not None:
            grad_layer.addmm_(a.t(), phi[at])
            grad_shift += a.sum(0)
        if inner is not None:
            inner[at] = a if layer is None else a @ layer
    grad_x = grad_bias = None
    if message is not None:
        grad_x = _summed(message, turned(sides, sources))
    if bias is not None and to_bias:
        total = _ops.edge_sum(None, None, None, x, None, None, 1.0, sources, rows, *sides)
        grad_bias = total.t() @ grad
    if grad_weight is not None:
        grad_weight = laid_out(grad_weight.permute(2, 0, 1), weight)
    return [grad_x, inner, grad_layer, grad_shift, grad_weight, grad_bias]


def laid_out(grad: Tensor, weight: Tensor) -> Tensor:
    """A gradient ``[H, C, D]`` as the weight lies in memory: contiguous, or with H last."""
    if weight.is_contiguous():
        return grad.contiguous()
    return grad.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def past_activation(hidden: Tensor, value: Tensor, slope: float) -> Tensor:
    """``value`` times the slope of the activation where ``hidden`` is in it or comes out of it."""
    return torch.where(hidden <= 0, slope * value if slope else 0, value)


def through_layer(
    grad: Tensor,
    hidden: Tensor,
    features: Tensor,
    layer: Tensor,
    slope: float,
    to_features: bool,
    to_layer: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """From ``act(features layerᵀ + shift)`` to the features, the layer and the shift."""
    inner = past_activation(hidden, grad, slope)
    back = inner @ layer if to_features else None
    return (back, inner.t() @ features, inner.sum(0)) if to_layer else (back, None, None)


def _backward_by_nodes(
    grad: Tensor,
    x: Tensor,
    features: Tensor,
    slope: float,
    layer: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    by_source: bool,
    wanted: tuple[bool, ...],
    sides: Sides,
) -> list[Tensor | None]:
    """With a layer's hidden features stored, and gradients to them."""
    to_x, to_phi, to_layer, to_weight, to_bias = wanted
    matrices = weight if bias is None else torch.cat([weight, bias[None]])
    phi, to_hidden = features, to_phi
    if layer is not None:
        phi = activate(torch.nn.functional.linear(features, layer, shift), slope)
        to_hidden = to_phi or to_layer
    needs = (to_x, to_hidden, to_weight or to_bias)
    grad_x, inner, total = _backward_of_product(grad, x, phi, matrices, by_source, *needs, *sides)
    grad_layer = grad_shift = None
    if layer is not None and inner is not None:
        inner, grad_layer, grad_shift = through_layer(
            inner, phi, features, layer, slope, to_phi, to_layer
        )
    grad_weight = None
    if total is not None and to_weight:
        part = total if bias is None else total[:-1].clone()
        grad_weight = laid_out(part, weight)
    grad_bias = None
    if total is not None and bias is not None and to_bias:
        grad_bias = total[-1].clone(memory_format=torch.contiguous_format)
    return [grad_x, inner, grad_layer, grad_shift, grad_weight, grad_bias]


def _backward_of_product(
    grad: Tensor,
    x: Tensor,
    phi: Tensor,
    weight: Tensor,
    by_source: bool,
    to_x: bool,
    to_phi: bool,
    to_weight: bool,
    *sides: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x, φ and W, of which the last may have a column of ones."""
    hidden, C, D = weight.shape
    rows, width = phi.shape
    targets, sources = _nodes(sides, x)
    # Seen from the side whose nodes take the products: `near` has their other factor.
    segments, others = (sources, targets) if by_source else (targets, sources)
    seen = turned(sides, sources) if by_source else sides
    columns, near, far = (D, x, grad) if by_source else (C, grad, x)
    matrices = weight.transpose(1, 2) if by_source else weight  # [H', columns, D or C]
    if by_tiles(x, hidden, by_source):
        return _backward_by_tiles(grad, x, phi, weight, to_x, to_phi, to_weight, sides)
    parts = _Hidden(phi, None, None, 1.0)
    inner = x.new_zeros(rows, hidden) if to_phi else None
    message = x.new_zeros(rows, C) if to_x and not by_source else None
    grad_x = x.new_zeros(x.shape) if to_x and by_source else None
    grad_matrices = None
    if to_weight and matrices.shape[2] < NARROW:
        grad_matrices = x.new_zeros(matrices.shape[2], *matrices.shape[:2]).permute(1, 2, 0)
    elif to_weight:
        grad_matrices = x.new_zeros(matrices.shape)
    buffer = x.new_empty(0)
    for chunk in _chunks(segments, hidden, columns, x):
        part = near[chunk.first : chunk.last]
        options, ones = parts.columns(chunk)
        sizes = (others, rows, chunk.first, chunk.last)
        matrix = _flat(matrices[chunk.h0 : chunk.h1])
        product = chunk.part_of(buffer, columns)
        buffer = product if buffer.numel() < product.numel() else buffer
        if inner is not None or message is not None:
            torch.mm(part, matrix.t(), out=product.flatten(1))
            a = None if inner is None else inner[:, chunk.h0 : chunk.h1]
            graph = (*sizes, *seen[:4])
            _ops.edge_inner_(product, *options, far, None, False, ones, *graph, a, message, True)
        if grad_matrices is not None or grad_x is not None:
            _ops.edge_outer_(*options, far, None, False, ones, *sizes, *seen[:4], product)
            if grad_matrices is not None:
                size = (chunk.shape[1] * columns, part.shape[1])
                to = grad_matrices[chunk.h0 : chunk.h1].view(size)
                to.addmm_(product.flatten(1).t(), part)
            if grad_x is not None:
                grad_x[chunk.first : chunk.last].addmm_(product.flatten(1), matrix)
    if message is not None:
        grad_x = _summed(message, turned(sides, sources))
    if grad_matrices is not None and by_source:
        grad_matrices = grad_matrices.transpose(1, 2).contiguous()
    if inner is not None and hidden > width:
        inner = inner[:, :width].contiguous()
    return grad_x, inner, grad_matrices


def _backward_by_tiles(
    grad: Tensor,
    x: Tensor,
    phi: Tensor,
    weight: Tensor,
    to_x: bool,
    to_phi: bool,
    to_weight: bool,
    sides: Sides,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As `_backward_of_product`, for the targets."""
    hidden, C, _ = weight.shape
    rows, width = phi.shape
    edge = sides[3]
    # Only rows that slots name are written, and of the messages only these are read.
    inner = None if not to_phi else (x.new_empty if edge is None else x.new_zeros)((rows, hidden))
    message = x.new_empty(rows, C) if to_x else None
    total = x.new_empty(weight.shape) if to_weight else None
    options = (phi, x, grad, weight, hidden > width, *sides[:4])
    _ops.tile_ecc_backward_(*options, inner, message, total)
    grad_x = None
    if message is not None:
        grad_x = _summed(message, turned(sides, x.shape[0]))
    if inner is not None and hidden > width:
        inner = inner[:, :width].contiguous()
    return grad_x, inner, total
