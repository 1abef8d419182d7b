"""Cases of knn: the list to the bit, and the derivatives of the distances."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from draws import F32, F64, HALF, Draw, denormal
from judge import LARGEST, Case
from torch import Tensor

from polygraph import ops, reference
from polygraph.reference.knn import _candidates

KINDS = ("normal", "whole", "few", "zeros", "offset", "spiced", "same", "line", "lattice")
RADII = (0, 1, 2, 3, 5, 100, 2**31 - 1, 2**31, 2**32, 2**62, sys.maxsize - 1, sys.maxsize)


def points(d: Draw, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A cloud: duplicates, equal points, lines and lattices among others."""
    kind = d.one_of(*KINDS)
    if kind not in ("same", "line", "lattice"):
        return d.numbers(name, shape, dtype)
    d.note(**{name: f"{list(shape)} {kind}"})
    rng = d.rng
    if kind == "same":
        found = np.broadcast_to(rng.standard_normal(shape[-1]), shape)
        some = rng.random(shape[:-1]) < d.one_of(0.0, 0.3)
        found = np.where(some[..., None], rng.standard_normal(shape), found)
    elif kind == "line":
        found = rng.permutation(shape[-2])[:, None] * rng.standard_normal(shape[-1])
        found = np.broadcast_to(found, shape)
    else:
        found = rng.integers(0, 4, shape).astype(float)
    return torch.from_numpy(np.array(found)).to(dtype)


def ragged(d: Draw, rows: int, samples: int) -> Tensor:
    """A pointer that rises from 0 to `rows`, with empty samples."""
    inner = np.sort(d.rng.integers(0, rows + 1, max(0, samples - 1)))
    ends = [0, *inner.tolist(), rows] if samples else [0]
    return torch.tensor(ends)


def draw_knn(d: Draw) -> Case:
    """Dense and ragged clouds, images; every k."""
    dtype = d.dtype()
    kind = d.one_of("dense", "dense", "flat", "ragged", "image")
    C = d.size(empty=0.04, large=0.02)
    N = d.size(empty=0.03, large=0.15)
    options: dict[str, Any] = {}
    M, batch = N, ()
    if kind == "image":
        height, width = d.one_of(1, 2, 3, 5, 7, 16), d.one_of(1, 2, 3, 4, 9, 17)
        N = M = height * width
        options["grid"] = (height, width)
        for name in ("exclude_radius", "search_radius"):
            if d.chance(0.6):
                options[name] = d.one_of(*RADII)
    if kind in ("dense", "image") and not (kind == "image" and d.chance(0.2)):
        batch = (d.integer(0, 4),)
    own = kind != "image" and d.chance(0.5)
    if own:
        M = d.size(empty=0.03, large=0.05)
    leaves = {"x": points(d, "x", (*batch, N, C), dtype)}
    if own:
        leaves["y"] = points(d, "y", (*batch, M, C), dtype)
        if d.chance(0.3) and N:  # queries that are points: distances of 0
            chosen = torch.from_numpy(d.rng.integers(0, N, M))
            leaves["y"] = leaves["x"][..., chosen, :].clone()
    if kind == "ragged":
        samples = d.integer(0 if N == M == 0 else 1, 5)
        options["ptr"] = ragged(d, N, samples)
        if own:
            options["y_ptr"] = ragged(d, M, samples)
    if M == N and not (kind == "ragged" and own) and d.chance(0.3):
        options["exclude_self"] = True
    fewest = min(_fewest(N, M, batch, options), 600)
    k = d.one_of(1, 1, 2, 3, fewest, fewest, d.integer(1, max(2, fewest + 1)))
    d.note(kind=kind, k=k)
    d.note(**{n: o.tolist() if isinstance(o, Tensor) else o for n, o in options.items()})
    if not 1 <= k <= fewest:
        k = d.one_of(fewest + 1, 0, -1, sys.maxsize, -sys.maxsize - 1)
        d.note(k=k, fault="k")
        return Case(leaves, lambda **t: ops.knn(k=k, **t, **options)[1], wants_error=True)
    if d.chance(0.08):
        wrong = _wrong(d, leaves, options, k, M)
        if wrong is not None:
            return wrong
    return _right(d, leaves, options, k)


def _fewest(N: int, M: int, batch: tuple[int, ...], options: dict[str, Any]) -> int:
    """Candidates of the query that has fewest; sys.maxsize where there is no query."""
    exclude_self, grid = options.get("exclude_self", False), options.get("grid")
    radii = (options.get("exclude_radius"), options.get("search_radius"))
    if 0 in batch:
        return sys.maxsize
    if "ptr" in options:
        ptr, y_ptr = options["ptr"].diff(), options.get("y_ptr", options["ptr"]).diff()
        there = ptr[y_ptr > 0] - int(exclude_self)
        return int(there.min()) if len(there) else sys.maxsize
    if M == 0:
        return sys.maxsize
    allowed = _candidates(N, M, exclude_self, grid, *radii, torch.device("cpu"))
    return int(allowed.sum(1).min())


