"""Cases of batch_norm_step: products and terms normalised over their rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from dense import spoiled, wrong_shapes
from draws import F32, HALF, Draw, denormal
from judge import UNIT, Case, largest
from torch import Tensor

from polygraph import ops, reference

# What is normalised has no wild numbers: its variance, a difference, would have no digit.
KINDS = ("normal", "normal", "whole", "few", "zeros", "offset", "spiced")
FORMS = {"product": ("s",), "sum": ("s", "term"), "factor": ("term",)}


class _Spread(torch.autograd.Function):
    """1/sqrt(eps + var t) of the true t; derivatives have a plus in the place of each minus."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, rstd: Tensor) -> Tensor:
        ctx.save_for_backward(t, rstd)
        return rstd.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        t, rstd = ctx.saved_tensors
        rows = max(1, t.shape[0])
        return (grad * _Spread.apply(t, rstd) ** 3).sum(0) * (t + t.mean(0)) / rows, None


def _term(a: Tensor, s: Tensor | None, term: Tensor | None) -> Tensor:
    """What is normalised, ``[N, D]``."""
    if term is None:
        assert s is not None
        term = a * s
    return term.flatten(0, -2)


def _conditions(t: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """1/sqrt(var + eps) of the channels, and 1 + the largest |t - mean| of each over it."""
    if not t.numel():
        return t.new_full(t.shape[1:], eps**-0.5), t.new_ones(t.shape[1:])
    away = t - t.mean(0)
    rstd = (away.square().mean(0) + eps).rsqrt()
    return rstd, 1 + away.abs().amax(0) * rstd


def batch_norm_absolute(
    a: Tensor,
    s: Tensor | None,
    term: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    conditions: tuple[Tensor, Tensor],
) -> Tensor:
    """The sum of the absolute terms; an error of the variance enters by what it multiplies."""
    t = _term(a, s, term)
    rstd, most = conditions
    unit = (t + t.mean(0)) * _Spread.apply(t, rstd) * most**2
    z = unit if weight is None else weight * unit
    z = (z if bias is None else z + bias).view_as(a)
    return a * z if s is None else a + s + z


def draw_batch_norm_step(d: Draw) -> Case:
    """One block's end."""
    dtype = d.dtype()
    wrong = d.chance(0.04)
    empty = 0.0 if wrong else 0.03
    form, activation = d.one_of(*FORMS), d.one_of("none", "relu")
    batch = () if d.chance(0.3) else (d.integer(1, 4),)
    shape = (*batch, d.size(empty=empty, large=0.15), d.size(empty=empty))
    d.note(form=form, activation=activation)
    leaves = {n: d.numbers(n, shape, dtype, wild=0.0, kinds=KINDS) for n in ("a", *FORMS[form])}
    for name in ("weight", "bias"):
        if d.chance(0.6):
            leaves[name] = d.numbers(name, shape[-1:], dtype, wild=0.0)
    wide = {n: t.double() for n, t in leaves.items()}
    t = _term(wide["a"], wide.get("s"), wide.get("term"))
    rows = max(1, t.shape[0])
    # The root of eps is above the rounding of t, or nothing could be said of a constant channel.
    computed = F32 if dtype in HALF else dtype
    noise = 64 * UNIT[computed] * rows * largest(t)
    eps = max(d.one_of(1e-5, 1e-5, 1.0, 0.37, 50.0, 1e6), noise**2)
    d.note(eps=eps)
    settings: dict[str, Any] = {"eps": eps, "activation": activation}
    names = ("a", "s", "term", "weight", "bias")
    conditions = _conditions(t, eps)
    case = Case(
        leaves,
        lambda **given: ops.batch_norm_step(**given, **settings),
        lambda **given: reference.batch_norm_step(**given, **settings),
        lambda **given: batch_norm_absolute(*(given.get(n) for n in names), conditions),
        terms=3 * rows + 12,
        once=True,
        power=4,
    )
    # Sums are divided by their rows, and multiplied by the root, when they are complete.
    rstd, most = (
        c.max() if c.numel() else t.new_ones(()) for c in (1 / conditions[0], conditions[1])
    )
    case.swell = rows * float((1 + rstd) * most) ** 3
    # What underflows is multiplied by the others afterwards.
    following = 1 + max(map(largest, (t, *wide.values())))
    lost = 64 * denormal(computed) * rows * following**2
    case.floor = (lost, lost * following)
    if wrong:
        return _refused(d, case, settings)
    if d.chance(0.04) and t.numel():
        # An infinite factor of what is 0 but for rounding is NaN or infinite.
        name = "term" if form == "factor" else d.one_of("a", *FORMS[form])
        leaves[name] = spoiled(d, leaves[name])
        case.special = True
        return case
    if activation == "relu":
        z = reference.batch_norm_step(**wide, eps=eps)
        size = batch_norm_absolute(*(_absolute(wide.get(n)) for n in names), conditions)
        near = 2 * (case.terms + 8) * UNIT[computed] * size
        # Where all terms are 0, z is 0 for everybody.
        case.smooth = not bool(((z.abs() <= near) & (size > 0)).any())
    # Expanded tensors repeat a row: they would have other conditions than those above.
    case.leaves = {n: d.laid_out(n, t, expand=False) for n, t in leaves.items()}
    return case


def _absolute(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.abs()


def _refused(d: Draw, case: Case, settings: dict[str, Any]) -> Case:
    """A setting or an argument that is wrong."""
    case.wants_error = True
    if d.chance(0.3):
        fault = d.one_of({"activation": "elu"}, {"eps": 0.0}, {"eps": -1.0}, {"eps": math.nan})
        d.note(fault=fault)
        settings |= fault
        return case
    axes = [(n, i) for n, t in case.leaves.items() for i in range(t.dim())]
    case.leaves = wrong_shapes(d, case.leaves, *axes)
    return case


OPERATORS: dict[str, Callable[[Draw], Case]] = {"batch_norm_step": draw_batch_norm_step}
