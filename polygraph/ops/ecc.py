"""Edge-conditioned convolution without any matrix per edge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops._common import autocast_dtype, cast, check_devices
from polygraph.ops.edge_conv import ANY_NODES, Sides, _forward, turned
from polygraph.ops.graph import Graph

_load.load_libraries()
_ops = torch.ops.polygraph

# Nodes whose products exist at a time, and the bytes of these: in the cache of a CPU, enough to
# fill a GPU.
CHUNK_NODES = {"cpu": 256, "cuda": 1 << 16}
CHUNK_BYTES = {"cpu": 6 << 20, "cuda": 256 << 20}
# Four times as many nodes where the products of a node are few (9 x 16 numbers on a mesh: training
# steps are 1.1 to 1.6 times as fast); sixteen times as many lose that again on one thread.
SMALL_BYTES = 1 << 20


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
    phi: Tensor | tuple[Tensor, Tensor, float],
    weight: Tensor,
    graph: Graph,
    aggr: str = "sum",
    *,
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
            and the activation of `edge_conv`.
        weight: W ``[H, C, D]``, or ``[H + 1, C, D]``, whose last is the constant part (the bias of
            the edge network's last layer).
        graph: M targets and N sources.
        aggr: ``"sum"`` or ``"mean"``.
        edge_weight: γ ``[E]``; only with ``phi`` given per edge.
        side: ``"target"`` or ``"source"`` forces a side; None: the cheaper one.

    Returns:
        ``[M, D]``; 0 for a target without neighbours. Differentiable any number of times in ``x``,
        ``phi``, ``weight`` and ``edge_weight``. Deterministic; the products with W are PyTorch's,
        which may round otherwise on another number of threads.

    Raises:
        ValueError: an option is none of those above.
        RuntimeError: a shape, dtype, device or entry of the graph is wrong (the message names it).
    """
    if aggr not in ("sum", "mean"):
        raise ValueError(f"ecc: aggr must be sum or mean, got {aggr!r}")
    if side not in (None, "target", "source"):
        raise ValueError(f"ecc: side must be target or source, got {side!r}")
    given = isinstance(phi, Tensor)
    u, v, slope = (None, None, 1.0) if isinstance(phi, Tensor) else phi
    hidden = phi if isinstance(phi, Tensor) else None
    check_devices("ecc", "x", x, phi=hidden, u=u, v=v, weight=weight, **graph._asdict())
    dtype = autocast_dtype(x)
    x, weight, edge_weight = cast(x, dtype), cast(weight, dtype), cast(edge_weight, dtype)
    hidden, u, v = cast(hidden, dtype), cast(u, dtype), cast(v, dtype)
    width = (hidden if hidden is not None else v).shape[1]  # type: ignore[union-attr]
    if weight.dim() != 3 or weight.shape[1] != x.shape[-1] or weight.shape[0] - width not in (0, 1):
        raise RuntimeError(
            f"ecc: weight must have shape [H, C, D] or [H + 1, C, D] with H = {width} and "
            f"C = {x.shape[-1]}, got {list(weight.shape)}"
        )
    if edge_weight is not None:
        if hidden is None:
            raise ValueError("ecc: edge_weight needs phi per edge")
        if weight.shape[0] > width:
            hidden = torch.cat([hidden, hidden.new_ones(hidden.shape[0], 1)], 1)
        hidden = hidden * edge_weight[:, None]
    by_source = _source_is_cheaper(x, weight, graph) if side is None else side == "source"
    rows = graph.num_slots
    if given and graph.edge is not None:
        assert hidden is not None
        rows = hidden.shape[0]
    out: Tensor = _ops.ecc(x, hidden, u, v, slope, weight, by_source, rows, *_forward(graph))
    return out / graph.degree().clamp(min=1)[:, None].to(out.dtype) if aggr == "mean" else out


def _source_is_cheaper(x: Tensor, weight: Tensor, graph: Graph) -> bool:
    hidden, C, D = weight.shape
    per_target = graph.num_targets * hidden * C * D + graph.num_slots * hidden * C
    per_source = x.shape[0] * hidden * C * D + graph.num_slots * (hidden + 1) * D
    return per_source < per_target


# ---- one operator for the values, one for all first derivatives, and those of these ----
#
# <grad, ecc(x, φ, W)> is linear in each of its four arguments, so the derivatives of its
# derivatives are sums of it and of them with one argument replaced. A column of ones behind φ is
# constant: where φ is replaced, the last W is left out.

