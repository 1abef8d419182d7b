"""The tensors of a polynomial block, written out: β, W¹, W², … of ``f(z) = β + W¹z + W²zz + …``.

Two ways that share no code lead there. `coefficient_tensors` carries a polynomial through the
recursion of the block: a product of two polynomials is the Khatri-Rao product of their unfolded
tensors, for ``(A ⊙ B)ᵀ(x ⊗ y) = (Aᵀx) * (Bᵀy)``. `derivative_tensors` differentiates any function
n times at 0 and divides by n!. The first are not symmetric in their inputs, the second are; only
symmetric parts have a say in the values (`PolynomialTensors.symmetric`).

Source: Chrysos et al., Deep Polynomial Neural Networks, T-PAMI 2021, equations 4 to 10 and the
lemma of the appendix. Tensors grow as dᴺ: they are for looking at small blocks. For what a large
network does by degrees, see `polygraph.analysis.degree_templates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations

import torch
from torch import Tensor, nn

from polygraph._checks import check_positive
from polygraph.analysis.multilinear import khatri_rao
from polygraph.nn.block import PolynomialBlock
from polygraph.nn.nested import NCP, NCPSkip
from polygraph.nn.polynomial import CCP, FirstOrder, ProdPoly, Simple
from polygraph.nn.products import PiSigma, RidgePolynomial

LIMIT = 10_000_000  # numbers in the largest tensor


@dataclass(frozen=True)
class PolynomialTensors:
    """The tensors of a polynomial of d numbers.

    Attributes:
        tensors: the n-th has shape ``[*out_shape, d, ..., d]`` with n times d: β, W¹, W², ….
        in_shape: shape of a sample, whose product is d.

    Example:
        >>> import torch
        >>> from polygraph.analysis import coefficient_tensors
        >>> from polygraph.nn import CCP
        >>> block = CCP(torch.nn.Linear, 3, 2, order=2, norm="none").double()
        >>> found = coefficient_tensors(block, (3,))
        >>> [list(tensor.shape) for tensor in found.tensors]
        [[2], [2, 3], [2, 3, 3]]
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> torch.allclose(found(z), block(z))
        True

    See Also:
        `coefficient_tensors`, `derivative_tensors`, which make them.
    """

    tensors: tuple[Tensor, ...]
    in_shape: tuple[int, ...]

    def __repr__(self) -> str:
        """One line: order and shapes."""
        out = list(self.tensors[0].shape)
        return f"PolynomialTensors(order={self.order}, {list(self.in_shape)} to {out})"

    @property
    def order(self) -> int:
        """The highest degree."""
        return len(self.tensors) - 1

    def terms(self, z: Tensor) -> Tensor:
        """What each degree adds: ``z [B, *in_shape]`` to ``[order + 1, B, *out_shape]``.

        Raises:
            ValueError: ``z`` has another shape.
        """
        if tuple(z.shape[1:]) != self.in_shape:
            raise ValueError(
                f"PolynomialTensors: z must have shape [B, {', '.join(map(str, self.in_shape))}], "
                f"got {list(z.shape)}"
            )
        rows = z.flatten(1)
        found = []
        for degree, tensor in enumerate(self.tensors):
            value = tensor.expand(len(z), *tensor.shape)
            for _ in range(degree):
                value = torch.einsum("b...i,bi->b...", value, rows)
            found.append(value)
        return torch.stack(found)

    def __call__(self, z: Tensor) -> Tensor:
        """The polynomial at ``z [B, *in_shape]``: ``[B, *out_shape]``."""
        return self.terms(z).sum(0)

    def symmetric(self) -> PolynomialTensors:
        """The same polynomial with tensors that no order of their inputs changes."""
        found = []
        for degree, tensor in enumerate(self.tensors):
            out = tuple(range(tensor.dim() - degree))
            inputs = range(len(out), tensor.dim())
            orders = [tensor.permute(*out, *order) for order in permutations(inputs)]
            found.append(torch.stack(orders).mean(0))
        return PolynomialTensors(tuple(found), self.in_shape)

    def norms(self) -> Tensor:
        """Frobenius norms of the symmetric tensors, ``[order + 1]``: how much of each degree."""
        return torch.stack([tensor.norm() for tensor in self.symmetric().tensors])


class _Polynomial:
    """A polynomial of d numbers whose values are tensors of one shape.

    The unfolded tensor of degree k is ``[dᵏ, *shape]``: a batch of dᵏ values, to which a linear
    operator is applied as to any batch.
    """

    def __init__(self, parts: list[Tensor]) -> None:
        self.parts = parts

    def through(self, operator: nn.Module) -> _Polynomial:
        """The operator's values: its linear part on every degree, its bias on degree 0."""
        zero = operator(torch.zeros_like(self.parts[0]))
        return _Polynomial(
            [operator(part) - (zero if k else 0) for k, part in enumerate(self.parts)]
        )

    def __add__(self, other: _Polynomial) -> _Polynomial:
        long, short = sorted((self.parts, other.parts), key=len, reverse=True)
        rest = [part + more for part, more in zip(long, short, strict=False)]
        return _Polynomial([*rest, *long[len(short) :]])

    def __mul__(self, other: _Polynomial) -> _Polynomial:
        shape = self.parts[0].shape[1:]
        found: list[Tensor | None] = [None] * (len(self.parts) + len(other.parts) - 1)
        for i, a in enumerate(self.parts):
            for j, b in enumerate(other.parts):
                made = khatri_rao(a.flatten(1), b.flatten(1)).view(-1, *shape)
                present = found[i + j]
                found[i + j] = made if present is None else present + made
        return _Polynomial([part for part in found if part is not None])

    def each(self, change: Callable[[Tensor], Tensor]) -> _Polynomial:
        """A linear change of the values of every degree."""
        return _Polynomial([change(part) for part in self.parts])

    def plus(self, constant: Tensor) -> _Polynomial:
        """With a constant added."""
        return _Polynomial([self.parts[0] + constant, *self.parts[1:]])


