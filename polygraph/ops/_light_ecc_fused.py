"""Lightweight ECC on the CPU, with its first derivatives: kernels for the edges, products per node.

What the edges add to PyTorch's products of nodes is done in four stages, those of csrc/light_ecc.
Hidden features that nodes make are made in each of them anew, and stored in none. For derivatives
of higher orders, and where functions are transformed or compiled, there is `light_ecc_form`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops import common
from polygraph.ops._light_ecc_form import LightInputs, light_ecc_form, nodes_at_a_time, visits_all
from polygraph.ops.edge_sum import sum_along
from polygraph.ops.graph import Graph
from polygraph.ops.graph_side import GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph

BLOCK = 16  # segments that share a sum of the gradients of kappa, as in csrc/light_ecc/light_ecc.h


def takes_fused(given: LightInputs) -> bool:
    """Whether this way is open: plain tensors on the CPU, and nobody looks on."""
    return (
        common.takes_cpu_kernels(given.x)
        and (given.slope >= 0 or given.far is None)
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and all(map(_is_plain, given.tensors))
    )


def light_ecc_fused(given: LightInputs, graph: Graph) -> Tensor:
    """As `light_ecc_form`."""
    if common.unrecorded(*given.tensors):
        return _forward(given, GraphSide.of(graph), given.kappa.shape[0])[0]
    out: Tensor = _Fused.apply(*given, graph)
    return out


def _is_plain(tensor: Tensor | None) -> bool:
    """Values without a tangent: no subclass, and nothing of a function transform."""
    return tensor is None or (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
        and torch.autograd.forward_ad.unpack_dual(tensor).tangent is None
    )


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, graph = arguments
        given = LightInputs(*inputs)
        out, found = _forward(given, GraphSide.of(graph), 2 * given.kappa.shape[0])
        ctx.slope = given.slope
        ctx.save_for_backward(*given.tensors, found, *graph)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad[:7]
        given = LightInputs._make((*saved[:7], ctx.slope))
        found, graph = saved[7], Graph(*saved[8:])
        with common.autocast_disabled(grad):
            if torch.is_grad_enabled() or not _is_plain(grad):
                grads = _recorded(given, graph, grad, wanted)
            else:
                grads = _backward(given, found, graph, grad.contiguous(), wanted)
        return *grads, None, None


def _recorded(given: LightInputs, graph: Graph, grad: Tensor, wanted: Any) -> Any:
    """Gradients of the form, which have gradients themselves."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that a derivative by x does not go on to features that were made of it.
        views = [None if t is None else t.view_as(t) for t in given.tensors]
        out = light_ecc_form(LightInputs._make((*views, given.slope)), graph)
    leaves: Any = [view for view, want in zip(views, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(out, leaves, grad, create_graph=create))
    return tuple(next(found) if want else None for want in wanted)


# ---- the stages, for some nodes at a time ----


def _flat(weight: Tensor) -> Tensor:
    """``[R, C, W]`` as ``[C, R W]``, W = H + 1."""
    return weight.transpose(0, 1).flatten(1)


def _chunks(segments: int, kappa: Tensor) -> Iterator[tuple[int, int]]:
    """First and last of the segments whose matrices, as large as ``kappa``, exist at a time."""
    step = nodes_at_a_time(kappa.numel(), segments, kappa)
    for first in range(0, segments, step):
        yield first, min(first + step, segments)


def _matrices(segments: int, kappa: Tensor) -> Tensor:
    step = nodes_at_a_time(kappa.numel(), segments, kappa)
    return kappa.new_empty(min(step, segments), *kappa.shape)


def _forward(given: LightInputs, side: GraphSide, columns: int) -> tuple[Tensor, Tensor]:
    """The result, and s and κ of every slot ``[E, 2 R]``, or with R columns their products."""
    x, kappa = given.x, given.kappa
    sources = side.turned(len(x))
    right, left = _flat(given.right), _flat(given.left)
    found = x.new_empty(side.other.shape[0], columns)
    p = _matrices(len(x), kappa)
    for first, last in _chunks(len(x), kappa):
        part = p[: last - first]
        torch.mm(x[first:last], right, out=part.flatten(1))
        where = (*given.features(of_sources=True), side.num_segments, first, *sources.packed())
        _ops.light_factors_(part, kappa, *where, found)
    out = x.new_empty(side.num_segments, len(left))
    z = _matrices(len(out), kappa)
    for first, last in _chunks(len(out), kappa):
        part = z[: last - first]
        where = (*given.features(of_sources=False), len(x), first, *side.packed())
        _ops.light_outer_(found, given.gamma, *where, part)
        torch.mm(part.flatten(1), left.t(), out=out[first:last])
    return out, found


def _backward(
    given: LightInputs, found: Tensor, graph: Graph, grad: Tensor, wanted: Any
) -> tuple[Tensor | None, ...]:
    side = GraphSide.of(graph)
    sources = side.turned(len(given.x))
    found = found.clone()  # then the gradients of s and of κ take their places
    made = given.far is not None
    slots = side.other.shape[0]
    d = given.near.new_empty(slots if made else len(given.near), given.kappa.shape[1] - 1)
    if not made and not visits_all(len(d), side):
        d.zero_()
    d_gamma = None
    if wanted[6] and given.gamma is not None:
        d_gamma = torch.zeros_like(given.gamma)
    d_left = _backward_targets(given, side, grad, found, d, d_gamma)
    d_x, d_right, d_kappa, d_far = _backward_sources(given, sources, len(grad), found, d)
    d_near = d
    if made:
        by_slot = side._replace(edge=None)
        d_near = sum_along(by_slot, len(given.x), slots, per_edge=d)
    return d_x, d_near, d_far, d_left, d_right, d_kappa, d_gamma


def _backward_targets(
    given: LightInputs,
    side: GraphSide,
    grad: Tensor,
    found: Tensor,
    d: Tensor,
    d_gamma: Tensor | None,
) -> Tensor:
    """The gradient of L; what the edges need goes to ``found``, ``d`` and ``d_gamma``."""
    kappa, left = given.kappa, _flat(given.left)
    d_left = torch.zeros_like(left)
    g, z = _matrices(len(grad), kappa), _matrices(len(grad), kappa)
    for first, last in _chunks(len(grad), kappa):
        matrices, sums = g[: last - first], z[: last - first]
        torch.mm(grad[first:last], left, out=matrices.flatten(1))
        where = (*given.features(of_sources=False), len(given.x), first, *side.packed())
        _ops.light_backward_targets_(matrices, found, given.gamma, *where, sums, d, d_gamma)
        d_left.addmm_(grad[first:last].t(), sums.flatten(1))
    return _unflat(d_left, kappa)


def _backward_sources(
    given: LightInputs, sources: GraphSide, targets: int, found: Tensor, d: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of x, R, κ and, where nodes make φ, of the sources' part of it."""
    x, kappa, right = given.x, given.kappa, _flat(given.right)
    d_x, d_right, d_kappa = torch.empty_like(x), torch.zeros_like(right), torch.zeros_like(kappa)
    d_far = None if given.far is None else torch.empty_like(given.far)
    p, z = _matrices(len(x), kappa), _matrices(len(x), kappa)
    sums = kappa.new_empty(-(-len(p) // BLOCK), *kappa.shape)
    for first, last in _chunks(len(x), kappa):
        matrices, part = p[: last - first], z[: last - first]
        here = sums[: -(-(last - first) // BLOCK)]
        far = None if d_far is None else d_far[first:last]
        torch.mm(x[first:last], right, out=matrices.flatten(1))
        where = (*given.features(of_sources=True), targets, first, *sources.packed())
        _ops.light_backward_sources_([matrices, kappa], found, *where, part, d, far, here)
        torch.mm(part.flatten(1), right.t(), out=d_x[first:last])
        d_right.addmm_(x[first:last].t(), part.flatten(1))
        d_kappa += here.sum(0)
    return d_x, _unflat(d_right, kappa), d_kappa, d_far


def _unflat(gradient: Tensor, kappa: Tensor) -> Tensor:
    """``[C, R W]`` as ``[R, C, W]``."""
    return gradient.unflatten(1, kappa.shape).transpose(0, 1)
