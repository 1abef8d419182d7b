"""The calls that `gpu_smoke.py` makes of operators on graphs; see gpu_checks.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from gpu_inputs import (
    ALL,
    F32,
    FOUR,
    GRAPHS,
    NARROW,
    PACKED,
    WIDE,
    Check,
    differentiated,
    ends,
    graph,
    integers,
    normal,
)
from torch import Tensor

from polygraph import ops
from polygraph.ops import Graph
from polygraph.ops.ecc import EdgeLayer
from polygraph.ops.edge_sum import dot_along, masks_of
from polygraph.ops.graph_side import GraphSide


def dot_of_both_ends(u: Tensor, v: Tensor, grad: Tensor, far_grad: Tensor, g: Graph) -> Tensor:
    """Of sums of a target and a source under the activation, with such sums."""
    ends = (GraphSide.of(g), v.shape[0], g.num_slots)
    masks = masks_of(u.detach(), v.detach(), 0.2)
    return dot_along(*ends, grad, far_grad, near=u, far=v, masks=masks, slope=0.2)


def edge_conv_checks() -> Iterator[Check]:
    """Sums, values and dots of edges, on every kind of graph, and their second derivatives."""
    for where in GRAPHS:
        dtypes = ALL if "no" not in where else F32
        for D in (NARROW, FOUR, PACKED):
            u, v, g = ends(where, D)
            w = normal(g.num_slots, seed=12)
            name = f"D {D} {where}".strip()
            for aggr in ("max", "min", "sum", "mean"):
                yield Check(
                    f"edge_conv {aggr} {name}",
                    lambda u, v, g, aggr=aggr: ops.edge_conv(u, v, g, aggr, 0.2),
                    (u, v, g),
                    dtypes,
                )
            yield Check(
                f"edge_conv weight {name}",
                lambda u, v, w, g: ops.edge_conv(u, v, g, "sum", 0.2, weight=w),
                (u, v, w, g),
                dtypes,
            )
            yield Check(
                f"edge_values {name}",
                lambda u, v, g: ops.edge_values(u, v, g, 0.2),
                (u, v, g),
                dtypes,
            )
            features = normal(g.num_slots, D, seed=13)
            for aggr in ("sum", "max"):
                yield Check(
                    f"edge_aggregate {aggr} {name}",
                    lambda e, g, aggr=aggr: ops.edge_aggregate(e, g, aggr),
                    (features, g),
                    dtypes,
                )
    u, v, g = ends("holes", PACKED)
    yield Check("edge_conv linear", lambda u, v, g: ops.edge_conv(u, v, g, "sum"), (u, v, g))
    yield Check("edge_conv relu", lambda u, v, g: ops.edge_conv(u, v, g, "mean", 0.0), (u, v, g))
    weighted = normal(400, seed=12)
    for D in (NARROW, PACKED):
        u, v, g = ends("holes", D)
        for aggr in ("max", "sum"):
            twice = differentiated(lambda v, u, g, aggr=aggr: ops.edge_conv(u, v, g, aggr, 0.2))
            yield Check(f"edge_conv {aggr} D {D} twice", twice, (v, u, g), WIDE)
        twice = differentiated(lambda v, w, g: ops.edge_sum(v, g, w))
        yield Check(f"edge_sum D {D} twice", twice, (v, weighted, g), WIDE)
        nodes = normal(90, D)
        grads = normal(60, D, seed=14), normal(50, D, seed=15)
        hub = GRAPHS["hub"][2]
        yield Check(f"edge_dist2 D {D}", lambda x, g: ops.edge_dist2(x, g), (nodes, hub))
        yield Check(f"edge_dist2 D {D} twice", differentiated(ops.edge_dist2), (nodes, hub), WIDE)
        yield Check(f"edge_dot of both ends D {D}", dot_of_both_ends, (u, v, *grads, g))


def edge_max_checks() -> Iterator[Check]:
    """Minima and maxima, with sums and without, NaN among them, places and all."""
    for where in ("holes", "transposed", "hub"):
        for D in (NARROW, FOUR, PACKED):
            _, v, g = ends(where, D)
            sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(D)[:D]
            yield Check(
                f"edge_max D {D} {where}",
                lambda v, g: ops.edge_max(v, g, with_sum=True),
                (v, g),
            )
            yield Check(
                f"edge_max signs D {D} {where}",
                lambda v, g, s: ops.edge_max(v, g, s.to(v.dtype).detach())[:2],
                (v, g, sign),
            )
    repeats = integers(-2, 3, 50, 8).double()
    yield Check(
        "edge_max of repeats",  # the first of equals
        lambda v, g: ops.edge_max(v, g)[1],
        (repeats, GRAPHS["holes"][2]),
        backward=False,
        exact=True,
    )


def edge_softmax_checks() -> Iterator[Check]:
    """Over neighbours and over columns, with and without a kink, and the second derivative."""
    for over in ("neighbours", "features"):
        for H in (1, 9, 16):
            for where in ("holes", "hub", "no edges"):
                yield Check(
                    f"edge_softmax {over} H {H} {where}",
                    lambda u, v, g, over=over: ops.edge_softmax(u, v, g, 0.2, over),
                    ends(where, H),
                    ALL if where != "no edges" else F32,
                )
        yield Check(
            f"edge_softmax {over} linear",
            # What is added to all scores of a target changes nothing: that gradient is 0.
            lambda u, v, g, over=over: ops.edge_softmax(u.detach(), v, g, 1.0, over),
            ends("", 9),
        )
        twice = differentiated(lambda u, v, g, over=over: ops.edge_softmax(u, v, g, 0.2, over))
        yield Check(f"edge_softmax {over} twice", twice, ends("holes", 9), WIDE)


def ecc_checks() -> Iterator[Check]:
    """Both sides, tiles that are full and that are not, hidden features of every kind."""
    for side in ("target", "source"):
        for where, C, D, H in (("holes", 4, 3, 5), ("", 70, 66, 67), ("hub", 16, 16, 8)):
            _, v, g = ends(where, C)
            w = normal(H + 1, C, D, seed=2) / (C * H) ** 0.5
            yield Check(
                f"ecc {side} {where} {C}->{D} H {H}",
                lambda x, p, w, g, side=side: ops.ecc(x, p, w, g, side=side),
                (v, normal(g.num_slots, H, seed=1), w, g),
            )
    C, D, H = 12, 10, 9
    _, x, g = ends("holes", C)
    w, bias = normal(H, C, D, seed=2) / 10, normal(C, D, seed=3) / 10
    phi, gamma = normal(400, H, seed=1), normal(400, seed=4)
    u, v, _ = ends("holes", H)
    yield Check(
        "ecc bias, weights, mean",
        lambda x, p, w, b, e, g: ops.ecc(x, p, w, g, "mean", bias=b, edge_weight=e, side="target"),
        (x, phi, w, bias, gamma, g),
    )
    yield Check(
        "ecc from nodes",
        lambda x, u, v, w, g: ops.ecc(x, (u, v, 0.2), w, g, side="target"),
        (x, u, v, w, g),
    )
    yield Check(
        "ecc with a layer",
        lambda x, f, m, s, w, g: ops.ecc(x, EdgeLayer(f, m, s, 0.2), w, g, side="target"),
        (x, normal(400, 6, seed=5), normal(H, 6, seed=6), normal(H, seed=7), w, g),
    )
    twice = differentiated(lambda x, p, w, g: ops.ecc(x, p, w, g, side="target"))
    yield Check("ecc twice", twice, (x, phi, w, g), WIDE)
    yield from ecc_halves()


def ecc_halves() -> Iterator[Check]:
    """`edge_outer_` and `edge_inner_` themselves, with every one of their options.

    On the CPU `ecc` has ways around them, and its half types are float32 before it comes to them.
    """
    raw = torch.ops.polygraph
    # Few numbers a node and many, 8 rows a thread and 4, each read in packs and one by one.
    shapes = ((9, 16), (9, 3), (67, 68), (67, 69), (11, 132), (11, 133))
    for where, (H, C) in itertools.product(("holes", "hub"), shapes):
        targets, sources, g = GRAPHS[where]
        sides, rows = (g.ptr, None, g.source, g.edge), g.num_slots
        first, last = targets // 3, targets
        span, options = last - first, (sources, first)

        def given(*parts):
            return [part for part in parts if part is not None]

        def outer(phi, u, v, x, seg, per_edge, ones, *s, to=(span, H, C), options=options):
            made = phi if phi is not None else v
            z = made.new_full((to[0], made.shape[1] + ones, to[2]), 7)
            side = GraphSide(*s, None, None, None).packed()
            lists = (given(u, v, phi), 0.2, given(seg, x), per_edge)
            raw.edge_outer_(*lists, *options, *side, z)
            return z

        def inner(G, phi, u, v, x, seg, per_edge, ones, add, *s, options=options, rows=rows):
            a = None if x is None else G.new_zeros(rows, G.shape[1])
            y = None if phi is None and v is None else G.new_full((rows, G.shape[2]), 0.5)
            side = GraphSide(*s, None, None, None).packed()
            lists = (given(u, v, phi), 0.2, given(seg, x), per_edge)
            raw.edge_inner_(G, *lists, *options, *side, a, y, add)
            return (a, y)

        phi, x = normal(rows, H, seed=1), normal(sources, C, seed=2)
        u, v = normal(targets, H, seed=3), normal(sources, H, seed=4)
        seg, per_edge = normal(targets, C, seed=5), normal(rows, C, seed=6)
        G, G1 = normal(span, H, C, seed=7), normal(span, H + 1, C, seed=8)
        name = f"{where} H {H} C {C}"
        for kind, call, arguments in (
            ("outer", outer, (phi, None, None, x, None, False, True)),
            ("outer of nodes", outer, (None, u, v, x, seg, False, False)),
            ("outer of edges", outer, (phi, None, None, per_edge, None, True, False)),
            ("inner", inner, (G1, phi, None, None, x, None, False, True, False)),
            ("inner of nodes", inner, (G, None, u, v, x, seg, False, False, True)),
            ("inner of edges", inner, (G, phi, None, None, per_edge, None, True, False, False)),
        ):
            yield Check(
                f"edge_{kind} {name}", call, (*arguments, *sides), backward=False, cpu_half=False
            )


def light_ecc_checks() -> Iterator[Check]:
    """Features of edges and of nodes."""
    R, C, D, H = 11, 20, 18, 17
    left, right = normal(R, D, H + 1, seed=3) / 4, normal(R, C, H + 1, seed=4) / 16
    kappa = normal(R, H + 1, seed=5) / 4
    g = graph(50, 50, 400, holes=True)
    x, phi, gamma = normal(50, C), normal(400, H, seed=1), normal(400, seed=6)
    u, v = normal(50, H, seed=1), normal(50, H, seed=2)
    yield Check(
        "light_ecc",
        lambda x, p, a, b, k, e, g: ops.light_ecc(x, p, a, b, k, g, "sum", edge_weight=e),
        (x, phi, left, right, kappa, gamma, g),
    )
    yield Check(
        "light_ecc of nodes",
        lambda x, u, v, a, b, k, g: ops.light_ecc(x, (u, v, 0.2), a, b, k, g),
        (x, u, v, left, right, kappa, g),
    )
