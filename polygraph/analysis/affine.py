"""A network that is one affine map, as a matrix: what a linear residual network comes to."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from polygraph._files import atomic_path
from polygraph.analysis.network_degree import network_degree

TOLERANCE = 1e-10  # of the largest value, in float64
_COLUMNS = 256  # unit vectors of a batch
_CHECKS = 8


@dataclass(frozen=True, eq=False)
class GlobalAffineMap:
    """``f(x) = A x + b`` of samples whose numbers are read in rows.

    Attributes:
        matrix: A, float64 ``[outputs, inputs]``.
        bias: b, float64 ``[outputs]``.
        in_shape: shape of one sample.
        out_shape: shape of what it becomes.

    Example:
        >>> import torch
        >>> from polygraph.analysis import affine_map
        >>> found = affine_map(torch.nn.Linear(3, 2), (3,))
        >>> found
        GlobalAffineMap([3] -> [2])
        >>> found(torch.zeros(1, 3)).shape
        torch.Size([1, 2])

    See Also:
        `affine_map`, which makes it.
    """

    matrix: Tensor
    bias: Tensor
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """``[B, *out_shape]`` in float64, of ``[B, *in_shape]``."""
        rows = x.double().flatten(1).to(self.matrix.device)
        return (rows @ self.matrix.T + self.bias).view(len(x), *self.out_shape)

    def save(self, path: str | os.PathLike[str], **more: np.ndarray) -> Path:
        """Write ``matrix``, ``bias``, ``in_shape``, ``out_shape`` and ``more`` to an .npz file."""
        arrays = {
            "matrix": self.matrix.cpu().numpy(),
            "bias": self.bias.cpu().numpy(),
            "in_shape": np.array(self.in_shape),
            "out_shape": np.array(self.out_shape),
            **more,
        }
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return Path(path)

    def __repr__(self) -> str:
        """The shapes."""
        return f"GlobalAffineMap({list(self.in_shape)} -> {list(self.out_shape)})"


def affine_map(
    model: nn.Module,
    in_shape: Sequence[int],
    *,
    call: Callable[[nn.Module, Tensor], Tensor] = lambda model, x: model(x),
    seed: int = 0,
) -> GlobalAffineMap:
    """The matrix and the bias of a network that is an affine map in evaluation mode.

    A residual network without activations is one: convolutions, BatchNorm by its running
    statistics, means and sums are affine, and so is their composition.

    Args:
        model: the network; a copy in float64 is computed with.
        in_shape: shape of one sample.
        call: as of `network_degree`.
        seed: of the samples that it is checked on.

    Returns:
        The map. On random samples of sizes 1 and 100 it differs from the network by at most 1e-10
        of the largest value.

    Raises:
        ValueError: the network is no affine map; the message says what it is.

    Example:
        >>> import torch
        >>> from polygraph.analysis import affine_map
        >>> from polygraph.models import create_model
        >>> model = create_model("linear-resnet18", width=4, depths=(1, 1)).eval()
        >>> found = affine_map(model, (3, 8, 8))
        >>> x = torch.randn(2, 3, 8, 8)
        >>> found.matrix.shape, torch.allclose(found(x).float(), model(x), atol=1e-4)
        (torch.Size([10, 192]), True)

    See Also:
        `network_degree`; `SplineLens.affine`, for the affine map of a region; on the command line,
        `polygraph degree --export`.
    """
    verdict = network_degree(model, in_shape, call=call, seed=seed)
    if not verdict.is_affine:
        raise ValueError(f"affine_map: the network is no affine map, it is {verdict}")
    model = copy.deepcopy(model).double().eval()
    size = math.prod(in_shape)
    with torch.no_grad():
        bias = call(model, torch.zeros(1, *in_shape, dtype=torch.float64))
    if bias.numel() <= size:
        matrix = _rows(lambda x: call(model, x), in_shape, bias.numel())
    else:
        matrix = _columns(lambda x: call(model, x), in_shape, bias)
    found = GlobalAffineMap(matrix, bias.flatten(), tuple(in_shape), tuple(bias.shape[1:]))
    _check(found, lambda x: call(model, x), seed)
    return found


def _rows(function: Callable[[Tensor], Tensor], in_shape: Sequence[int], outputs: int) -> Tensor:
    """The matrix by a backward pass for each output."""
    x = torch.zeros(1, *in_shape, dtype=torch.float64, requires_grad=True)
    y = function(x).flatten()
    rows = [
        torch.autograd.grad(y[n], x, retain_graph=n < outputs - 1)[0].flatten()
        for n in range(outputs)
    ]
    return torch.stack(rows)


def _columns(function: Callable[[Tensor], Tensor], in_shape: Sequence[int], bias: Tensor) -> Tensor:
    """The matrix by the images of unit vectors, where there are fewer inputs than outputs."""
    units = torch.eye(math.prod(in_shape), dtype=torch.float64)
    with torch.no_grad():
        made = [
            function(units[start : start + _COLUMNS].view(-1, *in_shape)) - bias
            for start in range(0, len(units), _COLUMNS)
        ]
    return torch.cat(made).flatten(1).T.contiguous()


def _check(found: GlobalAffineMap, function: Callable[[Tensor], Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(_CHECKS, *found.in_shape, dtype=torch.float64, generator=generator)
    x[_CHECKS // 2 :] *= 100
    with torch.no_grad():
        wanted = function(x)
    wrong = float((found(x) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-300))
    if not wrong <= TOLERANCE:
        raise ValueError(
            f"affine_map: A x + b differs from the network by {wrong:.1e} of its largest value"
        )
