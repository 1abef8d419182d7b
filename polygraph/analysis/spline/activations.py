"""Activations of straight pieces, and the larger of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph.analysis.spline.sites import Call, Choice, Site, Walls, written


class _Bend(NamedTuple):
    """An activation: between the cuts, ascending, it is ``slope x + offset``."""

    cuts: tuple[Any, ...]
    slopes: tuple[Any, ...]
    offsets: tuple[Any, ...]


def _hinge(call: Call) -> _Bend:
    return _Bend((0.0,), (0.0, 1.0), (0.0, 0.0))


def _leaky(call: Call) -> _Bend:
    return _Bend((0.0,), (call.get(1, "negative_slope", 0.01), 1.0), (0.0, 0.0))


def _prelu(call: Call) -> _Bend:
    x, weight = call.args[0], call.get(1, "weight")
    shape = [1, -1] + [1] * (x.dim() - 2) if x.dim() > 1 and weight.numel() > 1 else [-1]
    return _Bend((0.0,), (weight.view(shape), 1.0), (0.0, 0.0))


def _rrelu(call: Call) -> _Bend:
    low, high = call.get(1, "lower", 1 / 8), call.get(2, "upper", 1 / 3)
    return _Bend((0.0,), ((low + high) / 2, 1.0), (0.0, 0.0))


def _threshold(call: Call) -> _Bend:
    return _Bend((call.get(1, "threshold"),), (0.0, 1.0), (call.get(2, "value"), 0.0))


def _limits(low: Any, high: Any) -> _Bend:
    if high is None:
        return _Bend((low,), (0.0, 1.0), (low, 0.0))
    if low is None:
        return _Bend((high,), (1.0, 0.0), (0.0, high))
    return _Bend((low, high), (0.0, 1.0, 0.0), (low, 0.0, high))


def _hardtanh(call: Call) -> _Bend:
    return _limits(call.get(1, "min_val", -1.0), call.get(2, "max_val", 1.0))


def _clamp(call: Call) -> _Bend:
    return _limits(call.get(1, "min"), call.get(2, "max"))


def _hardsigmoid(call: Call) -> _Bend:
    # PyTorch's sixth is that of float32, for float64 too.
    slope = torch.nn.functional.hardsigmoid(call.args[0].new_tensor([1.0])) - 0.5
    return _Bend((-3.0, 3.0), (0.0, slope.detach(), 0.0), (0.0, 0.5, 1.0))


def _soft(call: Call) -> _Bend:
    at = call.get(1, "lambd", 0.5)
    return _Bend((-at, at), (1.0, 0.0, 1.0), (at, 0.0, -at))


def _sign(call: Call) -> _Bend:
    return _Bend((0.0,), (0.0, 0.0), (-1.0, 1.0))


def _hard(call: Call) -> _Bend:
    at = call.get(1, "lambd", 0.5)
    return _Bend((-at, at), (1.0, 0.0, 1.0), (0.0, 0.0, 0.0))


#: name -> what it is, and the place of ``inplace`` among its arguments
ACTIVATIONS: dict[str, tuple[Callable[[Call], _Bend], int | None]] = {
    "relu": (_hinge, 1),
    "relu6": (lambda _: _limits(0.0, 6.0), 1),
    "leaky_relu": (_leaky, 2),
    "prelu": (_prelu, None),
    "rrelu": (_rrelu, 4),
    "threshold": (_threshold, 3),
    "hardtanh": (_hardtanh, 3),
    "hardsigmoid": (_hardsigmoid, 1),
    "softshrink": (_soft, None),
    "hardshrink": (_hard, None),
    "abs": (lambda _: _Bend((0.0,), (-1.0, 1.0), (0.0, 0.0)), None),
    "absolute": (lambda _: _Bend((0.0,), (-1.0, 1.0), (0.0, 0.0)), None),
    "sign": (_sign, None),
    "clamp": (_clamp, None),
    "clip": (_clamp, None),
    "clamp_min": (lambda call: _limits(call.get(1, "min"), None), None),
    "clamp_max": (lambda call: _limits(None, call.get(1, "max")), None),
}


def _line(x: Tensor, slope: Any, offset: Any) -> Any:
    """``slope x + offset``; a number where the slope is 0."""
    if not isinstance(slope, Tensor):
        if slope == 0:
            return offset
        if not isinstance(offset, Tensor) and offset == 0:
            return x if slope == 1 else slope * x
    return slope * x + offset


class Pieces(Site):
    """An activation of straight pieces, applied to every element."""

    def __init__(self, bend: Callable[[Call], _Bend], place: int | None) -> None:
        self.bend, self.place = bend, place
        self.jumps = bend in (_hard, _threshold, _sign)

    def _in_place(self, call: Call) -> bool:
        named = getattr(call.func, "__name__", "").endswith("_")
        return named or (self.place is not None and bool(call.get(self.place, "inplace", False)))

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """The piece of every element: truth values for two, else uint8."""
        x, cuts = call.args[0], self.bend(call).cuts
        above = [x.detach() > cut for cut in cuts]
        choice = above[0] if len(above) == 1 else torch.stack(above).sum(0, dtype=torch.uint8)
        return call.run(), choice

    def repeat(self, call: Call, choice: Choice) -> Any:
        """The chosen piece of every element."""
        x, (_, slopes, offsets) = call.args[0], self.bend(call)
        found = [_line(x, *pair) for pair in zip(slopes, offsets, strict=True)]
        lines = [f if isinstance(f, Tensor) else x.new_tensor(f) for f in found]
        if len(lines) == 2:
            out = torch.where(choice, lines[1], lines[0])
        else:
            out = torch.where(choice == 1, lines[1], torch.where(choice == 0, lines[0], lines[2]))
        return written(call, out.to(x.dtype), self._in_place(call))

    def walls(self, call: Call) -> Walls:
        """What lies above each cut."""
        return Walls(signed=[call.args[0] - cut for cut in self.bend(call).cuts])


class Larger(Site):
    """The larger, or the smaller, of two tensors."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """Whether the first is taken."""
        return call.run(), (self.sign * (call.args[0] - call.get(1, "other"))).detach() > 0

    def repeat(self, call: Call, choice: Choice) -> Any:
        """One of the two."""
        return torch.where(choice, call.args[0], call.get(1, "other"))

    def walls(self, call: Call) -> Walls:
        """By how much they differ."""
        return Walls(signed=[call.args[0] - call.get(1, "other")])
