"""Cases of the operators on graphs: edge_conv and its relatives, edge_softmax, graph_from_coo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from coo import draw_graph_from_coo
from draws import F32, HALF, WRONG_ENTRIES, Draw, denormal
from judge import LARGEST, UNIT, Case, largest
from torch import Tensor

from polygraph import ops, reference
from polygraph.ops import Graph
from polygraph.reference.edge_conv import ends

SLOPES = (1.0, 1.0, 0.0, 0.2, 0.01)


def sizes_of(d: Draw, wrong: bool, most: int) -> tuple[int, int, int]:
    """Targets, sources, channels."""
    empty = 0.0 if wrong else 0.03
    return d.size(empty=empty, most=most), d.size(empty=empty), d.size(empty=empty)


def longest(graph: Graph, sources: int) -> int:
    """Edges of the node that has most of them, or of both ends of one."""
    if graph.num_slots == 0:
        return 1
    most = int(graph.degree().max())
    if sources:
        most = max(most, int(graph.source_degree(sources).max()))
    return max(1, most)


FAULTS = ("source", "source", "ptr falls", "ptr ends", "ptr begins", "dtype")
OF_ROWS = ("edge", "short")  # found by who reads rows of edge features


def wrong_graph(d: Draw, graph: Graph, sources: int, faults: tuple[str, ...]) -> Graph:
    """A fault that the operators promise to find; the graph has an edge."""
    fault = d.one_of(*faults)
    filled = (graph.source >= 0).nonzero()[:, 0]
    if fault == "edge" and len(filled) == 0:
        fault = "ptr falls"
    place = int(filled[d.integer(0, len(filled))]) if fault == "edge" else 0
    if fault == "source":
        source = graph.source.clone()
        source[d.integer(0, len(source))] = value = d.one_of(sources, *WRONG_ENTRIES)
        graph, fault = Graph(graph.ptr, source, graph.edge), f"source {value}"
    elif fault == "ptr falls":
        ptr = graph.ptr.clone()
        row = d.integer(0, len(ptr))
        ptr[row] = value = d.one_of(-1, graph.num_slots + 1, 2**62, -(2**63))
        graph, fault = Graph(ptr, graph.source, graph.edge), f"ptr[{row}] = {value}"
    elif fault == "ptr ends":
        graph = Graph(graph.ptr[:-1], graph.source, graph.edge)
        if len(graph.ptr) and int(graph.ptr[-1]) == graph.num_slots:
            graph = Graph(graph.ptr, torch.cat([graph.source, graph.source[:1]]))
    elif fault == "ptr begins":
        graph = Graph(torch.cat([graph.ptr[:1] + 1, graph.ptr[1:]]), graph.source, graph.edge)
    elif fault == "edge":
        edge = torch.arange(graph.num_slots)
        edge[place] = value = d.one_of(graph.num_slots, -1, *WRONG_ENTRIES)
        graph, fault = Graph(graph.ptr, graph.source, edge), f"edge {value}"
    elif fault == "dtype":
        name = d.one_of("ptr", "source")
        graph = Graph(graph.ptr, graph.source)._replace(**{name: getattr(graph, name).int()})
    else:
        graph = Graph(graph.ptr, graph.source, torch.arange(graph.num_slots - 1))
    d.note(fault=fault)
    return graph


class GraphCase:
    """What the cases on graphs have in common: a graph, perhaps with a fault, and channels."""

    def __init__(
        self, d: Draw, most: int = 40, faults: tuple[str, ...] = (*FAULTS, *OF_ROWS)
    ) -> None:
        self.d = d
        self.wrong = d.chance(0.06)
        self.dtype = d.dtype()
        self.targets, self.sources, self.channels = sizes_of(d, self.wrong, most)
        self.graph = d.graph(self.targets, self.sources)
        self.wrong &= self.graph.num_slots > 0
        # The definition reads graphs as they are; a fault is for the operator alone.
        self.given = self.graph
        if self.wrong:
            self.given = wrong_graph(d, self.graph, self.sources, faults)
        self.longest = longest(self.graph, self.sources)

    def numbers(self, name: str, *shape: int, wild: float = 0.25) -> Tensor:
        """An argument."""
        found = self.d.numbers(name, shape, self.dtype, wild=wild)
        return found if self.wrong else self.d.laid_out(name, found)

    def ends(self, wild: float = 0.25) -> dict[str, Tensor]:
        """The arguments u and v."""
        return {
            "u": self.numbers("u", self.targets, self.channels, wild=wild),
            "v": self.numbers("v", self.sources, self.channels, wild=wild),
        }

    def case(self, leaves: dict[str, Tensor], *functions: Any, **options: Any) -> Case:
        """Of a call (of leaves), its twin and the absolute one."""
        return Case(leaves, *functions, wants_error=self.wrong, **options)


# ---- extremes ----


def first_extreme(graph: Graph, values: Tensor, sign: Tensor | None = None) -> Tensor:
    """The slot int64 ``[M, D]`` of the first largest of ``sign * values[slot]``; -1 for none."""
    targets, channels = graph.num_targets, values.shape[1]
    found = np.full((targets, channels), -1)
    numbers = values.detach().double().numpy()
    if sign is not None:
        numbers = numbers * sign.double().numpy()
    ptr, source = graph.ptr.numpy(), graph.source.numpy()
    for i in range(targets):
        slots = np.arange(ptr[i], ptr[i + 1])
        slots = slots[source[slots] >= 0]
        if len(slots) and channels:
            found[i] = slots[numbers[slots].argmax(0)]
    return torch.from_numpy(found)


def take(rows: Tensor, slots: Tensor) -> Tensor:
    """``rows[slots]`` channel by channel, 0 for -1."""
    if rows.shape[0] == 0:
        return rows.new_zeros(slots.shape) + rows.sum(0)
    return torch.where(slots >= 0, rows.gather(0, slots.clamp(min=0)), 0.0)


def by_slot(v: Tensor, graph: Graph) -> Tensor:
    """``v`` of the source of every slot; 0 of an empty one."""
    if v.shape[0] == 0:
        return v.new_zeros(graph.num_slots, v.shape[1]) + v.sum(0)
    return torch.where(graph.source[:, None] >= 0, v[graph.source.clamp(min=0)], 0.0)


def by_row(values: Tensor, graph: Graph) -> Tensor:
    """Edge features in the order of slots."""
    return values if graph.edge is None else values[graph.edge]


def draw_edge_conv(d: Draw) -> Case:
    """Sums, means and extremes of act(u_i + v_j)."""
    aggr = d.one_of("sum", "mean", "max", "min")
    g = GraphCase(d, faults=(*FAULTS, *OF_ROWS) if aggr in ("sum", "mean") else FAULTS)
    graph = g.graph
    slope = d.one_of(*SLOPES, 1.5, *((-0.3,) if aggr in ("sum", "mean") else ()))
    d.note(aggr=aggr, slope=slope)
    leaves = g.ends()
    steep = max(1.0, abs(slope))
    if aggr in ("sum", "mean"):
        if d.chance(0.5):
            leaves["weight"] = g.numbers("weight", graph.num_slots)
        return g.case(
            leaves,
            lambda u, v, weight=None: ops.edge_conv(u, v, g.given, aggr, slope, weight=weight),
            lambda u, v, weight=None: reference.edge_conv(u, v, graph, aggr, slope, weight=weight),
            lambda u, v, weight=None: (
                steep * reference.edge_conv(u, v, graph, aggr, 1.0, weight=weight)
            ),
            terms=g.longest * max(1, g.channels),
            swell=g.longest,
        )
    sign = 1.0 if aggr == "max" else -1.0
    slots = first_extreme(graph, sign * by_slot(leaves["v"].double(), graph))

    def twin(u: Tensor, v: Tensor) -> Tensor:
        value = u + take(by_slot(v, graph), slots)
        return torch.where(slots >= 0, torch.where(value > 0, value, slope * value), 0.0)

    return g.case(
        leaves,
        lambda u, v: ops.edge_conv(u, v, g.given, aggr, slope),
        twin,
        lambda u, v: steep * torch.where(slots >= 0, u + take(by_slot(v, graph), slots), 0.0),
        terms=g.longest,
    )


def draw_edge_values(d: Draw) -> Case:
    """act(u_i + v_j), edge by edge."""
    g = GraphCase(d)
    slope = d.one_of(*SLOPES, 1.5, -0.3)
    d.note(slope=slope)
    return g.case(
        g.ends(),
        lambda u, v: ops.edge_values(u, v, g.given, slope),
        lambda u, v: reference.edge_values(u, v, g.graph, slope),
        lambda u, v: max(1.0, abs(slope)) * reference.edge_values(u, v, g.graph, 1.0),
        terms=g.longest,
    )


def draw_edge_aggregate(d: Draw) -> Case:
    """Edge features over the edges of their targets; how many sources there are, nobody knows."""
    g = GraphCase(d, faults=(*FAULTS[2:-1], *OF_ROWS))
    aggr = d.one_of("sum", "mean", "max", "min")
    d.note(aggr=aggr)
    leaves = {"values": g.numbers("values", g.graph.num_slots, g.channels)}

    def call(values: Tensor) -> Tensor:
        return ops.edge_aggregate(values, g.given, aggr)

    if aggr in ("sum", "mean"):
        return g.case(
            leaves,
            call,
            lambda values: reference.edge_aggregate(values, g.graph, aggr),
            terms=g.longest,
            swell=g.longest,
        )
    sign = 1.0 if aggr == "max" else -1.0
    slots = first_extreme(g.graph, sign * by_row(leaves["values"].double(), g.graph))
    return g.case(leaves, call, lambda values: take(by_row(values, g.graph), slots), terms=2)


def draw_edge_sum(d: Draw) -> Case:
    """Weighted sums of sources."""
    g = GraphCase(d)
    leaves = {"v": g.numbers("v", g.sources, g.channels)}
    if d.chance(0.6):
        leaves["weight"] = g.numbers("weight", g.graph.num_slots)

    def twin(v: Tensor, weight: Tensor | None = None) -> Tensor:
        u = v.new_zeros(g.targets, g.channels)
        return reference.edge_conv(u, v, g.graph, "sum", 1.0, weight=weight)

    return g.case(
        leaves,
        lambda v, weight=None: ops.edge_sum(v, g.given, weight),
        twin,
        terms=g.longest * max(1, g.channels),
    )


def draw_edge_max(d: Draw) -> Case:
    """The largest or smallest neighbour, its slot, and perhaps the sum."""
    g = GraphCase(d, faults=FAULTS)
    graph = g.graph
    signs, with_sum = d.chance(0.5), d.chance(0.4)
    d.note(signs=signs, with_sum=with_sum)
    leaves = {"v": g.numbers("v", g.sources, g.channels)}
    sign = None
    if signs:
        sign = torch.from_numpy(d.rng.choice([-1.0, 1.0], g.channels)).to(g.dtype)
    slots = first_extreme(graph, by_slot(leaves["v"].double(), graph), sign)

    def call(v: Tensor) -> Tensor:
        value, _, total = ops.edge_max(v, g.given, sign, with_sum=with_sum)
        return torch.cat([value, total])

    def twin(v: Tensor) -> Tensor:
        found = take(by_slot(v, graph), slots)
        if not with_sum:
            return found
        u = v.new_zeros(g.targets, g.channels)
        return torch.cat([found, reference.edge_conv(u, v, graph, "sum", 1.0)])

    def exact() -> str | None:
        value, arg, _ = ops.edge_max(leaves["v"], graph, sign)
        if not torch.equal(arg.long(), slots):
            return "the slots of the maxima are wrong"
        wanted = take(by_slot(leaves["v"].double(), graph), slots).to(g.dtype)
        return None if torch.equal(value, wanted) else "a maximum is not the value of its slot"

    return g.case(leaves, call, twin, terms=g.longest, exact=None if g.wrong else exact)


def draw_edge_dist2(d: Draw) -> Case:
    """Squared lengths of edges."""
    g = GraphCase(d)
    nodes = max(g.targets, 1) if g.wrong else g.targets
    g.sources = nodes
    g.graph = d.graph(nodes, nodes)
    g.wrong &= g.graph.num_slots > 0
    g.given = wrong_graph(d, g.graph, nodes, (*FAULTS, *OF_ROWS)) if g.wrong else g.graph
    g.longest = longest(g.graph, nodes)
    x = g.numbers("x", nodes, g.channels)
    target, source, row = ends(g.graph)
    computed = F32 if g.dtype in HALF else g.dtype
    wide = x.double()
    middle = wide.mean(0) if nodes else wide.sum(0)
    most = wide.abs().amax(0) if nodes else middle
    # Distances from the middle, whose own rounding counts, too; u A then bounds what cancels.
    away = (wide - middle).abs() + 8 * UNIT[computed] * most
    across = away[target] + away[source]

    def twin(x: Tensor) -> Tensor:
        found = (x[target] - x[source]).square().sum(1)
        return found.new_zeros(g.graph.num_slots).index_copy(0, row, found)

    def absolute(x: Tensor) -> Tensor:
        moved = x - x.detach()
        found = (across + moved[target] + moved[source]).square().sum(1)
        return found.new_zeros(g.graph.num_slots).index_copy(0, row, found)

    case = g.case(
        {"x": x},
        lambda x: ops.edge_dist2(x, g.given),
        twin,
        absolute,
        terms=g.longest + g.channels + 4,
    )
    floor = 8 * case.terms * denormal(computed) * (1 + largest(across))
    case.floor = (floor, floor)
    # A distance that rounding may turn below 0 is cut there, and has no gradient then.
    length = (wide[target] - wide[source]).square().sum(1)
    near = 2 * (case.terms + 8) * UNIT[computed] * across.square().sum(1)
    case.smooth = not bool((length <= near).logical_and(target != source).any())
    if (
        not d.moderate
        and float(across.square().sum(1).max() if len(row) else 0) > LARGEST[computed] / 64
    ):
        d.note(overflow=True)
        case.twin = None
    return case


# ---- edge_softmax ----


class _Softmax(torch.autograd.Function):
    """Shares p of groups, whose derivatives p (g - sum p g) have a plus in the place of the minus.

    `spread` adds a tensor up over each group and gives the sum to all of it.
    """

    @staticmethod
    def forward(ctx: Any, score: Tensor, share: Tensor, spread: Any) -> Tensor:
        ctx.save_for_backward(score, share)
        ctx.spread = spread
        return share.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        score, share = ctx.saved_tensors
        p = _Softmax.apply(score, share, ctx.spread)
        return p * (grad + ctx.spread(p * grad)), None, None


def draw_edge_softmax(d: Draw) -> Case:
    """Softmax over the neighbours of a target, or over the channels of an edge."""
    g = GraphCase(d, most=9)  # the definition takes one target after the other
    graph = g.graph
    slope, over = d.one_of(*SLOPES), d.one_of("neighbours", "features")
    d.note(slope=slope, over=over)
    leaves = g.ends(wild=0.1)
    target, source, row = ends(graph)

    def twin(u: Tensor, v: Tensor) -> Tensor:
        return reference.edge_softmax(u, v, graph, slope, over)

    def spread(values: Tensor) -> Tensor:
        if over == "features":
            return values.sum(1, keepdim=True).expand(values.shape)
        return values.new_zeros(g.targets, g.channels).index_add(0, target, values)[target]

    wide = {n: t.double() for n, t in leaves.items()}
    with torch.no_grad():
        share = twin(**wide)[row]
    computed = F32 if g.dtype in HALF else g.dtype
    most = max(map(largest, wide.values()))

    def absolute(u: Tensor, v: Tensor) -> Tensor:
        p = _Softmax.apply(u[target] + v[source], share, spread)
        return p.new_zeros(graph.num_slots, g.channels).index_copy(0, row, p)

    # A score of that size is rounded by as many units, and shares are off by as much.
    steps = g.longest + g.channels + 8 * (1 + most)

    def exact() -> str | None:
        p = ops.edge_softmax(leaves["u"], leaves["v"], graph, slope, over)[row].double()
        if not ((p >= 0) & (p <= 1)).all():
            return "a share is not in [0, 1]"
        loose = 2 * (g.longest + g.channels) * UNIT[g.dtype] + 1e-6
        total = spread(p) - 1
        return None if not (total.abs() > loose).any() else "shares do not add up to 1"

    overflows = most > LARGEST[g.dtype] / 4
    case = g.case(
        leaves,
        lambda u, v: ops.edge_softmax(u, v, g.given, slope, over),
        twin,
        absolute,
        terms=int(min(steps, 1e9)),
        exact=None if g.wrong or overflows else exact,
        reach=(16.0, 16.0),
    )
    if steps * UNIT[computed] > 0.01 or overflows:
        d.note(scores="too large to compare shares")
        case.twin = None
    return case


# ---- graphs ----


OPERATORS: dict[str, Callable[[Draw], Case]] = {
    "edge_conv": draw_edge_conv,
    "edge_values": draw_edge_values,
    "edge_aggregate": draw_edge_aggregate,
    "edge_sum": draw_edge_sum,
    "edge_max": draw_edge_max,
    "edge_dist2": draw_edge_dist2,
    "edge_softmax": draw_edge_softmax,
    "graph_from_coo": draw_graph_from_coo,
}
