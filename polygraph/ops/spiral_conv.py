"""Spiral convolution: gather along each vertex's spiral and multiply, fused."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops._trilinear import register_trilinear
from polygraph.ops.common import autocast_dtype, cast, check_devices

_load.load_libraries()
_ops = torch.ops.polygraph


def spiral_conv(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    transposed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Spiral convolution ``out_m = W · concat_s x[index[m, s]] + b``.

    The gathered features, ``[B, M, S*C]``, are never stored: they are read while they are
    multiplied. Several operators on the same input are one call with their weights stacked along
    the first dimension. Rows of ``index`` may be any subset of the vertices: a convolution followed
    by a selection of vertices is ``spiral_conv(x, index[keep], ...)``.

    Source: Bouritsas et al., "Neural 3D Morphable Models", ICCV 2019, eq. 4; Gong et al.,
    "SpiralNet++", ICCVW 2019, eq. 3.

    Args:
        x: features ``[B, V, C]`` or ``[V, C]``; float32, float64, float16 or bfloat16 (half types
            accumulate in float32), any strides.
        index: int64 ``[M, S]``, entries in ``[-1, V)``; ``-1`` reads zeros.
        weight: ``[D, S*C]``, dtype of ``x``; column ``s*C + c`` meets channel c of slot s.
        bias: ``[D]`` or None.
        transposed: ``transpose_table(index, V)``, if it has been made already; it is needed for
            the gradient of ``x`` and made on the fly otherwise.

    Returns:
        ``[B, M, D]`` (or ``[M, D]``). Deterministic, also for any number of threads;
        differentiable any number of times in ``x``, ``weight`` and ``bias``.

    Raises:
        RuntimeError: a shape, dtype, device or table entry is wrong (the message names it). On
            CUDA an entry out of range is a device-side assertion.

    Example:
        >>> import torch
        >>> from polygraph.ops import spiral_conv
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])  # 3 vertices, 1 channel
        >>> spirals = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, -1]])
        >>> weight = torch.tensor([[100.0, 10.0, 1.0]])  # 1 channel out, 3 slots
        >>> spiral_conv(x, spirals, weight)
        tensor([[123.],
                [231.],
                [310.]])

    See Also:
        `polygraph.nn.SpiralConv`, the layer; `polygraph.mesh.spiral_table` makes the table.
    """
    check_tensors("spiral_conv", x=x, index=index, weight=weight, bias=bias)
    dtype = autocast_dtype(x)
    x, weight, bias = cast(x, dtype), cast(weight, dtype), cast(bias, dtype)
    ptr, entry = (None, None) if transposed is None else transposed
    if x.dim() == 2:
        return _ops.spiral_conv(x[None], index, weight, bias, ptr, entry)[0]
    return _ops.spiral_conv(x, index, weight, bias, ptr, entry)


@torch.library.register_fake("polygraph::spiral_conv")
def _(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t_ptr: Tensor | None,
    t_entry: Tensor | None,
) -> Tensor:
    check_devices("spiral_conv", "x", x, index=index, weight=weight, bias=bias)
    return x.new_empty(x.shape[0], index.shape[0], weight.shape[0])


@torch.library.register_fake("polygraph::spiral_conv_backward_x")
def _(grad: Tensor, index: Tensor, weight: Tensor, t_ptr: Tensor, t_entry: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[0], t_ptr.shape[0] - 1, weight.shape[1] // index.shape[1])


@torch.library.register_fake("polygraph::spiral_conv_backward_weight")
def _(
    grad: Tensor, x: Tensor, index: Tensor, t_ptr: Tensor | None, t_entry: Tensor | None
) -> Tensor:
    return x.new_empty(grad.shape[2], index.shape[1] * x.shape[2])


def _without_bias(
    x: Tensor, index: Tensor, weight: Tensor, ptr: Tensor | None, entry: Tensor | None
) -> Tensor:
    out: Tensor = _ops.spiral_conv(x, index, weight, None, ptr, entry)
    return out


register_trilinear("spiral_conv", _without_bias, bias=True)
