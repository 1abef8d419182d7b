"""The largest of several: pools, maxima over dimensions, over groups."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from polygraph.analysis.spline.sites import Call, Choice, Site, Walls, written


class Pool(Site):
    """Max-pooling over 1 to 3 dimensions, adaptive or not; with indices or without."""

    def __init__(self, dims: int, adaptive: bool) -> None:
        self.dims, self.adaptive = dims, adaptive
        self.with_indices = 2 if adaptive else 6  # the place of that argument

    def _both(self, call: Call) -> tuple[Tensor, Tensor]:
        kind = "adaptive_max_pool" if self.adaptive else "max_pool"
        pool = getattr(F, f"{kind}{self.dims}d")
        kwargs = {k: v for k, v in call.kwargs.items() if k != "return_indices"}
        found: tuple[Tensor, Tensor] = pool(
            *call.args[: self.with_indices], **kwargs, return_indices=True
        )
        return found

    def _result(self, call: Call, value: Tensor, index: Tensor) -> Any:
        both = call.get(self.with_indices, "return_indices", False)
        return (value, index) if both or call.name.endswith("with_indices") else value

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """The place of each window's largest."""
        value, index = self._both(call)
        return self._result(call, value, index), index

    def repeat(self, call: Call, choice: Choice) -> Any:
        """What lies at the chosen places."""
        flat = call.args[0].flatten(-self.dims)
        value = flat.gather(-1, choice.flatten(-self.dims)).view(choice.shape)
        return self._result(call, value, choice)

    def walls(self, call: Call) -> Walls:
        """The elements of every window."""
        x = call.args[0]
        lead = x.shape[: -self.dims]
        places = torch.arange(math.prod(x.shape[-self.dims :]), device=x.device)
        windows = self._windows(call, places.view(x.shape[-self.dims :]))
        found = x.flatten(-self.dims)[..., windows.clamp_min(0)]
        return Walls(rivals=[found.masked_fill(windows < 0, -math.inf).view(*lead, *windows.shape)])

    def _windows(self, call: Call, places: Tensor) -> Tensor:
        """The places in each window, ``[..., R]``; -1: none."""
        if self.adaptive:
            return self._adaptive_windows(call, places)

        def each(position: int, name: str, default: Any) -> tuple[int, ...]:
            value = call.get(position, name, default)
            value = default if value is None or value == () else value
            found = (value,) if isinstance(value, int) else tuple(value)
            return found * self.dims if len(found) == 1 else found

        kernel = each(1, "kernel_size", None)
        stride, padding = each(2, "stride", kernel), each(3, "padding", 0)
        dilation = each(4, "dilation", 1)
        count = self._both(call)[1].shape[-self.dims :]
        for dim in range(self.dims):
            span = dilation[dim] * (kernel[dim] - 1) + 1
            need = (count[dim] - 1) * stride[dim] + span
            after = max(0, need - padding[dim] - places.shape[dim])
            wide = _padded(places, dim, padding[dim], after)
            places = wide.unfold(dim, span, stride[dim])[..., :: dilation[dim]]
            places = places.narrow(dim, 0, count[dim])
        return places.flatten(self.dims)

    def _adaptive_windows(self, call: Call, places: Tensor) -> Tensor:
        count = self._both(call)[1].shape[-self.dims :]
        parts = []
        for flat in range(math.prod(count)):
            part, rest = places, flat
            for dim in range(self.dims - 1, -1, -1):
                at, size = rest % count[dim], places.shape[dim]
                rest //= count[dim]
                low, high = at * size // count[dim], -(-(at + 1) * size // count[dim])
                part = part.narrow(dim, low, high - low)
            parts.append(part.flatten())
        padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)
        return padded.view(*count, -1)


