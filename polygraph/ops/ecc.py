"""Edge-conditioned convolution without any matrix per edge."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops._autograd import recording, register_autograd
from polygraph.ops._common import (
    HALF_TYPES,
    autocast_disabled,
    autocast_dtype,
    cast,
    check_devices,
    decide,
    outside_autocast,
    wide,
)
from polygraph.ops._ecc_ways import (
    by_tiles,
    ecc_gradients,
    ecc_values,
    laid_out,
    past_activation,
    through_layer,
    widened,
)
from polygraph.ops.edge_conv import Sides, _forward, activate, complete, turned
from polygraph.ops.graph import Graph

_load.load_libraries()
_ops = torch.ops.polygraph


class EdgeLayer(NamedTuple):
    """Hidden features of edges as a layer makes them, ``act(features weightᵀ + bias)``.

    On the CPU they are then made for a few edges at a time, and again in the backward pass.
    """

    features: Tensor  #: ``[E, F]``
    weight: Tensor  #: ``[H, F]``
    bias: Tensor  #: ``[H]``
    slope: float = 0.0  #: of the activation, as in `edge_conv`; not negative


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
        x: sources ``[N, C]``; float32, float64, float16 or bfloat16 (half types are computed in
            float32), any strides.
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
        the products are PyTorch's, which may round otherwise on another number of threads, and on
        CUDA repeat bit for bit with ``CUBLAS_WORKSPACE_CONFIG=:4096:8``. Half types are rounded
        once, at the end; of a mean, after the division.

        What is not finite in ``x``, φ or γ makes the targets that it reaches not finite, and no
        others: NaN or infinity, which of them is not told. W must be finite.

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
    named |= {"weight": weight, "bias": bias, "edge_weight": edge_weight}
    check_devices("ecc", "x", x, **named, **graph._asdict())
    dtype = autocast_dtype(x)
    x, weight, edge_weight = cast(x, dtype), cast(weight, dtype), cast(edge_weight, dtype)
    hidden, u, v = cast(hidden, dtype), cast(u, dtype), cast(v, dtype)
    layer, shift, bias = cast(layer, dtype), cast(shift, dtype), cast(bias, dtype)
    result = x.dtype
    if layer is not None:
        assert hidden is not None
        assert shift is not None
        _check_layer(x, hidden, layer, shift)
        if edge_weight is not None:
            with autocast_disabled(x):
                hidden = torch.nn.functional.linear(wide(hidden), wide(layer), wide(shift))
            hidden = activate(hidden, slope)
            layer, shift, slope = None, None, 1.0
    columns = hidden if hidden is not None else v
    assert columns is not None
    width = columns.shape[1] if layer is None else layer.shape[0]
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
        x, hidden, weight, edge_weight = wide(x), wide(hidden), wide(weight), wide(edge_weight)
        bias = wide(bias)
        if bias is not None:
            hidden = torch.cat([hidden, hidden.new_ones(hidden.shape[0], 1)], 1)
            weight, bias = torch.cat([weight, bias[None]]), None
        hidden = hidden * edge_weight[:, None]
    by_source = _source_is_cheaper(x, weight, graph) if side is None else side == "source"
    if by_source:  # here, not in the operator: its derivatives take the same one
        graph = graph.with_transposed(x.shape[0])
    rows = graph.num_slots if hidden is None or graph.edge is None else hidden.shape[0]
    made = (hidden, u, v, slope, layer, shift)
    out: Tensor = _ops.ecc(x, *made, weight, bias, by_source, rows, *_forward(graph))
    if aggr == "mean":
        out = out / graph.degree().clamp(min=1)[:, None].to(out.dtype)
    return out.to(result)


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
    # Sizes of tensors, for torch.compile of 2.10 makes no numbers of the graph's properties.
    targets, slots = graph.ptr.shape[0] - 1, graph.source.shape[0]
    per_target = targets * hidden * C * D + slots * hidden * C
    per_source = x.shape[0] * hidden * C * D + slots * (hidden + 1) * D
    # At 16 to 3 channels the sources have 0.45 of the operations, and take as long as tiles.
    factor = 3 if by_tiles(x, hidden, False) else 1
    return decide(factor * per_source < per_target, default=False)


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
    f"Tensor weight, Tensor? bias, bool by_source, SymInt rows, {_SIDES}) -> Tensor"
)
_library.define(
    "ecc_backward(Tensor grad, Tensor x, Tensor phi, float slope, Tensor? layer, Tensor? shift, "
    "Tensor weight, Tensor? bias, bool by_source, bool to_x, bool to_phi, bool to_layer, "
    f"bool to_weight, bool to_bias, {_SIDES}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


for _key in ("CPU", "CUDA"):
    _library.impl("ecc", outside_autocast(ecc_values), _key)
    _library.impl("ecc_backward", outside_autocast(ecc_gradients), _key)


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
    dtype = torch.float32 if x.dtype in HALF_TYPES else x.dtype
    return x.new_empty(ptr.shape[0] - 1, weight.shape[2], dtype=dtype)


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
        laid_out(weight.new_empty(weight.shape), weight) if to_weight else x.new_empty(0),
        x.new_empty(weight.shape[1:] if to_bias and bias is not None else (0,)),
    )


def _ecc_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, phi, u, v, ctx.slope, layer, shift, weight, bias, ctx.by_source, ctx.rows, *sides = inputs
    ctx.save_for_backward(x, phi, u, v, layer, shift, weight, bias, *sides)


def _ecc_formula(ctx: Any, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    x, phi, u, v, layer, shift, weight, bias, *sides = saved
    needs = ctx.needs_input_grad
    to_layer = needs[5] or needs[6]
    rest = (None,) * 9
    if u is None and (layer is None or not recording()):
        wanted = (needs[0], needs[1], to_layer, needs[7], needs[8])
        options = (ctx.slope, layer, shift, weight, bias, ctx.by_source)
        grads = _ops.ecc_backward(grad, x, phi, *options, *wanted, *sides)
        kept = (needs[0], needs[1], needs[5], needs[6], needs[7], needs[8])
        to = [g if w else None for g, w in zip(grads, kept, strict=True)]
        return to[0], to[1], None, None, None, to[2], to[3], to[4], to[5], *rest
    # Several operators: half types are rounded once, behind the last.
    with autocast_disabled(x):
        values: Any = widened(grad, x, phi, u, v, layer, shift, weight, bias)
        found = _composed_gradients(ctx, complete(sides, x.shape[0]), *values)
    return *(cast(g, x.dtype) for g in found), *rest


def _composed_gradients(
    ctx: Any,
    sides: Sides,
    grad: Any,
    x: Any,
    phi: Any,
    u: Any,
    v: Any,
    layer: Any,
    shift: Any,
    weight: Any,
    bias: Any,
) -> tuple[Tensor | None, ...]:
    """Gradients to the first nine arguments of ``ecc``, with its hidden features stored."""
    needs = ctx.needs_input_grad
    to_layer = needs[5] or needs[6]
    options = (1.0, None, None, weight, bias, ctx.by_source)
    if layer is not None:
        # To be differentiated again: step by step, with the hidden features stored.
        features = phi
        hidden = activate(torch.nn.functional.linear(features, layer, shift), ctx.slope)
        wanted = (needs[0], needs[1] or to_layer, False, needs[7], needs[8])
        grads = _ops.ecc_backward(grad, x, hidden, *options, *wanted, *sides)
        to_features = to_weight = to_shift = None
        if wanted[1]:
            to_features, to_weight, to_shift = through_layer(
                grads[1], hidden, features, layer, ctx.slope, needs[1], to_layer
            )
        to_x = grads[0] if needs[0] else None
        last = (grads[4] if needs[7] else None, grads[5] if needs[8] else None)
        return to_x, to_features, None, None, None, to_weight, to_shift, *last
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
    return to_x, None, to_u, to_v, None, None, None, *last


def _ecc_backward_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, x, phi, _, layer, _, weight, bias, ctx.by_source, *wanted = inputs[:14]
    ctx.wanted, ctx.layered = wanted, layer is not None
    ctx.save_for_backward(grad, x, phi, weight, bias, *inputs[14:])


def _ecc_backward_formula(
    ctx: Any, saved: tuple[Any, ...], *given: Tensor
) -> tuple[Tensor | None, ...]:
    if ctx.layered:
        raise RuntimeError("ecc_backward: with a layer, it is not differentiated again")
    for_x, for_phi, _, _, for_weight, for_bias = given
    grad, x, phi, weight, bias = saved[:5]
    by_source = ctx.by_source
    needs = ctx.needs_input_grad
    needs = (*needs[:3], needs[6], needs[7])
    sides = complete(saved[5:], x.shape[0])
    rows = phi.shape[0]
    to_x, to_phi, _, to_weight, to_bias = ctx.wanted
    to_bias = to_bias and bias is not None
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


def _ecc_jvp(inputs: Any, output: Tensor, tangents: Any) -> Tensor:
    x, phi, u, v, slope, layer, shift, weight, bias, by_source, rows, *sides = inputs
    for_x, for_phi, for_u, for_v, _, for_layer, for_shift, for_weight, for_bias = tangents[:9]
    made = (phi, u, v, slope, layer, shift)
    options = (by_source, rows, *sides)
    parts = []
    if for_x is not None:
        parts.append(_ops.ecc(for_x, *made, weight, bias, *options))
    if for_weight is not None or for_bias is not None:
        matrices = torch.zeros_like(weight) if for_weight is None else for_weight
        parts.append(_ops.ecc(x, *made, matrices, for_bias, *options))
    for_hidden = for_phi
    if layer is not None and any(t is not None for t in (for_phi, for_layer, for_shift)):
        hidden = torch.nn.functional.linear(phi, layer, shift)
        moved = for_shift
        if for_phi is not None:
            moved = torch.nn.functional.linear(for_phi, layer, moved)
        if for_layer is not None:
            part = torch.nn.functional.linear(phi, for_layer)
            moved = part if moved is None else part + moved
        for_hidden = past_activation(hidden, moved, slope)
    elif for_u is not None or for_v is not None:
        masks = (None, None) if slope == 1 else (u, v)
        values = (for_u, for_v, None, slope, x.shape[0], rows)
        for_hidden = _ops.edge_values(*masks, *values, *sides)
    if for_hidden is not None:
        plain = (for_hidden, None, None, 1.0, None, None)
        parts.append(_ops.ecc(x, *plain, weight, None, *options))
    return sum(parts[1:], parts[0]) if parts else torch.zeros_like(output)


def _ecc_backward_jvp(inputs: Any, output: Any, tangents: Any) -> tuple[Tensor, ...]:
    grad, x, phi, _, layer, _, weight, bias, by_source, *wanted = inputs[:14]
    sides = inputs[14:]
    if layer is not None:
        raise RuntimeError("ecc_backward: with a layer, it is not differentiated again")
    to_x, to_phi, _, to_weight, to_bias = wanted
    for_grad, for_x, for_phi = tangents[:3]
    for_weight, for_bias = tangents[6:8]
    matrices = weight
    if for_weight is not None or for_bias is not None:
        matrices = torch.zeros_like(weight) if for_weight is None else for_weight
    # Every result is linear in all but its own argument; the constant part goes with W alone.
    terms: list[tuple[Any, Any, Any, Any, Any, tuple[bool, ...]]] = []
    if for_grad is not None:
        terms.append((for_grad, x, phi, weight, bias, (to_x, to_phi, to_weight, to_bias)))
    if for_x is not None:
        terms.append((grad, for_x, phi, weight, bias, (False, to_phi, to_weight, to_bias)))
    if for_phi is not None:
        terms.append((grad, x, for_phi, weight, None, (to_x, False, to_weight, False)))
    if for_weight is not None or for_bias is not None:
        terms.append((grad, x, phi, matrices, for_bias, (to_x, to_phi, False, False)))
    found = [torch.zeros_like(t) for t in output]
    for grad_, x_, phi_, weight_, bias_, flags in terms:
        if not any(flags):
            continue
        options = (1.0, None, None, weight_, bias_, by_source)
        flags_ = (*flags[:2], False, *flags[2:])
        parts = _ops.ecc_backward(grad_, x_, phi_, *options, *flags_, *sides)
        for place, flag in zip((0, 1, 4, 5), flags, strict=True):
            if flag and parts[place].shape == found[place].shape:
                found[place] = found[place] + parts[place]
    return tuple(found)


register_autograd("ecc", _ecc_formula, save=_ecc_save, jvp=_ecc_jvp)
register_autograd(
    "ecc_backward", _ecc_backward_formula, save=_ecc_backward_save, jvp=_ecc_backward_jvp
)
