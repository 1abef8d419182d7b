"""Polynomial blocks (Pi-nets) over any linear operator.

A block is given a factory, ``factory(in_channels, out_channels, bias=...) -> nn.Module``, and
builds its operators with it. Anything linear will do::

    NCP(nn.Linear, 64, 64, order=3)
    CCP(partial(nn.Conv2d, kernel_size=3, padding=1), 16, 16, order=2)
    NCPSkip(partial(SpiralConv, indices=spirals), 16, 16, order=4, activation="elu")

With ``norm="none"`` and ``activation="none"`` the output is exactly a polynomial of degree
``order`` in the input, which `polygraph.analysis.check_degree` verifies. The default
normalisation is not polynomial, and is what makes training stable (see `SecondOrderNorm`).

Source: Chrysos et al., Deep Polynomial Neural Networks, T-PAMI 2021, eqs. 4-8 and section 4.4.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from polygraph._checks import check_positive
from polygraph.nn.block import ACTIVATIONS, OperatorFactory, PolynomialBlock, polynomial_step
from polygraph.nn.layout import layout_of


class FirstOrder(PolynomialBlock):
    """``act(A x + β)``: the ordinary layer, and the yardstick of the polynomial ones.

    Args:
        factory: makes the operator.
        in_channels: channels of the input.
        out_channels: channels of the output.
        activation: ``"none"``, ``"elu"``, ``"relu"``, ``"leaky_relu"`` (slope 0.2) or
            ``"leaky_relu_0.02"``.

    Example:
        >>> import torch
        >>> from polygraph.nn import FirstOrder
        >>> layer = FirstOrder(torch.nn.Linear, 3, 4, activation="elu")
        >>> layer(torch.randn(2, 3)).shape
        torch.Size([2, 4])

    See Also:
        `NCP`, `CCP`, `Simple`.
    """

    def __init__(
        self,
        factory: OperatorFactory,
        in_channels: int,
        out_channels: int,
        *,
        activation: str = "none",
    ) -> None:
        super().__init__(in_channels, out_channels, 1, "none", activation)
        self.operator = factory(in_channels, out_channels, bias=True)
        self.layout = layout_of(self.operator)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to an input of the operator's shape."""
        self._check(self.operator, x)
        return ACTIVATIONS[self.activation](self.operator(x))


class Simple(PolynomialBlock):
    """``act(Σ_{n=2..N} N_n((S x)^{*n}) + S x + β)``: one operator, its powers on top.

    Args:
        factory: makes the operator.
        in_channels: channels of the input.
        out_channels: channels of the output.
        order: N, the degree.
        norm: normalisation of the powers, a kind of `SecondOrderNorm`.
        activation: ``"none"``, ``"elu"``, ``"relu"``, ``"leaky_relu"`` (slope 0.2) or
            ``"leaky_relu_0.02"``.
        layout: ``"vectors"``, ``"vertices"`` or ``"images"``; default: see `layout_of`.
        dummy_vertex: see `SecondOrderNorm`.

    Example:
        >>> import torch
        >>> from polygraph.nn import Simple
        >>> block = Simple(torch.nn.Linear, 3, 4, order=3)
        >>> block, block(torch.randn(2, 3)).shape
        (Simple(3, 4, order=3, operator=Linear, norm='rms', activation='none'), torch.Size([2, 4]))

    See Also:
        `NCP`, with an operator of its own for every degree; `FirstOrder`.
    """

    def __init__(
        self,
        factory: OperatorFactory,
        in_channels: int,
        out_channels: int,
        order: int = 2,
        *,
        norm: str = "rms",
        activation: str = "none",
        layout: str | None = None,
        dummy_vertex: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, order, norm, activation)
        self.operator = factory(in_channels, out_channels, bias=False)
        self.layout = layout_of(self.operator, layout)
        self.norms = self._norms(out_channels, [self.operator] * (order - 1), dummy_vertex)
        self.register_parameter("beta", self._beta(out_channels, self.norms))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to an input of the operator's shape."""
        self._check(self.operator, x)
        linear = self.operator(x)
        if self.order == 1:
            return self._first_order(linear)
        *inner, last = self.norms
        power, higher = linear, None
        for norm in inner:
            higher = polynomial_step(norm, linear, power, skip=higher)
            power = linear * power
        if higher is not None:
            # Each step added the linear term once; the sum holds it once, from the last step.
            higher = torch.sub(higher, linear, alpha=self.order - 2)
        return polynomial_step(
            last, linear, power, skip=higher, bias=self.beta, activation=self.activation
        )


