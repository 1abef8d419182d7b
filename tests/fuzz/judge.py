"""How far a result may be from the definition, and whether it is.

A case gives the operator's call, its definition (`twin`) in float64, and `absolute`: the same sum
with every term's absolute value. What the three have as results, first derivatives, tangents and
second derivatives is compared entry by entry:

    |found - expected| <= 2 (n + 8) u A + r h |A or expected| + underflow

n is the number of terms of the longest sum, u the unit roundoff of the type in which the operator
computes, A the entry of `absolute`: the classical bound of a sum of products in any order. Where
results are rounded to half a type once more, h is the unit roundoff of that, and r says how often.
Partial products that underflow lose less than the smallest number each, times the factors that
follow: at most B, the entry of `absolute` with every factor raised to 1. An entry with B near the
largest number may overflow on the way, and is not compared.

All derivatives come from one differentiation of second order: with first gradients g_i at the
gradient w of the result, and directions t_i, that of sum_i <g_i, t_i> with respect to w is the
tangent along t, and with respect to the arguments the derivative of the gradient along t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from draws import BF16, F16, F32, F64, HALF, Draw, denormal
from torch import Tensor

UNIT = {F64: 2.0**-53, F32: 2.0**-24, F16: 2.0**-11, BF16: 2.0**-8}
LEAST = {dtype: denormal(dtype) for dtype in UNIT}
LARGEST = {dtype: torch.finfo(dtype).max for dtype in UNIT}


@dataclass
class Case:
    """One call of an operator, and what is known of its result.

    Attributes:
        leaves: floating arguments by name, in the dtype of the case and in any layout.
        call: the operator, as a function of the leaves; returns one tensor.
        twin: the definition, of leaves in float64.
        absolute: the sum of the absolute values of its terms, of absolute values in float64; None:
            the twin itself, which has no sign but those of its arguments.
        terms: of the longest sum of the result or of a derivative.
        rounded: roundings to a half type on the way to a result or a derivative.
        once: whether results are rounded once, in the end, and to nearest.
        exact: a further check, of what has no rounding; returns what is wrong.
        smooth: whether derivatives are compared: rounding does not decide on which side of a kink
            an argument lies.
        special: whether some arguments are NaN or inf: results alone, and which of them are.
        wants_error: whether the call must be refused; then it is a fault if it is not.
        swell: how much larger than an entry of `absolute` a sum on the way to it may be.
        reach: most that partial products multiply upstream gradients and directions by, where
            `absolute` does not tell it: of first derivatives, and of second ones. What may overflow
            on the way is not compared.
        floor: errors of underflow, which `absolute` does not tell, for each unit of upstream
            gradients and of directions: of first derivatives, and of second ones.
        power: what the bound of second derivatives is multiplied by: where a function is no
            product, its own error enters them several times.
    """

    leaves: dict[str, Tensor]
    call: Callable[..., Tensor]
    twin: Callable[..., Tensor] | None = None
    absolute: Callable[..., Tensor] | None = None
    terms: int = 1
    rounded: int = 4
    once: bool = False
    exact: Callable[[], str | None] | None = None
    smooth: bool = True
    special: bool = False
    wants_error: bool = False
    swell: float = 1.0
    reach: tuple[float, float] = (0.0, 0.0)
    floor: tuple[float, float] = (0.0, 0.0)
    power: int = 1
    errors: tuple[type[BaseException], ...] = (RuntimeError, ValueError)


def derivatives(
    call: Callable[..., Tensor],
    leaves: dict[str, Tensor],
    upstream: Tensor,
    along: dict[str, Tensor],
) -> dict[str, Tensor]:
    """The result, the gradients, the tangent, and the gradients' derivatives along a direction."""
    leaves = {n: t.detach().requires_grad_() for n, t in leaves.items()}
    out = call(**leaves)
    found = {"result": out.detach()}
    if not out.requires_grad:
        return found
    upstream = upstream.detach().requires_grad_()
    wanted = list(leaves.values())
    grad = torch.autograd.grad
    first = grad(out, wanted, upstream, create_graph=True, allow_unused=True)
    found |= {
        f"gradient of {n}": torch.zeros_like(t) if g is None else g.detach()
        for (n, t), g in zip(leaves.items(), first, strict=True)
    }
    moved = [
        (g, along[n])
        for n, g in zip(leaves, first, strict=True)
        if g is not None and g.requires_grad
    ]
    if not moved:
        return found
    second = grad(
        [g for g, _ in moved],
        [*wanted, upstream],
        [t for _, t in moved],
        allow_unused=True,
        materialize_grads=True,
    )
    found |= {f"second derivative in {n}": g for n, g in zip(leaves, second[:-1], strict=True)}
    found["tangent"] = second[-1]
    return found


