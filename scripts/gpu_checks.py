"""The calls that `gpu_smoke.py` makes: small, and between them every way through the CUDA kernels.

A kernel has a way of its own for each dtype, for rows that can be read four or eight numbers at a
time and rows that cannot, for narrow and wide outputs, short and long lists; some begin only with
many rows or long segments. Beside each size stands what it is there for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from gpu_graph_checks import (
    ecc_checks,
    edge_conv_checks,
    edge_max_checks,
    edge_softmax_checks,
    light_ecc_checks,
)
from gpu_inputs import (
    F32,
    FOUR,
    GRAPHS,
    HUB,
    PACKED,
    WIDE,
    Check,
    differentiated,
    flat,
    integers,
    normal,
    table,
)
from torch import Tensor

from polygraph import ops
from polygraph.ops import graph_from_coo
from polygraph.ops.graph import targets_of, transpose_graph


def spiral_checks() -> Iterator[Check]:
    """Tiles by the output's width, packs by the channels, samples a thread, and shares of rows."""

    def check(B: int, V: int, C: int, M: int, S: int, D: int, **options: Any) -> Check:
        hub = options.pop("hub", False)
        index = table(M, S, V, hub=hub) if M else integers(0, 1, 0, S)
        weight = normal(D, S * C, seed=1) / (S * C) ** 0.5
        options["terms"] = max(100, B * M, S * C, M * S // max(1, V) * D * 3, M * D if hub else 0)
        return Check(
            f"spiral_conv {B}x{V}->{M} S {S} C {C} D {D}",
            lambda x, i, w, b: ops.spiral_conv(x, i, w, b),
            (normal(B, V, C), index, weight, normal(D, seed=2)),
            **options,
        )

    for C in (3, FOUR, PACKED):
        for D in (3, 4, 16, 32, 70):  # a tile of backward_weight each; 70 is more than one tile
            yield check(3, 40, C, 50, 4, D)
    yield check(1, 40, PACKED, 50, 9, 16)  # one sample a thread
    yield check(2, 40, 3, 400, 9, 16)  # several shares of rows
    yield check(9, 30, PACKED, 33, 3, 16)
    yield check(1, 900, PACKED, 3000, 2, 4, hub=True)  # one source in 3,000 lists
    for empty in ((0, 5, 4, 6, 3, 4), (2, 5, 4, 0, 3, 4)):
        yield check(*empty, dtypes=F32)
    x, i, w = normal(2, 30, 8), table(30, 3, 30), normal(7, 24, seed=1)
    yield Check("spiral_conv without bias", lambda x, i, w: ops.spiral_conv(x, i, w), (x, i, w))
    twice = differentiated(lambda x, i, w: ops.spiral_conv(x, i, w))
    yield Check("spiral_conv twice", twice, (x, i, w), WIDE)
    large = (*WIDE, torch.bfloat16)
    # The tiles of 128 rows begin where 128 blocks have work: 16,384 rows if the output is one tile.
    yield check(8, 2049, 8, 2049, 1, 16, dtypes=large, large=True)
    yield check(8, 2049, 3, 2049, 1, 12, dtypes=F32, large=True)
    for C in (3, 8):
        yield check(1, 1030, C, 1030, 1, 1056, dtypes=large, large=True)  # 32 columns
        yield check(1, 1030, C, 1030, 1, 1024, dtypes=large, large=True)  # 64, where they fit
    # Eight samples a thread: 8 or more of them, and 131,072 threads or more.
    for C, D in ((515, 3), (2052, 3), (2052, 4)):
        yield check(8, 256, C, 40, 1, D, dtypes=(torch.float32, torch.bfloat16), large=True)


def resample_checks() -> Iterator[Check]:
    """Rows in packs and not, several samples, a source of many targets."""

    def check(B: int, V: int, C: int, M: int, T: int, **options: Any) -> Check:
        hub = options.pop("hub", False)
        index = table(M, T, V, hub=hub) if M else integers(0, 1, 0, T)
        options["terms"] = max(100, B * C, M if hub else 0)
        return Check(
            f"resample {B}x{V}->{M} T {T} C {C}",
            lambda x, i, w: ops.resample(x, i, w),
            (normal(B, V, C), index, normal(M, T, seed=1)),
            **options,
        )

    for C in (3, FOUR, PACKED):
        yield check(3, 40, C, 60, 3)
    yield check(1, 40, 40, 60, 1)
    yield check(1, 900, PACKED, 3000, 2, hub=True)
    yield check(0, 5, 4, 6, 3, dtypes=F32)
    yield check(2, 5, 4, 0, 3, dtypes=F32)
    twice = differentiated(lambda x, i, w: ops.resample(x, i, w))
    yield Check("resample twice", twice, (normal(2, 9, 8), table(12, 3, 9), normal(12, 3)), WIDE)


def poly_step_checks() -> Iterator[Check]:
    """Every activation, both norms, factors by channel and by vertex, three shares of rows."""
    for D in (3, FOUR, PACKED):
        a, s, skip = (normal(3, 600, D, seed=seed) for seed in range(3))
        scale, bias = normal(D, seed=3), normal(D, seed=4)
        by_vertex = normal(600, D, seed=5)
        packed = torch.cat([a, s], -1)
        full = (a, s, scale, bias, skip)
        for name in ("elu", "relu", "leaky_relu", "none"):
            yield Check(
                f"poly_step D {D} {name}",
                lambda a, s, w, b, k, n=name: ops.poly_step(
                    a, s, w, bias=b, skip=k, eps=0.5, activation=n
                ),
                full,
            )
        yield Check(f"poly_step D {D} bare", lambda a, s: ops.poly_step(a, s), (a, s))
        yield Check(
            f"poly_step D {D} by vertex",
            lambda a, s, w, b: ops.poly_step(a, s, w, bias=b, activation="leaky_relu"),
            (a, s, by_vertex, by_vertex + 1),
        )
        yield Check(
            f"poly_step D {D} without norm",
            lambda t, w: ops.poly_step(t, None, w, norm="none", activation="relu"),
            (packed, scale),
        )
        yield Check(f"poly_step D {D} side by side", lambda t: ops.poly_step(t), (packed,))
        huge = (a * 1e-5, s * 1e24, by_vertex)  # their products' squares overflow float32
        yield Check(f"poly_step D {D} huge", lambda a, s, w: ops.poly_step(a, s, w), huge, F32)
        tiny = (a * 1e-10, s * 1e-14)
        yield Check(f"poly_step D {D} tiny", lambda a, s: ops.poly_step(a, s, eps=1e-48), tiny, F32)
    for B, V in ((0, 5), (2, 0)):
        a = normal(B, V, 4)
        yield Check(f"poly_step {B}x{V}", lambda a, s: ops.poly_step(a, s), (a, a + 1), F32)


def knn_checks() -> Iterator[Check]:
    """Every kernel by k and channels, candidates shared among blocks, windows, samples, ties."""

    def check(
        name: str, *arguments: Any, x: Tensor, k: int, large: bool = False, **options: Any
    ) -> Check:
        def call(x: Tensor, *rest: Any) -> Any:
            given = dict(zip(("y", "ptr", "y_ptr"), rest, strict=False))
            return ops.knn(x, k, **given, **options)

        size = "x".join(map(str, x.shape))
        name = f"knn {size} k {k} {name}".rstrip()
        return Check(name, call, (x, *arguments), backward=False, exact=True, large=large)

    # Up to 4 channels, more in packs of four, more that are not; each with every length of list.
    for C in (3, 16, 33):
        for k in (1, 20, 33, 64, 65, 128, 129, 250):
            yield check("", x=normal(2, 260, C), k=k)
    yield check("", x=normal(1, 140, 2), k=32)
    yield check("", x=normal(1, 140, 66), k=32)
    yield check("", x=normal(1, 200, 1), k=200)
    yield check("", x=normal(3, 1, 5), k=1)
    yield check("", x=normal(0, 4, 3), k=2)
    # 2,048 points and more are shared among blocks, whose lists are joined.
    for C, k in ((3, 16), (3, 40), (16, 16), (16, 100), (7, 50), (7, 300)):
        yield check("of few queries", normal(1, 40, C, seed=1), x=normal(1, 2100, C), k=k)
    # All of one place, and of a few: the order of equals, and a bound that holds nothing back.
    for C in (3, 6, 16):
        repeats = integers(-2, 3, 2, 300, C).double()
        for k in (20, 50, 140):
            yield check("repeats", x=repeats, k=k)
        yield check("one place", x=torch.ones(1, 140, C, dtype=torch.float64), k=40)
    # Distances that differ by rounding alone: lists by other sums are too short, and filled again.
    for C in (6, 16):
        sphere = torch.nn.functional.normalize(normal(1, 300, C), dim=-1)
        for k in (7, 40, 100):
            yield check("of a sphere", torch.zeros(1, 3, C).double(), x=sphere, k=k)
    # Many points in few dimensions: boxes of them are passed over.
    for C, k in ((3, 16), (1, 40), (4, 100)):
        queries = normal(1, 4100, C, seed=1)
        yield check("in boxes", queries, x=normal(1, 16400, C), k=k, large=C != 3)
    yield check("in boxes", x=normal(2, 16400, 2), k=9, exclude_self=True, large=True)
    yield check("without itself", x=normal(2, 150, 3), k=9, exclude_self=True)
    yield check("without itself", x=normal(2, 150, 12), k=149, exclude_self=True)
    for C in (3, 12):
        for k, exclude, search in ((9, 1, 6), (40, None, 7), (16, 2, None), (150, 0, 14)):
            grid = {"grid": (20, 31), "exclude_radius": exclude, "search_radius": search}
            yield check(f"window {exclude} {search}", x=normal(1, 620, C), k=k, **grid)
        image = {"grid": (48, 50), "exclude_radius": 1, "search_radius": 60}
        yield check("window of all", x=normal(1, 2400, C), k=5, **image)
    bounds, places = torch.tensor([0, 200, 200, 213, 400]), torch.tensor([0, 3, 3, 9, 30])
    for C in (3, 7, 8):
        yield check("ragged", None, bounds, x=normal(400, C), k=5)
        yield check("ragged", None, bounds, x=normal(400, C), k=13)
        yield check("ragged", normal(30, C, seed=1), bounds, places, x=normal(400, C), k=12)
    yield Check("knn gradient", lambda x: ops.knn(x, 7)[1], (normal(2, 90, 5),))
    yield Check(
        "knn gradient of queries",
        lambda x, y: ops.knn(x, 7, y=y)[1],
        (normal(90, 5), normal(20, 5, seed=1)),
    )


def transpose_checks() -> Iterator[Check]:
    """A table, an empty one, one of nothing but empty slots."""
    nothing = integers(0, 1, 0, 3)
    for name, index, sources in (
        ("", table(60, 3, 40), 40),
        ("hub", table(3000, 2, 20, hub=True), 20),
        ("empty", nothing, 4),
        ("holes alone", torch.full((5, 3), -1), 4),
    ):
        yield Check(
            f"transpose_table {name}".rstrip(),
            lambda i, sources=sources: ops.transpose_table(i, sources),
            (index,),
            F32,
            backward=False,
            exact=True,
        )
    for name in ("holes", "hub", "no edges"):
        _, sources, found = GRAPHS[name]
        yield Check(
            f"targets_of {name}",
            lambda g: targets_of(g.ptr, g.num_slots),
            (found,),
            F32,
            backward=False,
            exact=True,
        )
        yield Check(
            f"transpose_graph {name}",
            lambda g, sources=sources: transpose_graph(g.ptr, g.source, sources),
            (found,),
            F32,
            backward=False,
            exact=True,
        )
    yield Check(
        "graph_from_coo",
        lambda s, t: tuple(graph_from_coo(s, t, 90, 90))[:3],
        (integers(0, 90, 700), integers(0, 90, 700, seed=1)),
        F32,
        backward=False,
        exact=True,
    )


def all_checks() -> list[Check]:
    """Every check there is."""
    families = (
        spiral_checks,
        resample_checks,
        poly_step_checks,
        edge_conv_checks,
        edge_max_checks,
        edge_softmax_checks,
        ecc_checks,
        light_ecc_checks,
        knn_checks,
        transpose_checks,
    )
    checks = [check for family in families for check in family()]
    hub = GRAPHS["hub"][2].ptr
    for at, check in enumerate(checks):
        if any(part is hub for part in flat(check.arguments)):
            checks[at] = replace(check, terms=3 * HUB)  # the gradient of a weight adds up all edges
    return checks