def coefficient_tensors(
    block: PolynomialBlock | ProdPoly, in_shape: Sequence[int]
) -> PolynomialTensors:
    """The tensors of a block, by its recursion over unfolded tensors.

    Args:
        block: a `CCP`, `NCP`, `NCPSkip`, `Simple`, `FirstOrder`, `PiSigma` or `RidgePolynomial`, or
            a `ProdPoly` of them, over any linear operator, without normalisation (``norm="none"``)
            and activation; in float64 for exactness.
        in_shape: shape of one sample, such as ``(d,)`` for Linear or ``(C, H, W)`` for Conv2d.

    Returns:
        Tensors that are not symmetric in their inputs.

    Raises:
        TypeError: a block of another kind.
        ValueError: the block is no polynomial, its operators are not linear, or its largest tensor
            would have more than ten million numbers.

    Example:
        >>> import torch
        >>> from polygraph.analysis import coefficient_tensors, derivative_tensors
        >>> from polygraph.nn import NCP
        >>> block = NCP(torch.nn.Linear, 3, 2, order=3, norm="none").double()
        >>> one = coefficient_tensors(block, (3,)).symmetric()
        >>> other = derivative_tensors(block, (3,), order=3)
        >>> all(torch.allclose(a, b) for a, b in zip(one.tensors, other.tensors))
        True

    See Also:
        `derivative_tensors`, which knows nothing of the block; `degree_templates`, without tensors.
    """
    if not isinstance(block, PolynomialBlock | ProdPoly):
        raise TypeError(
            "coefficient_tensors: block must be a polynomial block or a ProdPoly, got "
            f"{type(block).__name__}"
        )
    if block.degree is None:
        raise ValueError(
            f"coefficient_tensors: {block!r} is no polynomial: it needs norm 'none' and activation "
            "'none'"
        )
    parameter = next(block.parameters())
    size = math.prod(in_shape)
    identity = torch.eye(size, dtype=parameter.dtype, device=parameter.device)
    z = _Polynomial([identity.new_zeros(1, *in_shape), identity.view(size, *in_shape)])
    with torch.no_grad():
        values = block(z.parts[0]).shape[1:]
        _check_size("coefficient_tensors", math.prod(values), size, block.degree)
        parts = _apply(block, z).parts
    tensors = [
        part.permute(*range(1, part.dim()), 0).reshape(*values, *[size] * k)
        for k, part in enumerate(parts)
    ]
    found = PolynomialTensors(tuple(tensors), tuple(in_shape))
    _check_values(block, found, identity)
    return found


