"""Cases of the operators on tables: resample, spiral_conv, transpose_table, and of poly_step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from draws import F32, F64, HALF, WRONG_ENTRIES, Draw, denormal
from judge import UNIT, Case, largest
from torch import Tensor

from polygraph import ops, reference

NOT_FINITE = (math.nan, math.inf, -math.inf)


def spoiled(d: Draw, x: Tensor) -> Tensor:
    """With some entries NaN or inf."""
    x = x.clone()
    for _ in range(d.integer(1, 4)):
        x.view(-1)[d.integer(0, x.numel())] = d.one_of(*NOT_FINITE)
    d.note(special=True)
    return x


def batched(d: Draw, most: int = 3) -> tuple[int, ...]:
    """No batch dimension, or one of a few samples."""
    return () if d.chance(0.2) else (d.integer(0, most + 1),)


# ---- resample and spiral_conv: a table, and two factors ----


def wrong_table(d: Draw, index: Tensor, sources: int) -> dict[str, Any]:
    """Faults of an index or of its transposed table; the table has an entry that is not -1."""
    fault = d.one_of("entry", "dtype", "rank", "t_ptr", "t_ptr", "t_entry", "t_shape")
    found: dict[str, Any] = {"index": index, "transposed": None}
    place = d.integer(0, index.numel())
    if fault == "entry":
        value = d.one_of(sources, *WRONG_ENTRIES)
        found["index"] = index.clone()
        found["index"].view(-1)[place] = value
        fault = f"entry {value}"
    elif fault == "dtype":
        found["index"] = index.to(d.one_of(torch.int32, torch.float32))
    elif fault == "rank":
        found["index"] = d.one_of(index[None], index[0])
    else:
        ptr, entry = (t.clone() for t in ops.transpose_table(index, sources))
        count = index.numel()
        if fault == "t_ptr":
            row = d.integer(0, len(ptr))
            value = d.one_of(-1, count + 1, 2**62, -(2**63))
            ptr[row] = value
            fault = f"t_ptr[{row}] = {value}"
        elif fault == "t_entry":
            row, value = d.integer(0, int(ptr[-1])), d.one_of(-1, count, 2**62, -(2**63))
            entry[row] = value
            fault = f"t_entry[{row}] = {value}"
        elif d.chance(0.5):
            ptr = d.one_of(ptr[:-1], ptr[:0], ptr[None], ptr.int())
        else:
            entry = d.one_of(entry[1:], entry[None], entry.int())
        found["transposed"] = (ptr, entry)
    d.note(fault=fault)
    return found


def draw_resample(d: Draw) -> Case:
    """Weighted sums of rows."""
    dtype = d.dtype()
    wrong = d.chance(0.06)
    large = 0.0 if wrong else 0.1
    empty = 0.0 if wrong else 0.03
    batch = (2,) if wrong else batched(d)
    V, M = d.size(empty=empty, large=large), d.size(empty=empty, large=large)
    C, T = d.size(empty=empty), d.integer(1, 6)
    index = d.entries("index", (M, T), V, empty=True)
    x = d.numbers("x", (*batch, V, C), dtype)
    weight = d.numbers("weight", (M, T), dtype)
    case = Case(
        {"x": x, "weight": weight},
        lambda x, weight: ops.resample(x, index, weight, transposed=table),
        lambda x, weight: reference.resample(x, index, weight),
        terms=max(T, M * T, math.prod(batch) * C),
        once=True,
    )
    table = None
    if wrong and (index >= 0).any():
        given = wrong_table(d, index, V)
        case.wants_error = True
        case.call = lambda x, weight: ops.resample(
            x, given["index"], weight, transposed=given["transposed"]
        )
        return case
    if wrong:
        case.wants_error = True
        case.leaves = wrong_shapes(d, case.leaves, ("weight", 0), ("weight", 1))
        return case
    table = d.table_of(index, V)
    index = d.laid_out("index", index, 0.15, expand=False)
    if d.chance(0.04) and x.numel():
        case.leaves["x"] = spoiled(d, x)
        case.special = True
        return case
    case.leaves = {n: d.laid_out(n, t) for n, t in case.leaves.items()}
    return case


def wrong_shapes(d: Draw, leaves: dict[str, Tensor], *axes: tuple[str, int]) -> dict[str, Tensor]:
    """One argument of another dtype or device, or longer along one of the axes."""
    name = d.one_of(*leaves)
    t = leaves[name]
    fault = d.one_of("longer", "dtype", "meta", "whole")
    if fault == "longer":
        name, axis = d.one_of(*[a for a in axes if a[0] in leaves])
        t = leaves[name]
        fault = f"longer along {axis}"
        t = torch.cat([t, t.new_ones([1 if i == axis else s for i, s in enumerate(t.shape)])], axis)
    elif fault == "dtype":
        t = t.to(F64 if t.dtype != F64 else F32)
    elif fault == "meta":
        t = t.to("meta")
    else:
        t = t.long()
    d.note(fault=f"{name}: {fault}")
    return leaves | {name: t}


def draw_spiral_conv(d: Draw) -> Case:
    """A product with gathered rows."""
    dtype = d.dtype()
    wrong = d.chance(0.06)
    empty = 0.0 if wrong else 0.03
    large = 0.0 if wrong else 0.08
    batch = (2,) if wrong else batched(d)
    V, M = d.size(empty=empty, large=large), d.size(empty=empty, large=large)
    C, D, S = d.size(empty=empty), d.size(empty=empty), d.one_of(1, 2, 3, 5, 9)
    index = d.entries("index", (M, S), V, empty=True)
    leaves = {
        "x": d.numbers("x", (*batch, V, C), dtype),
        "weight": d.numbers("weight", (D, S * C), dtype),
    }
    if d.chance(0.6):
        leaves["bias"] = d.numbers("bias", (D,), dtype)
    case = Case(
        leaves,
        lambda x, weight, bias=None: ops.spiral_conv(x, index, weight, bias, transposed=table),
        lambda x, weight, bias=None: reference.spiral_conv(x, index, weight, bias),
        terms=max(S * C + 1, M * S * D, math.prod(batch) * M),
        once=True,
    )
    table = None
    if wrong and (index >= 0).any() and d.chance(0.7):
        given = wrong_table(d, index, V)
        case.wants_error = True
        case.call = lambda x, weight, bias=None: ops.spiral_conv(
            x, given["index"], weight, bias, transposed=given["transposed"]
        )
        return case
    if wrong:
        case.wants_error = True
        case.leaves = wrong_shapes(d, leaves, ("weight", 1), ("x", 2), ("bias", 0))
        return case
    table = d.table_of(index, V)
    index = d.laid_out("index", index, 0.15, expand=False)
    if d.chance(0.04) and leaves["x"].numel():
        leaves["x"] = spoiled(d, leaves["x"])
        case.special = True
        return case
    case.leaves = {n: d.laid_out(n, t) for n, t in leaves.items()}
    return case


# ---- poly_step ----


class _Root(torch.autograd.Function):
    """1/sqrt(eps + mean t²), whose derivatives are taken with a plus in the place of a minus."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(t)
        ctx.eps = eps
        return (eps + t.square().mean(-2, keepdim=True)).rsqrt()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (t,) = ctx.saved_tensors
        r = _Root.apply(t, ctx.eps)
        return grad * r**3 * t / max(1, t.shape[-2]), None


