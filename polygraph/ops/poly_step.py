"""One step of a polynomial recursion: everything of it that is not a linear operator, fused."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops._autograd import (
    Gradients,
    in_front,
    only_batched,
    register_autograd,
    second_derivatives,
)
from polygraph.ops.common import autocast_dtype, cast, check_devices, wide_dtype

_load.load_libraries()
_ops = torch.ops.polygraph

NORMS = {"none": 0, "rms": 1}
ACTIVATIONS = {"none": 0, "elu": 1, "relu": 2, "leaky_relu": 3}
LEAKY_SLOPE = 0.2


def poly_step(
    a: Tensor,
    s: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    norm: str = "rms",
    eps: float = 1.0,
    activation: str = "none",
) -> Tensor:
    """One step of NCP: ``act(a + scale · N(a * s) + skip + bias)``, ``*`` the Hadamard product.

    With ``a = A_n x_1`` and ``s = S_n x_{n-1}`` this is ``x_n = N((A_n x_1) * (S_n x_{n-1})) +
    A_n x_1`` (Chrysos et al., "Deep Polynomial Neural Networks", T-PAMI 2021, section 4.4), with
    NCP-Skip's ``x_{n-1}`` as ``skip``. ``N`` keeps the second-order term from outgrowing the
    first: ``rms`` divides it by ``sqrt(eps + mean_v t²)``, the mean taken over the vertices of a
    sample, channel by channel; it keeps no running statistics, so evaluation is training.
    Terms may be as large as their dtype holds: their squares are summed after a division by the
    largest where they would overflow, or lose digits beside a tiny ``eps``. The scale over that
    root is one factor of a term, and must not overflow.

    Args:
        a: first-order term ``[B, V, D]`` or ``[V, D]``; float32, float64, float16 or bfloat16 (half
            types compute in float32), any strides. With ``s=None`` it is ``[..., V, 2D]`` and
            holds ``a`` and ``s`` side by side, as one operator with stacked weights leaves them
            (saves the gradient's concatenation).
        s: the other factor, shape of ``a``.
        scale: factor of the second-order term per channel ``[D]``, or per vertex and channel
            ``[V, D]``; None is 1.
        bias: ``[D]``, ``[V, D]`` or None.
        skip: added before the activation, ``[B, V, D]`` (or ``[V, D]``) or None.
        norm: ``"rms"`` or ``"none"`` (then the result is a polynomial).
        eps: the constant under the root of ``rms``.
        activation: ``"none"``, ``"elu"``, ``"relu"`` or ``"leaky_relu"`` (slope 0.2).

    Returns:
        ``[B, V, D]`` (or ``[V, D]``). Deterministic, also for any number of threads;
        differentiable any number of times.

    Raises:
        ValueError: unknown ``norm`` or ``activation``, or ``eps`` not positive.
        RuntimeError: a shape, dtype or device is wrong (the message names it).

    Example:
        >>> import torch
        >>> from polygraph.ops import poly_step
        >>> a, s = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])  # 2 vertices
        >>> poly_step(a, s, norm="none").T  # a + a * s
        tensor([[ 4., 10.]])
        >>> poly_step(a, s, torch.tensor([0.1])).T  # a + 0.1 * a * s / sqrt(1 + mean (a * s)²)
        tensor([[1.0490, 2.1306]])

    See Also:
        `polygraph.nn.NCP` and `polygraph.nn.polynomial_step`, which take this step.
    """
    check_tensors("poly_step", a=a, s=s, scale=scale, bias=bias, skip=skip)
    settings = NORMS.get(norm), eps, ACTIVATIONS.get(activation)
    if settings[0] is None:
        raise ValueError(f"poly_step: norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if settings[2] is None:
        raise ValueError(
            f"poly_step: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        )
    if not eps > 0:
        raise ValueError(f"poly_step: eps must be positive, got {eps}")
    dtype = autocast_dtype(a)
    if dtype is not None:
        a, s, scale = cast(a, dtype), cast(s, dtype), cast(scale, dtype)
        bias, skip = cast(bias, dtype), cast(skip, dtype)
    if a.dim() == 2:
        s = None if s is None else s[None]
        skip = None if skip is None else skip[None]
        out: Tensor = _ops.poly_step(a[None], s, scale, bias, skip, *settings)[0][0]
    else:
        out = _ops.poly_step(a, s, scale, bias, skip, *settings)[0]
    return out


@torch.library.register_fake("polygraph::poly_step")
def _(
    a: Tensor,
    s: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    skip: Tensor | None,
    norm: int,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor]:
    check_devices("poly_step", "a", a, s=s, scale=scale, bias=bias, skip=skip)
    samples, rows, channels = a.shape
    channels = channels // 2 if s is None else channels
    rnorm = a.new_empty(samples, channels, dtype=wide_dtype(a.dtype))
    return a.new_empty(samples, rows, channels), rnorm


@torch.library.register_fake("polygraph::poly_step_backward")
def _(
    grad: Tensor,
    a: Tensor,
    s: Tensor | None,
    scale: Tensor | None,
    out: Tensor,
    rnorm: Tensor,
    norm: int,
    eps: float,
    activation: int,
    vertex_bias: bool,
    need_skip: bool,
) -> tuple[Tensor, ...]:
    _, rows, channels = grad.shape
    return (
        grad.new_empty(a.shape),
        grad.new_empty(0 if s is None else grad.shape),
        grad.new_empty(channels if scale is None else scale.shape),
        grad.new_empty((rows, channels) if vertex_bias else channels),
        grad.new_empty(grad.shape if need_skip else 0),
    )


def _save(ctx: Any, given: Any, output: tuple[Tensor, Tensor]) -> None:
    out, rnorm = output
    ctx.mark_non_differentiable(rnorm)
    ctx.save_for_backward(given.a, given.s, given.scale, out, rnorm)
    vertex_bias = given.bias is not None and given.bias.dim() == 2
    ctx.settings = (given.norm, given.eps, given.activation, vertex_bias)


def _backward(ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor, _: Tensor) -> Gradients:
    a, s, scale, out, rnorm = saved
    grads = _ops.poly_step_backward(grad, a, s, scale, out, rnorm, *ctx.settings, needs.skip)
    names = ("a", "s", "scale", "bias", "skip")
    return {n: g for n, g in zip(names, grads, strict=True) if getattr(needs, n)}


def _past_activation(out: Tensor, value: Tensor, activation: int) -> Tensor:
    """``value * act'(z)`` by the output; of ReLU 0 where the output is, whatever the value.

    The second derivative of ELU at 0 is PyTorch's choice, 0.
    """
    if activation == ACTIVATIONS["elu"]:
        return torch.where(out >= 0, value, value * (out + 1))
    if activation == ACTIVATIONS["relu"]:
        return torch.where(out <= 0, 0, value)
    if activation == ACTIVATIONS["leaky_relu"]:
        return torch.where(out > 0, value, LEAKY_SLOPE * value)
    return value


def _normalised(first: Tensor, second: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """``first * second``, ``first`` and ``second`` over ``sqrt(eps + mean_v (first * second)²)``.

    Squares overflow, or lose their digits, long before the terms do: the largest term of a channel,
    a constant that cancels, divides them first. Its root divides either factor, so that derivatives
    meet no number that is much larger or smaller than they are.
    """
    term = (first * second).detach()
    root = max(math.sqrt(eps), torch.finfo(term.dtype).tiny)
    largest = torch.linalg.vector_norm(term, torch.inf, dim=-2, keepdim=True).clamp_min(root)
    largest = largest.masked_fill(largest.isinf(), 1.0)
    unit = largest.sqrt()
    first, second = first / unit, second / unit
    term = first * second
    rnorm = ((root / largest).square() + term.square().mean(-2, keepdim=True)).rsqrt()
    factor = rnorm / unit
    return rnorm * term, factor * first, factor * second


def _backward_formula(
    grad: Tensor,
    a: Tensor,
    s: Tensor | None,
    scale: Tensor | None,
    out: Tensor,
    norm: int,
    eps: float,
    activation: int,
    vertex_bias: bool,
    need_skip: bool,
) -> tuple[Tensor, ...]:
    """poly_step_backward in differentiable PyTorch: what its own derivative is taken of."""
    first, second = a.chunk(2, dim=-1) if s is None else (a, s)
    term = first * second
    dz = _past_activation(out, grad, activation)
    to_term = dz if scale is None else scale * dz
    to_scale = dz * term
    if norm == NORMS["rms"] and first.shape[-2] > 0:
        term, first, second = _normalised(first, second, eps)
        to_scale = dz * term
        to_term = to_term - term * (to_term * term).mean(-2, keepdim=True)
    vertex_scale = scale is not None and scale.dim() == 2
    grad_scale = to_scale.sum(0 if vertex_scale else (0, 1))
    grad_bias = dz.sum(0 if vertex_bias else (0, 1))
    grad_first, grad_second = dz + to_term * second, to_term * first
    empty = grad.new_empty(0)
    if s is None:
        grad_first, grad_second = torch.cat([grad_first, grad_second], dim=-1), empty
    return grad_first, grad_second, grad_scale, grad_bias, dz if need_skip else empty


def _save_backward(ctx: Any, given: Any, output: tuple[Tensor, ...]) -> None:
    grad, a, s, scale, out, _, *settings = given
    ctx.save_for_backward(grad, a, s, scale, out)
    ctx.settings = settings


def _backward_backward(
    ctx: Any, saved: tuple[Any, ...], needs: Any, *upstream: Tensor
) -> Gradients:
    # `rnorm` is a function of a and s: its share of the derivative is in theirs.
    def formula(grad: Tensor, a: Tensor, s: Any, scale: Any, out: Tensor) -> tuple[Tensor, ...]:
        return _backward_composite(grad, a, s, scale, out, None, *ctx.settings)

    names = ("grad", "a", "s", "scale", "out")
    return second_derivatives(formula, dict(zip(names, saved, strict=True)), upstream)


def _jvp(given: Any, output: tuple[Tensor, Tensor], tangents: Any) -> tuple[Tensor, None]:
    a, s, scale, *_, norm, eps, activation = given
    dtype, out = output[0].dtype, output[0]
    wide = wide_dtype(dtype)
    a, s, scale = cast(a, wide), cast(s, wide), cast(scale, wide)
    for_a, for_s, for_scale, for_bias, for_skip = (cast(t, wide) for t in tangents[:5])
    first, second = a.chunk(2, dim=-1) if s is None else (a, s)
    for_first, for_second = for_a, for_s
    if s is None and for_a is not None:
        for_first, for_second = for_a.chunk(2, dim=-1)
    rms = norm == NORMS["rms"] and first.shape[-2] > 0
    if rms:
        term, first, second = _normalised(first, second, eps)
    else:
        term = first * second
    for_term = torch.zeros_like(first)
    if for_first is not None:
        for_term = for_term + for_first * second
    if for_second is not None:
        for_term = for_term + first * for_second
    if rms:
        # As poly_step_backward has it, whose matrix is symmetric: N'(t) dt.
        for_term = for_term - term * (term * for_term).mean(-2, keepdim=True)
    moved = for_term if scale is None else scale * for_term
    if for_scale is not None:
        moved = moved + for_scale * term
    for part in (for_first, for_bias, for_skip):
        moved = moved if part is None else moved + part
    return _past_activation(out.to(wide), moved, activation).to(dtype), None


def _vmap(size: int, dims: Any, given: Any) -> tuple[Tensor, Tensor] | None:
    names = ("a", "s", "skip")
    if not only_batched(dims, *names):
        return None
    batches = {n: in_front(getattr(given, n), getattr(dims, n), size) for n in names}
    rows = {n: None if t is None else t.flatten(0, 1) for n, t in batches.items()}
    out, rnorm = _ops.poly_step(*given._replace(**rows))
    samples = (size, out.shape[0] // size)
    return out.unflatten(0, samples), rnorm.unflatten(0, samples)


def _backward_composite(
    grad: Tensor, a: Tensor, s: Any, scale: Any, out: Tensor, rnorm: Any, *settings: Any
) -> tuple[Tensor, ...]:
    """The formula, half types in float32."""
    dtype, wide = grad.dtype, wide_dtype(grad.dtype)
    values = (cast(t, wide) for t in (grad, a, s, scale, out))
    return tuple(t.to(dtype) for t in _backward_formula(*values, *settings))  # type: ignore[arg-type]


register_autograd("poly_step", _backward, save=_save, jvp=_jvp, vmap=_vmap)
register_autograd(
    "poly_step_backward",
    _backward_backward,
    save=_save_backward,
    composite=_backward_composite,
    records=True,
)
