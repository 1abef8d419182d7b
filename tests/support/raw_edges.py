"""Calls of the compiled operators on edges: arguments that are right, and faults in them."""

import torch

from polygraph.ops import Graph
from polygraph.ops.graph_side import GraphSide
from support.edges import random_edges
from support.faults import at, with_value
from support.tables import normal


def sides(N=7, M=6, E=23):
    """A graph as the compiled operators take it, from both sides."""
    graph = Graph(**random_edges(M, N, E)).with_transposed(N)
    here = GraphSide.of(graph)
    return here, here.turned(N)


HERE, BACK = sides()
U, V, EDGES, W = normal(6, 4), normal(7, 4, seed=1), normal(23, 4, seed=2), normal(23, seed=3)


def sum_arguments():
    """For edge_sum; the last list is the transposed graph."""
    return [
        [U, V, U, V, None, W, 0.3, 7, 23, *HERE.packed()],
        [None, None, None, V, None, None, 1.0, 7, 23, *HERE.packed()],
        [None, None, None, None, EDGES, None, 1.0, 7, 23, *HERE.packed()],
        [V, U, None, U, None, W, 0.3, 6, 23, *BACK.packed()],
    ]


def values_arguments():
    """For edge_values."""
    graph = (7, 23, *HERE.packed())
    return [[U, V, U, V, None, 0.3, *graph], [None, None, U, V, EDGES, 0.3, *graph]]


def dot_arguments():
    """For edge_dot; the last two with gradients of the other nodes."""
    return [
        [U, None, U, V, U, V, 0.3, 7, 23, *HERE.packed()],
        [V, None, None, None, None, U, 1.0, 6, 23, *BACK.packed()],
        [U, V, U, V, -U, V, 0.3, 7, 23, *HERE.packed()],
        [V, -U, None, None, V, U, 1.0, 6, 23, *BACK.packed()],
    ]


def numbered(count, first):
    """0, 1, 2 and so on, but for the first."""
    return with_value(0, first)(torch.arange(count))


LIST = (HERE.t_other, HERE.t_ptr, HERE.t_slot)


def table(place, change):
    """Changes one of the tables of a graph."""
    return lambda graph: [change(t) if n == place else t for n, t in enumerate(graph)]


def with_table(place, bit, entry):
    """Arguments with one more table, slots or rows of edges, whose first entry this is."""

    def change(arguments):
        graph, tables = arguments[place : place + 2]
        graph = [*graph[:2], numbered(23, entry), *graph[2:]]
        return [*arguments[:place], graph, tables | bit, *arguments[place + 2 :]]

    return change


def max_arguments():
    """For edge_max."""
    sign = torch.tensor([1.0, -1, 1, -1], dtype=torch.float64)
    graph = (HERE.ptr, HERE.other)
    return [[V, sign, True, *graph, *LIST], [V, None, False, *graph, None, None, None]]


def chosen():
    """The slots that edge_max chooses."""
    return torch.ops.polygraph.edge_max(*max_arguments()[0])[1]


def outer_arguments():
    """For edge_outer_: segments 1 to 5 of 6."""
    x, phi, near = normal(7, 3), normal(23, 2), normal(6, 3, seed=1)
    out = normal(4, 3, 3)
    graph = (7, 1, *HERE.packed())
    return [[[phi], 0.3, rows, False, *graph, out] for rows in ([x], [near, x])]


def inner_arguments():
    """For edge_inner_."""
    x, phi, near = normal(7, 3), normal(23, 2), normal(6, 3, seed=1)
    graph = (7, 1, *HERE.packed())
    outs = (torch.zeros(23, 3).double(), torch.zeros(23, 3).double())
    return [
        [normal(4, 3, 3), [phi], 0.3, rows, False, *graph, *outs, True] for rows in ([x], [near, x])
    ]


def form_arguments():
    """For edge_form: every derivative alone, without what it does not need, and some together."""
    given = [normal(6, 3), EDGES, normal(23, 2), normal(3, 2, 4)]
    alone = [
        [
            *(None if n == m else t for m, t in enumerate(given)),
            *(n == m for m in range(4)),
            *HERE.packed(),
        ]
        for n in range(4)
    ]
    return [
        *alone,
        [*given, *[True] * 4, *HERE.packed()],
        [*given, False, True, True, False, *HERE.packed()],
    ]


