"""The choices of polygraph's own operators: neighbours, winning slots, edges whose ReLU is on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from polygraph.analysis.spline.sites import Call, Choice, Site, Walls
from polygraph.ops.batch_norm_step import ACTIVATIONS as BATCH_NORM_ACTIVATIONS
from polygraph.ops.poly_step import ACTIVATIONS, LEAKY_SLOPE

_ops = torch.ops.polygraph


class Neighbors(Site):
    """``knn``: the list of every target."""

    jumps = True

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """The lists."""
        out = call.run()
        return out, out[0]

    def repeat(self, call: Call, choice: Choice) -> Any:
        """The lists of before, with the squared distances of today."""
        x, y = call.args[:2]
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        with torch._C.DisableTorchFunction():  # one call to who watches, as when it was recorded
            sample = torch.arange(len(x), device=x.device)[:, None, None]
            apart = x[sample, choice] - y[:, :, None]
            return choice, apart.to(wide).square().sum(-1)

    def code(self, choice: Choice) -> Tensor:
        """The lists as sets: in ascending order."""
        found: Tensor = choice.sort(-1).values
        return found

    def walls(self, call: Call) -> Walls:
        """Clouds, and how many of each are chosen."""
        x, y, x_ptr, y_ptr, k, exclude, *pixels = call.args
        if any(p > 0 for p in pixels):
            raise NotImplementedError("walks through graphs of pixels")
        barred = _barred(x.shape[1], y.shape[1], x_ptr, y_ptr, bool(exclude))
        return Walls(clouds=[(x, y, int(k), barred.to(x.device))])


def _barred(
    sources: int, targets: int, x_ptr: Tensor | None, y_ptr: Tensor | None, exclude: bool
) -> Tensor:
    """``[M, N]``: sources that are of another sample than the target, or are the target itself."""
    barred = torch.zeros(targets, sources, dtype=torch.bool)
    if x_ptr is not None and y_ptr is not None:
        of_x, of_y = (torch.repeat_interleave(ptr.cpu().diff()) for ptr in (x_ptr, y_ptr))
        barred |= of_x[None] != of_y[:, None]
    if exclude:
        barred.fill_diagonal_(True)
    return barred


def _table(ptr: Tensor) -> Tensor:
    """The slots of each target, ``[M, R]``; -1: none."""
    degree = ptr.diff()
    places = torch.arange(int(degree.max()) if len(degree) else 0, device=ptr.device)
    slots = ptr[:-1, None] + places
    return torch.where(places < degree[:, None], slots, -1)


class EdgeMax(Site):
    """``edge_max``: the slot of the winner, for every target and channel."""

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """The slots, and who is in them."""
        out = call.run()
        return out, (out[1], call.args[4])

    def code(self, choice: Choice) -> Tensor:
        """The winning neighbours; -1: there is none."""
        slot, other = choice
        return torch.where(slot < 0, -1, other[slot.clamp_min(0)])

    def repeat(self, call: Call, choice: Choice) -> Any:
        """The neighbours in the chosen slots."""
        v, sign, with_sum, ptr, other, target, t_ptr, t_slot = call.args
        slot = choice[0]
        value = _ops.edge_take(v, slot, other, target, t_ptr, t_slot)
        if not with_sum:
            return value, slot, v.new_empty(0, v.shape[1])
        return value, slot, _ops.edge_max(v, sign, True, ptr, other, target, t_ptr, t_slot)[2]

    def walls(self, call: Call) -> Walls:
        """All neighbours, ``[M, D, R]``."""
        v, sign, _, ptr, other = call.args[:5]
        slots = _table(ptr)
        source = torch.where(slots < 0, -1, other[slots.clamp_min(0)])
        found = v[source.clamp_min(0)] if sign is None else sign * v[source.clamp_min(0)]
        found = found.masked_fill((source < 0)[..., None], -math.inf)
        return Walls(rivals=[found.movedim(1, 2)])


def _edge_sums(near: Tensor, far: Tensor, rows: int, graph: list[Tensor], tables: int) -> Tensor:
    """What the activation of every edge is applied to, ``[E, D]``."""
    ends = (len(far), rows, graph, tables)
    found: Tensor = _ops.edge_values(None, None, near, far, None, 1.0, *ends)
    return found


class EdgeSums(Site):
    """``edge_sum``, ``edge_sum_`` and ``edge_values``: which edges have their activation on.

    The sum of a mask of either end decides. ``edge_sum_``, which is taken where nothing records,
    overwrites its first argument; both are the same choice.
    """

    def _decides(self, call: Call) -> tuple[Any, ...]:
        """Both masks, the number of slots and the graph."""
        if call.name != "edge_sum_":
            return (*call.args[:2], *call.args[-3:])
        u, v, _, ptr, other = call.args
        return u, v, len(other), [ptr, other], 0

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """Copies of what decides."""
        near, far, *graph = self._decides(call)
        choice = (near.detach().clone(), far.detach().clone(), *graph)
        return call.run(), choice

    def repeat(self, call: Call, choice: Choice) -> Any:
        """The same edges on."""
        near, far, *graph = choice
        if call.name != "edge_sum_":
            return call.func(near, far, *call.args[2:])
        u, v, slope = call.args[:3]
        u.copy_(_ops.edge_sum(near, far, u, v, None, None, slope, len(v), *graph))
        return None

    def code(self, choice: Choice) -> Tensor:
        """Truth values of edges and channels."""
        return _edge_sums(*choice) > 0

    def walls(self, call: Call) -> Walls:
        """The sums along every edge."""
        return Walls(signed=[_edge_sums(*self._decides(call))])


class PolyStep(Site):
    """``poly_step`` and ``batch_norm_step`` with a ReLU or leaky ReLU after them.

    Without they choose nothing. The activation is the last argument of both.
    """

    def _plain(self, call: Call) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = call.func(*call.args[:-1], ACTIVATIONS["none"])
        return found

    def choose(self, call: Call) -> tuple[Any, Choice]:
        """Where the activation is on."""
        out = call.run()
        return out, out[0].detach() > 0

    def repeat(self, call: Call, choice: Choice) -> Any:
        """The polynomial, with the same activation on."""
        out, *rest = self._plain(call)
        slope = LEAKY_SLOPE if call.args[-1] == ACTIVATIONS["leaky_relu"] else 0.0
        return torch.where(choice, out, slope * out), *rest

    def walls(self, call: Call) -> Walls:
        """The polynomial, which is affine in the input where it is of first order."""
        return Walls(signed=[self._plain(call)[0]])


_NEIGHBORS, _EDGE_MAX = Neighbors(), EdgeMax()
_BENT = EdgeSums()
_POLY_STEP = PolyStep()


def operator_site(call: Call) -> Site | None:
    """What an operator of polygraph chooses by, or None."""
    if call.name in ("edge_sum", "edge_values"):
        return None if call.args[0] is None else _BENT
    if call.name == "edge_sum_":
        return None if call.args[2] == 1 else _BENT
    if call.name == "poly_step":
        bent = (ACTIVATIONS["relu"], ACTIVATIONS["leaky_relu"])
        return _POLY_STEP if call.args[-1] in bent else None
    if call.name == "batch_norm_step":
        return _POLY_STEP if call.args[-1] == BATCH_NORM_ACTIVATIONS["relu"] else None
    return {"knn": _NEIGHBORS, "edge_max": _EDGE_MAX}.get(call.name)