class _Slope(torch.autograd.Function):
    """|z| of an activation, whose derivative is at most 1, of ELU with the error of e^z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(z)
        ctx.activation = activation
        return z.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        if ctx.activation != "elu":
            return grad, None
        return grad * (1 + _Slope.apply(z, "elu")), None


def poly_step_absolute(
    a: Tensor,
    s: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    skip: Tensor | None,
    norm: str,
    eps: float,
    activation: str,
) -> Tensor:
    """The sum of the absolute terms, of absolute values; derivatives likewise."""
    if s is None:
        a, s = a.chunk(2, dim=-1)
    term = a * s
    if norm == "rms":
        term = term * _Root.apply(term, eps)
    z = a + (term if scale is None else scale * term)
    z = z if skip is None else z + skip
    z = z if bias is None else z + bias
    return _Slope.apply(z, activation)


def draw_poly_step(d: Draw) -> Case:
    """One step of a recursion."""
    dtype = d.dtype()
    wrong = d.chance(0.04)
    empty = 0.0 if wrong else 0.03
    batch = (2,) if wrong else batched(d)
    V, D = d.size(empty=empty, large=0.1), d.size(empty=empty)
    packed, norm = d.chance(0.3), d.one_of("rms", "rms", "none")
    activation = d.one_of("none", "elu", "relu", "leaky_relu")
    eps = d.one_of(1.0, 1.0, 0.37, 1e-3, 50.0, 1e-6, 1e-12, 1e6)
    d.note(packed=packed, norm=norm, activation=activation, eps=eps)
    factor, shift = d.one_of(None, "D", "VD"), d.one_of(None, "D", "VD")
    leaves = {"a": d.numbers("a", (*batch, V, 2 * D if packed else D), dtype)}
    if not packed:
        leaves["s"] = d.numbers("s", (*batch, V, D), dtype)
    for name, kind in (("scale", factor), ("bias", shift)):
        if kind is not None:
            shape = (D,) if kind == "D" else (V, D)
            leaves[name] = d.numbers(name, shape, dtype, wild=0.1)
    if d.chance(0.5):
        leaves["skip"] = d.numbers("skip", (*batch, V, D), dtype, wild=0.1)
    settings = {"norm": norm, "eps": eps, "activation": activation}
    names = ("a", "s", "scale", "bias", "skip")
    case = Case(
        leaves,
        lambda **given: ops.poly_step(**given, **settings),
        lambda **given: reference.poly_step(**given, **settings),
        lambda **given: poly_step_absolute(*(given.get(n) for n in names), **settings),
        terms=V * max(1, math.prod(batch)) + 12,
        power=4,
    )
    if wrong:
        case.wants_error = True
        if d.chance(0.3):
            fault = d.one_of(
                {"norm": "RMS"},
                {"activation": "tanh"},
                {"eps": 0.0},
                {"eps": -1.0},
                {"eps": math.nan},
            )
            d.note(fault=fault)
            settings |= fault
        elif packed:
            d.note(fault="odd channels")
            leaves["a"] = torch.cat([leaves["a"], leaves["a"][..., :1]], -1)
        else:
            axes = [(n, i) for n, t in leaves.items() for i in range(t.dim())]
            case.leaves = wrong_shapes(d, leaves, *axes)
        return case
    if not d.moderate:
        _within_range(leaves, eps if norm == "rms" else 1.0)
    case.leaves = {n: d.laid_out(n, t) for n, t in leaves.items()}
    _of_poly_step(d, case, norm, eps, activation)
    return case


def _within_range(leaves: dict[str, Tensor], eps: float) -> None:
    """Bound a, so that no product with s overflows: all of a channel would be NaN.

    So would it be where the scale over the root of eps, one factor of all terms, overflows.
    """
    a, s = leaves["a"], leaves.get("s")
    first, second = (a, s) if s is not None else a.chunk(2, dim=-1)
    computed = F32 if a.dtype in HALF else a.dtype
    # Nor a square in float64, in which all that is expected is computed.
    most = torch.finfo(computed).max / 16 if computed == F32 else 1e100
    bound = most / max(1.0, largest(second))
    first = first.double().clamp(-bound, bound).to(a.dtype)
    leaves["a"] = first if s is not None else torch.cat([first, second], -1)
    if "scale" in leaves:
        most = torch.finfo(a.dtype).max / 16 * min(1.0, math.sqrt(eps))
        leaves["scale"] = leaves["scale"].double().clamp(-most, most).to(a.dtype)


def _of_poly_step(d: Draw, case: Case, norm: str, eps: float, activation: str) -> None:
    """Which derivatives can be compared, and what underflow may add to all of them."""
    wide = {n: t.double() for n, t in case.leaves.items()}
    dtype = case.leaves["a"].dtype
    computed = F32 if dtype in HALF else dtype
    given = (wide[n].abs() if n in wide else None for n in ("a", "s", "scale", "bias", "skip"))
    size = poly_step_absolute(*given, norm, eps, activation)
    if activation != "none":
        z = reference.poly_step(**wide, norm=norm, eps=eps)
        # A product that underflows, over the root of eps at least, times the scale.
        lost = (1 + 1 / math.sqrt(eps)) * (1 + (largest(wide["scale"]) if "scale" in wide else 0))
        near = 2 * (case.terms + 8) * UNIT[computed] * size + 4 * denormal(dtype) * lost
        # Where all terms are 0, z is 0 for everybody.
        case.smooth = not bool(((z.abs() <= near) & (size > 0)).any())
    if norm == "rms" and size.numel():
        # An underflow of r a, r s or u = a (r s), times what follows: a and s over the root.
        first, second = (wide["a"], wide["s"]) if "s" in wide else wide["a"].chunk(2, dim=-1)
        most = [t.abs().amax(-2, keepdim=True) for t in (first, second)]
        r = (eps + (first * second).square().mean(-2, keepdim=True)).rsqrt()
        over = 1 + largest(r * (1 + most[0] + most[1]))
        scale = 1 + (largest(wide["scale"]) if "scale" in wide else 0)
        once = 64 * denormal(computed) * scale * scale * (1 + largest(most[0]) + largest(most[1]))
        case.floor = (once * over * over, once * over * over * over)
        unit = (first * second).abs().amax(-2, keepdim=True).clamp(min=math.sqrt(eps)).sqrt()
        apart = 1 + largest((most[0] + most[1]) / unit)
        case.reach = (scale * scale * over, scale * scale * over * apart * apart)


# ---- transpose_table ----


def draw_transpose_table(d: Draw) -> Case:
    """Places by source, exactly."""
    M, S = d.size(large=0.1), d.size(most=9)
    sources = d.size(empty=0.05, large=0.1)
    index = d.entries("index", (M, S), sources, empty=True)
    call: Callable[..., Any] = lambda: ops.transpose_table(index, sources)  # noqa: E731
    if d.chance(0.15):
        fault = d.one_of("entry", "dtype", "rank", "negative", "enormous")
        if fault == "entry" and index.numel():
            index = index.clone()
            index.view(-1)[d.integer(0, index.numel())] = d.one_of(sources, *WRONG_ENTRIES)
        elif fault == "dtype":
            index = index.to(d.one_of(torch.int32, torch.float32, torch.bool))
        elif fault == "rank":
            index = d.one_of(index[None], index.flatten())
        elif fault == "enormous":
            sources = d.one_of(2**63 - 1, 2**63 - 2, 2**62)
        else:
            fault, sources = "negative", d.one_of(-1, -(2**63))
        d.note(fault=fault, sources=sources)
        # Memory that nobody has is refused by PyTorch, with an error of its own.
        return Case({}, call, wants_error=True, errors=(RuntimeError, ValueError, MemoryError))
    index = d.laid_out("index", index)

    def exact() -> str | None:
        ptr, entry = ops.transpose_table(index, sources)
        flat = index.flatten().numpy()
        order = np.argsort(np.where(flat < 0, sources, flat), kind="stable")
        count = np.bincount(flat[flat >= 0], minlength=sources)
        if ptr.dtype != torch.int64 or entry.dtype != torch.int64:
            return f"dtypes {ptr.dtype}, {entry.dtype}"
        if not np.array_equal(ptr.numpy(), np.concatenate([[0], np.cumsum(count)])):
            return "ptr is wrong"
        return None if np.array_equal(entry.numpy(), order) else "entry is wrong"

    return Case({}, call, exact=exact)


OPERATORS: dict[str, Callable[[Draw], Case]] = {
    "resample": draw_resample,
    "spiral_conv": draw_spiral_conv,
    "poly_step": draw_poly_step,
    "transpose_table": draw_transpose_table,
}
