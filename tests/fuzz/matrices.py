"""Cases of the edge-conditioned convolutions, ecc and light_ecc."""

from __future__ import annotations

from collections.abc import Callable

import torch
from draws import Draw, denormal
from edges import GraphCase
from judge import LARGEST, UNIT, Case, largest
from torch import Tensor

from polygraph import ops, reference
from polygraph.ops.ecc import EdgeLayer

WIDTHS = (0, 1, 2, 3, 4, 5, 8, 9, 16, 17)


def pick(leaves: dict[str, Tensor], *names: str) -> list[Tensor | None]:
    """Those that are there."""
    return [leaves.get(name) for name in names]


def draw_ecc(d: Draw) -> Case:
    """Matrices made of hidden features: as a tensor, of nodes, or of a layer."""
    g = GraphCase(d, most=17)
    graph, dtype = g.graph, g.dtype
    C, D, H = min(g.channels, 17), d.one_of(*WIDTHS), d.one_of(*WIDTHS)
    if g.wrong:
        C, D, H = max(C, 1), max(D, 1), max(H, 1)
    kind = d.one_of("tensor", "tensor", "nodes", "layer")
    aggr, side = d.one_of("sum", "mean"), d.one_of(None, "target", "source")
    constant = d.one_of("no", "row", "bias")
    slope = 1.0 if kind == "tensor" else d.one_of(1.0, 0.0, 0.2)
    d.note(phi=kind, aggr=aggr, side=side, constant=constant, slope=slope, D=D, H=H)
    E = graph.num_slots
    wild = 0.1
    leaves = {"x": g.numbers("x", g.sources, C, wild=wild)}
    F = 1
    if kind == "tensor":
        leaves["phi"] = g.numbers("phi", E, H, wild=wild)
    elif kind == "nodes":
        leaves["u"] = g.numbers("u", g.targets, H, wild=wild)
        leaves["v"] = g.numbers("v", g.sources, H, wild=wild)
    else:
        F = d.one_of(1, 2, 3, 5, 8, 17)
        leaves["features"] = g.numbers("features", E, F, wild=wild)
        leaves["layer"] = g.numbers("layer", H, F, wild=wild)
        leaves["shift"] = g.numbers("shift", H, wild=wild)
    rows = H + 1 if constant == "row" else H
    leaves["weight"] = g.numbers("weight", rows, C, D, wild=wild)
    if constant == "bias":
        leaves["bias"] = g.numbers("bias", C, D, wild=wild)
    if kind != "nodes" and d.chance(0.4):
        leaves["edge_weight"] = g.numbers("edge_weight", E, wild=wild)

    def call(**t: Tensor) -> Tensor:
        phi = t.get("phi")
        if kind == "nodes":
            phi = (t["u"], t["v"], slope)
        elif kind == "layer":
            phi = EdgeLayer(t["features"], t["layer"], t["shift"], slope)
        bias, edge_weight = pick(t, "bias", "edge_weight")
        options = {"bias": bias, "edge_weight": edge_weight, "side": side}
        return ops.ecc(t["x"], phi, t["weight"], g.given, aggr, **options)

    def defined(slope: float, steep: float) -> Callable[..., Tensor]:
        def twin(**t: Tensor) -> Tensor:
            phi = t.get("phi")
            if kind == "nodes":
                phi = steep * reference.edge_values(t["u"], t["v"], graph, slope)
            elif kind == "layer":
                phi = steep * t["features"] @ t["layer"].t() + steep * t["shift"]
                phi = torch.where(phi > 0, phi, slope * phi)
            bias, edge_weight = pick(t, "bias", "edge_weight")
            weight = t["weight"] if bias is None else torch.cat([t["weight"], bias[None]])
            return reference.ecc(t["x"], phi, weight, graph, aggr, edge_weight=edge_weight)

        return twin

    case = g.case(
        leaves,
        call,
        defined(slope, 1.0),
        defined(1.0, max(1.0, abs(slope))),
        # Of weights: all edges; of hidden features: C x D; of the layer: behind those, all edges.
        terms=max(E, 1) + C * D + C * (H + 1) * g.longest + F,
        rounded=8,
        swell=g.longest,
    )
    if kind == "layer":
        wide = {n: t.double() for n, t in leaves.items()}
        before = wide["features"] @ wide["layer"].t() + wide["shift"]
        size = wide["features"].abs() @ wide["layer"].abs().t() + wide["shift"].abs()
        # With weights of edges the layer is PyTorch's, in the dtype of the case.
        near = 2 * (F + 8) * UNIT[dtype] * size + 4 * denormal(dtype)
        bends = ((before.abs() <= near) & (size > 0)).any()
        case.smooth = slope == 1 or not bool(bends)
        if largest(size) > LARGEST[dtype] / 16:
            d.note(hidden="overflow")
            case.twin = None
    return case


def draw_light_ecc(d: Draw) -> Case:
    """Matrices of low rank."""
    g = GraphCase(d, most=17)
    graph = g.graph
    C, D, H = min(g.channels, 17), d.one_of(*WIDTHS), d.one_of(*WIDTHS)
    R = d.one_of(1, 2, 3, 4, 5)
    kind, aggr = d.one_of("tensor", "nodes"), d.one_of("mean", "sum")
    slope = 1.0 if kind == "tensor" else d.one_of(1.0, 0.0, 0.2)
    d.note(phi=kind, aggr=aggr, slope=slope, D=D, H=H, R=R)
    E = graph.num_slots
    wild = 0.06
    leaves = {"x": g.numbers("x", g.sources, C, wild=wild)}
    if kind == "tensor":
        leaves["phi"] = g.numbers("phi", E, H, wild=wild)
    else:
        leaves["u"] = g.numbers("u", g.targets, H, wild=wild)
        leaves["v"] = g.numbers("v", g.sources, H, wild=wild)
    leaves["left"] = g.numbers("left", R, D, H + 1, wild=wild)
    leaves["right"] = g.numbers("right", R, C, H + 1, wild=wild)
    leaves["kappa"] = g.numbers("kappa", R, H + 1, wild=wild)
    if d.chance(0.4):
        leaves["edge_weight"] = g.numbers("edge_weight", E, wild=wild)

    def call(**t: Tensor) -> Tensor:
        phi = t["phi"] if kind == "tensor" else (t["u"], t["v"], slope)
        weights = (t["left"], t["right"], t["kappa"])
        weight = t.get("edge_weight")
        return ops.light_ecc(t["x"], phi, *weights, g.given, aggr, edge_weight=weight)

    def defined(slope: float, steep: float) -> Callable[..., Tensor]:
        def twin(**t: Tensor) -> Tensor:
            phi = t.get("phi")
            if phi is None:
                phi = steep * reference.edge_values(t["u"], t["v"], graph, slope)
            rest = (t["left"], t["right"], t["kappa"], graph, aggr)
            return reference.light_ecc(t["x"], phi, *rest, edge_weight=t.get("edge_weight"))

        return twin

    case = g.case(
        leaves,
        call,
        defined(slope, 1.0),
        defined(1.0, max(1.0, abs(slope))),
        terms=max(E, 1) + R * (C + D + 3 * (H + 1)) * g.longest,
        rounded=8,
        swell=g.longest,
    )
    # An empty sum of products that overflow on the way to it; half types have their own range.
    case.smooth &= D > 0 or d.moderate
    return case


OPERATORS: dict[str, Callable[[Draw], Case]] = {"ecc": draw_ecc, "light_ecc": draw_light_ecc}
