"""What a piecewise affine network is around a point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    @classmethod
    def joined(cls, chunks: Iterable[AffineMap], count: int) -> AffineMap:
        """The maps of ``count`` samples, of which each chunk has the next ones."""
        end, residual = 0, 0.0
        for chunk in chunks:
            if not end:
                A, b, value = (
                    t.new_empty(count, *t.shape[1:]) for t in (chunk.A, chunk.b, chunk.value)
                )
            rows = slice(end, end + len(chunk.A))
            A[rows], b[rows], value[rows] = chunk.A, chunk.b, chunk.value
            end, residual = rows.stop, max(residual, chunk.residual)
        return cls(A, b, value, chunk.outputs, residual)

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
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    found = torch.empty(x.shape, dtype=dtype).uniform_(-1, 1, generator=generator)
    size = (torch.linalg.vector_norm(x, dtype=torch.float64) / x.numel() ** 0.5).cpu()
    return found.mul_(torch.where(size > 0, size, 1.0)).to(x)


def chosen_outputs(outputs: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Which of ``count`` outputs are wanted; None: all."""
    chosen = tuple(range(count)) if outputs is None else tuple(int(k) for k in outputs)
    bad = [k for k in chosen if not 0 <= k < count]
    if bad or not chosen:
        raise ValueError(
            f"affine: outputs must lie in [0, {count}), got {bad[0] if bad else 'none'}"
        )
    return chosen
