"""Lightweight edge-conditioned convolution: low-rank matrices per edge, none of them made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops import common
from polygraph.ops._light_ecc_form import edge_form, nodes_at_a_time
from polygraph.ops.common import (
    autocast_disabled,
    autocast_dtype,
    cast,
    check_devices,
    unrecorded,
)
from polygraph.ops.edge_sum import edge_values
from polygraph.ops.graph import Graph
from polygraph.ops.graph_side import GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph


def light_ecc(
    x: Tensor,
    phi: Tensor | tuple[Tensor, Tensor, float],
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
    ``out_i = Σ_r L_r A_i,r``. Nothing of size E x R x C or N x R x H is ever stored.

    Source: Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image Denoising", IEEE TIP
    2020, section III-B.

    Args:
        x: sources ``[N, C]``; float32, float64, float16 or bfloat16, any strides.
        phi: hidden features of the edges ``[E, H]``, dtype of ``x``. Or ``(u, v, slope)``:
            ``φ_ij = act(u_i + v_j)`` with u ``[M, H]``, v ``[N, H]`` and the activation of
            `edge_conv`; where no gradients are wanted it is made on the fly, and never stored.
        left: L ``[R, D, H + 1]``: ``θL_r = L_r [φ, 1]``: the last column is a bias.
        right: R ``[R, C, H + 1]``: ``θR_r = R_r [φ, 1]``.
        kappa: ``[R, H + 1]``: ``κ_r = kappa_r · [φ, 1]``.
        graph: M targets and N sources.
        aggr: ``"sum"`` or ``"mean"``.
        edge_weight: γ ``[E]``.

    Returns:
        ``[M, D]``; 0 for a target without neighbours. Differentiable any number of times in all
        but the graph. Deterministic; the products with L and R are PyTorch's, which may round
        otherwise on another number of threads, and on CUDA repeat bit for bit with
        ``CUBLAS_WORKSPACE_CONFIG=:4096:8``. Half types are computed in float32. Of what is not
        finite, see `ecc`.

    Raises:
        ValueError: ``aggr`` is neither.
        RuntimeError: a shape, dtype, device or entry of the graph is wrong (the message names it).

    Example:
        >>> import torch
        >>> from polygraph.ops import graph_from_table, light_ecc
        >>> N, C, D, H, R = 4, 3, 5, 2, 2
        >>> graph = graph_from_table(torch.tensor([[1, 2], [0, 3], [3, 0], [1, 2]]), N)
        >>> x, phi, kappa = torch.randn(N, C), torch.randn(8, H), torch.randn(R, H + 1)
        >>> left, right = torch.randn(R, D, H + 1), torch.randn(R, C, H + 1)
        >>> light_ecc(x, phi, left, right, kappa, graph).shape
        torch.Size([4, 5])

    See Also:
        `polygraph.nn.LightECConv`, the layer; `ecc`, whose matrices have full rank.
    """
    check_tensors("light_ecc", x=x, left=left, right=right, kappa=kappa, edge_weight=edge_weight)
    if aggr not in ("sum", "mean"):
        raise ValueError(f"light_ecc: aggr must be sum or mean, got {aggr!r}")
    tensors = {"left": left, "right": right, "kappa": kappa}
    made, slope = ((phi,), 1.0) if isinstance(phi, Tensor) else (phi[:2], phi[2])
    tensors |= dict(zip(("phi",) if len(made) == 1 else ("u", "v"), made, strict=True))
    check_devices("light_ecc", "x", x, **tensors, edge_weight=edge_weight, **graph._asdict())
    dtype = autocast_dtype(x)
    result = x.dtype if dtype is None else dtype
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    for name, tensor in tensors.items():
        if dtype is None and tensor.dtype != x.dtype:
            raise RuntimeError(f"light_ecc: {name} must be {x.dtype}, got {tensor.dtype}")
    x, left, right, kappa, *hidden = (
        cast(cast(t, dtype), wide).contiguous() for t in (x, left, right, kappa, *made)
    )
    edge_weight = cast(cast(edge_weight, dtype), wide)
    rank, width = left.shape[0], hidden[0].shape[1]
    wanted = {
        "left": [rank, left.shape[1], width + 1],
        "right": [rank, x.shape[1], width + 1],
        "kappa": [rank, width + 1],
    }
    if len(made) == 2:
        wanted |= {"u": [graph.num_targets, width], "v": [x.shape[0], width]}
    for name, shape in wanted.items():
        if list(tensors[name].shape) != shape:
            raise RuntimeError(
                f"light_ecc: {name} must have shape {shape}, got {list(tensors[name].shape)}"
            )
    graph = graph.with_transposed(x.shape[0])
    weights = (_Side.of(left), _Side.of(right), kappa, edge_weight)
    with autocast_disabled(x):  # the products, too, in the wide type
        plain = common.takes_cpu_kernels(x) and unrecorded(x, left, right, *hidden, *weights[2:])
        if len(hidden) == 2 and plain:
            out = _light_ecc_on_the_fly(x, hidden[0], hidden[1], slope, *weights, graph)
        else:
            made_phi = hidden[0]
            if len(hidden) == 2:
                made_phi = edge_values(hidden[0], hidden[1], graph, slope)
            out = _light_ecc(x, made_phi, *weights, GraphSide.of(graph))
    if aggr == "mean":
        out = out / graph.degree().clamp(min=1)[:, None].to(out.dtype)
    return out.to(result)