def _right(d: Draw, leaves: dict[str, Tensor], options: dict[str, Any], k: int) -> Case:
    leaves = {n: d.laid_out(n, t) for n, t in leaves.items()}
    dtype = leaves["x"].dtype
    computed, C = F32 if dtype in HALF else dtype, leaves["x"].shape[-1]
    index, dist2 = reference.knn(leaves["x"], k, y=leaves.get("y"), **options)
    finite = bool(torch.isfinite(dist2).all())

    def exact() -> str | None:
        found, distances = ops.knn(leaves["x"], k, y=leaves.get("y"), **options)
        if not torch.equal(found, index):
            wrong = (found != index).nonzero()
            return f"the list is wrong, first at {wrong[0].tolist() if len(wrong) else found.shape}"
        if distances.dtype != dist2.dtype or not torch.equal(distances, dist2):
            return "a distance is wrong in some bit"
        return None

    def differences(x: Tensor, y: Tensor | None) -> Tensor:
        queries = x if y is None else y
        if x.dim() == 2:
            return queries[:, None] - x[index]
        near = x.gather(1, index.flatten(1)[..., None].expand(-1, -1, x.shape[2]))
        return queries[:, :, None] - near.unflatten(1, index.shape[1:])

    wide = {n: t.double() for n, t in leaves.items()}
    away = differences(wide["x"], wide.get("y")).abs()

    def absolute(x: Tensor, y: Tensor | None = None) -> Tensor:
        moved, other = x - x.detach(), None if y is None else y - y.detach()
        queries = moved if other is None else other
        # What moves x adds, as what moves y.
        return (away + differences(-moved, queries)).square().sum(-1)

    floor = 16.0 * (C + index.numel()) * denormal(F64)
    return Case(
        leaves,
        lambda x, y=None: ops.knn(x, k, y=y, **options)[1],
        lambda x, y=None: differences(x, y).square().sum(-1),
        absolute,
        terms=C + 2 * max(1, index.numel()),
        exact=exact,
        # Differences are taken of halves.
        floor=(floor, floor),
        smooth=finite and _far_from_overflow(away, computed),
    )


def _far_from_overflow(away: Tensor, computed: torch.dtype) -> bool:
    largest = float(away.max()) if away.numel() else 0.0
    return largest**2 * max(1, away.shape[-1]) < LARGEST[computed] / 64


def _wrong(
    d: Draw, leaves: dict[str, Tensor], options: dict[str, Any], k: int, M: int
) -> Case | None:
    """A fault that must be found before anything is read out of range."""
    fault = d.one_of("value", "value", "ptr", "ptr", "dtype", "grid", "radius", "channels", "meta")
    leaves, options = dict(leaves), dict(options)
    x = leaves["x"]
    if fault == "value":
        name = d.one_of(*leaves)
        t = leaves[name].clone(memory_format=torch.contiguous_format)
        if t.numel() == 0 or M == 0 or x.numel() == 0:
            return None
        t.view(-1)[d.integer(0, t.numel())] = d.one_of(math.nan, math.inf, -math.inf)
        leaves[name] = t
    elif fault == "ptr" and "ptr" in options and x.shape[0]:
        name = "y_ptr" if "y_ptr" in options and d.chance(0.5) else "ptr"
        ptr = options[name].clone()
        rows = int(ptr[-1])
        change = d.one_of("entry", "last", "dtype", "short", "empty")
        if change == "entry":
            value = d.one_of(-1, rows + 1, 2**62, -(2**63), 2**63 - 1)
            ptr[d.integer(0, len(ptr))] = value
        elif change == "last":
            ptr = torch.cat([ptr, ptr[-1:] + 1])
        elif change == "dtype":
            ptr = ptr.to(d.one_of(torch.int32, torch.float32))
        elif change == "short":
            ptr = torch.cat([ptr[:-1], ptr[-1:] - 1])
        else:
            ptr = ptr[:0]
        options[name] = ptr
        fault = f"{name} {change} {ptr.tolist()}"
    elif fault == "dtype":
        if "y" not in leaves:
            leaves["x"] = x.long()
        else:
            leaves["y"] = leaves["y"].to(torch.float64 if x.dtype != torch.float64 else F32)
    elif fault == "grid":
        wide = d.one_of((3, -1), (0, 4), (sys.maxsize, 1), (2**32, 2**32), (1, x.shape[-2] + 1))
        options = {"grid": wide}
        fault = f"grid {wide}"
    elif fault == "radius" and "grid" in options:
        options[d.one_of("exclude_radius", "search_radius")] = d.one_of(-1, -2, -(2**63))
    elif fault == "channels" and "y" in leaves:
        leaves["y"] = torch.cat([leaves["y"], leaves["y"].new_ones(*leaves["y"].shape[:-1], 1)], -1)
    elif fault == "meta":
        if "y" not in leaves:
            return None
        leaves["y"] = leaves["y"].to("meta")
    else:
        return None
    d.note(fault=fault)
    return Case(leaves, lambda **t: ops.knn(k=k, **t, **options)[1], wants_error=True)


OPERATORS: dict[str, Callable[[Draw], Case]] = {"knn": draw_knn}