_library = torch.library.Library("polygraph", "FRAGMENT")
_SIDES = "Tensor ptr, Tensor? slot, Tensor other, Tensor? edge, Tensor? t_ptr, Tensor? t_slot, "
_SIDES += "Tensor? t_other"
_library.define(
    "ecc(Tensor x, Tensor? phi, Tensor? u, Tensor? v, float slope, Tensor weight, bool by_source, "
    f"int rows, {_SIDES}) -> Tensor"
)
_library.define(
    "ecc_backward(Tensor grad, Tensor x, Tensor phi, Tensor weight, bool by_source, bool to_x, "
    f"bool to_phi, bool to_weight, {_SIDES}) -> (Tensor, Tensor, Tensor)"
)


def _chunks(segments: int, hidden: int, columns: int, like: Tensor) -> Iterator[Chunk]:
    """Nodes, and of them columns of φ, whose products, ``columns`` numbers each, fit the budget.

    Many nodes come before many columns: a product with W must not read W for a few rows.
    """
    device = like.device.type
    nodes = CHUNK_NODES[device]
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
    weight: Tensor,
    by_source: bool,
    rows: int,
    *sides: Tensor | None,
) -> Tensor:
    dtype = x.dtype
    x, phi, u, v, weight = _widened(x.contiguous(), phi, u, v, weight)  # type: ignore[assignment]
    hidden, C, D = weight.shape
    targets, sources = _nodes(sides, x)
    if not by_source:
        parts = _Hidden(phi, u, v, slope)
        out = x.new_zeros(targets, D)
        buffer = x.new_empty(0)
        for chunk in _chunks(targets, hidden, C, x):
            z = chunk.part_of(buffer, C)
            buffer = z if buffer.numel() < z.numel() else buffer
            options, ones = parts.columns(chunk)
            sizes = (sources, rows, chunk.first, chunk.last)
            _ops.edge_outer_(*options, x, False, ones, *sizes, *sides[:4], z)
            matrix = weight[chunk.h0 : chunk.h1].reshape(-1, D)
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
        _ops.edge_inner_(y, *options, None, False, ones, *sizes, *back[:4], None, message, True)
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
    weight: Tensor,
    by_source: bool,
    to_x: bool,
    to_phi: bool,
    to_weight: bool,
    *sides: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = x.dtype
    grad, x = grad.contiguous(), x.contiguous()
    grad, x, phi, weight = _widened(grad, x, phi, weight)  # type: ignore[assignment]
    hidden, C, D = weight.shape
    rows, width = phi.shape
    targets, sources = _nodes(sides, x)
    # Seen from the side whose nodes take the products: `near` has their other factor.
    segments, others = (sources, targets) if by_source else (targets, sources)
    seen = turned(sides, sources) if by_source else sides
    columns, near, far = (D, x, grad) if by_source else (C, grad, x)
    matrices = weight.transpose(1, 2) if by_source else weight  # [H', columns, D or C]
    parts = _Hidden(phi, None, None, 1.0)
    inner = x.new_zeros(rows, hidden) if to_phi else None
    message = x.new_zeros(rows, C) if to_x and not by_source else None
    grad_x = x.new_zeros(x.shape) if to_x and by_source else None
    grad_matrices = x.new_zeros(matrices.shape) if to_weight else None
    buffer = x.new_empty(0)
    for chunk in _chunks(segments, hidden, columns, x):
        part = near[chunk.first : chunk.last]
        options, ones = parts.columns(chunk)
        sizes = (others, rows, chunk.first, chunk.last)
        matrix = matrices[chunk.h0 : chunk.h1].reshape(-1, part.shape[1])
        product = chunk.part_of(buffer, columns)
        buffer = product if buffer.numel() < product.numel() else buffer
        if inner is not None or message is not None:
            torch.mm(part, matrix.t(), out=product.flatten(1))
            a = None if inner is None else inner[:, chunk.h0 : chunk.h1]
            graph = (*sizes, *seen[:4])
            _ops.edge_inner_(product, *options, far, False, ones, *graph, a, message, True)
        if grad_matrices is not None or grad_x is not None:
            _ops.edge_outer_(*options, far, False, ones, *sizes, *seen[:4], product)
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
    found = [x.new_empty(0) if g is None else g for g in (grad_x, inner, grad_matrices)]
    return found[0].to(dtype), found[1].to(dtype), found[2].to(dtype)


for _key in ("CPU", "CUDA"):
    _library.impl("ecc", _ecc, _key)
    _library.impl("ecc_backward", _ecc_backward, _key)


@torch.library.register_fake("polygraph::edge_outer_")
def _(*arguments: Any) -> None:
    return None


@torch.library.register_fake("polygraph::edge_inner_")
def _(*arguments: Any) -> None:
    return None


