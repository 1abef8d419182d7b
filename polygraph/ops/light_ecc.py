"""Lightweight edge-conditioned convolution: low-rank matrices per edge, none of them made."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph._inputs import check_tensors
from polygraph.ops._light_ecc_form import LightInputs, light_ecc_form
from polygraph.ops._light_ecc_fused import light_ecc_fused, takes_fused
from polygraph.ops.common import autocast_disabled, autocast_dtype, cast, check_devices
from polygraph.ops.graph import Graph


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
    if edge_weight is not None:
        edge_weight = cast(cast(edge_weight, dtype), wide).contiguous()
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
    near, far = (*hidden, None)[:2]
    given = LightInputs(x, near, far, left, right, kappa, edge_weight, slope)
    with autocast_disabled(x):  # the products, too, in the wide type
        out = (light_ecc_fused if takes_fused(given) else light_ecc_form)(given, graph)
    if aggr == "mean":
        out = out / graph.degree().clamp(min=1)[:, None].to(out.dtype)
    return out.to(result)
