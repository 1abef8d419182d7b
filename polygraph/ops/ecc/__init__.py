"""Edge-conditioned convolution without any matrix per edge.

`choice` says which way of computing it runs when, and why; `forward` and `backward` are these ways,
`derivatives` makes them differentiable any number of times.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops.common import (
    autocast_disabled,
    autocast_dtype,
    cast,
    check_devices,
    wide,
)
from polygraph.ops.ecc import derivatives as _derivatives  # noqa: F401  registers the operators
from polygraph.ops.ecc.choice import source_is_cheaper
from polygraph.ops.edge_sum import activate
from polygraph.ops.graph import Graph
from polygraph.ops.graph_side import GraphSide

_load.load_libraries()
_ops = torch.ops.polygraph


class EdgeLayer(NamedTuple):
    """Hidden features of edges as a layer makes them, ``act(features weightᵀ + bias)``.

    On the CPU they are then made for a few edges at a time, and again in the backward pass.
    """

    features: Tensor  #: ``[E, F]``
    weight: Tensor  #: ``[H, F]``
    bias: Tensor  #: ``[H]``
    slope: float = 0.0  #: of the activation, as in `edge_conv`; not negative


def ecc(
    x: Tensor,
    phi: Tensor | tuple[Tensor, Tensor, float] | EdgeLayer,
    weight: Tensor,
    graph: Graph,
    aggr: str = "sum",
    *,
    bias: Tensor | None = None,
    edge_weight: Tensor | None = None,
    side: str | None = None,
) -> Tensor:
    """``out_i = Σ_j γ_ij Θ_ijᵀ x_j``, with C x D matrices ``Θ_ij = Σ_h φ_ij,h W_h (+ W_H)``.

    No Θ is made. Either every target adds up ``φ_ij ⊗ x_j`` and takes one product with all of W, or
    every source does, and its edges combine the results: both cost K times less than a matrix
    per edge. What a node needs for it exists for a few megabytes of nodes at a time. The cheaper
    side is chosen from the sizes.

    Source: Simonovsky and Komodakis, "Dynamic Edge-Conditioned Filters in Convolutional Neural
    Networks on Graphs", CVPR 2017, eq. 1; Gilmer et al., "Neural Message Passing for Quantum
    Chemistry", ICML 2017 (NNConv).

    Args:
        x: sources ``[N, C]``; float32, float64, float16 or bfloat16 (half types are computed in
            float32), any strides.
        phi: hidden features of the edges ``[E, H]``, dtype of ``x``; or made on the fly and never
            stored, ``(u, v, slope)``: ``φ_ij = act(u_i + v_j)`` with u ``[M, H]``, v ``[N, H]``
            and the activation of `edge_conv`; or an `EdgeLayer`.
        weight: W ``[H, C, D]``, or ``[H + 1, C, D]``, whose last is the constant part (the bias of
            the edge network's last layer). Any strides: on the CPU no copy is made of it.
        graph: M targets and N sources.
        aggr: ``"sum"`` or ``"mean"``.
        bias: the constant part ``[C, D]``, with a ``weight [H, C, D]``.
        edge_weight: γ ``[E]``; not with ``(u, v, slope)``.
        side: ``"target"`` or ``"source"`` forces a side; None: the cheaper one.

    Returns:
        ``[M, D]``; 0 for a target without neighbours. Differentiable any number of times in ``x``,
        ``phi`` or what makes it, ``weight``, ``bias`` and ``edge_weight``. Deterministic; some of
        the products are PyTorch's, which may round otherwise on another number of threads, and on
        CUDA repeat bit for bit with ``CUBLAS_WORKSPACE_CONFIG=:4096:8``. Half types are rounded
        once, at the end; of a mean, after the division.

        What is not finite in ``x``, φ or γ makes the targets that it reaches not finite, and no
        others: NaN or infinity, which of them is not told. W must be finite.

    Raises:
        ValueError: an option is none of those above.
        RuntimeError: a shape, dtype, device or entry of the graph is wrong (the message names it).

    Example:
        >>> import torch
        >>> from polygraph.ops import ecc, graph_from_table
        >>> graph = graph_from_table(torch.tensor([[1, 2], [0, 2], [0, 1]]), 3)
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> phi = torch.tensor([[1.0], [0.0], [1.0], [1.0], [0.0], [2.0]])  # [E, 1]
        >>> ecc(x, phi, torch.ones(1, 1, 1), graph)  # sums of phi * x
        tensor([[2.],
                [4.],
                [4.]])

    See Also:
        `polygraph.nn.NNConv`, the layer; `light_ecc`, whose matrices have a low rank.
    """
    check_tensors("ecc", x=x, weight=weight, bias=bias, edge_weight=edge_weight)
    if aggr not in ("sum", "mean"):
        raise ValueError(f"ecc: aggr must be sum or mean, got {aggr!r}")
    if side not in (None, "target", "source"):
        raise ValueError(f"ecc: side must be target or source, got {side!r}")
    u = v = layer = shift = hidden = None
    slope = 1.0
    if isinstance(phi, Tensor):
        hidden = phi
    elif isinstance(phi, EdgeLayer):
        hidden, layer, shift, slope = phi
        if slope < 0:
            raise ValueError(f"ecc: slope of a layer must not be negative, got {slope}")
    else:
        u, v, slope = phi
    named = {"phi": hidden, "u": u, "v": v, "layer": layer, "shift": shift}
    named |= {"weight": weight, "bias": bias, "edge_weight": edge_weight}
    check_devices("ecc", "x", x, **named, **graph._asdict())
    dtype = autocast_dtype(x)
    x, weight, edge_weight = cast(x, dtype), cast(weight, dtype), cast(edge_weight, dtype)
    hidden, u, v = cast(hidden, dtype), cast(u, dtype), cast(v, dtype)
    layer, shift, bias = cast(layer, dtype), cast(shift, dtype), cast(bias, dtype)
    result = x.dtype
    if layer is not None:
        assert hidden is not None
        assert shift is not None
        _check_layer(x, hidden, layer, shift)
        if edge_weight is not None:
            with autocast_disabled(x):
                hidden = torch.nn.functional.linear(wide(hidden), wide(layer), wide(shift))
            hidden = activate(hidden, slope)
            layer, shift, slope = None, None, 1.0
    columns = hidden if hidden is not None else v
    assert columns is not None
    width = columns.shape[1] if layer is None else layer.shape[0]
    if weight.dim() != 3 or weight.shape[1] != x.shape[-1] or weight.shape[0] - width not in (0, 1):
        raise RuntimeError(
            f"ecc: weight must have shape [H, C, D] or [H + 1, C, D] with H = {width} and "
            f"C = {x.shape[-1]}, got {list(weight.shape)}"
        )
    if weight.shape[0] > width:
        if bias is not None:
            raise ValueError("ecc: with a bias, weight must have shape [H, C, D]")
        weight, last = weight.split([width, 1])
        bias = last[0]
    if bias is not None and (bias.shape != weight.shape[1:] or bias.dtype != x.dtype):
        raise RuntimeError(
            f"ecc: bias must be {x.dtype} of shape {list(weight.shape[1:])}, got {bias.dtype} "
            f"{list(bias.shape)}"
        )
    if edge_weight is not None:
        if hidden is None:
            raise ValueError("ecc: edge_weight needs phi per edge")
        x, hidden, weight, edge_weight = wide(x), wide(hidden), wide(weight), wide(edge_weight)
        bias = wide(bias)
        if bias is not None:
            hidden = torch.cat([hidden, hidden.new_ones(hidden.shape[0], 1)], 1)
            weight, bias = torch.cat([weight, bias[None]]), None
        hidden = hidden * edge_weight[:, None]
    by_source = source_is_cheaper(x, weight, graph) if side is None else side == "source"
    if by_source:  # here, not in the operator: its derivatives take the same one
        graph = graph.with_transposed(x.shape[0])
    made = (hidden, u, v, slope, layer, shift)
    out: Tensor = _ops.ecc(x, *made, weight, bias, by_source, *GraphSide.of(graph).packed())
    if aggr == "mean":
        out = out / graph.degree().clamp(min=1)[:, None].to(out.dtype)
    return out.to(result)


def _check_layer(x: Tensor, features: Tensor, layer: Tensor, shift: Tensor) -> None:
    """Shapes and dtypes of an `EdgeLayer`."""
    for name, tensor, dims in (("features", features, 2), ("weight", layer, 2), ("bias", shift, 1)):
        if tensor.dim() != dims or tensor.dtype != x.dtype:
            raise RuntimeError(
                f"ecc: {name} of the layer must be {x.dtype} in {dims} dimensions, got "
                f"{tensor.dtype} {list(tensor.shape)}"
            )
    if layer.shape[1] != features.shape[1] or layer.shape[0] != shift.shape[0]:
        raise RuntimeError(
            f"ecc: the layer must have weight [H, {features.shape[1]}] and bias [H], got "
            f"{list(layer.shape)} and {list(shift.shape)}"
        )