def _check_values(
    block: PolynomialBlock | ProdPoly, found: PolynomialTensors, like: Tensor
) -> None:
    """Refuse operators that are not linear, which no recursion can tell: one look at a point."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, *found.in_shape, generator=generator, dtype=like.dtype).to(like.device)
    with torch.no_grad():
        wanted, terms = block(z), found.terms(z)
    missed = float((terms.sum(0) - wanted).abs().max())
    # Where terms cancel, rounding is that of the largest of them.
    size = max(float(terms.abs().max()), float(wanted.abs().max()))
    if not missed <= 1e3 * torch.finfo(like.dtype).eps * size:
        raise ValueError(
            f"coefficient_tensors: the tensors of {block!r} miss a value by {missed:.1e} of "
            f"{size:.1e}: are its operators linear?"
        )


def _check_size(owner: str, values: int, size: int, degree: int) -> None:
    if values * size**degree > LIMIT:
        raise ValueError(
            f"{owner}: the tensor of degree {degree} would have {values} x {size}^{degree} numbers,"
            f" more than {LIMIT:,}: degree_templates needs none"
        )


def _apply(block: nn.Module, z: _Polynomial) -> _Polynomial:
    """The block at a polynomial."""
    if isinstance(block, ProdPoly):
        for part in block:
            z = _apply(part, z)
        return z
    for kind, apply in _RECURSIONS.items():
        if isinstance(block, kind):
            return apply(block, z)
    raise TypeError(f"coefficient_tensors: has no recursion for {type(block).__name__}")


def _first_order(block: FirstOrder, z: _Polynomial) -> _Polynomial:
    return z.through(block.operator)


def _bias(block: PolynomialBlock, values: _Polynomial) -> _Polynomial:
    beta = block.beta
    return values if beta is None else values.plus(block.layout.per_channel(beta))


def _scaled(block: PolynomialBlock, n: int, product: _Polynomial) -> _Polynomial:
    """The n-th product times its learned scale."""
    scale = block.norms[n].scale  # type: ignore[union-attr, index]
    return product.each(lambda part: part * block.layout.per_channel(scale))


def _channels(block: PolynomialBlock, wide: _Polynomial, width: int) -> list[_Polynomial]:
    """One polynomial for every ``width`` channels."""
    dim = block.layout.channel_dim
    count = wide.parts[0].shape[dim] // width
    return [
        wide.each(partial(torch.narrow, dim=dim, start=n * width, length=width))
        for n in range(count)
    ]


def _simple(block: Simple, z: _Polynomial) -> _Polynomial:
    linear = z.through(block.operator)
    power, out = linear, linear
    for n in range(block.order - 1):
        power = power * linear
        out = out + _scaled(block, n, power)
    return _bias(block, out)


def _ccp(block: CCP, z: _Polynomial) -> _Polynomial:
    out, *factors = _channels(block, z.through(block.wide), block.rank)
    for n, factor in enumerate(factors):
        out = _scaled(block, n, factor * out) + out
    return out.through(block.output)


def _ncp(block: NCP, z: _Polynomial) -> _Polynomial:
    return _ncp_layer(block, z) if block.rank is None else _ncp_rank(block, z)


def _ncp_layer(block: NCP, z: _Polynomial) -> _Polynomial:
    made = _channels(block, z.through(block.wide), block.width)
    if block.order == 1:
        return _bias(block, made[0])
    linear, operators = made[:1] + made[2:], [None, *block.nested]
    if block.final is not None:
        linear.append(z.through(block.final))
    out = z
    for n, a in enumerate(linear):
        operator = operators[n]
        inner = made[1] if operator is None else out.through(operator)
        step = _scaled(block, n, a * inner) + a
        out = _with_skip(block, n, step, out, inner)
    return _bias(block, out)


def _with_skip(
    block: NCP, n: int, step: _Polynomial, before: _Polynomial, inner: _Polynomial
) -> _Polynomial:
    """The n-th step with ``V_n x_{n-1}``; ``inner`` is ``S_n x_{n-1}``."""
    if not isinstance(block, NCPSkip) or (n == 0 and not block.skip_first):
        return step
    if block.skips is not None:
        return step + before.through(block.skips[n if block.skip_first else n - 1])
    if block.skip == "plus_nested":
        step = step + inner
    if before.parts[0].shape[block.layout.channel_dim] != block.width:
        return step
    last = n == block.order - 2
    return step + (before.through(block.select) if last and block.select is not None else before)


def _ncp_rank(block: NCP, z: _Polynomial) -> _Polynomial:
    assert block.output is not None
    out, *linear = _channels(block, z.through(block.wide), block.width)
    for n, a in enumerate(linear):
        inner = out.through(block.nested[n])
        constant = 1 + block.layout.per_channel(block.added_offset(n))
        step = _scaled(block, n, a * inner)
        step = step + a.each(partial(torch.mul, constant))
        out = _with_skip(block, n, step, out, inner)
    return out.through(block.output)


def _pi_sigma(block: PiSigma, z: _Polynomial) -> _Polynomial:
    out, *factors = _channels(block, z.through(block.operator), block.out_channels)
    for factor in factors:
        out = out * factor
    return out


def _ridge(block: RidgePolynomial, z: _Polynomial) -> _Polynomial:
    first, *rest = (_pi_sigma(part, z) for part in block.terms())
    for part in rest:
        first = first + part
    return first


_RECURSIONS: dict[type, Callable[..., _Polynomial]] = {
    FirstOrder: _first_order,
    Simple: _simple,
    CCP: _ccp,
    NCP: _ncp,
    PiSigma: _pi_sigma,
    RidgePolynomial: _ridge,
}


def derivative_tensors(
    fn: Callable[[Tensor], Tensor],
    in_shape: Sequence[int],
    order: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> PolynomialTensors:
    """The Taylor tensors of ``fn`` at 0: its n-th derivatives, divided by n!.

    Those of a polynomial of at most that degree are its own, exactly but for rounding.

    Args:
        fn: maps ``[B, *in_shape]`` to ``[B, ...]``, sample by sample, of operations that torch.func
            differentiates ``order`` times (those of torch; polygraph's own twice).
        in_shape: shape of one sample.
        order: the highest degree.
        dtype: of the point and the tensors.
        device: likewise.

    Returns:
        Tensors that are symmetric in their inputs.

    Raises:
        ValueError: the order is not positive, or the largest tensor would have more than ten
            million numbers.

    Example:
        >>> import torch
        >>> from polygraph.analysis import derivative_tensors
        >>> derivative_tensors(lambda x: x[:, 0] * x[:, 1] + 3, (2,), order=2).tensors[2]
        tensor([[0.0000, 0.5000],
                [0.5000, 0.0000]], dtype=torch.float64)

    See Also:
        `coefficient_tensors`, of a block's own recursion.
    """
    check_positive("derivative_tensors", order=order)
    size = math.prod(in_shape)

    def at(z: Tensor) -> Tensor:
        return fn(z.view(1, *in_shape))[0]

    zero = torch.zeros(size, dtype=dtype, device=device)
    with torch.no_grad():
        value = at(zero)
    _check_size("derivative_tensors", max(1, value.numel()), size, order)
    tensors, derivative = [value], at
    for n in range(1, order + 1):
        derivative = torch.func.jacrev(derivative)
        tensors.append(derivative(zero).detach() / math.factorial(n))
    return PolynomialTensors(tuple(tensors), tuple(in_shape))
