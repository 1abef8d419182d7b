"""The largest neighbour of every target, channel by channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops import common
from polygraph.ops._autograd import (
    Gradients,
    apart,
    only_batched,
    register_autograd,
    side_by_side,
)
from polygraph.ops.edge_sum import edge_sum, sum_to_others
from polygraph.ops.graph import Graph, targets_of
from polygraph.ops.graph_side import GraphSide
from polygraph.ops.transpose_table import transpose_table

_load.load_libraries()
_ops = torch.ops.polygraph


def edge_max(
    v: Tensor, graph: Graph, sign: Tensor | None = None, *, with_sum: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of ``sign * v`` among each target's neighbours, channel by channel.

    Args:
        v: sources ``[N, D]``.
        graph: M targets and N sources.
        sign: ``[D]``, of 1 (maximum) and -1 (minimum); None: maxima.
        with_sum: also add up the neighbours, in the same pass.

    Returns:
        The value of ``v`` ``[M, D]`` (0 without neighbours), its slot int32 ``[M, D]`` (-1), and
        the sum ``[M, D]`` (``[0, D]`` if not wanted). Value and sum are differentiable any number
        of times.

    Example:
        >>> import torch
        >>> from polygraph.ops import edge_max, graph_from_table
        >>> graph = graph_from_table(torch.tensor([[1, 2], [0, 2], [0, 1]]), 3)
        >>> value, slot, _ = edge_max(torch.tensor([[1.0], [2.0], [3.0]]), graph)
        >>> value.T, slot.T
        (tensor([[3., 3., 2.]]), tensor([[1, 3, 5]], dtype=torch.int32))

    See Also:
        `edge_sum`; `edge_conv` with ``aggr="max"``.
    """
    check_tensors("edge_max", v=v, sign=sign)
    transposed = (graph.target, graph.t_ptr, graph.t_slot)
    value, arg, total = _ops.edge_max(v, sign, with_sum, graph.ptr, graph.source, *transposed)
    return value, arg, total


# ---- shapes ----


@torch.library.register_fake("polygraph::edge_max")
def _(
    v: Tensor,
    sign: Tensor | None,
    with_sum: bool,
    ptr: Tensor,
    other: Tensor,
    target: Tensor | None,
    t_ptr: Tensor | None,
    t_slot: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (ptr.shape[0] - 1, v.shape[1])
    total = (shape[0] if with_sum else 0, v.shape[1])
    return v.new_empty(shape), v.new_empty(shape, dtype=torch.int32), v.new_empty(total)


@torch.library.register_fake("polygraph::edge_max_backward")
def _(
    grad: Tensor,
    arg: Tensor,
    others: int,
    other: Tensor,
    target: Tensor | None,
    t_ptr: Tensor | None,
    t_slot: Tensor | None,
) -> Tensor:
    return grad.new_empty(others, grad.shape[1])


@torch.library.register_fake("polygraph::edge_take")
def _(v: Tensor, arg: Tensor, *graph: Tensor | None) -> Tensor:
    return v.new_empty(arg.shape)


# ---- derivatives: given the slots, maxima are linear ----


def _max_save(ctx: Any, given: Any, output: tuple[Tensor, ...]) -> None:
    arg = output[1]
    ctx.mark_non_differentiable(arg)
    ctx.with_sum, ctx.others = given.with_sum, given.v.shape[0]
    back = (given.target, given.t_ptr, given.t_slot)
    ctx.save_for_backward(arg, given.ptr, given.other, *back)


def _max_backward(
    ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor, _: Tensor, grad_sum: Tensor
) -> Gradients:
    arg, ptr, other, target, t_ptr, t_slot = saved
    # The CPU scatters maxima; CUDA gathers them, by the transpose that sums too can take.
    if t_ptr is None and common.takes_cuda_kernels(grad):
        t_ptr, t_slot = transpose_table(other[:, None], ctx.others)
        target = targets_of(ptr, other.shape[0])
    out = _ops.edge_max_backward(grad, arg, ctx.others, other, target, t_ptr, t_slot)
    if ctx.with_sum:
        side = GraphSide(ptr, None, other, None, t_ptr, t_slot, target)
        out = out + sum_to_others(side, ctx.others, other.shape[0], near=grad_sum)
    return {"v": out}


def _max_jvp(given: Any, output: tuple[Tensor, ...], tangents: Any) -> tuple[Any, ...]:
    back = (given.target, given.t_ptr, given.t_slot)
    value = _ops.edge_take(tangents.v, output[1], given.other, *back)
    if not given.with_sum:
        return value, None, torch.zeros_like(output[2])
    return value, None, edge_sum(tangents.v, Graph(given.ptr, given.other, None, *back))


def _max_vmap(size: int, dims: Any, given: Any) -> Any:
    if not only_batched(dims, "v", "sign"):
        return None
    v, sign = side_by_side(given.v, dims.v, size), given.sign
    if sign is not None:
        sign = side_by_side(sign[None], None if dims.sign is None else dims.sign + 1, size)[0]
    found = _ops.edge_max(*given._replace(v=v, sign=sign))
    return tuple(apart(part, size) for part in found)


def _max_backward_save(ctx: Any, given: Any, output: Tensor) -> None:
    ctx.save_for_backward(given.arg, given.other, given.target, given.t_ptr, given.t_slot)


def _max_backward_backward(ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor) -> Gradients:
    return {"grad": _ops.edge_take(grad, *saved)}


def _take_save(ctx: Any, given: Any, output: Tensor) -> None:
    ctx.others = given.v.shape[0]
    ctx.save_for_backward(given.arg, given.other, given.target, given.t_ptr, given.t_slot)


def _take_backward(ctx: Any, saved: tuple[Any, ...], needs: Any, grad: Tensor) -> Gradients:
    arg, *graph = saved
    return {"v": _ops.edge_max_backward(grad, arg, ctx.others, *graph)}


def _register_selection(name: str, linear: str, backward: Any, save: Any) -> None:
    """Of an operator that is linear in the argument ``linear``, given the slots in ``arg``."""
    operator = getattr(_ops, name)

    def jvp(given: Any, output: Tensor, tangents: Any) -> Any:
        return operator(*given._replace(**{linear: getattr(tangents, linear)}))

    def vmap(size: int, dims: Any, given: Any) -> Tensor | None:
        if not only_batched(dims, linear, "arg"):
            return None
        rows = {n: side_by_side(getattr(given, n), getattr(dims, n), size) for n in (linear, "arg")}
        return apart(operator(*given._replace(**rows)), size)

    register_autograd(name, backward, save=save, jvp=jvp, vmap=vmap)


register_autograd("edge_max", _max_backward, save=_max_save, jvp=_max_jvp, vmap=_max_vmap)
_register_selection("edge_max_backward", "grad", _max_backward_backward, _max_backward_save)
_register_selection("edge_take", "v", _take_backward, _take_save)
