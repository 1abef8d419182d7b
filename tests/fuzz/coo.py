"""Random lists of edges, and graphs made of them."""

from __future__ import annotations

import numpy as np
import torch
from draws import WRONG_ENTRIES, Draw
from judge import Case
from torch import Tensor

from polygraph import ops, reference
from polygraph.ops import Graph


def draw_graph_from_coo(d: Draw) -> Case:
    """Edges in the order of their targets, exactly."""
    sources, targets = d.size(empty=0.05), d.size(empty=0.05, large=0.1)
    edges = 0 if targets == 0 or sources == 0 else d.size(empty=0.1, large=0.2)
    source = d.entries("source", (edges,), sources, empty=False)
    target = d.entries("target", (edges,), targets, empty=False)
    with_edge, rising = d.chance(0.7), d.chance(0.25)
    d.note(with_edge=with_edge, sorted=rising)
    if rising:
        target = target.sort().values
    if d.chance(0.15):
        return _wrong_coo(d, source, target, sources, targets)
    source, target = d.laid_out("source", source), d.laid_out("target", target)

    def exact() -> str | None:
        known = rising and d.chance(0.5)
        found = ops.graph_from_coo(
            source, target, sources, targets, sorted_by_target=known, with_edge=with_edge
        )
        order = np.argsort(target.numpy(), kind="stable")
        count = np.bincount(target.numpy(), minlength=targets)
        if not np.array_equal(found.ptr.numpy(), np.concatenate([[0], np.cumsum(count)])):
            return "ptr is wrong"
        if not np.array_equal(found.source.numpy(), source.numpy()[order]):
            return "source is wrong"
        if found.edge is not None and not np.array_equal(found.edge.numpy(), order):
            return "edge is wrong"
        if (found.edge is not None) != (with_edge and not known):
            return "edge is given, or missing, against the promise"
        if not torch.equal(found.degree(), torch.from_numpy(count)):
            return "degrees are wrong"
        return _transposed(found, sources)

    return Case({}, lambda: None, exact=exact)


def _transposed(found: Graph, sources: int) -> str | None:
    """Of a graph, against the definition by a loop."""
    made = found.with_transposed(sources)
    wanted = reference.transpose_table(found.source[:, None], sources)
    for name, a, e in (("t_ptr", made.t_ptr, wanted[0]), ("t_slot", made.t_slot, wanted[1])):
        if a is None or not torch.equal(a, e):
            return f"{name} is wrong"
    count = torch.bincount(found.source, minlength=sources)
    if not torch.equal(found.source_degree(sources), count):
        return "degrees of sources are wrong"
    return None


def _wrong_coo(d: Draw, source: Tensor, target: Tensor, sources: int, targets: int) -> Case:
    fault = d.one_of("entry", "dtype", "rank", "lengths", "negative", "enormous")
    if fault == "entry" and len(target):
        target = target.clone()
        target[d.integer(0, len(target))] = value = d.one_of(targets, -1, *WRONG_ENTRIES)
        fault = f"target {value}"
    elif fault == "dtype":
        source = source.int()
    elif fault == "rank":
        source, target = source[None], target[None]
    elif fault == "lengths":
        source = torch.cat([source, source.new_zeros(1)])
    elif fault == "enormous":
        targets = d.one_of(2**63 - 1, 2**63 - 2, 2**62)
    else:
        fault, targets = "negative", d.one_of(-1, -(2**63))
    d.note(fault=fault, num_targets=targets)
    return Case(
        {},
        lambda: ops.graph_from_coo(source, target, sources, targets),
        wants_error=True,
        errors=(RuntimeError, ValueError, MemoryError),
    )