RAW = {
    "edge_sum": sum_arguments,
    "edge_sum_": lambda: [[U.clone(), V, 0.3, HERE.ptr, HERE.other]],
    "edge_values": values_arguments,
    "edge_dot": dot_arguments,
    "edge_max": max_arguments,
    "edge_max_backward": lambda: [[U, chosen(), 7, HERE.other, *LIST]],
    "edge_take": lambda: [[V, chosen(), HERE.other, *LIST]],
    "edge_outer_": outer_arguments,
    "edge_inner_": inner_arguments,
    "edge_form": form_arguments,
}
RAW_BROKEN = {
    name: (op, change, message)
    for name, op, change, message in (
        (
            "no values",
            "edge_sum",
            lambda a: [*a[:2], None, None, None, *a[5:]],
            "one of near, far and per_edge is needed",
        ),
        ("one mask", "edge_sum", at(0, lambda _: None), "near_mask and far_mask come together"),
        ("weights of edges", "edge_sum", at(4, lambda _: EDGES), "exclude each other"),
        ("mask width", "edge_sum", at(1, lambda t: t[:, 1:]), r"far_mask must have shape \[O, D\]"),
        ("weight", "edge_sum", at(5, lambda t: t[1:]), r"weight must have shape \[E\] = \[23\]"),
        ("v", "edge_sum_", at(1, lambda t: t[:, 1:]), r"must have shape \[O, D\]"),
        ("v of one dimension", "edge_sum_", at(1, lambda t: t[0]), r"v must have shape \[O, D\]"),
        ("half", "edge_sum_", lambda a: [a[0].half(), a[1].half(), *a[2:]], "got float16"),
        ("strided", "edge_sum_", at(0, lambda t: t.t().contiguous().t()), "u must be contiguous"),
        ("one tensor", "edge_sum_", lambda a: [V, V, 0.3, *sides(7, 7)[0][:3:2]], "different"),
        ("source", "edge_sum_", at(4, with_value(3, 7)), r"other must lie in \[-1, 7\), got 7"),
        ("dtype", "edge_values", at(3, lambda t: t.float()), "far must be float64"),
        ("rows", "edge_values", at(7, lambda _: 22), "23 slots and 22 rows of edges"),
        ("grad", "edge_dot", at(0, lambda t: t[1:]), r"grad must have shape \[S, D\] = \[6, 4\]"),
        ("far_grad", "edge_dot", at(1, lambda _: U), r"far_grad must have shape \[O, D\] = \[7, 4"),
        ("far_grad dtype", "edge_dot", at(1, lambda _: V.half()), "far_grad must be float64"),
        ("sign", "edge_max", at(1, lambda t: t[1:]), r"sign must have shape \[D\] = \[4\]"),
        ("arg", "edge_take", at(1, with_value(0, 23)), "arg must name slots"),
        ("arg int64", "edge_max_backward", at(1, lambda t: t.long()), "arg must be int32"),
        (
            "edge_outer_: ptr",
            "edge_outer_",
            at(6, table(0, with_value(2, 24))),
            "ptr must rise from 0",
        ),
        (
            "edge_outer_: other",
            "edge_outer_",
            at(6, table(1, with_value(3, 7))),
            r"other must lie in \[-1, 7",
        ),
        ("segments", "edge_outer_", at(5, lambda _: 3), "segments 3 to 7 of 6 do not exist"),
        ("out", "edge_outer_", at(8, lambda t: t[:, :, 1:]), r"out must have shape \[last - first"),
        ("G", "edge_inner_", at(0, lambda t: t[0]), r"G must have shape \[last - first"),
        ("columns of G", "edge_inner_", at(0, lambda t: t[:, 1:, 1:]), r"x must have shape \[N, C"),
        ("hidden", "edge_outer_", at(8, lambda t: t[:, :1].contiguous()), "of H' = 1 hidden feat"),
        ("a", "edge_inner_", at(9, lambda t: t[:, 1:]), r"a must have shape \[E, H'\]"),
        ("y", "edge_inner_", at(10, lambda t: t[1:]), "23 slots and 22 rows of edges"),
        (
            "near of x",
            "edge_inner_",
            at(3, lambda x: [U[1:, :3], *x]),
            r"near of x must have shape \[S, C\]",
        ),
        ("near of x of edges", "edge_outer_", lambda a: [*a[:2], [U, V], True, *a[4:]], "of nodes"),
        ("three of phi", "edge_outer_", at(0, lambda phi: phi * 3), "phi is one tensor, or near"),
        ("three of x", "edge_inner_", at(3, lambda x: x * 3), "x is one tensor, or near and far"),
        ("without x", "edge_outer_", at(2, lambda _: []), "x is needed"),
        ("tables", "edge_sum", at(10, lambda _: 29), "says that graph has 6 tensors, got 5"),
        ("tables of no kind", "edge_sum", at(10, lambda _: 32), "tables 32 says"),
    )
} | {
    # In the list of a graph's tables.
    f"{op}: {fault}": (op, change, message)
    for op, place in (("edge_sum", 9), ("edge_values", 8), ("edge_dot", 9))
    for fault, change, message in (
        ("ptr", at(place, table(0, with_value(2, 24))), "ptr must rise from 0 to E = 23"),
        ("slot", with_table(place, 1, 23), r"slot must lie in \[0, 23\), got 23"),
        ("other", at(place, table(1, with_value(3, 7))), r"other must lie in \[-1, 7\), got 7"),
        ("edge", with_table(place, 2, 23), r"edge must lie in \[0, 23\), got 23"),
    )
}
