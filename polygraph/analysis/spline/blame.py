"""Who keeps a network from being piecewise affine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from polygraph.analysis.spline.affine_map import tolerance
from polygraph.analysis.spline.passes import Passes
from polygraph.analysis.spline.tape import Entry, module_on_stack


def culprit(lens: Passes, x: Tensor) -> str:
    """The first call, with its module, that is not affine once choices are fixed.

    Only calls that the output is made of count: squared distances that merely choose neighbours do
    not.
    """
    x = x[:1] if lens.batched else x
    entries = lens.record(x)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    step = (step * x.square().mean().sqrt().clamp_min(1.0).cpu()).to(x.device)
    for share in (1.0, 0.1, 0.01, 1e-3):  # near enough that the same calls are made
        logs = [_Log(lens.names) for _ in range(3)]
        try:
            outs = [
                _logged(log, lens, entries, x + side * share * step)
                for log, side in zip(logs, (0, 1, -1), strict=True)
            ]
        except RuntimeError:
            continue
        if all(log.names_of_calls() == logs[0].names_of_calls() for log in logs):
            found = _first_bent(logs, outs[0], tolerance(x.dtype) * (1e-3 + 1e3 * share**2))
            if found is None:
                return "samples see each other, or gradients are cut"
            place, function = found.split(":")
            return f"{place} {function}{_kind(lens.model, place)}".strip()
    return "its calls depend on values of the input"


def _logged(log: _Log, lens: Passes, entries: list[Entry], x: Tensor) -> Tensor:
    with torch.no_grad(), log:
        return lens.repeat(entries, x)


def _first_bent(logs: list[_Log], out: Tensor, rounding: float) -> str | None:
    """The first call that the output is made of whose value in the middle is not the mean."""
    for number in sorted(logs[0].used_by(out)):
        middle, right, left = (log.calls[number].value for log in logs)
        size = max(abs(left), abs(right), abs(middle), 1e-300)
        if not abs(left + right - 2 * middle) <= rounding * size:
            return logs[0].calls[number].name
    return None


def _kind(model: Any, name: str) -> str:
    if not isinstance(model, nn.Module):
        return ""
    return f" ({type(model.get_submodule(name)).__name__})"


class _Noted(NamedTuple):
    """A call that returned floating-point numbers."""

    name: str
    value: float  # a linear function of its result
    given: tuple[int, ...]  # the ids of the tensors that it was given


class _Log(TorchFunctionMode):
    """Notes every call that returns floating-point numbers, and whose results it was given."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: list[_Noted] = []
        self._made_by: dict[int, list[int]] = {}
        self._kept: list[Any] = []  # an id is of one tensor as long as it lives

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the call."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        first = args[0] if out is None and args else out
        made = first[0] if isinstance(first, tuple) and first else first
        if isinstance(made, Tensor) and made.is_floating_point() and not name.startswith("__get__"):
            given = tuple(id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
            self._kept += [args, kwargs, out]
            for t in tree_leaves(first):
                self._made_by.setdefault(id(t), []).append(len(self.calls))
            name = f"{module_on_stack(self.names)}:{name}"
            self.calls.append(_Noted(name, _number(made), given))
        return out

    def names_of_calls(self) -> list[str]:
        """In their order."""
        return [call.name for call in self.calls]

    def used_by(self, out: Tensor) -> set[int]:
        """The calls that a tensor is made of."""
        found: set[int] = set()
        left = [id(out)]
        while left:
            for call in self._made_by.get(left.pop(), []):
                if call not in found:
                    found.add(call)
                    left += self.calls[call].given
        return found


def _number(x: Tensor) -> float:
    flat = x.detach().double().flatten()
    return float(flat @ torch.cos(torch.arange(len(flat), dtype=torch.float64, device=x.device)))
