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
from typing import Any, cast

import torch
from torch import Tensor, nn

from polygraph._checks import check_positive
from polygraph.nn.block import (
    ACTIVATIONS,
    OperatorFactory,
    PolynomialBlock,
    plain_parameter,
    polynomial_step,
)
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


class NCP(PolynomialBlock):
    """Nested decomposition, in two forms.

    As a layer (``rank=None``; the paper's section 4.4, for meshes): with ``x_1`` the input,
    ``x_n = N_n((A_n x_1) * (S_n x_{n-1})) + A_n x_1`` for n = 2..N, output ``act(x_N + β)``.
    No operator has a bias.

    With a rank: ``x_1 = A_1 z``, ``x_n = (A_n z) * (S_n x_{n-1} + b_n)``, where the product with
    ``S_n x_{n-1}`` is normalised and b_n, learned, starts at one; output ``act(C x_N + β)``.
    (The paper's ``B_nᵀ b_n`` is a constant vector, here learned as it is; that of ``x_1`` is
    part of A_1.)

    The operators on the input are one wide operator: one gather and one product for all.

    Args:
        factory: makes the operators.
        in_channels: channels of the input.
        out_channels: channels of the output.
        order: N, the degree.
        rank: channels of x_n in the second form; None for the layer form.
        norm: normalisation of the products, a kind of `SecondOrderNorm`.
        activation: ``"none"``, ``"elu"``, ``"relu"``, ``"leaky_relu"`` (slope 0.2) or
            ``"leaky_relu_0.02"``.
        layout: ``"vectors"``, ``"vertices"`` or ``"images"``; default: see `layout_of`.
        dummy_vertex: see `SecondOrderNorm`.
        final_factory: makes the operators of the last step where the output has fewer positions
            than the input: on a mesh, a convolution evaluated only on the vertices that the
            down-sampling keeps. Layer form only.
        select: picks the positions that ``final_factory`` keeps; for the skip of `NCPSkip`.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from polygraph.nn import NCP, SpiralConv
        >>> spirals = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
        >>> block = NCP(partial(SpiralConv, indices=spirals), 3, 16, order=3, activation="elu")
        >>> block
        NCP(3, 16, order=3, operator=SpiralConv, norm='rms', activation='elu')
        >>> block(torch.randn(8, 3, 3)).shape  # 8 meshes of 3 vertices
        torch.Size([8, 3, 16])

    See Also:
        `NCPSkip`, with residuals; `CCP`; `ProdPoly` for higher degrees; `OnGraph` makes graph
        convolutions operators.
    """

    adds_previous = False
    skip_first = True

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
        final_factory: OperatorFactory | None = None,
        select: nn.Module | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, order, norm, activation)
        name = type(self).__name__
        if rank is not None:
            check_positive(name, rank=rank)
            if final_factory is not None:
                raise ValueError(f"{name}: final_factory belongs to the layer form, without rank")
        if self.adds_previous and (final_factory is None) != (select is None):
            raise ValueError(f"{name}: final_factory and select are given together or not at all")
        self.rank = rank
        self.width = width = out_channels if rank is None else rank
        final = final_factory or factory
        # Few operators act on the input at the last step alone: all, up to order 2.
        detached = final_factory is not None and order > 2
        self.wide = (factory if detached else final)(
            in_channels, (order - detached) * width, bias=False
        )
        self.layout = layout_of(self.wide, layout)
        nested = order - 1 if rank is not None else max(order - 2, 0)
        self.nested = nn.ModuleList(
            (final if n == nested - 1 else factory)(width, width, bias=False) for n in range(nested)
        )
        self.final = final(in_channels, width, bias=False) if detached else None
        self.output = factory(width, out_channels, bias=True) if rank is not None else None
        self.select = select if self.adds_previous else None
        products = [self.wide, *self.nested][-(order - 1) :] if order > 1 else []
        self.norms = self._norms(width, products, dummy_vertex)
        if rank is None:
            self.register_parameter("beta", self._beta(width, self.norms))
            self.offsets = None
        else:
            self.register_parameter("beta", None)
            # b_n - 1: the step adds A_n z by itself.
            self.offsets = nn.Parameter(torch.zeros(order - 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to an input of the operator's shape."""
        self._check(self.wide, x)
        if self.rank is not None:
            return self._forward_rank(x)
        wide = self.wide(x)
        if self.order == 2 and not self.adds_previous:
            # The loop below would do; at batch 1 its bookkeeping costs a tenth of the layer.
            (norm,) = self.norms
            beta = plain_parameter(self, "beta")
            return polynomial_step(norm, wide, None, bias=beta, activation=self.activation)
        if self.order == 1:
            return self._first_order(wide)
        linear = [wide] if self.order == 2 else self._parts(wide)
        if self.final is not None:
            linear.append(self.final(x))
        out, s = x, None
        for n, (norm, a) in enumerate(zip(self.norms, linear, strict=True)):
            last = n == self.order - 2
            adds = self.adds_previous and (n > 0 or self.skip_first)
            skip = self._skip(out, last) if adds else None
            bias, activation = (self.beta, self.activation) if last else (None, "none")
            if n:
                s = self.nested[n - 1](out)
            out = polynomial_step(norm, a, s, skip=skip, bias=bias, activation=activation)
        return out

    def _parts(self, wide: Tensor) -> list[Tensor]:
        """``(A_2 x, S_2 x)`` in one, then ``A_3 x`` and so on."""
        dim = self.layout.channel_dim
        sizes = [2 * self.width] + [self.width] * (wide.shape[dim] // self.width - 2)
        return list(wide.split_with_sizes(sizes, dim))

    def _skip(self, previous: Tensor, last: bool) -> Tensor | None:
        """What a step adds of ``x_{n-1}``: nothing where the channels differ."""
        if previous.shape[self.layout.channel_dim] != self.width:
            return None
        return self.select(previous) if last and self.select is not None else previous

    def _forward_rank(self, x: Tensor) -> Tensor:
        assert self.output is not None
        assert self.offsets is not None
        out, *linear = self.wide(x).split(self.width, self.layout.channel_dim)
        for n, a in enumerate(linear):
            skip = a * self.layout.per_channel(self.offsets[n])
            if self.adds_previous and (n or self.skip_first):
                skip = skip + out
            out = polynomial_step(self.norms[n], a, self.nested[n](out), skip=skip)
        return ACTIVATIONS[self.activation](self.output(out))


class NCPSkip(NCP):
    """`NCP` whose steps also add ``x_{n-1}`` (where its channels are those of ``x_n``).

    The paper's formula (section 4.4) adds it in every step: where the channels agree and all
    weights are zero, the layer form returns its input. The public code of the mesh experiments
    begins with the second step, ``x_3``: its block of order 2 is `NCP`, and all weights zero give
    zero.

    Args:
        *args: as for `NCP`.
        skip_first: whether the first step, ``x_2``, adds ``x_1`` too: True is the paper, False the
            public code.
        **kwargs: as for `NCP`.

    Example:
        >>> import torch
        >>> from polygraph.nn import NCPSkip
        >>> block = NCPSkip(torch.nn.Linear, 4, 4, order=3)
        >>> for parameter in block.parameters():
        ...     _ = torch.nn.init.zeros_(parameter)
        >>> x = torch.randn(2, 4)
        >>> torch.equal(block(x), x)  # all weights zero: the identity
        True

    See Also:
        `NCP`, without the residual.
    """

    adds_previous = True

    def __init__(self, *args: Any, skip_first: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip_first = skip_first

    def __repr__(self) -> str:
        """One line, as of every block; says so where the first step adds nothing."""
        text = super().__repr__()
        return text if self.skip_first else f"{text[:-1]}, skip_first=False)"


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
