"""Products of matrices and tensors that the decompositions of polynomials are written in.

Source: Kolda and Bader, "Tensor Decompositions and Applications", SIAM Review 2009.
"""

from __future__ import annotations

import torch
from torch import Tensor


def khatri_rao(a: Tensor, b: Tensor) -> Tensor:
    """The column-wise Kronecker product: ``[I, N]`` and ``[J, N]`` to ``[I · J, N]``.

    Raises:
        ValueError: the matrices have not the same number of columns.

    Example:
        >>> import torch
        >>> from polygraph.analysis import khatri_rao
        >>> khatri_rao(torch.tensor([[1.0], [10.0]]), torch.tensor([[1.0], [2.0], [3.0]])).T
        tensor([[ 1.,  2.,  3., 10., 20., 30.]])

    See Also:
        `mode_product`; `coefficient_tensors`, in which products of polynomials are Khatri-Rao.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            "khatri_rao: a and b must have shapes [I, N] and [J, N], got "
            f"{list(a.shape)} and {list(b.shape)}"
        )
    return (a[:, None] * b).flatten(0, 1)


def mode_product(tensor: Tensor, vector: Tensor, mode: int) -> Tensor:
    """The mode-m product with a vector ``[I_m]``, which removes that mode.

    Args:
        tensor: ``[I_0, I_1, ...]``.
        vector: ``[I_m]``.
        mode: m, counted from 0.

    Raises:
        ValueError: the mode does not exist, or the vector has another length.

    Example:
        >>> import torch
        >>> from polygraph.analysis import mode_product
        >>> mode_product(torch.arange(6.0).view(2, 3), torch.ones(3), 1)
        tensor([ 3., 12.])

    See Also:
        `khatri_rao`.
    """
    if not 0 <= mode < tensor.dim():
        raise ValueError(f"mode_product: mode must be in [0, {tensor.dim()}), got {mode}")
    if vector.shape != tensor.shape[mode : mode + 1]:
        raise ValueError(
            f"mode_product: vector must have shape [{tensor.shape[mode]}], got {list(vector.shape)}"
        )
    found: Tensor = torch.tensordot(tensor, vector, dims=([mode], [0]))
    return found