class _Side(NamedTuple):
    """L or R, its bias told apart.

    Attributes:
        matrix: ``[C, R, H]``.
        bias: ``[C, R, 1]``.
    """

    matrix: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> _Side:
        """Of ``[R, C, H + 1]``."""
        turned = weight.transpose(0, 1)
        return cls(turned[..., :-1].contiguous(), turned[..., -1:].contiguous())

    def flat(self) -> Tensor:
        """``[C, R H]``."""
        return self.matrix.flatten(1)


def _light_ecc_on_the_fly(
    x: Tensor,
    u: Tensor,
    v: Tensor,
    slope: float,
    left: _Side,
    right: _Side,
    kappa: Tensor,
    edge_weight: Tensor | None,
    graph: Graph,
) -> Tensor:
    """`_light_ecc` of φ = act(u_i + v_j), made twice: for some sources, and for some targets."""
    ranks, width = kappa.shape[0], kappa.shape[1] - 1
    # A row of `found` for every slot, whatever its row of edge features is.
    lists = GraphSide.of(graph).turned(len(x))._replace(edge=None).packed()
    # For every slot: φ · P_r and φ · κ_r, without biases.
    sources = len(x)
    if not sources:
        return x.new_zeros(graph.num_targets, left.matrix.shape[0])
    found = x.new_zeros(graph.num_slots, 2 * ranks)
    step = nodes_at_a_time((2 * ranks) * width, sources, x)
    p = x.new_empty(step, 2 * ranks, width)
    p[:, ranks:] = kappa[:, :-1]
    for first in range(0, sources, step):
        last = min(first + step, sources)
        part = p[: last - first]
        torch.mm(x[first:last], right.flat(), out=part.flatten(1)[:, : ranks * width])
        made: tuple[Any, ...] = ([], slope, [v, u], False, len(u), first)
        _ops.edge_inner_(part, *made, *lists, found, None, False)
    constant, ones = x @ right.bias[..., 0], x.new_ones(sources, 1)
    out = x.new_empty(graph.num_targets, left.matrix.shape[0])
    step = nodes_at_a_time(ranks * width, len(out), x)
    z = x.new_empty(step, ranks, width)
    sums = x.new_empty(step, ranks, 1)
    for first, last, ptr, at in _parts(graph.ptr, step):
        others = graph.source[at]
        here = found[at, :ranks]
        c = here.add_(constant[others]).mul_(found[at, ranks:] + kappa[:, -1])
        if edge_weight is not None:
            c *= edge_weight[at if graph.edge is None else graph.edge[at], None]
        where = (False, len(v), 0, [ptr, others], 0)
        part, total = z[: last - first], sums[: last - first]
        _ops.edge_outer_([c], slope, [u[first:last], v], *where, part)
        torch.mm(part.flatten(1), left.flat().t(), out=out[first:last])
        _ops.edge_outer_([c], 1.0, [ones], *where, total)
        out[first:last].addmm_(total[..., 0], left.bias[..., 0].t())
    return out


def _parts(ptr: Tensor, step: int) -> Iterator[tuple[int, int, Tensor, slice]]:
    """Some segments at a time: first, last, pointers of their own, and where their list lies."""
    segments = ptr.shape[0] - 1
    bounds = ptr[torch.arange(0, segments + step, step).clamp(max=segments)].tolist()
    for part, first in enumerate(range(0, segments, step)):
        last, (start, end) = min(first + step, segments), bounds[part : part + 2]
        yield first, last, ptr[first : last + 1] - start, slice(start, end)


def _light_ecc(
    x: Tensor,
    phi: Tensor,
    left: _Side,
    right: _Side,
    kappa: Tensor,
    edge_weight: Tensor | None,
    side: GraphSide,
) -> Tensor:
    sources = side.turned(x.shape[0])
    ones = phi.new_ones(phi.shape[0], 1)
    found = edge_form("a", sources, x=x, phi=phi, weight=right.matrix)
    found = found + edge_form("a", sources, x=x, phi=ones, weight=right.bias)
    scale = torch.addmm(kappa[:, -1], phi, kappa[:, :-1].t()) * found
    if edge_weight is not None:
        scale = scale * edge_weight[:, None]
    out = edge_form("x", side, phi=phi, a=scale, weight=left.matrix)
    return out + edge_form("x", side, phi=ones, a=scale, weight=left.bias)
