"""Mesh resampling: every target vertex is a weighted sum of a few source vertices."""

from __future__ import annotations

import torch
from torch import Tensor

from polygraph import _load
from polygraph._inputs import check_tensors
from polygraph.ops._trilinear import register_trilinear
from polygraph.ops.common import autocast_dtype, cast, check_devices

_load.load_libraries()
_ops = torch.ops.polygraph


def resample(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    *,
    transposed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Resample vertex features: ``out_m = Σ_t weight[m, t] x[index[m, t]]``.

    Up-sampling a mesh takes three terms a row (barycentric coordinates on a coarse face),
    down-sampling one. It replaces the product with a dense or sparse resampling matrix.

    Source: Ranjan et al., "Generating 3D Faces using Convolutional Mesh Autoencoders", ECCV 2018,
    section 3.2 (the matrices Q_u and Q_d).

    Args:
        x: features ``[B, V, C]`` or ``[V, C]``; float32, float64, float16 or bfloat16 (half types
            accumulate in float32), any strides.
        index: int64 ``[M, T]``, entries in ``[-1, V)``; ``-1`` adds nothing.
        weight: ``[M, T]``, dtype of ``x``.
        transposed: ``transpose_table(index, V)``, if it has been made already; it is needed for
            the gradient of ``x`` and made on the fly otherwise.

    Returns:
        ``[B, M, C]`` (or ``[M, C]``). Deterministic, also for any number of threads;
        differentiable any number of times in ``x`` and ``weight``.

    Raises:
        RuntimeError: a shape, dtype, device or table entry is wrong (the message names it). On
            CUDA an entry out of range is a device-side assertion.

    Example:
        >>> import torch
        >>> from polygraph.ops import resample
        >>> x = torch.tensor([[0.0], [10.0], [20.0]])
        >>> index, weight = torch.tensor([[0, 1], [2, -1]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
        >>> resample(x, index, weight)
        tensor([[ 5.],
                [20.]])

    See Also:
        `polygraph.nn.Resample`, the layer; `polygraph.mesh.barycentric` makes the tables.
    """
    check_tensors("resample", x=x, index=index, weight=weight)
    dtype = autocast_dtype(x)
    x, weight = cast(x, dtype), cast(weight, dtype)
    ptr, entry = (None, None) if transposed is None else transposed
    if x.dim() == 2:
        return _ops.resample(x[None], index, weight, ptr, entry)[0]
    return _ops.resample(x, index, weight, ptr, entry)


@torch.library.register_fake("polygraph::resample")
def _(
    x: Tensor, index: Tensor, weight: Tensor, t_ptr: Tensor | None, t_entry: Tensor | None
) -> Tensor:
    check_devices("resample", "x", x, index=index, weight=weight)
    return x.new_empty(x.shape[0], index.shape[0], x.shape[2])


@torch.library.register_fake("polygraph::resample_backward_x")
def _(grad: Tensor, index: Tensor, weight: Tensor, t_ptr: Tensor, t_entry: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[0], t_ptr.shape[0] - 1, grad.shape[2])


@torch.library.register_fake("polygraph::resample_backward_weight")
def _(
    grad: Tensor, x: Tensor, index: Tensor, t_ptr: Tensor | None, t_entry: Tensor | None
) -> Tensor:
    return x.new_empty(index.shape)


register_trilinear("resample", _ops.resample, bias=False)
