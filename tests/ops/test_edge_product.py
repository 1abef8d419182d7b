"""The edge-wise halves of edge-conditioned convolutions, which write into what they are given."""

import pytest
import torch
from support.edges import random_edges
from support.tables import normal
from support.tolerances import KERNEL, assert_close

from polygraph.ops import Graph
from polygraph.ops.graph_side import GraphSide


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("by_source", [False, True])
def test_halves_at_all_widths(by_source, made, dtype):
    """edge_outer_ and edge_inner_ for rows of one number to five vectors, seen from either side.

    They write the rows of their segments and slots, and not a number more.
    """
    graph = Graph(**random_edges(6, 7, 40, holes=True)).with_transposed(7)
    ptr, other, slot = graph.ptr, graph.source, None
    if by_source:
        ptr, other, slot = graph.t_ptr, graph.target, graph.t_slot
    segments, others = (7, 6) if by_source else (6, 7)
    row = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    of = torch.repeat_interleave(torch.arange(segments), ptr.diff())
    slots = torch.arange(len(of)) if slot is None else slot[: len(of)]
    kept = other[slots] >= 0
    of, slots = of[kept], slots[kept]
    at, rows = other[slots], row[slots]
    first, last = 1, segments - 1
    inside = (of >= first) & (of < last)
    of, at, rows = of[inside], at[inside], rows[inside]
    side = GraphSide(ptr, slot, other, row, None, None, None).packed()
    for C in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33):
        for H, ones in ((1, True), (3, False), (8, True), (9, False), (16, True), (19, False)):
            x, G = normal(others, C), normal(last - first, H + ones, C, seed=1)
            phi, seg, oth = normal(40, H, seed=2), normal(segments, H, seed=3), normal(others, H)
            used = phi[rows]
            if made:
                used = torch.nn.functional.leaky_relu(seg[of] + oth[at], 0.2)
            if ones:
                used = torch.cat([used, used.new_ones(len(used), 1)], 1)
            features = [seg.to(dtype), oth.to(dtype)] if made else [phi.to(dtype)]
            options = (False, others, first, *side)
            x_, guard = x.to(dtype), torch.full((segments, H + ones, C), 7.0, dtype=dtype)
            out = guard[first:last]
            torch.ops.polygraph.edge_outer_(features, 0.2, [x_], *options, out)
            assert (guard[[0, -1]] == 7).all()
            wanted = torch.zeros(segments, H + ones, C, dtype=torch.float64)
            wanted.index_add_(0, of, used[:, :, None] * x[at][:, None])
            assert_close(out, wanted[first:last], KERNEL[dtype], f"Z, C {C}, H {H}")
            a, y = (torch.full((40, n), 7.0, dtype=dtype) for n in (H + ones, C))
            inner = (G.to(dtype), features, 0.2, [x_], *options)
            torch.ops.polygraph.edge_inner_(*inner, a, y, True)
            near = G[of - first]
            for name, found, expected in (
                ("a", a, torch.einsum("ehc,ec->eh", near, x[at])),
                ("y", y, 7 + torch.einsum("ehc,eh->ec", near, used)),
            ):
                assert_close(found[rows], expected, KERNEL[dtype], f"{name}, C {C}, H {H}")
                rest = torch.ones(40, dtype=torch.bool).index_fill(0, rows, False)
                assert (found[rest] == 7).all()
