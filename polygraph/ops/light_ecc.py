"""Lightweight edge-conditioned convolution: low-rank matrices per edge, none of them made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polygraph import _load
from polygraph.ops._common import autocast_dtype, cast, check_devices
from polygraph.ops.ecc import _widened
from polygraph.ops.edge_conv import Sides, _forward, turned
from polygraph.ops.graph import Graph

_load.load_libraries()
_ops = torch.ops.polygraph


def light_ecc(
    x: Tensor,
    phi: Tensor,
    left: Tensor,
    right: Tensor,
    kappa: Tensor,
    graph: Graph,
    aggr: str = "mean",
    *,
    edge_weight: Tensor | None = None,
) -> Tensor:
    """``out_i = Σ_j γ_ij Σ_r κ_ij,r θL_ij,r (θR_ij,r · x_j)``: ECC with matrices of rank R.

    θL, θR and κ are linear in the hidden features of the edge, so the products with their weights
    are taken per node: ``s_ij,r = φ_ij · (R_rᵀ x_j)``, ``A_i,r = Σ_j γ_ij κ_ij,r s_ij,r φ_ij`` and
    ``out_i = Σ_r L_r A_i,r``. Nothing of size E x R x C is ever stored; E x R and, for the nodes,
    N x R x H are.

    Source: Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image Denoising", IEEE TIP
    2020, section III-B.

    Args:
        x: sources ``[N, C]``; float32, float64, float16 or bfloat16, any strides.
        phi: hidden features of the edges ``[E, H]``, dtype of ``x``. A constant 1 is put behind
            them, with which the last column of each weight, a bias, is multiplied; ``[E, H + 1]``
            where it is there already, which saves a copy.
        left: L ``[R, D, H + 1]``: ``θL_r = L_r [φ, 1]``.
        right: R ``[R, C, H + 1]``: ``θR_r = R_r [φ, 1]``.
        kappa: ``[R, H + 1]``: ``κ_r = kappa_r · [φ, 1]``.
        graph: M targets and N sources.
        aggr: ``"sum"`` or ``"mean"``.
        edge_weight: γ ``[E]``.

    Returns:
        ``[M, D]``; 0 for a target without neighbours. Differentiable any number of times in all
        but the graph. Deterministic; the products with L and R are PyTorch's, which may round
        otherwise on another number of threads. Half types are computed in float32.

    Raises:
        ValueError: ``aggr`` is neither.
        RuntimeError: a shape, dtype, device or entry of the graph is wrong (the message names it).
    """
    if aggr not in ("sum", "mean"):
        raise ValueError(f"light_ecc: aggr must be sum or mean, got {aggr!r}")
    tensors = {"phi": phi, "left": left, "right": right, "kappa": kappa}
    check_devices("light_ecc", "x", x, **tensors, **graph._asdict())
    dtype = autocast_dtype(x)
    result = x.dtype if dtype is None else dtype
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    for name, tensor in tensors.items():
        if dtype is None and tensor.dtype != x.dtype:
            raise RuntimeError(f"light_ecc: {name} must be {x.dtype}, got {tensor.dtype}")
    x, phi, left, right, kappa = (
        cast(cast(t, dtype), wide).contiguous() for t in (x, phi, left, right, kappa)
    )
    edge_weight = cast(cast(edge_weight, dtype), wide)
    rank, hidden = left.shape[0], phi.shape[1]
    has_ones = left.shape[-1] == right.shape[-1] == kappa.shape[-1] == hidden
    hidden = hidden if has_ones else hidden + 1
    channels = {"left": left.shape[1], "right": x.shape[1]}
    for name, wanted in (
        ("left", [rank, channels["left"], hidden]),
        ("right", [rank, channels["right"], hidden]),
        ("kappa", [rank, hidden]),
    ):
        if list(tensors[name].shape) != wanted:
            raise RuntimeError(
                f"light_ecc: {name} must have shape {wanted}, got {list(tensors[name].shape)}"
            )
    graph = graph.with_transposed(x.shape[0])
    phi = phi if has_ones else torch.nn.functional.pad(phi, (0, 1), value=1.0)
    with torch.autocast(x.device.type, enabled=False):  # the products, too, in the wide type
        out = _light_ecc(x, phi, left, right, kappa, edge_weight, _forward(graph))
    if aggr == "mean":
        out = out / graph.degree().clamp(min=1)[:, None].to(out.dtype)
    return out.to(result)


def _light_ecc(
    x: Tensor,
    phi: Tensor,
    left: Tensor,
    right: Tensor,
    kappa: Tensor,
    edge_weight: Tensor | None,
    sides: Sides,
) -> Tensor:
    rank, channels, hidden = right.shape
    projected = (x @ right.permute(1, 0, 2).reshape(channels, -1)).view(-1, rank, hidden)
    found = _ops.edge_project(projected, phi, False, *turned(sides, x.shape[0]))
    scale = phi @ kappa.t() * found
    if edge_weight is not None:
        scale = scale * edge_weight[:, None]
    gathered = _ops.edge_gather_outer(scale, phi, *sides)
    return gathered.flatten(1) @ left.permute(0, 2, 1).reshape(rank * hidden, -1)


# ---- edge_outer and edge_inner_ (csrc/ecc) with features of edges on both sides ----
#
#   edge_gather_outer(φ [E, H], x [E, C])      Z_s = Σ φ_e ⊗ x_e over the edges of s
#   edge_project(G [S, H, C], x [E, C])        a_e = G_s x_e; turned: G_sᵀ x_e, with x [E, H]
#
# <G, Z> is linear in G, φ and x, and these are its derivatives: of every order.

_library = torch.library.Library("polygraph", "FRAGMENT")
_SIDES = "Tensor ptr, Tensor? slot, Tensor other, Tensor? edge, Tensor? t_ptr, Tensor? t_slot, "
_SIDES += "Tensor? t_other"
_library.define(f"edge_gather_outer(Tensor phi, Tensor x, {_SIDES}) -> Tensor")
_library.define(f"edge_project(Tensor G, Tensor x, bool turn, {_SIDES}) -> Tensor")


def _segments(sides: Sides) -> int:
    assert sides[0] is not None
    return sides[0].shape[0] - 1


def _others(sides: Sides) -> int:
    assert sides[4] is not None
    return sides[4].shape[0] - 1


def _edge_gather_outer(phi: Tensor, x: Tensor, *sides: Tensor | None) -> Tensor:
    wide_phi, wide_x = _widened(phi, x)
    out = wide_x.new_empty(_segments(sides), phi.shape[1], x.shape[1])  # type: ignore[union-attr]
    options = (wide_phi, None, None, 1.0, wide_x, True, False)
    sizes = (_others(sides), phi.shape[0], 0, _segments(sides))
    _ops.edge_outer_(*options, *sizes, *sides[:4], out)
    return out.to(x.dtype)


def _edge_project(G: Tensor, x: Tensor, turn: bool, *sides: Tensor | None) -> Tensor:
    wide_G, wide_x = _widened(G, x)
    rows = x.shape[0]
    out = wide_x.new_zeros(rows, G.shape[2 if turn else 1])  # type: ignore[union-attr]
    sizes = (_others(sides), rows, 0, _segments(sides))
    phi, x_, a, y = (wide_x, None, None, out) if turn else (None, wide_x, out, None)
    options = (phi, None, None, 1.0, x_, True, False)
    _ops.edge_inner_(wide_G, *options, *sizes, *sides[:4], a, y, False)
    return out.to(x.dtype)


for _key in ("CPU", "CUDA"):
    _library.impl("edge_gather_outer", _edge_gather_outer, _key)
    _library.impl("edge_project", _edge_project, _key)


@torch.library.register_fake("polygraph::edge_gather_outer")
def _(phi: Tensor, x: Tensor, ptr: Tensor, *sides: Tensor | None) -> Tensor:
    return x.new_empty(ptr.shape[0] - 1, phi.shape[1], x.shape[1])


@torch.library.register_fake("polygraph::edge_project")
def _(G: Tensor, x: Tensor, turn: bool, *sides: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], G.shape[2 if turn else 1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, x, *rest = inputs
    ctx.turn = rest.pop(0) if isinstance(rest[0], bool) else None
    ctx.save_for_backward(first, x, *rest)


def _outer_formula(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    phi, x, *sides = ctx.saved_tensors
    needs = ctx.needs_input_grad
    to_phi = _ops.edge_project(grad, x, False, *sides) if needs[0] else None
    to_x = _ops.edge_project(grad, phi, True, *sides) if needs[1] else None
    return to_phi, to_x, *(None,) * 7


def _project_formula(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    G, x, *sides = ctx.saved_tensors
    needs = ctx.needs_input_grad
    to_G = to_x = None
    if needs[0]:
        pair = (x, grad) if ctx.turn else (grad, x)
        to_G = _ops.edge_gather_outer(*pair, *sides)
    if needs[1]:
        to_x = _ops.edge_project(G, grad, not ctx.turn, *sides)
    return to_G, to_x, *(None,) * 8


torch.library.register_autograd("polygraph::edge_gather_outer", _outer_formula, setup_context=_save)
torch.library.register_autograd("polygraph::edge_project", _project_formula, setup_context=_save)
