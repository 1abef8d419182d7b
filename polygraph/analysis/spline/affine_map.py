"""What a piecewise affine network is around a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SEED = 0x5EED2018


@dataclass(frozen=True)
class AffineMap:
    """What a network is around some inputs: ``f(x) = A x + b``.

    Attributes:
        A: ``[B, K, *in_shape]``: a template of the input for each output asked for.
        b: ``[B, K]``.
        value: ``[B, K]``: f(x).
        outputs: which of the flattened outputs those are.
        residual: the largest ``|A r + b - F(r)|`` of a sample at a random r, relative to its
            largest of ``|F(r)|``, ``|b|`` and ``|A r|``; F is the network with its choices at x
            fixed, which computes without derivatives. It tells whether the network is affine there.

    Example:
        >>> import torch
        >>> from polygraph.analysis import SplineLens
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> SplineLens(net.double()).affine(torch.randn(4, 2, dtype=torch.float64))
        AffineMap(4 samples, 1 outputs, residual=0)

    See Also:
        `SplineLens.affine`, which makes it.
    """

    A: Tensor
    b: Tensor
    value: Tensor
    outputs: tuple[int, ...]
    residual: float

    def __repr__(self) -> str:
        """One line: samples, outputs, what is missed."""
        rough = 0 if self.residual < 1e-10 else f"{self.residual:.0e}"
        return f"AffineMap({len(self.A)} samples, {len(self.outputs)} outputs, residual={rough})"

    @property
    def inner(self) -> Tensor:
        """``⟨A_k, x⟩``, ``[B, K]``: what each template makes of its input."""
        return self.value - self.b


def tolerance(dtype: torch.dtype) -> float:
    """What ``A x + b`` may miss of an output, relative to it, by rounding."""
    return 1e-9 if dtype == torch.float64 else 1e-3


def probe(x: Tensor) -> Tensor:
    """Random inputs of the size of others, the same ones every time.

    What is affine is so everywhere. At 0 or at x itself an L2 norm would pass, too: it is
    homogeneous, so that its gradient times x is its value. Neither normal nor of a seed that
    people use: such an input would be the probe itself.
    """
    generator = torch.Generator().manual_seed(_SEED)
    found = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
    size = x.double().square().mean().sqrt().cpu()
    return (found * torch.where(size > 0, size, 1.0)).to(x)


def chosen_outputs(outputs: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Which of ``count`` outputs are wanted; None: all."""
    chosen = tuple(range(count)) if outputs is None else tuple(int(k) for k in outputs)
    bad = [k for k in chosen if not 0 <= k < count]
    if bad or not chosen:
        raise ValueError(
            f"affine: outputs must lie in [0, {count}), got {bad[0] if bad else 'none'}"
        )
    return chosen