def forward_mode(
    call: Callable[..., Tensor],
    leaves: dict[str, Tensor],
    upstream: Tensor,
    along: dict[str, Tensor],
    over_reverse: bool,
) -> dict[str, Tensor]:
    """The tangent by `torch.func.jvp`; perhaps the gradients' derivatives by a jvp over a vjp."""
    names = list(leaves)

    def plain(*values: Tensor) -> Tensor:
        return call(**dict(zip(names, values, strict=True)))

    # PyTorch gives a tangent the strides of its primal, and cannot where these overlap.
    primals = tuple(t.detach().clone() if overlaps(t) else t.detach() for t in leaves.values())
    tangents = tuple(along[n] for n in names)
    if not over_reverse:
        return {"tangent": torch.func.jvp(plain, primals, tangents)[1]}

    def gradients(*values: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(plain, *values)[1](upstream)

    found = torch.func.jvp(gradients, primals, tangents)[1]
    return {f"second derivative in {n}": g for n, g in zip(names, found, strict=True)}


def overlaps(t: Tensor) -> bool:
    """Whether entries share memory, as those of an expanded tensor."""
    return any(size > 1 and step == 0 for size, step in zip(t.shape, t.stride(), strict=True))


# ---- comparing ----


def misses(
    actual: Tensor, expected: Tensor, size: Tensor, ones: Tensor | None, case: Case, what: str
) -> str | None:
    """Where a tensor is too far from what it should be, or None."""
    if actual.shape != expected.shape:
        return f"has shape {list(actual.shape)}, not {list(expected.shape)}"
    if actual.numel() == 0:
        return None
    dtype = actual.dtype
    computed = F32 if dtype in HALF else dtype
    a = actual.detach().double().numpy()
    e, m = expected.numpy(), size.numpy()
    second = what.startswith("second")
    steps = 2 * (case.terms + 8) * (case.power if second else 1)
    bound = steps * UNIT[computed] * m + 2 * LEAST[dtype]
    if dtype in HALF:
        once = what == "result" and case.once
        bound = bound + UNIT[dtype] * (1.01 * np.abs(e) if once else case.rounded * m)
        bound = bound + (0 if once else case.rounded * LEAST[dtype])
    # What is rounded to half a type on the way may overflow, or lose its digits, there.
    narrow = dtype if ones is not None and dtype in HALF and not case.once else computed
    most = m if ones is None else ones.numpy()
    bound = bound + 2 * steps * LEAST[narrow] * (1.0 if ones is None else most)
    bound = bound + case.floor[second]
    with np.errstate(invalid="ignore", over="ignore"):
        fits = most < LARGEST[narrow] / 16 / case.swell
        compared = fits & (m < 0.9 * LARGEST[dtype])
        # What rounds to half a type's infinity, but is no overflow on the way to it.
        beyond = fits & (np.abs(e) - bound > LARGEST[dtype])
        wrong = compared & ~(np.abs(a - e) <= bound)
        if what == "result" and case.once:
            wrong |= beyond & ~(a == np.copysign(np.inf, e))
    if case.special:
        odd = ~np.isfinite(e)
        wrong &= ~odd
        wrong |= compared & odd & ~(np.isnan(a) & np.isnan(e)) & ~(a == e)
    if not wrong.any():
        return None
    place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    return (
        f"at {[int(p) for p in place]} is {a[place]:.17g}, should be {e[place]:.17g} within "
        f"{bound[place]:.1e} ({int(wrong.sum())} of {wrong.size} entries)"
    )


@dataclass
class Questions:
    """What a case is asked for, besides its result.

    Attributes:
        upstream: gradient of the result.
        along: directions of the leaves.
        forward: which way in forward mode, if any.
        first: whether first derivatives are compared, and tangents.
        second: whether second derivatives are.
    """

    upstream: Tensor
    along: dict[str, Tensor]
    forward: str
    first: bool
    second: bool


def drawn_questions(case: Case, draw: Draw, shape: torch.Size, dtype: torch.dtype) -> Questions:
    """Gradients and directions; what may overflow or underflow on the way through them."""
    kinds = ("normal", "normal", "whole", "spiced")
    upstream = draw.numbers("upstream", shape, dtype, wild=0.05, kinds=kinds)
    upstream = draw.laid_out("upstream", upstream, 0.15)
    along = {
        n: draw.numbers(f"direction of {n}", t.shape, dtype, wild=0.03, kinds=kinds)
        for n, t in case.leaves.items()
    }
    forward = draw.one_of("no", "no", "tangent", "over reverse")
    draw.note(forward_mode=forward)
    flow = (1 + largest(upstream)) * (1 + max(map(largest, along.values()), default=0))
    if draw.moderate or case.floor == (0.0, 0.0):
        case.floor = (0.0, 0.0)
    else:
        case.floor = (case.floor[0] * flow, case.floor[1] * flow)
    top = LARGEST[F32 if dtype in HALF else dtype] / 16
    first = case.smooth and bool(case.leaves) and case.reach[0] * flow < top
    return Questions(upstream, along, forward, first, first and case.reach[1] * flow < top)


def examine(case: Case, draw: Draw) -> list[str]:
    """Run one case; what is wrong with it."""
    if case.wants_error:
        return _refused(case)
    problem = None if case.exact is None else case.exact()
    problems = [] if problem is None else [problem]
    if case.twin is None:
        if case.leaves:
            _survives(case)
        return problems
    before = {n: t.clone() for n, t in case.leaves.items()} if draw.chance(0.1) else {}
    problems += _special(case) if case.special else _ordinary(case, draw)
    for name, values in before.items():
        if not torch.equal(values.nan_to_num(), case.leaves[name].nan_to_num()):
            problems.append(f"argument {name} was written to")
    return problems


def _ordinary(case: Case, draw: Draw) -> list[str]:
    """A call of finite numbers, with derivatives in both directions."""
    assert case.twin is not None
    dtype = next(iter(case.leaves.values())).dtype
    wide = {n: t.detach().double() for n, t in case.leaves.items()}
    with torch.no_grad():
        shape = case.twin(**wide).shape
    asked = drawn_questions(case, draw, shape, dtype)

    def results(
        call: Callable[..., Tensor],
        leaves: dict[str, Tensor],
        change: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor]:
        leaves = {n: change(t) for n, t in leaves.items()}
        if not asked.first:
            with torch.no_grad():
                return {"result": call(**leaves)}
        along = {n: change(t) for n, t in asked.along.items()}
        return derivatives(call, leaves, change(asked.upstream), along)

    absolute = case.twin if case.absolute is None else case.absolute
    expected = results(case.twin, wide, Tensor.double)
    size = results(absolute, wide, lambda t: t.double().abs())
    ones = None
    if not draw.moderate or (dtype in HALF and not case.once):
        ones = results(absolute, wide, lambda t: t.double().abs().clamp(min=1))
    if dtype in HALF and asked.first:
        # Autograd hands on, in the half type, what the gradient of the result moves by.
        passed = largest(size["tangent"]) * largest(asked.upstream)
        asked.second &= passed < LARGEST[dtype] / 4
    judged = (expected, size, ones, case, dtype, asked.second)
    actual = results(case.call, case.leaves, lambda t: t)
    problems = _compare(actual, *judged)
    if not asked.first or asked.forward == "no":
        return problems
    over = asked.forward == "over reverse"
    moved = forward_mode(case.call, case.leaves, asked.upstream, asked.along, over)
    return problems + [f"forward mode: {p}" for p in _compare(moved, *judged, partly=True)]


def largest(t: Tensor) -> float:
    """Of the absolute values."""
    return float(t.abs().max()) if t.numel() else 0.0


def _compare(
    actual: dict[str, Tensor],
    expected: dict[str, Tensor],
    size: dict[str, Tensor],
    ones: dict[str, Tensor] | None,
    case: Case,
    dtype: torch.dtype,
    second: bool,
    partly: bool = False,
) -> list[str]:
    """What is wrong, or missing; derivatives of zeros may be left out."""
    problems = []
    for name, value in actual.items():
        if name.startswith("second") and not second:
            continue
        if name not in expected:
            problem = "is not zero, as it should be" if value.count_nonzero() else None
        elif value.dtype != dtype and not (name in ("result", "tangent") and dtype in HALF):
            problem = f"is {value.dtype}"
        else:
            most = None if ones is None else ones[name]
            problem = misses(value, expected[name], size[name], most, case, name)
        problems += [] if problem is None else [f"{name} {problem}"]
    missing = [] if partly else [name for name in expected if name not in actual]
    return problems + [f"{n} is missing" for n in missing if expected[n].count_nonzero()]


def _special(case: Case) -> list[str]:
    """Results of arguments that are not all finite."""
    assert case.twin is not None
    absolute = case.twin if case.absolute is None else case.absolute
    wide = {n: t.detach().double() for n, t in case.leaves.items()}
    plain = {n: t.nan_to_num(posinf=0, neginf=0).abs() for n, t in wide.items()}
    with torch.no_grad():
        expected = case.twin(**wide)
        size, ones = absolute(**plain), absolute(**{n: t.clamp(min=1) for n, t in plain.items()})
        actual = case.call(**case.leaves)
    problem = misses(actual, expected, size, ones, case, "result")
    return [] if problem is None else [f"result {problem}"]


def _survives(case: Case) -> None:
    """Nothing to compare with: it must not crash."""
    leaves = {n: t.detach().requires_grad_() for n, t in case.leaves.items()}
    out = case.call(**leaves)
    if leaves and out.requires_grad:
        torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out), allow_unused=True)


def _refused(case: Case) -> list[str]:
    """The call must raise what is documented, in one of its passes."""
    leaves = {
        n: t.detach().requires_grad_() if t.is_floating_point() else t
        for n, t in case.leaves.items()
    }
    try:
        out = case.call(**leaves)
        if isinstance(out, Tensor) and out.requires_grad:
            wanted = [t for t in leaves.values() if t.requires_grad]
            torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)
    except case.errors:
        return []
    return ["was not refused"]