class CCP(PolynomialBlock):
    """Coupled decomposition: ``x_1 = U_1 z``, ``x_n = N_n((U_n z) * x_{n-1}) + x_{n-1}``.

    The output is ``act(C x_N + β)``. U_1..U_N are one wide operator.

    Args:
        factory: makes the operators.
        in_channels: channels of z.
        out_channels: channels of the output.
        order: N, the degree.
        rank: channels of x_n; default ``out_channels``.
        norm: normalisation of the products, a kind of `SecondOrderNorm`.
        activation: ``"none"``, ``"elu"``, ``"relu"``, ``"leaky_relu"`` (slope 0.2) or
            ``"leaky_relu_0.02"``.
        layout: ``"vectors"``, ``"vertices"`` or ``"images"``; default: see `layout_of`.
        dummy_vertex: see `SecondOrderNorm`.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from polygraph.nn import CCP
        >>> conv = partial(torch.nn.Conv2d, kernel_size=3, padding=1)
        >>> block = CCP(conv, 3, 8, order=4, norm="none")
        >>> block.degree, block(torch.randn(1, 3, 16, 16)).shape
        (4, torch.Size([1, 8, 16, 16]))

    See Also:
        `NCP`, nested; `polygraph.analysis.check_degree`.
    """

    def __init__(
        self,
        factory: OperatorFactory,
        in_channels: int,
        out_channels: int,
        order: int = 2,
        *,
        rank: int | None = None,
        norm: str = "rms",
        activation: str = "none",
        layout: str | None = None,
        dummy_vertex: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, order, norm, activation)
        self.rank = out_channels if rank is None else rank
        check_positive("CCP", rank=self.rank)
        self.wide = factory(in_channels, order * self.rank, bias=False)
        self.layout = layout_of(self.wide, layout)
        self.norms = self._norms(self.rank, [self.wide] * (order - 1), dummy_vertex)
        self.output = factory(self.rank, out_channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to an input of the operator's shape."""
        self._check(self.wide, x)
        out, *factors = self.wide(x).split(self.rank, self.layout.channel_dim)
        for norm, factor in zip(self.norms, factors, strict=True):
            out = polynomial_step(norm, out, factor)
        return ACTIVATIONS[self.activation](self.output(out))


class ProdPoly(nn.Sequential):
    """Polynomials in succession: their orders multiply.

    Args:
        *blocks: polynomial blocks, or ProdPolys.

    Attributes:
        order: the product of the blocks' orders.
        degree: the product of the blocks' exact degrees; None where one has none.

    Raises:
        TypeError: if a module is no polynomial block.
        ValueError: if there is no block, or a block takes other channels than the one before gives.

    Example:
        >>> import torch
        >>> from polygraph.nn import NCP, ProdPoly
        >>> blocks = (NCP(torch.nn.Linear, 4, 4, order=2, norm="none") for _ in range(3))
        >>> ProdPoly(*blocks).degree
        8

    See Also:
        `NCP`, `CCP`.
    """

    def __init__(self, *blocks: PolynomialBlock | ProdPoly) -> None:
        for position, block in enumerate(blocks):
            if not isinstance(block, PolynomialBlock | ProdPoly):
                raise TypeError(
                    f"ProdPoly: block {position} must be a polynomial block, "
                    f"got {type(block).__name__}"
                )
        if not blocks:
            raise ValueError("ProdPoly: needs at least one block, got none")
        for position, (before, after) in enumerate(pairwise(blocks)):
            if before.out_channels != after.in_channels:
                raise ValueError(
                    f"ProdPoly: block {position + 1} must take the {before.out_channels} channels "
                    f"of block {position}, takes {after.in_channels}"
                )
        super().__init__(*blocks)
        self.in_channels: int = blocks[0].in_channels
        self.out_channels: int = blocks[-1].out_channels

    @property
    def order(self) -> int:
        """The product of the blocks' orders."""
        return math.prod(block.order for block in self._blocks())

    @property
    def degree(self) -> int | None:
        """The exact degree in the input, or None if a block is no polynomial."""
        degrees = [block.degree for block in self._blocks()]
        exact = [degree for degree in degrees if degree is not None]
        return math.prod(exact) if len(exact) == len(degrees) else None

    def _blocks(self) -> list[PolynomialBlock | ProdPoly]:
        return cast("list[PolynomialBlock | ProdPoly]", list(self.children()))