@torch.library.register_fake("polygraph::ecc")
def _(
    x: Tensor,
    phi: Tensor | None,
    u: Tensor | None,
    v: Tensor | None,
    slope: float,
    weight: Tensor,
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
    weight: Tensor,
    by_source: bool,
    to_x: bool,
    to_phi: bool,
    to_weight: bool,
    *sides: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if to_x else (0,)),
        x.new_empty(phi.shape if to_phi else (0,)),
        x.new_empty(weight.shape if to_weight else (0,)),
    )


def _ecc_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, phi, u, v, ctx.slope, weight, ctx.by_source, ctx.rows, *sides = inputs
    ctx.save_for_backward(x, phi, u, v, weight, *sides)


def _ecc_formula(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, phi, u, v, weight, *sides = ctx.saved_tensors
    needs = ctx.needs_input_grad
    if u is None:
        wanted = (needs[0], needs[1], needs[5])
        grads = _ops.ecc_backward(grad, x, phi, weight, ctx.by_source, *wanted, *sides)
        to_x, to_phi, to_weight = (g if w else None for g, w in zip(grads, wanted, strict=True))
        return to_x, to_phi, None, None, None, to_weight, *(None,) * 9
    # φ from the nodes is made again, and stored for as long as this takes.
    sides = _complete(sides, x.shape[0])
    masks = (None, None) if ctx.slope == 1 else (u, v)
    numbers = (ctx.slope, v.shape[0], ctx.rows)
    phi = _ops.edge_values(*masks, u, v, None, *numbers, *sides)
    wanted = (needs[0], needs[2] or needs[3], needs[5])
    grads = _ops.ecc_backward(grad, x, phi, weight, ctx.by_source, *wanted, *sides)
    to_x, to_phi, to_weight = (g if w else None for g, w in zip(grads, wanted, strict=True))
    to_u = to_v = None
    if needs[2]:
        to_u = _ops.edge_sum(*masks, None, None, to_phi, None, *numbers, *sides)
    if needs[3]:
        back = turned(tuple(sides), v.shape[0])
        numbers = (ctx.slope, u.shape[0], ctx.rows)
        to_v = _ops.edge_sum(*masks[::-1], None, None, to_phi, None, *numbers, *back)
    return to_x, None, to_u, to_v, None, to_weight, *(None,) * 9


def _complete(sides: Any, others: int) -> Sides:
    """The graph with its other side."""
    back = turned(tuple(sides), others)
    return (*back[4:], back[3], *back[:3])


def _ecc_backward_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, x, phi, weight, ctx.by_source, *wanted = inputs[:8]
    ctx.wanted = wanted
    ctx.save_for_backward(grad, x, phi, weight, *inputs[8:])


def _ecc_backward_formula(
    ctx: Any, for_x: Tensor, for_phi: Tensor, for_weight: Tensor
) -> tuple[Tensor | None, ...]:
    grad, x, phi, weight, *sides = ctx.saved_tensors
    by_source = ctx.by_source
    needs = ctx.needs_input_grad[:4]
    sides = _complete(sides, x.shape[0])
    width, rows = phi.shape[1], phi.shape[0]
    # (x, φ, W) with one of the three replaced by what its derivative is multiplied with.
    terms = []
    if ctx.wanted[0]:
        terms.append((0, for_x, phi, weight))
    if ctx.wanted[1]:
        terms.append((1, x, for_phi, weight[:width]))
    if ctx.wanted[2]:
        terms.append((2, x, phi, for_weight))
    found: list[Tensor | None] = [None] * 4

    def add(place: int, part: Tensor) -> None:
        before = found[place]
        found[place] = part if before is None else before + part

    for replaced, x_, phi_, weight_ in terms:
        if needs[0]:
            add(0, _ops.ecc(x_, phi_, None, None, 1.0, weight_, by_source, rows, *sides))
        wanted = [needs[i + 1] and i != replaced for i in range(3)]
        if any(wanted):
            parts = _ops.ecc_backward(grad, x_, phi_, weight_, by_source, *wanted, *sides)
            for i in range(3):
                if wanted[i]:
                    part = parts[i]
                    if i == 2 and part.shape[0] < weight.shape[0]:
                        part = torch.nn.functional.pad(part, (0, 0, 0, 0, 0, 1))
                    add(i + 1, part)
    return *found, *(None,) * 11


torch.library.register_autograd("polygraph::ecc", _ecc_formula, setup_context=_ecc_save)
torch.library.register_autograd(
    "polygraph::ecc_backward", _ecc_backward_formula, setup_context=_ecc_backward_save
)
