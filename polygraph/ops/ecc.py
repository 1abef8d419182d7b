"""Edge-conditioned convolution without any matrix per edge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops._autograd import register_autograd
from polygraph.ops._common import autocast_dtype, cast, check_devices, outside_autocast
from polygraph.ops.edge_conv import ANY_NODES, Sides, _forward, activate, turned
from polygraph.ops.graph import Graph

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


class EdgeLayer(NamedTuple):
    """Hidden features of edges as a layer makes them, ``act(features weightᵀ + bias)``.

    On the CPU they are then made for a few edges at a time, and again in the backward pass.
    """

    features: Tensor  #: ``[E, F]``
    weight: Tensor  #: ``[H, F]``
    bias: Tensor  #: ``[H]``
    slope: float = 0.0  #: of the activation, as in `edge_conv`; not negative


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


def ecc(
    x: Tensor,
    phi: Tensor | tuple[Tensor, Tensor, float] | EdgeLayer,
    weight: Tensor,
    graph: Graph,
    aggr: str = "sum",
    *,
    bias: Tensor | None = None,
    edge_weight: Tensor | None = None,
    side: str | None = None,
) -> Tensor:
    """``out_i = Σ_j γ_ij Θ_ijᵀ x_j``, with C x D matrices ``Θ_ij = Σ_h φ_ij,h W_h (+ W_H)``.

    No Θ is made. Either every target adds up ``φ_ij ⊗ x_j`` and takes one product with all of W, or
    every source does, and its edges combine the results: both cost K times less than a matrix
    per edge. What a node needs for it exists for a few megabytes of nodes at a time. The cheaper
    side is chosen from the sizes.

    Source: Simonovsky and Komodakis, "Dynamic Edge-Conditioned Filters in Convolutional Neural
    Networks on Graphs", CVPR 2017, eq. 1; Gilmer et al., "Neural Message Passing for Quantum
    Chemistry", ICML 2017 (NNConv).

    Args:
        x: sources ``[N, C]``; float32, float64, float16 or bfloat16, any strides.
        phi: hidden features of the edges ``[E, H]``, dtype of ``x``; or made on the fly and never
            stored, ``(u, v, slope)``: ``φ_ij = act(u_i + v_j)`` with u ``[M, H]``, v ``[N, H]``
            and the activation of `edge_conv`; or an `EdgeLayer`.
        weight: W ``[H, C, D]``, or ``[H + 1, C, D]``, whose last is the constant part (the bias of
            the edge network's last layer). Any strides: on the CPU no copy is made of it.
        graph: M targets and N sources.
        aggr: ``"sum"`` or ``"mean"``.
        bias: the constant part ``[C, D]``, with a ``weight [H, C, D]``.
        edge_weight: γ ``[E]``; not with ``(u, v, slope)``.
        side: ``"target"`` or ``"source"`` forces a side; None: the cheaper one.

    Returns:
        ``[M, D]``; 0 for a target without neighbours. Differentiable any number of times in ``x``,
        ``phi`` or what makes it, ``weight``, ``bias`` and ``edge_weight``. Deterministic; some of
        the products are PyTorch's, which may round otherwise on another number of threads.

    Raises:
        ValueError: an option is none of those above.
        RuntimeError: a shape, dtype, device or entry of the graph is wrong (the message names it).
    """
    if aggr not in ("sum", "mean"):
        raise ValueError(f"ecc: aggr must be sum or mean, got {aggr!r}")
    if side not in (None, "target", "source"):
        raise ValueError(f"ecc: side must be target or source, got {side!r}")
    u = v = layer = shift = hidden = None
    slope = 1.0
    if isinstance(phi, Tensor):
        hidden = phi
    elif isinstance(phi, EdgeLayer):
        hidden, layer, shift, slope = phi
        if slope < 0:
            raise ValueError(f"ecc: slope of a layer must not be negative, got {slope}")
    else:
        u, v, slope = phi
    named = {"phi": hidden, "u": u, "v": v, "layer": layer, "shift": shift}
    named |= {"weight": weight, "bias": bias}
    check_devices("ecc", "x", x, **named, **graph._asdict())
    dtype = autocast_dtype(x)
    x, weight, edge_weight = cast(x, dtype), cast(weight, dtype), cast(edge_weight, dtype)
    hidden, u, v = cast(hidden, dtype), cast(u, dtype), cast(v, dtype)
    layer, shift, bias = cast(layer, dtype), cast(shift, dtype), cast(bias, dtype)
    if layer is not None:
        assert hidden is not None
        assert shift is not None
        _check_layer(x, hidden, layer, shift)
        if edge_weight is not None:
            hidden = activate(torch.nn.functional.linear(hidden, layer, shift), slope)
            layer, shift, slope = None, None, 1.0
    wide = hidden if hidden is not None else v
    assert wide is not None
    width = wide.shape[1] if layer is None else layer.shape[0]
    if weight.dim() != 3 or weight.shape[1] != x.shape[-1] or weight.shape[0] - width not in (0, 1):
        raise RuntimeError(
            f"ecc: weight must have shape [H, C, D] or [H + 1, C, D] with H = {width} and "
            f"C = {x.shape[-1]}, got {list(weight.shape)}"
        )
    if weight.shape[0] > width:
        if bias is not None:
            raise ValueError("ecc: with a bias, weight must have shape [H, C, D]")
        weight, last = weight.split([width, 1])
        bias = last[0]
    if bias is not None and (bias.shape != weight.shape[1:] or bias.dtype != x.dtype):
        raise RuntimeError(
            f"ecc: bias must be {x.dtype} of shape {list(weight.shape[1:])}, got {bias.dtype} "
            f"{list(bias.shape)}"
        )
    if edge_weight is not None:
        if hidden is None:
            raise ValueError("ecc: edge_weight needs phi per edge")
        if bias is not None:
            hidden = torch.cat([hidden, hidden.new_ones(hidden.shape[0], 1)], 1)
            weight, bias = torch.cat([weight, bias[None]]), None
        hidden = hidden * edge_weight[:, None]
    by_source = _source_is_cheaper(x, weight, graph) if side is None else side == "source"
    rows = graph.num_slots if hidden is None or graph.edge is None else hidden.shape[0]
    made = (hidden, u, v, slope, layer, shift)
    out: Tensor = _ops.ecc(x, *made, weight, bias, by_source, rows, *_forward(graph))
    return out / graph.degree().clamp(min=1)[:, None].to(out.dtype) if aggr == "mean" else out


def _check_layer(x: Tensor, features: Tensor, layer: Tensor, shift: Tensor) -> None:
    """Shapes and dtypes of an `EdgeLayer`."""
    for name, tensor, dims in (("features", features, 2), ("weight", layer, 2), ("bias", shift, 1)):
        if tensor.dim() != dims or tensor.dtype != x.dtype:
            raise RuntimeError(
                f"ecc: {name} of the layer must be {x.dtype} in {dims} dimensions, got "
                f"{tensor.dtype} {list(tensor.shape)}"
            )
    if layer.shape[1] != features.shape[1] or layer.shape[0] != shift.shape[0]:
        raise RuntimeError(
            f"ecc: the layer must have weight [H, {features.shape[1]}] and bias [H], got "
            f"{list(layer.shape)} and {list(shift.shape)}"
        )


def _source_is_cheaper(x: Tensor, weight: Tensor, graph: Graph) -> bool:
    hidden, C, D = weight.shape
    per_target = graph.num_targets * hidden * C * D + graph.num_slots * hidden * C
    per_source = x.shape[0] * hidden * C * D + graph.num_slots * (hidden + 1) * D
    # At 16 to 3 channels the sources have 0.45 of the operations, and take as long as tiles.
    return per_source < (per_target / 3 if _by_tiles(x, hidden, False) else per_target)


# ---- one operator for the values, one for all first derivatives, and those of these ----
#
# <grad, ecc(x, φ, W)> is linear in each of its four arguments, so the derivatives of its
# derivatives are sums of it and of them with one argument replaced. The bias of W belongs to W, and
# to a constant φ: where φ is replaced, it is left out. With a layer the derivatives are composed,
# as soon as they are to be differentiated again.

_library = torch.library.Library("polygraph", "FRAGMENT")
_SIDES = "Tensor ptr, Tensor? slot, Tensor other, Tensor? edge, Tensor? t_ptr, Tensor? t_slot, "
_SIDES += "Tensor? t_other"
_library.define(
    "ecc(Tensor x, Tensor? phi, Tensor? u, Tensor? v, float slope, Tensor? layer, Tensor? shift, "
    f"Tensor weight, Tensor? bias, bool by_source, int rows, {_SIDES}) -> Tensor"
)
_library.define(
    "ecc_backward(Tensor grad, Tensor x, Tensor phi, float slope, Tensor? layer, Tensor? shift, "
    "Tensor weight, Tensor? bias, bool by_source, bool to_x, bool to_phi, bool to_layer, "
    f"bool to_weight, bool to_bias, {_SIDES}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _by_lanes(x: Tensor, hidden: int, sides: Sides) -> bool:
    """Whether the CPU takes targets side by side in its vectors: their degrees differ little."""
    ptr, other = sides[0], sides[2]
    assert ptr is not None
    assert other is not None
    if not x.is_cpu or other.shape[0] == 0 or ptr.shape[0] < 2:
        return False
    degree = ptr.diff()
    most = int(degree.max())
    bytes_each = LANE_TARGETS * x.element_size()
    if most * (hidden + x.shape[1]) * bytes_each > LANE_BYTES or int(degree.min()) < 0:
        return False
    filled = torch.nn.functional.pad(degree, (0, -degree.shape[0] % LANE_TARGETS))
    slots = LANE_TARGETS * int(filled.view(-1, LANE_TARGETS).amax(1).sum())
    return slots <= LANE_SHARE * (other.shape[0] + LANE_TARGETS * most)


def _by_tiles(x: Tensor, hidden: int, by_source: bool) -> bool:
    """Whether the CPU takes some targets at a time from the edges through the weights."""
    return x.is_cpu and not by_source and hidden * x.shape[1] <= FEW


def _chunks(segments: int, hidden: int, columns: int, like: Tensor) -> Iterator[Chunk]:
    """Nodes, and of them columns of φ, whose products, ``columns`` numbers each, fit the budget.

    Many nodes come before many columns: a product with W must not read W for a few rows.
    """
    device = like.device.type
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
    matrix = weight.reshape(-1, weight.shape[2])
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


def _widened(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Half types in float32 on the CPU, whose kernels know none."""
    return tuple(
        t.float() if t is not None and t.is_cpu and t.dtype in (torch.half, torch.bfloat16) else t
        for t in tensors
    )


def _ecc(
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
    dtype = x.dtype
    x, phi, u, v, weight = _widened(x.contiguous(), phi, u, v, weight)  # type: ignore[assignment]
    layer, shift, bias = _widened(layer, shift, bias)
    targets, sources = _nodes(sides, x)
    stored = phi is not None and layer is None
    tiles = stored and _by_tiles(x, weight.shape[0] + (bias is not None), by_source)
    if not by_source and not tiles and _by_lanes(x, weight.shape[0], sides):
        out = x.new_empty(targets, weight.shape[2])
        options = (phi, layer, shift, u, v, slope)
        _ops.lane_ecc_(*options, x, weight, bias, rows, sides[0], sides[2], sides[3], out)
        return out.to(dtype)
    if layer is not None:
        assert phi is not None
        phi = activate(torch.nn.functional.linear(phi, layer, shift), slope)
    weight = weight if bias is None else torch.cat([weight, bias[None]])
    hidden, C, D = weight.shape
    if _by_tiles(x, hidden, by_source):
        out = x.new_empty(targets, D)
        made = v if phi is None else phi
        assert made is not None
        ones = hidden > made.shape[1]
        _ops.tile_ecc_(phi, u, v, slope, x, weight, ones, rows, *sides[:4], out)
        return out.to(dtype)
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
        return out.to(dtype)
    parts = _Hidden(phi, v, u, slope)
    back = turned(sides, sources)
    message = x.new_zeros(rows, D)
    for chunk in _chunks(sources, hidden, D, x):
        matrix = weight[chunk.h0 : chunk.h1].transpose(0, 1).reshape(C, -1)
        y = torch.mm(x[chunk.first : chunk.last], matrix).view(*chunk.shape, D)
        options, ones = parts.columns(chunk)
        sizes = (targets, rows, chunk.first, chunk.last)
        _ops.edge_inner_(
            y, *options, None, None, False, ones, *sizes, *back[:4], None, message, True
        )
    numbers = (1.0, ANY_NODES, rows)
    total = _ops.edge_sum(None, None, None, None, message, None, *numbers, *sides)
    return total.to(dtype)


def _nodes(sides: Sides, x: Tensor) -> tuple[int, int]:
    """Targets and sources."""
    assert sides[0] is not None
    return sides[0].shape[0] - 1, x.shape[0]


def _ecc_backward(
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
    dtype = x.dtype
    grad, x = grad.contiguous(), x.contiguous()
    grad, x, phi, weight = _widened(grad, x, phi, weight)  # type: ignore[assignment]
    layer, shift, bias = _widened(layer, shift, bias)
    wanted = (to_x, to_phi, to_layer, to_weight, to_bias)
    tiles = layer is None and _by_tiles(x, weight.shape[0] + (bias is not None), by_source)
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
    numbers = (1.0, ANY_NODES, rows)
    if message is not None:
        values = (None, None, None, None, message, None)
        grad_x = _ops.edge_sum(*values, *numbers, *turned(sides, sources))
    if bias is not None and to_bias:
        total = _ops.edge_sum(None, None, None, x, None, None, 1.0, sources, rows, *sides)
        grad_bias = total.t() @ grad
    if grad_weight is not None:
        grad_weight = _laid_out(grad_weight.permute(2, 0, 1), weight)
    return [grad_x, inner, grad_layer, grad_shift, grad_weight, grad_bias]


def _laid_out(grad: Tensor, weight: Tensor) -> Tensor:
    """A gradient ``[H, C, D]`` as the weight lies in memory: contiguous, or with H last."""
    if weight.is_contiguous():
        return grad.contiguous()
    return grad.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def _through_layer(
    grad: Tensor,
    hidden: Tensor,
    features: Tensor,
    layer: Tensor,
    slope: float,
    to_features: bool,
    to_layer: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """From ``act(features layerᵀ + shift)`` to the features, the layer and the shift."""
    inner = torch.where(hidden > 0, grad, slope * grad)
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
        inner, grad_layer, grad_shift = _through_layer(
            inner, phi, features, layer, slope, to_phi, to_layer
        )
    grad_weight = None
    if total is not None and to_weight:
        part = total if bias is None else total[:-1].clone()
        grad_weight = _laid_out(part, weight)
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
    if _by_tiles(x, hidden, by_source):
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
                to = grad_matrices[chunk.h0 : chunk.h1].view(-1, part.shape[1])
                to.addmm_(product.flatten(1).t(), part)
            if grad_x is not None:
                grad_x[chunk.first : chunk.last].addmm_(product.flatten(1), matrix)
    if message is not None:
        values = (None, None, None, None, message, None, 1.0, ANY_NODES, rows)
        grad_x = _ops.edge_sum(*values, *turned(sides, sources))
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
        values = (None, None, None, None, message, None, 1.0, ANY_NODES, rows)
        grad_x = _ops.edge_sum(*values, *turned(sides, x.shape[0]))
    if inner is not None and hidden > width:
        inner = inner[:, :width].contiguous()
    return grad_x, inner, total


for _key in ("CPU", "CUDA"):
    _library.impl("ecc", outside_autocast(_ecc), _key)
    _library.impl("ecc_backward", outside_autocast(_ecc_backward), _key)


def _write_only(*arguments: Any) -> None:
    return None


_WRITERS = ("edge_outer_", "edge_inner_", "tile_ecc_", "tile_ecc_backward_")
for _name in (*_WRITERS, "lane_ecc_", "lane_ecc_backward_", "lane_ecc_weight_"):
    torch.library.register_fake(f"polygraph::{_name}", _write_only)


@torch.library.register_fake("polygraph::ecc")
def _(
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
    ptr: Tensor,
    *sides: Tensor | None,
) -> Tensor:
    return x.new_empty(ptr.shape[0] - 1, weight.shape[2])


@torch.library.register_fake("polygraph::ecc_backward")
def _(
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
    has_layer = to_layer and layer is not None
    return (
        x.new_empty(x.shape if to_x else (0,)),
        x.new_empty(phi.shape if to_phi else (0,)),
        x.new_empty(layer.shape if has_layer and layer is not None else (0,)),
        x.new_empty(shift.shape if has_layer and shift is not None else (0,)),
        _laid_out(weight.new_empty(weight.shape), weight) if to_weight else x.new_empty(0),
        x.new_empty(weight.shape[1:] if to_bias and bias is not None else (0,)),
    )


def _ecc_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, phi, u, v, ctx.slope, layer, shift, weight, bias, ctx.by_source, ctx.rows, *sides = inputs
    ctx.save_for_backward(x, phi, u, v, layer, shift, weight, bias, *sides)


def _ecc_formula(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, phi, u, v, layer, shift, weight, bias, *sides = ctx.saved_tensors
    needs = ctx.needs_input_grad
    to_layer = needs[5] or needs[6]
    rest = (None,) * 9
    if u is None and (layer is None or not torch.is_grad_enabled()):
        wanted = (needs[0], needs[1], to_layer, needs[7], needs[8])
        options = (ctx.slope, layer, shift, weight, bias, ctx.by_source)
        grads = _ops.ecc_backward(grad, x, phi, *options, *wanted, *sides)
        kept = (needs[0], needs[1], needs[5], needs[6], needs[7], needs[8])
        to = [g if w else None for g, w in zip(grads, kept, strict=True)]
        return to[0], to[1], None, None, None, to[2], to[3], to[4], to[5], *rest
    sides = _complete(sides, x.shape[0])
    options = (1.0, None, None, weight, bias, ctx.by_source)
    if layer is not None:
        # To be differentiated again: step by step, with the hidden features stored.
        features = phi
        hidden = activate(torch.nn.functional.linear(features, layer, shift), ctx.slope)
        wanted = (needs[0], needs[1] or to_layer, False, needs[7], needs[8])
        grads = _ops.ecc_backward(grad, x, hidden, *options, *wanted, *sides)
        to_features = to_weight = to_shift = None
        if wanted[1]:
            to_features, to_weight, to_shift = _through_layer(
                grads[1], hidden, features, layer, ctx.slope, needs[1], to_layer
            )
        to_x = grads[0] if needs[0] else None
        last = (grads[4] if needs[7] else None, grads[5] if needs[8] else None)
        return to_x, to_features, None, None, None, to_weight, to_shift, *last, *rest
    # φ from the nodes is made again, and stored for as long as this takes.
    masks = (None, None) if ctx.slope == 1 else (u, v)
    numbers = (ctx.slope, v.shape[0], ctx.rows)
    phi = _ops.edge_values(*masks, u, v, None, *numbers, *sides)
    wanted = (needs[0], needs[2] or needs[3], False, needs[7], needs[8])
    grads = _ops.ecc_backward(grad, x, phi, *options, *wanted, *sides)
    to_u = to_v = None
    if needs[2]:
        to_u = _ops.edge_sum(*masks, None, None, grads[1], None, *numbers, *sides)
    if needs[3]:
        back = turned(tuple(sides), v.shape[0])
        numbers = (ctx.slope, u.shape[0], ctx.rows)
        to_v = _ops.edge_sum(*masks[::-1], None, None, grads[1], None, *numbers, *back)
    to_x = grads[0] if needs[0] else None
    last = (grads[4] if needs[7] else None, grads[5] if needs[8] else None)
    return to_x, None, to_u, to_v, None, None, None, *last, *rest


def _complete(sides: Any, others: int) -> Sides:
    """The graph with its other side."""
    back = turned(tuple(sides), others)
    return (*back[4:], back[3], *back[:3])


def _ecc_backward_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, x, phi, _, layer, _, weight, bias, ctx.by_source, *wanted = inputs[:14]
    ctx.wanted, ctx.layered = wanted, layer is not None
    ctx.save_for_backward(grad, x, phi, weight, bias, *inputs[14:])


def _ecc_backward_formula(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.layered:
        raise RuntimeError("ecc_backward: with a layer, it is not differentiated again")
    for_x, for_phi, _, _, for_weight, for_bias = given
    grad, x, phi, weight, bias, *sides = ctx.saved_tensors
    by_source = ctx.by_source
    needs = ctx.needs_input_grad
    needs = (*needs[:3], needs[6], needs[7])
    sides = _complete(sides, x.shape[0])
    rows = phi.shape[0]
    to_x, to_phi, _, to_weight, to_bias = ctx.wanted
    # (x, φ, W and its bias) with one of the three replaced by what its derivative is multiplied
    # with. Neither bias nor φ is there where the other is replaced.
    terms: list[tuple[int, Tensor, Tensor, Tensor, Tensor | None]] = []
    if to_x:
        terms.append((1, for_x, phi, weight, bias))
    if to_phi:
        terms.append((2, x, for_phi, weight, None))
    if to_weight or to_bias:
        matrices = for_weight if to_weight else torch.zeros_like(weight)
        terms.append((3, x, phi, matrices, for_bias if to_bias else None))
    found: list[Tensor | None] = [None] * 5

    def add(place: int, part: Tensor) -> None:
        before = found[place]
        found[place] = part if before is None else before + part

    for replaced, x_, phi_, weight_, bias_ in terms:
        options = (1.0, None, None, weight_, bias_, by_source)
        if needs[0]:
            add(0, _ops.ecc(x_, phi_, None, None, *options, rows, *sides))
        wanted = [needs[i] and i != replaced for i in (1, 2, 3)]
        wanted.append(needs[4] and replaced != 3 and bias_ is not None)
        if any(wanted):
            flags = (*wanted[:2], False, *wanted[2:])
            parts = _ops.ecc_backward(grad, x_, phi_, *options, *flags, *sides)
            for place, part in enumerate((parts[0], parts[1], parts[4], parts[5])):
                if wanted[place]:
                    add(place + 1, part)
    to_grad, x_part, phi_part, weight_part, bias_part = found
    return to_grad, x_part, phi_part, *(None,) * 3, weight_part, bias_part, *(None,) * 13


register_autograd("ecc", _ecc_formula, setup_context=_ecc_save)
register_autograd("ecc_backward", _ecc_backward_formula, setup_context=_ecc_backward_save)
