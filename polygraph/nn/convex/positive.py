"""Weights that are 0 or more, as parametrisations of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from polygraph._checks import check_choice

KINDS = ("softplus", "exp", "clip")  #: ways to keep a weight at 0 or above
_LEAST = 1e-8  # softplus and exp reach 0 only in the limit


class _Clip(torch.autograd.Function):
    """``max(w, 0)``; where w <= 0 the gradient passes if a step against it raises w.

    So descent does what a projection after every step would, and no weight is lost at 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(raw: Tensor) -> Tensor:
        return raw.clamp(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (raw,), (grad,) = ctx.saved_tensors, grads
        return torch.where((raw > 0) | (grad < 0), grad, 0)


class _ClipWithTangent(_Clip):
    """The same with its derivative in forward mode, which torch.compile cannot trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return torch.where(ctx.saved_tensors[0] > 0, tangents[0], 0)


class NonNegative(nn.Module):
    """``softplus(raw)``, ``exp(raw)`` or ``max(raw, 0)`` in the place of a weight.

    Args:
        kind: one of `KINDS`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        check_choice("NonNegative", "kind", kind, KINDS)
        self.kind = kind

    def forward(self, raw: Tensor) -> Tensor:
        """The weight of a parameter, of its shape."""
        if self.kind == "clip":
            clip: Any = _Clip if torch.compiler.is_compiling() else _ClipWithTangent
            found: Tensor = clip.apply(raw)
            return found
        return nn.functional.softplus(raw) if self.kind == "softplus" else raw.exp()

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The parameter of a weight.

        For softplus and exp, weights below 1e-8 are taken as 1e-8.

        Raises:
            ValueError: an entry is negative.
        """
        _check_sign(weight)
        if self.kind == "clip":
            return weight.clone()
        weight = weight.clamp(min=max(_LEAST, torch.finfo(weight.dtype).tiny))
        if self.kind == "exp":
            return weight.log()
        return weight + torch.log(-torch.expm1(-weight))

    def __repr__(self) -> str:
        """One line."""
        return f"{type(self).__name__}({self.kind!r})"


class NonNegativeEdges(NonNegative):
    """The same of the first layer of an EdgeConv, whose edges are ``W [x_i, x_j - x_i]``.

    In the form ``U x_i + V x_j`` both matrices are 0 or more: W is ``[U + V, V]``.
    """

    def forward(self, raw: Tensor) -> Tensor:
        """``[D, 2 C]``, of a parameter of that shape."""
        ends, differences = super().forward(raw).chunk(2, 1)
        return torch.cat((ends + differences, differences), 1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The parameter of a weight; as of `NonNegative`."""
        return super().right_inverse(ends_of_edges(weight))


def ends_of_edges(weight: Tensor) -> Tensor:
    """``[U, V]`` of the weight ``[U + V, V]``, both ``[D, 2 C]``."""
    both, differences = weight.chunk(2, 1)
    return torch.cat((both - differences, differences), 1)


def _check_sign(weight: Tensor) -> None:
    if not weight.is_meta and bool((weight < 0).any()):
        raise ValueError(
            f"convex: a weight must be 0 or more, got one of {weight.min().item():.3g}"
        )


def make_non_negative(layer: Any, kind: str, edges: bool = False) -> None:
    """Parametrise the ``weight`` of a layer, which becomes ``max(weight, 0)``.

    Its ``state_dict`` has ``parametrizations.weight.original``; one with ``weight``, of a layer
    that is not parametrised, is loaded, too, if no entry is negative.

    Raises:
        ValueError: the weight has a parametrisation.
    """
    if parametrize.is_parametrized(layer, "weight"):
        raise ValueError(f"convex: the weight of {type(layer).__name__} has a parametrisation")
    with torch.no_grad():
        if edges:
            ends, differences = ends_of_edges(layer.weight).clamp(min=0).chunk(2, 1)
            layer.weight.copy_(torch.cat((ends + differences, differences), 1))
        else:
            layer.weight.clamp_(min=0)
    made = NonNegativeEdges(kind) if edges else NonNegative(kind)
    parametrize.register_parametrization(layer, "weight", made)
    layer.register_load_state_dict_pre_hook(_take_plain_weight)


def _take_plain_weight(module: Any, state: dict[str, Tensor], prefix: str, *more: Any) -> None:
    """Where a state has ``weight``, put the parameter of it there."""
    plain, own = f"{prefix}weight", f"{prefix}parametrizations.weight.original"
    if plain not in state or own in state:
        return
    weight = state.pop(plain)
    try:
        state[own] = module.parametrizations.weight[0].right_inverse(weight)
    except ValueError as error:
        state[own] = module.parametrizations.weight.original
        more[-1].append(f"{plain}: {error}")
