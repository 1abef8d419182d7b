"""Runs the fuzzer's cases on operators with planted faults; prints how many cases notice each.

Started by test_fuzz.py in a process of its own: what is planted stays there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import fuzz
import torch
from torch import Tensor

from polygraph import ops


def plain_poly_step(a: Tensor, s: Tensor | None = None, **options: Any) -> Tensor:
    """With squares that overflow, as long as the norm is all that there is."""
    if s is None:
        a, s = a.chunk(2, dim=-1)
    term = a.to(torch.float32) * s.to(torch.float32)
    if options["norm"] != "rms" or a.dtype == torch.float64:
        return RIGHT["poly_step"](a, s, **options)
    lost = term.square().mean(-2, keepdim=True).isinf()
    return RIGHT["poly_step"](a, torch.where(lost, 0 * s, s), **options)


class _WrongTangent(torch.autograd.Function):
    """The identity, with a tangent a hundredth off."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 1.01 * tangent


def off(t: Tensor) -> Tensor:
    """The same values, with gradients a hundredth off."""
    return t + 0.01 * (t - t.detach())


def last_of_equals(x: Tensor, k: int, **options: Any) -> tuple[Tensor, Tensor]:
    """A list in which, of two equal distances, the larger index is first."""
    index, dist2 = RIGHT["knn"](x, k, **options)
    for column in range(k - 1):
        same = (dist2[..., column] == dist2[..., column + 1]).detach()
        pair = index[..., column : column + 2]
        index[..., column : column + 2] = torch.where(same[..., None], pair.flip(-1), pair)
    return index, dist2


def last_of_equal_codes(x: Any, k: int, y: Any = None) -> tuple[Tensor, Tensor]:
    """Lists of codes whose ties are ordered the other way round."""
    bank = [x] if isinstance(x, Tensor) else list(x)
    turned = [t[torch.arange(len(t) - 1, -1, -1)] for t in bank]
    index, distance = RIGHT["hamming_knn"](turned, k, y=bank if y is None else y)
    return len(bank[0]) - 1 - index, distance


def with_wrong_entries(index: Tensor, sources: int) -> tuple[Tensor, Tensor]:
    """A table that takes any entry for an empty place."""
    if index.dtype != torch.int64 or index.dim() != 2 or sources < 0 or sources > 2**40:
        return RIGHT["transpose_table"](index, sources)
    known = (index >= 0) & (index < sources)
    return RIGHT["transpose_table"](torch.where(known, index, -1), sources)


RIGHT = {name: getattr(ops, name) for name in fuzz.NAMES}
FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "a value a thousandth off": (
        "resample",
        lambda *a, **o: RIGHT["resample"](*a, **o) * (1 + 1e-3),
    ),
    "-1 names the last row": (
        "resample",
        lambda x, index, weight, **o: RIGHT["resample"](
            x, torch.where(index == -1, x.shape[-2] - 1, index), weight
        ),
    ),
    "a gradient that is not there": (
        "spiral_conv",
        lambda *a, **o: RIGHT["spiral_conv"](*a, **o).detach(),
    ),
    "a gradient a hundredth off": (
        "spiral_conv",
        lambda x, index, weight, *a, **o: RIGHT["spiral_conv"](x, index, off(weight), *a, **o),
    ),
    "a tangent a hundredth off": (
        "edge_sum",
        lambda v, *a: RIGHT["edge_sum"](_WrongTangent.apply(v), *a),
    ),
    "a term lost where squares overflow": ("poly_step", plain_poly_step),
    "a constant under a root a thousandth off": (
        "batch_norm_step",
        lambda *a, eps=1e-5, **o: RIGHT["batch_norm_step"](*a, eps=1.001 * eps, **o),
    ),
    "of equal distances the last": ("knn", last_of_equals),
    "of equal codes the last": ("hamming_knn", last_of_equal_codes),
    "wrong entries taken": ("transpose_table", with_wrong_entries),
    "an argument written to": (
        "edge_values",
        lambda u, v, *a: RIGHT["edge_values"](u, v.detach().zero_() if v.numel() else v, *a),
    ),
    "half a type's sums in half a type": (
        "edge_sum",
        lambda v, *a: RIGHT["edge_sum"](v.float().bfloat16().to(v.dtype), *a),
    ),
}


def first_noticed(operator: str, cases: int) -> int | None:
    """The number of the first case in which something is wrong."""
    for number in range(cases):
        if fuzz.run_case(operator, 0, number)[0]:
            return number
    return None


def main(cases: int) -> None:
    """Print JSON: the first case that notices each fault, and whether it passes without it."""
    fuzz.operators()
    found = {}
    for name, (operator, wrong) in FAULTS.items():
        setattr(ops, operator, wrong)
        number = first_noticed(operator, cases)
        setattr(ops, operator, RIGHT[operator])
        innocent = None if number is None else not fuzz.run_case(operator, 0, number)[0]
        found[name] = [number, innocent]
    print(json.dumps(found))


def crash(draw: Any) -> Any:
    """Case 2 ends its process; the others pass."""
    from dense import draw_transpose_table

    if draw.number == 2:
        os.abort()

    return draw_transpose_table(draw)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        fuzz.operators = lambda: {"transpose_table": crash}
        fuzz.serve(sys.argv[2])
    else:
        main(int(sys.argv[1]))
