"""Nested polynomial blocks (NCP, NCP-Skip) over any linear operator.

See `polygraph.nn.polynomial` for what blocks are, and the coupled and simple ones.

Source: Chrysos et al., Deep Polynomial Neural Networks, T-PAMI 2021, equations 6 to 10 and sections
4.2 and 4.4; Pi-nets, CVPR 2020, equation 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from polygraph._checks import check_choice, check_positive
from polygraph.nn.block import (
    ACTIVATIONS,
    OperatorFactory,
    PolynomialBlock,
    plain_parameter,
    polynomial_step,
)
from polygraph.nn.layout import layout_of

SKIPS = ("identity", "linear", "plus_nested")


class NCP(PolynomialBlock):
    """Nested decomposition, in two forms.

    As a layer (``rank=None``; the paper's section 4.4, for meshes): with ``x_1`` the input,
    ``x_n = N_n((A_n x_1) * (S_n x_{n-1})) + A_n x_1`` for n = 2..N, output ``act(x_N + β)``.
    No operator has a bias.

    With a rank: ``x_1 = A_1 z``, ``x_n = (A_n z) * (S_n x_{n-1} + b_n)``, where the product with
    ``S_n x_{n-1}`` is normalised and b_n, learned, starts at one; output ``act(C x_N + β)``.
    (The paper's ``B_nᵀ b_n`` is a constant vector, here learned as it is, or as the two factors
    with ``offset_rank``; that of ``x_1`` is part of A_1.)

    The operators on the input are one wide operator: one gather and one product for all.

    Args:
        factory: makes the operators.
        in_channels: channels of the input.
        out_channels: channels of the output.
        order: N, the degree.
        rank: channels of x_n in the second form; None for the layer form.
        offset_rank: ω: b_n is ``B_nᵀ b_n`` of learned ``B_n [ω, rank]`` and ``b_n [ω]``, as the
            papers print it; None: one learned vector. With a rank only.
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
        offset_rank: int | None = None,
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
        if offset_rank is not None:
            check_positive(name, offset_rank=offset_rank)
            if rank is None:
                raise ValueError(f"{name}: offset_rank belongs to the second form, with a rank")
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
        products = [self.wide, *self.nested][-(order - 1) :] if order > 1 else []
        self.norms = self._norms(width, products, dummy_vertex)
        self.register_parameter("beta", self._beta(width, self.norms) if rank is None else None)
        self.offsets = self.offset_factors = None
        if rank is not None and offset_rank is None:
            # b_n - 1: the step adds A_n z by itself.
            self.offsets = nn.Parameter(torch.zeros(order - 1, width))
        elif offset_rank is not None:
            self.offsets = nn.Parameter(torch.ones(order - 1, offset_rank))
            self.offset_factors = nn.Parameter(torch.empty(order - 1, offset_rank, width))
            self._reset_factors()

    def _reset_factors(self) -> None:
        """``B_nᵀ b_n`` is one at first, and no two rows of B_n are alike."""
        if self.offsets is not None and self.offset_factors is not None:
            nn.init.ones_(self.offsets)
            with torch.no_grad():
                rank = self.offsets.shape[1]
                spread = torch.randn_like(self.offset_factors) / rank
                self.offset_factors.copy_(spread - spread.mean(1, keepdim=True) + 1 / rank)

    def reset_parameters(self) -> None:
        """Initialise every operator, normalisation and constant anew."""
        super().reset_parameters()
        self._reset_factors()

    def added_offset(self, n: int) -> Tensor:
        """What the n-th product with ``A_n z`` adds to 1: ``b_n - 1``, ``[rank]``."""
        assert self.offsets is not None
        if self.offset_factors is None:
            return self.offsets[n]
        return self.offsets[n] @ self.offset_factors[n] - 1

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
            bias, activation = (self.beta, self.activation) if last else (None, "none")
            if n:
                s = self.nested[n - 1](out)
            skip = self._skip(n, out, s, a) if self._adds(n) else None
            out = polynomial_step(norm, a, s, skip=skip, bias=bias, activation=activation)
        return out

    def _adds(self, n: int) -> bool:
        """Whether the n-th step, counted from 0, adds something of ``x_{n-1}``."""
        return self.adds_previous and (n > 0 or self.skip_first)

    def _parts(self, wide: Tensor) -> list[Tensor]:
        """``(A_2 x, S_2 x)`` in one, then ``A_3 x`` and so on."""
        dim = self.layout.channel_dim
        sizes = [2 * self.width] + [self.width] * (wide.shape[dim] // self.width - 2)
        return list(wide.split_with_sizes(sizes, dim))

    def _skip(self, n: int, previous: Tensor, nested: Tensor | None, wide: Tensor) -> Tensor | None:
        """What the n-th step adds of ``x_{n-1}``; ``NCP`` adds nothing."""
        return None

    def _forward_rank(self, x: Tensor) -> Tensor:
        assert self.output is not None
        out, *linear = self.wide(x).split(self.width, self.layout.channel_dim)
        for n, a in enumerate(linear):
            skip, s = a * self.layout.per_channel(self.added_offset(n)), self.nested[n](out)
            if self._adds(n):
                added = self._skip(n, out, s, a)
                skip = skip if added is None else skip + added
            out = polynomial_step(self.norms[n], a, s, skip=skip)
        return ACTIVATIONS[self.activation](self.output(out))


class NCPSkip(NCP):
    """`NCP` whose steps also add ``V_n x_{n-1}``.

    The three forms of V_n:

    - ``"identity"`` (CVPR 2020, equation 5; T-PAMI section 4.4): ``x_{n-1}`` as it is, where its
      channels are those of ``x_n``. Where they agree and all weights are zero, the layer form
      returns its input.
    - ``"linear"`` (T-PAMI, equation 10): V_n is learned, an operator of the factory without bias,
      also where channels or positions change.
    - ``"plus_nested"`` (T-PAMI, section 4.2): ``V_n = I + S_n``, one product ``S_n x_{n-1}`` in
      both places, so that it costs an addition; ``V_n = S_n`` where channels change.

    The public code of the mesh experiments begins with the second step, ``x_3``: its block of order
    2 is `NCP`, and all weights zero give zero.

    Args:
        *args: as for `NCP`.
        skip: the form of V_n.
        skip_first: whether the first step, ``x_2``, adds ``x_1`` too: True is the paper, False the
            public code.
        **kwargs: as for `NCP`. ``select`` is needed beside ``final_factory``, but for ``"linear"``.

    Example:
        >>> import torch
        >>> from polygraph.nn import NCPSkip
        >>> block = NCPSkip(torch.nn.Linear, 4, 4, order=3)
        >>> for parameter in block.parameters():
        ...     _ = torch.nn.init.zeros_(parameter)
        >>> x = torch.randn(2, 4)
        >>> torch.equal(block(x), x)  # all weights zero: the identity
        True
        >>> NCPSkip(torch.nn.Linear, 4, 6, order=2, skip="linear", norm="none").degree
        2

    See Also:
        `NCP`, without the residual.
    """

    adds_previous = True

    def __init__(
        self,
        factory: OperatorFactory,
        in_channels: int,
        out_channels: int,
        order: int = 2,
        *,
        skip: str = "identity",
        skip_first: bool = True,
        select: nn.Module | None = None,
        final_factory: OperatorFactory | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("NCPSkip", "skip", skip, SKIPS)
        needs = skip != "linear" and final_factory is not None
        if needs != (select is not None):
            raise ValueError(
                "NCPSkip: final_factory and select are given together or not at all"
                if skip != "linear"
                else "NCPSkip: select is not for skip 'linear', whose operators select"
            )
        super().__init__(
            factory, in_channels, out_channels, order, final_factory=final_factory, **kwargs
        )
        self.skip, self.skip_first, self.select = skip, skip_first, select
        self.skips = self._skip_operators(factory, final_factory) if skip == "linear" else None

    def _skip_operators(
        self, factory: OperatorFactory, final: OperatorFactory | None
    ) -> nn.ModuleList:
        """V_n of every step that adds one."""
        steps = [n for n in range(self.order - 1) if self._adds(n)]
        enters = self.in_channels if self.rank is None else self.width
        return nn.ModuleList(
            (final if final is not None and n == self.order - 2 else factory)(
                self.width if n else enters, self.width, bias=False
            )
            for n in steps
        )

    def _skip(self, n: int, previous: Tensor, nested: Tensor | None, wide: Tensor) -> Tensor | None:
        if self.skips is not None:
            found: Tensor = self.skips[n - (not self.skip_first)](previous)
            return found
        same = previous.shape[self.layout.channel_dim] == self.width
        if same and self.select is not None and n == self.order - 2:
            previous = self.select(previous)
        if self.skip == "identity":
            return previous if same else None
        if nested is None:
            nested = wide.chunk(2, self.layout.channel_dim)[1]
        return previous + nested if same else nested

    def __repr__(self) -> str:
        """One line, as of every block; says what is not the default."""
        text = super().__repr__()[:-1]
        if self.skip != "identity":
            text += f", skip={self.skip!r}"
        return f"{text})" if self.skip_first else f"{text}, skip_first=False)"
