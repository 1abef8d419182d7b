"""Cases of pack_bits and hamming_knn: codes of all kinds, and their lists to the entry."""

from __future__ import annotations

import sys

import numpy as np
import torch
from draws import Draw
from judge import Case
from torch import Tensor

from polygraph import ops, reference

KINDS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32)
# Tails of a word, of 512 bits and of a panel of them.
WIDTHS = (1, 2, 7, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1000, 4097)


def codes(d: Draw, name: str, rows: int, width: int, dtype: torch.dtype, near: Tensor) -> Tensor:
    """``[rows, width]``: random, alike, equal, or with few changes of others, so that they tie."""
    kind = d.one_of("any", "any", "same", "few", "changed", "extreme")
    d.note(**{name: f"[{rows}, {width}] {dtype} {kind}"})
    low, high = (0, 2) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    if kind == "extreme":
        values = d.rng.choice(np.array([low, high - (dtype == torch.bool)]), (rows, width))
    elif kind == "same":
        values = np.full((rows, width), d.integer(0, 2))
    elif kind == "few" and rows:
        values = d.rng.integers(0, 2, (3, width))[d.rng.integers(0, 3, rows)]
    elif kind == "changed" and len(near):
        values = near.long().numpy()[d.rng.integers(0, len(near), rows)]
        values[d.rng.random((rows, width)) < 0.02] ^= 1
    else:
        values = d.rng.integers(0, 2 if d.chance(0.5) else min(high, 100), (rows, width))
    return torch.from_numpy(np.asarray(values).astype(np.int64)).to(dtype)


def draw_hamming_knn(d: Draw) -> Case:
    """Several tensors of codes, bits packed or not; queries of their own, or the codes."""
    N, M = d.size(empty=0.03, large=0.1), d.size(empty=0.03, large=0.05)
    own = d.chance(0.6)
    bank: list[Tensor] = []
    queries: list[Tensor] = []
    for part in range(d.one_of(1, 1, 2, 3)):
        dtype, width = (
            d.one_of(*KINDS),
            d.one_of(0, *WIDTHS) if d.chance(0.1) else d.one_of(*WIDTHS),
        )
        x = codes(d, f"x{part}", N, width, dtype, torch.zeros(0, width, dtype=dtype))
        y = codes(d, f"y{part}", M, width, dtype, x) if own else x
        if dtype == torch.bool and d.chance(0.7):
            d.note(**{f"packed{part}": True})
            x, y = ops.pack_bits(x), ops.pack_bits(y)
        bank.append(d.laid_out(f"x{part}", x))
        queries.append(d.laid_out(f"y{part}", y))
    N, M = len(bank[0]), len(queries[0]) if own else len(bank[0])
    k = d.one_of(1, 2, max(1, N), d.integer(1, max(2, N + 1)))
    d.note(k=k, own=own)
    y = queries if own else None
    if k > N or d.chance(0.08):
        return _wrong(d, bank, y, k)

    def exact() -> str | None:
        before = [t.clone() for t in bank + queries]
        found, wanted = ops.hamming_knn(bank, k, y=y), reference.hamming_knn(bank, k, y=y)
        if any(not torch.equal(t, b) for t, b in zip(bank + queries, before, strict=True)):
            return "an argument is written to"
        for name, one, other in zip(("index", "distance"), found, wanted, strict=True):
            if not torch.equal(one, other):
                return f"{name} is wrong"
        return None

    return Case({}, lambda: None, exact=exact)


def _wrong(d: Draw, bank: list[Tensor], y: list[Tensor] | None, k: int) -> Case:
    N = len(bank[0])
    fault = d.one_of("k", "k", "dtype", "width", "rank", "rows", "count", "kind")
    queries = list(bank if y is None else y)
    if fault == "dtype":
        queries[0] = (
            queries[0].view(torch.int64).int()
            if bank[0].dtype == torch.uint64
            else (queries[0].to(torch.int64))
        )
    elif fault == "width":
        queries[-1] = queries[-1].new_zeros(len(queries[-1]), queries[-1].shape[1] + 1)
    elif fault == "rank":
        bank = [bank[0][None], *bank[1:]]
    elif fault == "rows" and len(bank) > 1:
        bank = [*bank[:-1], bank[-1].new_zeros(N + 1, bank[-1].shape[1])]
    elif fault == "count":
        queries = [*queries, queries[-1]]
    elif fault == "kind":
        bank, queries = (
            [t.double() if t.dtype != torch.uint64 else t.view(torch.float64) for t in parts]
            for parts in (bank, queries)
        )
    else:
        fault, k = "k", d.one_of(0, -1, -sys.maxsize - 1)
        if len(queries[0]) and d.chance(0.6):  # without a query there is no list to be too long
            k = d.one_of(N + 1, 2**31, sys.maxsize)
    d.note(fault=fault, k=k)
    return Case({}, lambda: ops.hamming_knn(bank, k, y=queries)[1], wants_error=True)


OPERATORS = {"hamming_knn": draw_hamming_knn}
