"""Polynomials of related work, as yardsticks of the decompositions: pi-sigma, ridge, dense.

They have the interface of the blocks of `polygraph.nn.polynomial` and are meant for small sizes:
none has a normalisation of its products, and the dense one has a number for every monomial.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.block import OperatorFactory, PolynomialBlock
from polygraph.nn.layout import LAYOUTS, layout_of

DENSE_LIMIT = 10_000_000  # weights of a dense polynomial


class PiSigma(PolynomialBlock):
    """A product of N linear maps of z, ``Π_n (W_n z + b_n)``: a single term of high order.

    Source: Shin and Ghosh, "The pi-sigma network: an efficient higher-order neural network", IJCNN
    1991.

    Args:
        factory: makes the operator, one wide one for all N.
        in_channels: channels of z.
        out_channels: channels of the output.
        order: N, the degree.
        layout: ``"vectors"``, ``"vertices"`` or ``"images"``; default: see `layout_of`.

    Example:
        >>> import torch
        >>> from polygraph.nn import PiSigma
        >>> block = PiSigma(torch.nn.Linear, 3, 4, order=3)
        >>> block.degree, block(torch.randn(2, 3)).shape
        (3, torch.Size([2, 4]))

    See Also:
        `RidgePolynomial`, the sum of such terms; `CCP`, which shares the factors among all orders.
    """

    def __init__(
        self,
        factory: OperatorFactory,
        in_channels: int,
        out_channels: int,
        order: int = 2,
        *,
        layout: str | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, order, "none", "none")
        self.operator = factory(in_channels, order * out_channels, bias=True)
        self.layout = layout_of(self.operator, layout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to an input of the operator's shape."""
        self._check(self.operator, x)
        out: Tensor
        out, *factors = self.operator(x).split(self.out_channels, self.layout.channel_dim)
        for factor in factors:
            out = out * factor
        return out


class RidgePolynomial(PolynomialBlock):
    """A sum of pi-sigma terms, one of each order up to N: ``Σ_n Π_m (W_nm z + b_nm)``, m <= n.

    Source: Shin and Ghosh, "Ridge polynomial networks", IEEE Transactions on Neural Networks 1995.

    Args:
        factory: makes the operators, a wide one for each order.
        in_channels: channels of z.
        out_channels: channels of the output.
        order: N, the degree.
        layout: ``"vectors"``, ``"vertices"`` or ``"images"``; default: see `layout_of`.

    Example:
        >>> import torch
        >>> from polygraph.nn import RidgePolynomial
        >>> block = RidgePolynomial(torch.nn.Linear, 3, 4, order=3)
        >>> sum(p.numel() for p in block.parameters())  # (1 + 2 + 3) maps of 3 x 4, and biases
        96

    See Also:
        `PiSigma`.
    """

    def __init__(
        self,
        factory: OperatorFactory,
        in_channels: int,
        out_channels: int,
        order: int = 2,
        *,
        layout: str | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, order, "none", "none")
        self.parts = nn.ModuleList(
            PiSigma(factory, in_channels, out_channels, n, layout=layout)
            for n in range(1, order + 1)
        )
        self.layout = next(self.terms()).layout

    def terms(self) -> Iterator[PiSigma]:
        """The pi-sigma terms, by order."""
        for part in self.parts:
            assert isinstance(part, PiSigma)
            yield part

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to an input of the operator's shape."""
        first, *rest = self.parts
        out: Tensor = first(x)
        for part in rest:
            out = out + part(x)
        return out

    def __repr__(self) -> str:
        """One line."""
        return f"RidgePolynomial({self.in_channels}, {self.out_channels}, order={self.order})"


class DensePolynomial(PolynomialBlock):
    """A learned tensor for every degree, without decomposition: ``β + W¹z + W²zz`` and so on.

    What the decompositions replace: ``o · dⁿ`` weights of degree n. The tensors start with a
    standard deviation of ``d^(-n/2) / n!``, so that no degree prevails for z of N(0, 1).

    Source: Chrysos et al., Pi-nets, CVPR 2020, equation 1.

    Args:
        in_channels: d.
        out_channels: o.
        order: N, the degree.

    Raises:
        ValueError: more than ten million weights.

    Example:
        >>> import torch
        >>> from polygraph.nn import DensePolynomial
        >>> block = DensePolynomial(3, 2, order=2)
        >>> sum(p.numel() for p in block.parameters())  # 2 + 2 · 3 + 2 · 9
        26
        >>> block(torch.randn(5, 3)).shape
        torch.Size([5, 2])

    See Also:
        `CCP`, `NCP`, the decompositions; `polygraph.analysis.coefficient_tensors`, their tensors.
    """

    def __init__(self, in_channels: int, out_channels: int, order: int = 2) -> None:
        super().__init__(in_channels, out_channels, order, "none", "none")
        count = out_channels * in_channels**order
        if count > DENSE_LIMIT:
            raise ValueError(
                f"DensePolynomial: {out_channels} x {in_channels}^{order} weights of degree "
                f"{order} are more than {DENSE_LIMIT:,}"
            )
        self.layout = LAYOUTS["vectors"]
        self.beta = nn.Parameter(torch.zeros(out_channels))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(out_channels, *[in_channels] * n)) for n in range(1, order + 1)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise anew."""
        assert self.beta is not None
        nn.init.zeros_(self.beta)
        for n, weight in enumerate(self.weights, 1):
            nn.init.normal_(weight, std=self.in_channels ** (-n / 2) / math.factorial(n))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, d]`` to ``[B, o]``."""
        self._check_vectors(x)
        # Horner's scheme: one contraction with z for each degree, from the highest down.
        *lower, highest = list(self.weights)  # a slice of a ParameterList holds copies
        out = torch.einsum("...i,bi->b...", highest, x)
        for weight in reversed(lower):
            out = torch.einsum("b...i,bi->b...", out + weight, x)
        assert self.beta is not None
        return out + self.beta

    def _check_vectors(self, x: Tensor) -> None:
        check_tensors("DensePolynomial", x=x)
        if x.dim() != 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"DensePolynomial: x must have shape [B, {self.in_channels}], got {list(x.shape)}"
            )
        check_dtype("DensePolynomial", "x", x, self.weights[-1])

    def __repr__(self) -> str:
        """One line."""
        return f"DensePolynomial({self.in_channels}, {self.out_channels}, order={self.order})"
