"""What `polygraph.ops.light_ecc` is made of: one form, linear in each of four tensors.

Over the edges e of every segment s it is

    Q(x [S, C], φ [E, H], a [E, R], W [C, R, H]) = Σ_e Σ_crh x_s,c φ_e,h a_e,r W_crh

and ``edge_form`` gives its derivatives by those of the four that are wanted; with the gradients of
these in the place of what they are derivatives by it gives their derivatives too, of every order.
Segments are taken some at a time: ``P_s = W x_s`` and ``Z_s = Σ a_e ⊗ φ_e``, both [R, H], are in
cache. The kernels are those of csrc/edge_product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops import common
from polygraph.ops._autograd import Gradients, register_autograd
from polygraph.ops.edge_sum import edge_values
from polygraph.ops.graph import Graph
from polygraph.ops.graph_side import GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph

_library = torch.library.Library("polygraph", "FRAGMENT")
_library.define(
    "edge_form(Tensor? x, Tensor? phi, Tensor? a, Tensor? weight, bool to_x, bool to_phi, "
    "bool to_a, bool to_weight, Tensor[] graph, int tables) "
    "-> (Tensor x, Tensor phi, Tensor a, Tensor weight)"
)
FORM_BYTES = {"cpu": 3 << 20, "cuda": 256 << 20}  # of P and of Z, at a time


class Four(NamedTuple):
    """The four tensors of the form, or one thing of each."""

    x: Any = None
    phi: Any = None
    a: Any = None
    weight: Any = None


def edge_form(
    by: str,
    side: GraphSide,
    *,
    x: Tensor | None = None,
    phi: Tensor | None = None,
    a: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """The derivative by one of the four, which is not needed itself."""
    wanted = [name == by for name in Four._fields]
    found: Tensor = getattr(Four(*_ops.edge_form(x, phi, a, weight, *wanted, *side.packed())), by)
    return found


def nodes_at_a_time(elements: int, segments: int, like: Tensor) -> int:
    """Segments whose P or Z, so many elements each, exist at a time."""
    device = "cuda" if common.takes_cuda_kernels(like) else "cpu"
    fit = FORM_BYTES[device] // max(1, elements * like.element_size())
    return min(max(16, fit), max(1, segments))


class _Sizes(NamedTuple):
    S: int
    E: int
    C: int
    R: int
    H: int

    @classmethod
    def of(cls, given: Four, ptr: Tensor) -> _Sizes:
        """What is not there shares its sizes with what is."""
        edges = given.phi if given.phi is not None else given.a
        if given.weight is not None:
            C, R, H = given.weight.shape
        else:
            C, R, H = given.x.shape[1], given.a.shape[1], given.phi.shape[1]
        return cls(ptr.shape[0] - 1, edges.shape[0], C, R, H)


def _empty(given: Four, wanted: Sequence[bool], ptr: Tensor) -> Four:
    n = _Sizes.of(given, ptr)
    like = next(t for t in given if t is not None)
    shapes = Four((n.S, n.C), (n.E, n.H), (n.E, n.R), (n.C, n.R, n.H))
    return Four(*(like.new_empty(s if w else (0,)) for s, w in zip(shapes, wanted, strict=True)))


def visits_all(rows: int, side: GraphSide) -> bool:
    """Whether all rows of edges surely have a slot.

    On a GPU nobody waits for the answer, and a list of rows may leave some out.
    """
    if common.takes_cuda_kernels(side.other) or side.edge is not None:
        return False
    return rows == int((side.other >= 0).sum() if side.slot is None else side.ptr[-1])


def _derivatives(
    x: Tensor | None,
    phi: Tensor | None,
    a: Tensor | None,
    weight: Tensor | None,
    to_x: bool,
    to_phi: bool,
    to_a: bool,
    to_weight: bool,
    graph: Sequence[Tensor],
    tables: int,
) -> tuple[Tensor, ...]:
    given, to = Four(x, phi, a, weight), Four(to_x, to_phi, to_a, to_weight)
    side = GraphSide.unpacked(graph, tables)
    n = _Sizes.of(given, side.ptr)
    found = _empty(given, to, side.ptr)
    found.weight.zero_()
    if not visits_all(n.E, side):
        found.phi.zero_()
        found.a.zero_()
    matrix = None if weight is None else weight.view(n.C, n.R * n.H)
    of_weight = found.weight.view(n.C, n.R * n.H) if to.weight else None
    step = nodes_at_a_time(n.R * n.H, n.S, found.x)
    p = found.x.new_empty(step, n.R, n.H) if to.phi or to.a else None
    z = found.x.new_empty(step, n.R, n.H) if to.x or to.weight else None
    assert side.t_ptr is not None
    others = side.t_ptr.shape[0] - 1
    for first in range(0, n.S, step):
        last = min(first + step, n.S)
        if p is not None:
            part = p[: last - first]
            assert x is not None
            assert matrix is not None
            torch.mm(x[first:last], matrix, out=part.view(last - first, n.R * n.H))
            rows = ([a] if to.phi else [], 1.0, [phi] if to.a else [], True)
            results = (found.a if to.a else None, found.phi if to.phi else None, False)
            _ops.edge_inner_(part, *rows, others, first, graph, tables, *results)
        if z is not None:
            part = z[: last - first]
            _ops.edge_outer_([a], 1.0, [phi], True, others, first, graph, tables, part)
            if to.x:
                assert matrix is not None
                flat = part.view(last - first, n.R * n.H)
                torch.mm(flat, matrix.t(), out=found.x[first:last])
            if of_weight is not None:
                assert x is not None
                of_weight.addmm_(x[first:last].t(), part.view(last - first, n.R * n.H))
    return tuple(found)


for _key in ("CPU", "CUDA"):
    _library.impl("edge_form", _derivatives, _key)


@torch.library.register_fake("polygraph::edge_form")
def _(
    x: Tensor | None,
    phi: Tensor | None,
    a: Tensor | None,
    weight: Tensor | None,
    to_x: bool,
    to_phi: bool,
    to_a: bool,
    to_weight: bool,
    graph: Sequence[Tensor],
    tables: int,
) -> tuple[Tensor, ...]:
    wanted = Four(to_x, to_phi, to_a, to_weight)
    return tuple(_empty(Four(x, phi, a, weight), wanted, graph[0]))


# ---- derivatives: the same form, one of the four replaced ----


def _wanted(given: Any) -> Four:
    return Four(given.to_x, given.to_phi, given.to_a, given.to_weight)


def _save(ctx: Any, given: Any, output: tuple[Tensor, ...]) -> None:
    ctx.wanted, ctx.tables = _wanted(given), given.tables
    ctx.save_for_backward(*given[:4], *given.graph)


def _backward(ctx: Any, saved: tuple[Any, ...], needs: Any, *grads: Tensor | None) -> Gradients:
    given, side = Four(*saved[:4]), GraphSide.unpacked(saved[4:], ctx.tables)
    wanted = Four(*needs[:4])
    total: Gradients = {}
    for name, grad in Four(*grads)._asdict().items():
        if getattr(ctx.wanted, name) and grad is not None:
            _add(total, given._replace(**{name: grad.contiguous()}), _but(wanted, name), side)
    return total


def _jvp(given: Any, output: Any, tangents: Any) -> tuple[Tensor, ...]:
    values, side = Four(*given[:4]), GraphSide.unpacked(given.graph, given.tables)
    wanted = _wanted(given)
    total: Gradients = {}
    for name, tangent in Four(*tangents[:4])._asdict().items():
        if tangent is not None:
            _add(total, values._replace(**{name: tangent.contiguous()}), _but(wanted, name), side)
    moved = (total.get(name) for name in Four._fields)
    return tuple(
        torch.zeros_like(out) if t is None else t for t, out in zip(moved, output, strict=True)
    )


def _but(wanted: Four, name: str) -> Four:
    return wanted._replace(**{name: False})


def _add(total: Gradients, given: Four, wanted: Four, side: GraphSide) -> None:
    """Adds the derivatives that are wanted to those that are there."""
    if not any(wanted):
        return
    found = Four(*_ops.edge_form(*given, *wanted, *side.packed()))
    for name, value in found._asdict().items():
        if getattr(wanted, name):
            before = total.get(name)
            total[name] = value if before is None else before + value


register_autograd("edge_form", _backward, save=_save, jvp=_jvp)


# ---- lightweight ECC, made of it ----


class LightInputs(NamedTuple):
    """What `polygraph.ops.light_ecc` is given beside the graph, contiguous, in a wide dtype."""

    x: Tensor  #: ``[N, C]``
    near: Tensor  #: φ ``[E, H]``, or u ``[M, H]``
    far: Tensor | None  #: v ``[N, H]``, where φ is made of nodes
    left: Tensor  #: ``[R, D, H + 1]``
    right: Tensor  #: ``[R, C, H + 1]``
    kappa: Tensor  #: ``[R, H + 1]``
    gamma: Tensor | None  #: ``[E]``
    slope: float

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All but the slope."""
        return tuple(self[:7])

    def features(self, *, of_sources: bool) -> tuple[list[Tensor], float]:
        """The arguments ``phi`` and ``slope`` of kernels whose segments are these nodes."""
        if self.far is None:
            return [self.near], 1.0
        return [self.far, self.near] if of_sources else [self.near, self.far], self.slope


def light_ecc_form(given: LightInputs, graph: Graph) -> Tensor:
    """``[M, D]``, the sum over the neighbours."""
    phi = given.near
    if given.far is not None:
        phi = edge_values(given.near, given.far, graph, given.slope)
    side = GraphSide.of(graph)
    sources = side.turned(given.x.shape[0])
    ones = phi.new_ones(phi.shape[0], 1)
    right, right_bias = _matrix_and_bias(given.right)
    left, left_bias = _matrix_and_bias(given.left)
    found = edge_form("a", sources, x=given.x, phi=phi, weight=right)
    found = found + edge_form("a", sources, x=given.x, phi=ones, weight=right_bias)
    scale = torch.addmm(given.kappa[:, -1], phi, given.kappa[:, :-1].t()) * found
    if given.gamma is not None:
        scale = scale * given.gamma[:, None]
    out = edge_form("x", side, phi=phi, a=scale, weight=left)
    return out + edge_form("x", side, phi=ones, a=scale, weight=left_bias)


def _matrix_and_bias(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``[R, C, H + 1]`` as ``[C, R, H]`` and ``[C, R, 1]``."""
    turned = weight.transpose(0, 1)
    return turned[..., :-1].contiguous(), turned[..., -1:].contiguous()
