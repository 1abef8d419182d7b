"""The operators ``polygraph::ecc``, and ``ecc_backward`` with all its first derivatives.

``<grad, ecc(x, φ, W)>`` is linear in each of its four arguments, so the derivatives of its
derivatives are sums of it and of them with one argument replaced. The bias of W belongs to W, and
to a constant φ: where φ is replaced, it is left out. With a layer the derivatives are composed, as
soon as they are to be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops._autograd import Gradients, recording, register_autograd
from polygraph.ops.common import HALF_TYPES, autocast_disabled, cast, outside_autocast
from polygraph.ops.ecc.backward import EccGradients, Wanted, ecc_gradients, laid_out
from polygraph.ops.ecc.forward import ecc_values
from polygraph.ops.ecc.hidden import Hidden, past_activation, through_layer, widened
from polygraph.ops.edge_sum import masks_of, sum_along, sum_to_others, values_along
from polygraph.ops.graph_side import GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph

_library = torch.library.Library("polygraph", "FRAGMENT")
_library.define(
    "ecc(Tensor x, Tensor? phi, Tensor? near, Tensor? far, float slope, Tensor? layer, "
    "Tensor? shift, Tensor weight, Tensor? bias, bool by_source, Tensor[] graph, int tables) "
    "-> Tensor"
)
_library.define(
    "ecc_backward(Tensor grad, Tensor x, Tensor phi, float slope, Tensor? layer, Tensor? shift, "
    "Tensor weight, Tensor? bias, bool by_source, bool[] wanted, Tensor[] graph, int tables) "
    "-> (Tensor x, Tensor phi, Tensor layer, Tensor shift, Tensor weight, Tensor bias)"
)
for _key in ("CPU", "CUDA"):
    _library.impl("ecc", outside_autocast(ecc_values), _key)
    _library.impl("ecc_backward", outside_autocast(ecc_gradients), _key)


def ecc_of(
    x: Tensor,
    phi: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    by_source: bool,
    side: GraphSide,
) -> Tensor:
    """``ecc`` of stored hidden features."""
    made = (phi, None, None, 1.0, None, None)
    out: Tensor = _ops.ecc(x, *made, weight, bias, by_source, *side.packed())
    return out


def gradients_of(
    wanted: Wanted,
    grad: Tensor,
    x: Tensor,
    phi: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    by_source: bool,
    side: GraphSide,
    layer: tuple[float, Tensor | None, Tensor | None] = (1.0, None, None),
) -> dict[str, Tensor]:
    """``ecc_backward``: what is wanted, by name; ``layer`` is its slope, weight and shift."""
    options = (*layer, weight, bias, by_source, [*wanted])
    found = EccGradients(*_ops.ecc_backward(grad, x, phi, *options, *side.packed()))
    given = {"shift": wanted.layer, **wanted._asdict()}
    return {name: g for name, g in found._asdict().items() if given[name]}


# ---- shapes ----


def _write_only(*arguments: Any) -> None:
    return None


_WRITERS = ("edge_outer_", "edge_inner_", "ecc_tile_", "ecc_tile_backward_")
for _name in (*_WRITERS, "ecc_lane_", "ecc_lane_backward_", "ecc_lane_weight_"):
    torch.library.register_fake(f"polygraph::{_name}", _write_only)


@torch.library.register_fake("polygraph::ecc")
def _(
    x: Tensor,
    phi: Tensor | None,
    near: Tensor | None,
    far: Tensor | None,
    slope: float,
    layer: Tensor | None,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    by_source: bool,
    graph: Sequence[Tensor],
    tables: int,
) -> Tensor:
    dtype = torch.float32 if x.dtype in HALF_TYPES else x.dtype
    return x.new_empty(graph[0].shape[0] - 1, weight.shape[2], dtype=dtype)


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
    wanted: Sequence[bool],
    graph: Sequence[Tensor],
    tables: int,
) -> tuple[Tensor, ...]:
    to = Wanted(*wanted)
    has_layer = to.layer and layer is not None
    return (
        x.new_empty(x.shape if to.x else (0,)),
        x.new_empty(phi.shape if to.phi else (0,)),
        x.new_empty(layer.shape if has_layer and layer is not None else (0,)),
        x.new_empty(shift.shape if has_layer and shift is not None else (0,)),
        laid_out(weight.new_empty(weight.shape), weight) if to.weight else x.new_empty(0),
        x.new_empty(weight.shape[1:] if to.bias and bias is not None else (0,)),
    )


# ---- derivatives of ecc ----


def _save(ctx: Any, given: Any, output: Tensor) -> None:
    ctx.slope, ctx.by_source, ctx.tables = given.slope, given.by_source, given.tables
    made = (given.phi, given.near, given.far, given.layer, given.shift)
    ctx.save_for_backward(given.x, *made, given.weight, given.bias, *given.graph)


def _backward(ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor) -> Gradients:
    x, phi, near, far, layer, shift, weight, bias, *graph = saved
    side = GraphSide.unpacked(graph, ctx.tables)
    if near is None and (layer is None or not recording()):
        to_layer = needs.layer or needs.shift
        wanted = Wanted(needs.x, needs.phi, to_layer, needs.weight, needs.bias)
        made = (ctx.slope, layer, shift)
        found = gradients_of(wanted, grad, x, phi, weight, bias, ctx.by_source, side, made)
        return {name: g for name, g in found.items() if getattr(needs, name)}
    # Several operators: half types are rounded once, after the last.
    with autocast_disabled(x):
        hidden = Hidden.widened(phi, near, far, ctx.slope, layer, shift)
        values = widened(grad, x, weight, bias)
        compose = _through_layer if near is None else _through_nodes
        composed = compose(ctx, needs, side.with_both(x.shape[0]), hidden, *values)
    return {name: cast(g, x.dtype) for name, g in composed.items()}


def _through_layer(
    ctx: Any,
    needs: Any,
    side: GraphSide,
    hidden: Hidden,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Any,
) -> Gradients:
    """To be differentiated again: step by step, with the hidden features stored."""
    to_layer = needs.layer or needs.shift
    made = hidden.without_layer().phi
    assert made is not None
    wanted = Wanted(needs.x, needs.phi or to_layer, False, needs.weight, needs.bias)
    found: Gradients = {**gradients_of(wanted, grad, x, made, weight, bias, ctx.by_source, side)}
    inner = found.pop("phi", None)
    if inner is not None:
        found["phi"], found["layer"], found["shift"] = through_layer(
            inner, made, hidden, to_phi=needs.phi, to_layer=to_layer
        )
    return found


def _through_nodes(
    ctx: Any,
    needs: Any,
    side: GraphSide,
    hidden: Hidden,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Any,
) -> Gradients:
    """φ from the nodes is made again, and stored for as long as this takes."""
    near, far = hidden.near, hidden.far
    assert near is not None
    assert far is not None
    graph = (side, far.shape[0], side.other.shape[0])
    bend: Any = {"masks": masks_of(near, far, ctx.slope), "slope": ctx.slope}
    phi = values_along(*graph, near=near, far=far, **bend)
    wanted = Wanted(needs.x, needs.near or needs.far, False, needs.weight, needs.bias)
    found: Gradients = {**gradients_of(wanted, grad, x, phi, weight, bias, ctx.by_source, side)}
    inner = found.pop("phi", None)
    if needs.near:
        found["near"] = sum_along(*graph, per_edge=inner, **bend)
    if needs.far:
        found["far"] = sum_to_others(*graph, per_edge=inner, **bend)
    return found


def _jvp(given: Any, output: Tensor, tangents: Any) -> Tensor:
    parts = []
    if tangents.x is not None:
        parts.append(_ops.ecc(*given._replace(x=tangents.x)))
    if tangents.weight is not None or tangents.bias is not None:
        parts.append(
            _ops.ecc(*given._replace(weight=_moved_weight(given, tangents), bias=tangents.bias))
        )
    moved = _moved_hidden(given, tangents)
    if moved is not None:
        side = GraphSide.unpacked(given.graph, given.tables)
        parts.append(ecc_of(given.x, moved, given.weight, None, given.by_source, side))
    return sum(parts[1:], parts[0]) if parts else torch.zeros_like(output)


def _moved_weight(given: Any, tangents: Any) -> Tensor:
    """The tangent of W where that of its bias is there: 0 where it has none."""
    moved: Tensor | None = tangents.weight
    return torch.zeros_like(given.weight) if moved is None else moved


def _moved_hidden(given: Any, tangents: Any) -> Tensor | None:
    """The tangent of φ."""
    if given.layer is None:
        if tangents.near is None and tangents.far is None:
            phi: Tensor | None = tangents.phi
            return phi
        side = GraphSide.unpacked(given.graph, given.tables)
        graph = (side, given.x.shape[0], side.other.shape[0])
        bend: Any = {"masks": masks_of(given.near, given.far, given.slope), "slope": given.slope}
        return values_along(*graph, near=tangents.near, far=tangents.far, **bend)
    moved: Tensor | None = tangents.shift
    if tangents.phi is not None:
        moved = torch.nn.functional.linear(tangents.phi, given.layer, moved)
    if tangents.layer is not None:
        part = torch.nn.functional.linear(given.phi, tangents.layer)
        moved = part if moved is None else part + moved
    if moved is None:
        return None
    hidden = torch.nn.functional.linear(given.phi, given.layer, given.shift)
    return past_activation(hidden, moved, given.slope)


# ---- derivatives of ecc_backward ----


def _backward_save(ctx: Any, given: Any, output: tuple[Tensor, ...]) -> None:
    ctx.by_source, ctx.wanted = given.by_source, Wanted(*given.wanted)
    ctx.layered, ctx.tables = given.layer is not None, given.tables
    values = (given.grad, given.x, given.phi, given.weight, given.bias)
    ctx.save_for_backward(*values, *given.graph)


def _refuse_layer() -> None:
    raise RuntimeError("ecc_backward: with a layer, it is not differentiated again")


def _backward_backward(
    ctx: Any, saved: tuple[Any, ...], needs: Any, *upstream: Tensor
) -> Gradients:
    if ctx.layered:
        _refuse_layer()
    to = EccGradients(*upstream)
    grad, x, phi, weight, bias, *graph = saved
    wanted, by_source = ctx.wanted, ctx.by_source
    side = GraphSide.unpacked(graph, ctx.tables).with_both(x.shape[0])
    # (x, φ, W and its bias) with one of the three replaced by what its derivative is multiplied
    # with. Neither bias nor φ is there where the other is replaced.
    terms: list[tuple[str, Any, Any, Any, Tensor | None]] = []
    if wanted.x:
        terms.append(("x", to.x, phi, weight, bias))
    if wanted.phi:
        terms.append(("phi", x, to.phi, weight, None))
    to_bias = wanted.bias and bias is not None
    if wanted.weight or to_bias:
        matrices = to.weight if wanted.weight else torch.zeros_like(weight)
        terms.append(("weight", x, phi, matrices, to.bias if to_bias else None))
    found: Gradients = {}

    def add(name: str, part: Tensor) -> None:
        before = found.get(name)
        found[name] = part if before is None else before + part

    for replaced, x_, phi_, weight_, bias_ in terms:
        if needs.grad:
            add("grad", ecc_of(x_, phi_, weight_, bias_, by_source, side))
        here = Wanted(
            x=needs.x and replaced != "x",
            phi=needs.phi and replaced != "phi",
            weight=needs.weight and replaced != "weight",
            bias=needs.bias and replaced != "weight" and bias_ is not None,
        )
        if any(here):
            parts = gradients_of(here, grad, x_, phi_, weight_, bias_, by_source, side)
            for name, part in parts.items():
                add(name, part)
    return found


def _backward_jvp(given: Any, output: Any, tangents: Any) -> tuple[Tensor, ...]:
    """Every result is linear in all but its own argument; the constant part goes with W alone."""
    if given.layer is not None:
        _refuse_layer()
    grad, x, phi, weight, bias = given.grad, given.x, given.phi, given.weight, given.bias
    wanted = Wanted(*given.wanted)._replace(layer=False)
    terms: list[tuple[Wanted, tuple[Any, ...]]] = []
    if tangents.grad is not None:
        terms.append((wanted, (tangents.grad, x, phi, weight, bias)))
    if tangents.x is not None:
        terms.append((wanted._replace(x=False), (grad, tangents.x, phi, weight, bias)))
    if tangents.phi is not None:
        to = wanted._replace(phi=False, bias=False)
        terms.append((to, (grad, x, tangents.phi, weight, None)))
    if tangents.weight is not None or tangents.bias is not None:
        to = wanted._replace(weight=False, bias=False)
        moved = _moved_weight(given, tangents)
        terms.append((to, (grad, x, phi, moved, tangents.bias)))
    found = EccGradients(*(torch.zeros_like(t) for t in output))._asdict()
    side = GraphSide.unpacked(given.graph, given.tables)
    for to, (grad_, x_, phi_, weight_, bias_) in terms:
        if not any(to):
            continue
        parts = gradients_of(to, grad_, x_, phi_, weight_, bias_, given.by_source, side)
        for name, part in parts.items():
            if part.shape == found[name].shape:
                found[name] = found[name] + part
    return tuple(found.values())


register_autograd("ecc", _backward, save=_save, jvp=_jvp)
register_autograd("ecc_backward", _backward_backward, save=_backward_save, jvp=_backward_jvp)
