"""The end of a polynomial residual block whose term is normalised over the batch, fused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops._autograd import Gradients, register_autograd, second_derivatives
from polygraph.ops.common import (
    autocast_dtype,
    cast,
    check_devices,
    outside_autocast,
    wide_dtype,
)

_load.load_libraries()
_ops = torch.ops.polygraph

ACTIVATIONS = {"none": 0, "relu": 1}


def batch_norm_step(
    a: Tensor,
    s: Tensor | None = None,
    term: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
) -> Tensor:
    """``act(a + s + N(a * s))``, ``act(a + s + N(term))`` or, without ``s``, ``act(a · N(term))``.

    ``N(t) = weight · (t - mean t) / √(var t + eps) + bias`` with mean and variance (the biased one)
    of each channel over all rows: BatchNorm in training mode (Ioffe and Szegedy, "Batch
    Normalization", ICML 2015, algorithm 1). With a the residual branch and s the shortcut, the
    first is the block of second order of Chrysos et al., "Π-nets", CVPR 2020, in the form of its
    public code; the second has a map within the term, and the third is the product inside of such
    a map.

    On the CPU it takes two passes over its rows forward, and two backward, and keeps no product. On
    CUDA it is composed of PyTorch's operators, with their memory and time.

    Args:
        a: ``[..., D]``; float32, float64, float16 or bfloat16 (half types compute in float32), any
            strides.
        s: shape of ``a``, or None.
        term: what is normalised, shape of ``a``; None is ``a * s``.
        weight: ``[D]``; None is 1.
        bias: ``[D]``; None is 0.
        eps: the constant under the root.
        activation: ``"none"`` or ``"relu"``.

    Returns:
        Shape of ``a``. Deterministic, also for any number of threads; differentiable any number of
        times.

    Raises:
        ValueError: unknown ``activation``, or ``eps`` not positive.
        RuntimeError: a shape, dtype or device is wrong (the message names it).

    Example:
        >>> import torch
        >>> from polygraph.ops import batch_norm_step
        >>> a, s = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
        >>> batch_norm_step(a, s).T  # 4, 6, and the products 3, 8 normalised: -1, 1
        tensor([[3.0000, 7.0000]])

    See Also:
        `polygraph.nn.PolyResidual`, which ends so; `poly_step`, whose normalisation is that of a
        sample.
    """
    return with_statistics(a, s, term, weight=weight, bias=bias, eps=eps, activation=activation)[0]


def with_statistics(
    a: Tensor,
    s: Tensor | None = None,
    term: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
) -> tuple[Tensor, Tensor, Tensor]:
    """`batch_norm_step`, with mean and biased variance ``[D]``, which have no gradient.

    They are float32 for half types.
    """
    check_tensors("batch_norm_step", a=a, s=s, term=term, weight=weight, bias=bias)
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"batch_norm_step: activation must be one of {', '.join(ACTIVATIONS)}, got "
            f"{activation!r}"
        )
    if not eps > 0:
        raise ValueError(f"batch_norm_step: eps must be positive, got {eps}")
    dtype = autocast_dtype(a)
    if dtype is not None:
        a, s, term = cast(a, dtype), cast(s, dtype), cast(term, dtype)
        weight, bias = cast(weight, dtype), cast(bias, dtype)
    shape = a.shape
    if a.dim() > 2:
        a, s, term = _rows("a", a, shape), _rows("s", s, shape), _rows("term", term, shape)
    out, mean, var, _ = _ops.batch_norm_step(a, s, term, weight, bias, eps, ACTIVATIONS[activation])
    return out.view(shape), mean, var


def _rows(name: str, x: Any, shape: torch.Size) -> Any:
    """``[..., D]`` as ``[N, D]``; refuses what only fits once it is flat."""
    if x is None:
        return None
    if x.shape != shape:
        raise RuntimeError(
            f"batch_norm_step: {name} must have the shape of a, {list(shape)}, got {list(x.shape)}"
        )
    return x.flatten(0, -2)


@torch.library.register_fake("polygraph::batch_norm_step")
def _(
    a: Tensor,
    s: Tensor | None,
    term: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_devices("batch_norm_step", "a", a, s=s, term=term, weight=weight, bias=bias)
    mean, var, rstd = (a.new_empty(a.shape[1], dtype=wide_dtype(a.dtype)) for _ in range(3))
    return a.new_empty(a.shape), mean, var, rstd


@torch.library.register_fake("polygraph::batch_norm_step_backward")
def _(
    grad: Tensor,
    a: Tensor,
    s: Tensor | None,
    term: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    activation: int,
) -> tuple[Tensor, ...]:
    whole = _is_whole(s, term, activation)
    rows = (grad.new_empty(grad.shape if there else 0) for there in whole)
    return *rows, grad.new_empty(grad.shape[1]), grad.new_empty(grad.shape[1])


def _is_whole(s: Tensor | None, term: Tensor | None, activation: int) -> tuple[bool, bool, bool]:
    """Which of the gradients of a, s and term the backward operator gives."""
    both = s is not None and term is not None
    return (
        not both or activation != ACTIVATIONS["none"],
        s is not None and term is None,
        term is not None,
    )


def _composite(
    a: Tensor,
    s: Tensor | None,
    term: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator in differentiable PyTorch, half types in float32."""
    dtype, wide = a.dtype, wide_dtype(a.dtype)
    a, s, term = cast(a, wide), cast(s, wide), cast(term, wide)
    weight, bias = cast(weight, wide), cast(bias, wide)
    unit, mean, var, rstd = _normalised(_product(a, s, term), eps)
    z = unit if weight is None else weight * unit
    z = z if bias is None else z + bias
    z = a * z if s is None else a + s + z
    out = z.relu() if activation == ACTIVATIONS["relu"] else z
    return out.to(dtype), mean.detach(), var.detach(), rstd.detach()


def _product(a: Tensor, s: Tensor | None, term: Tensor | None) -> Tensor:
    if term is not None:
        return term
    assert s is not None
    return a * s


def _normalised(t: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(t - mean) · rstd``, and mean, variance and rstd of the channels of rows."""
    if t.shape[0] == 0:
        none = t.new_zeros(t.shape[1])
        return t, none, none, none + eps**-0.5
    mean = t.mean(0)
    away = t - mean
    var = away.square().mean(0)
    rstd = (var + eps).rsqrt()
    return away * rstd, mean, var, rstd


def _backward_formula(
    grad: Tensor,
    a: Tensor,
    s: Tensor | None,
    term: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    eps: float,
    activation: int,
) -> tuple[Tensor, ...]:
    """batch_norm_step_backward in differentiable PyTorch: what its own derivative is taken of."""
    unit, _, _, rstd = _normalised(_product(a, s, term), eps)
    dz = torch.where(out <= 0, 0, grad) if activation == ACTIVATIONS["relu"] else grad
    dn = dz * a if s is None else dz
    to_weight = dn * unit
    grad_weight, grad_bias = to_weight.sum(0), dn.sum(0)
    rows = max(1, a.shape[0])
    e = rstd * (dn - grad_bias / rows - unit * (grad_weight / rows))
    e = e if weight is None else weight * e
    empty = grad.new_empty(0)
    if term is None:
        assert s is not None
        return dz + e * s, dz + e * a, empty, grad_weight, grad_bias
    if s is not None:
        none = activation == ACTIVATIONS["none"]
        return empty if none else dz, empty, e, grad_weight, grad_bias
    n = unit if weight is None else weight * unit
    n = n if bias is None else n + bias
    return dz * n, empty, e, grad_weight, grad_bias


def _backward_composite(
    grad: Tensor,
    a: Tensor,
    s: Any,
    term: Any,
    weight: Any,
    bias: Any,
    out: Tensor,
    mean: Any,
    rstd: Any,
    *settings: Any,
) -> tuple[Tensor, ...]:
    """The formula, half types in float32."""
    dtype, wide = grad.dtype, wide_dtype(grad.dtype)
    values = (cast(t, wide) for t in (grad, a, s, term, weight, bias, out))
    return tuple(t.to(dtype) for t in _backward_formula(*values, *settings))  # type: ignore[arg-type]


def _save(ctx: Any, given: Any, output: tuple[Tensor, ...]) -> None:
    out, mean, var, rstd = output
    ctx.mark_non_differentiable(mean, var, rstd)
    ctx.save_for_backward(given.a, given.s, given.term, given.weight, given.bias, out, mean, rstd)
    ctx.settings = (given.eps, given.activation)


def _backward(ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor, *_: Tensor) -> Gradients:
    s, term = saved[1:3]
    grads = _ops.batch_norm_step_backward(grad, *saved, *ctx.settings)
    names = ("a", "s", "term", "weight", "bias")
    found = dict(zip(names, grads, strict=True))
    if s is not None and term is not None:
        found["s"] = found["a"] = grad if ctx.settings[1] == ACTIVATIONS["none"] else found["a"]
    return {n: g for n, g in found.items() if getattr(needs, n)}


def _save_backward(ctx: Any, given: Any, output: tuple[Tensor, ...]) -> None:
    names = ("grad", "a", "s", "term", "weight", "bias", "out")
    ctx.save_for_backward(*(getattr(given, name) for name in names))
    ctx.settings = (given.eps, given.activation)


def _backward_backward(
    ctx: Any, saved: tuple[Any, ...], needs: Any, *upstream: Tensor
) -> Gradients:
    # Mean and rstd are functions of a, s and term: their share of the derivative is in theirs.
    names = ("grad", "a", "s", "term", "weight", "bias", "out")

    def formula(*local: Any) -> tuple[Tensor, ...]:
        return _backward_composite(*local, None, None, *ctx.settings)

    return second_derivatives(formula, dict(zip(names, saved, strict=True)), upstream)


def _cuda(*given: Any) -> tuple[Tensor, ...]:
    return _composite(*given)


def _cuda_backward(*given: Any) -> tuple[Tensor, ...]:
    return _backward_composite(*given)


_library = torch.library.Library("polygraph", "IMPL")
_library.impl("batch_norm_step", outside_autocast(_cuda), "CUDA")
_library.impl("batch_norm_step_backward", outside_autocast(_cuda_backward), "CUDA")

register_autograd("batch_norm_step", _backward, save=_save, composite=_composite)
register_autograd(
    "batch_norm_step_backward",
    _backward_backward,
    save=_save_backward,
    composite=_backward_composite,
    records=True,
)