def _padded(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """With so many -1 before and after along a dimension."""
    shape = list(x.shape)
    shape[dim] = before
    first = x.new_full(shape, -1)
    shape[dim] = after
    return torch.cat([first, x, x.new_full(shape, -1)], dim)


def _dims_of(call: Call) -> tuple[int, ...]:
    """The dimensions over which a call takes the largest."""
    rank, dim = call.args[0].dim(), call.get(1, "dim")
    if dim is None or dim == ():
        return tuple(range(rank))
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    return tuple(d % rank for d in dims)


class Extreme(Site):
    """The largest or smallest over some dimensions, without its place: ``amax``, ``x.max()``."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def _lines(self, call: Call) -> tuple[Tensor, tuple[int, ...]]:
        """Those dimensions last, as one."""
        x, dims = call.args[0], _dims_of(call)
        kept = [d for d in range(x.dim()) if d not in dims]
        return x.permute(*kept, *dims).flatten(len(kept)), dims

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """The place of the winner."""
        return call.run(), (self.sign * self._lines(call)[0].detach()).argmax(-1)

    def repeat(self, call: Call, choice: Choice) -> Any:
        """What lies at the chosen places."""
        lines, dims = self._lines(call)
        out = lines.gather(-1, choice[..., None])[..., 0]
        if call.get(2, "keepdim", False):
            for d in sorted(dims):
                out = out.unsqueeze(d)
        return out

    def walls(self, call: Call) -> Walls:
        """All that may win."""
        return Walls(rivals=[self.sign * self._lines(call)[0]])


class Selected(Site):
    """Values and their indices along a dimension: ``max(dim)``, ``topk``, ``sort``, ``median``."""

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """The indices."""
        out = call.run()
        return out, out[1]

    def _dim(self, call: Call) -> int:
        first = 1 if call.name not in ("topk", "kthvalue") else 2
        dim: int = call.get(first, "dim", -1)
        return dim

    def repeat(self, call: Call, choice: Choice) -> Any:
        """What lies at the chosen indices."""
        x, dim = call.args[0], self._dim(call)
        index = choice.unsqueeze(dim) if choice.dim() < x.dim() else choice
        value = x.gather(dim, index).view(choice.shape)
        return getattr(torch.return_types, call.name)((value, choice))

    def walls(self, call: Call) -> Walls:
        """All that may win, of ``max`` and ``min``."""
        sign = {"max": 1, "min": -1}.get(call.name)
        if sign is None:
            return super().walls(call)
        return Walls(rivals=[sign * call.args[0].movedim(self._dim(call), -1)])


class Scattered(Site):
    """``scatter_reduce`` with the largest or smallest of each place, itself not among them.

    Among equals the first one wins; PyTorch shares a gradient among them.
    """

    def _parts(self, call: Call) -> tuple[Tensor, int, Tensor, Tensor, int]:
        into, dim, index, src = (call.get(i, n) for i, n in enumerate(_SCATTER))
        if call.get(5, "include_self", True):
            raise NotImplementedError(f"{call.name} with include_self=True")
        return into, dim % into.dim(), index, src, 1 if call.get(4, "reduce") == "amax" else -1

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """The entry along the dimension that wins each place; -1: none."""
        into, dim, index, src, _ = self._parts(call)
        out = call.run()
        shape = [1] * src.dim()
        shape[dim] = -1
        entry = torch.arange(src.shape[dim], device=src.device).view(shape).expand_as(src)
        wins = src.detach() == out.detach().gather(dim, index)
        entry = torch.where(wins, entry, src.shape[dim])
        first = torch.full(into.shape, src.shape[dim], dtype=torch.int64, device=src.device)
        first.scatter_reduce_(dim, index, entry, "amin")
        return out, torch.where(first == src.shape[dim], -1, first)

    def repeat(self, call: Call, choice: Choice) -> Any:
        """The chosen entries."""
        into, dim, _, src, _ = self._parts(call)
        out = torch.where(choice < 0, into, src.gather(dim, choice.clamp_min(0)))
        named = getattr(call.func, "__name__", "").endswith("_")
        return written(call, out, named)

    def walls(self, call: Call) -> Walls:
        """The entries of each place, ``[..., D, R]``."""
        into, dim, index, src, sign = self._parts(call)
        src, index = (sign * src).movedim(dim, -1), index.movedim(dim, -1)
        order = torch.sort(index, stable=True, dim=-1)
        src = src.gather(-1, order.indices)
        hot = F.one_hot(order.values, into.shape[dim])
        rank = (hot.cumsum(-2) - 1).gather(-1, order.values[..., None])[..., 0]
        most = int(hot.sum(-2).max())
        lines = src.new_full((*src.shape[:-1], into.shape[dim] * most), -math.inf)
        lines = lines.scatter(-1, order.values * most + rank, src)
        return Walls(rivals=[lines.view(*lines.shape[:-1], into.shape[dim], most)])


_SCATTER = ("input", "dim", "index", "src")
