"""Residual blocks that are polynomials: the products of what the branch and the shortcut give.

Source: Chrysos et al., "Π-nets: Deep Polynomial Neural Networks", CVPR 2020, section 4.2, and "Deep
Polynomial Neural Networks", T-PAMI 2021, section 4.2; their public code; Chrysos et al.,
"Regularization of polynomial networks for image recognition", CVPR 2023.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polygraph import ops
from polygraph._checks import check_choice, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.batch_step import BatchNorm, batch_statistics, can_fuse, normalised_step
from polygraph.nn.block import polynomial_step
from polygraph.nn.folded_norm import affine_of, folded_map, matrix_of, residual_of_maps
from polygraph.nn.layout import LAYOUTS, Layout
from polygraph.nn.norm import SecondOrderNorm
from polygraph.nn.ordinary import is_ordinary, is_sequence
from polygraph.nn.residual_branch import is_known_block, take_apart
from polygraph.ops import common


class Variant(NamedTuple):
    """What stands around the products of a `PolyResidual`.

    Attributes:
        norm: of each term, one of `PRODUCT_NORMS`.
        map_before: whether a map ``W_1`` and a BatchNorm stand before the first product.
        map_after: whether a map ``W_n`` of its own follows each product.
        tanh: whether each product goes through tanh first.
        zero: whether a learned number from 0 weighs each term.
    """

    norm: str = "batch"
    map_before: bool = False
    map_after: bool = False
    tanh: bool = False
    zero: bool = False


VARIANTS: dict[str, Variant] = {
    "plain": Variant(norm="none"),
    "pinet": Variant(),
    "pinet-1x1": Variant(map_after=True),
    "face": Variant(map_after=True, tanh=True),
    "prodpoly": Variant(map_before=True, map_after=True),
    "r-polynet": Variant(map_after=True, zero=True),
}
PRODUCT_NORMS = ("none", "batch", "rms", "tanh")
MOST_ORDER = 5
_FUSED = {nn.Identity: "none", nn.ReLU: "relu"}
_STATELESS: dict[str, type[nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_WIDTHS: tuple[tuple[Any, str], ...] = (
    (nn.Conv2d, "in_channels"),
    (nn.Linear, "in_features"),
    (_BATCH_NORMS, "num_features"),
)  #: first layers of branches whose channels are known
_AFFINE_IN_EVAL = (nn.Conv2d, nn.Linear, *_BATCH_NORMS, nn.Identity, nn.Dropout)


class PolyResidual(nn.Module):
    """``act(o + s + Σ_{n=2..N} N_n(p_n))``: a residual block with products of its two sides.

    o is what the residual branch makes of x, s is the shortcut of x; ``p_2 = o * s`` and each
    further order multiplies the last one by s again, ``p_n = p_{n-1} * s``. With order 1 it is the
    ordinary residual block. What N_n is:

    =============  =========================================  ====================================
    ``plain``      ``p_n``                                    Π-nets, CVPR 2020, section 4.2
    ``pinet``      ``BN(p_n)``                                public code, PiNet-18
    ``pinet-1x1``  ``BN(W_n p_n)``                            public code, PiNet-18 with 1 x 1
    ``face``       ``BN(W_n tanh(p_n))``                      public code, faces
    ``prodpoly``   ``BN(W_n p_n)``, ``p_2 = o * BN(W_1 s)``   T-PAMI 2021, section 4.2; the form is
                                                              read off its counts of parameters
    ``r-polynet``  ``α_n BN(W_n p_n)``, α_n from 0            R-PolyNets, CVPR 2023
    =============  =========================================  ====================================

    The W are maps of C to C channels without bias: 1 x 1 convolutions of images.

    In evaluation mode BatchNorm is affine. Where the branch is so, too, and there is neither an
    activation nor a normalisation that is none, the block is a polynomial of degree N.

    Args:
        branch: the residual branch, any module; or a whole block of torchvision or timm
            (BasicBlock, Bottleneck), known by its parts, whose shortcut and activation are taken
            with its branch. The block's parameters are shared, not copied.
        order: N, from 1 to 5.
        variant: one of the table.
        norm: of the terms instead of the variant's: ``none``, ``batch``, ``rms`` (with a learned
            scale from 0.1, see `SecondOrderNorm`) or ``tanh`` (the same, bounded).
        activation: behind the sum: ``none``, ``relu`` or a module. None: the known block's own, and
            none for a branch. ``none`` also leaves out those within the branch of a known block.
        shortcut: a module; None: the identity, or the known block's own.
        channels: C of the branch's output; None: those of its last layer that has
            ``out_channels``, ``num_features`` or ``out_features``.
        layout: of what the branch gives: ``images``, ``vertices`` or ``vectors``.

    Called with x, and further arguments for the branch, such as ``edge_index``.

    Raises:
        ValueError: a setting is unknown or out of range; the module is a block of another kind, so
            that its shortcut would count twice; the channels cannot be told; or, when called, the
            two sides differ in shape.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from polygraph.nn import PolyResidual
        >>> block = PolyResidual(nn.Conv2d(4, 4, 3, padding=1), order=2, variant="plain")
        >>> x = torch.randn(2, 4, 8, 8)
        >>> o = block.branch(x)
        >>> torch.allclose(block(x), o + x + o * x)
        True

    See Also:
        `polygraph.models.ResNet`, which is made of them; `NCPSkip`, the recursion that a chain of
        them is a case of; `polygraph.analysis.check_degree`.
    """

    alpha: nn.Parameter | None

    def __init__(
        self,
        branch: nn.Module,
        order: int = 2,
        variant: str = "pinet",
        *,
        norm: str | None = None,
        activation: str | nn.Module | None = None,
        shortcut: nn.Module | None = None,
        channels: int | None = None,
        layout: str = "images",
    ) -> None:
        super().__init__()
        check_positive("PolyResidual", order=order)
        if order > MOST_ORDER:
            raise ValueError(f"PolyResidual: order must be at most {MOST_ORDER}, got {order}")
        check_choice("PolyResidual", "variant", variant, VARIANTS)
        check_choice("PolyResidual", "layout", layout, LAYOUTS)
        norm = VARIANTS[variant].norm if norm is None else norm
        check_choice("PolyResidual", "norm", norm, PRODUCT_NORMS)
        self.order, self.variant, self.norm, self.layout = order, variant, norm, LAYOUTS[layout]
        self._take(branch, activation, shortcut)
        form = VARIANTS[variant]
        higher = order - 1
        width = 0 if higher == 0 else _channels(self.branch) if channels is None else channels
        if higher:
            check_positive("PolyResidual", channels=width)
        before = form.map_before and higher > 0
        self.before = nn.Sequential(*_map(width, self.layout)) if before else nn.Identity()
        self.maps = nn.ModuleList(
            _linear(width, self.layout) if form.map_after else nn.Identity() for _ in range(higher)
        )
        self.norms = nn.ModuleList(_norm(norm, width, self.layout) for _ in range(higher))
        zeros = nn.Parameter(torch.zeros(higher)) if form.zero and higher else None
        self.register_parameter("alpha", zeros)

    def _take(
        self, branch: nn.Module, activation: str | nn.Module | None, shortcut: nn.Module | None
    ) -> None:
        """Branch, shortcut and activation, of a known block or as they are given."""
        if not isinstance(branch, nn.Module):
            raise TypeError(f"PolyResidual: branch must be a module, got {type(branch).__name__}")
        last: nn.Module = nn.Identity()
        if is_known_block(branch):
            parts = take_apart(branch, activations=activation != "none")
            branch, last = parts.branch, parts.activation
            shortcut = parts.shortcut if shortcut is None else shortcut
        elif hasattr(branch, "downsample") or hasattr(branch, "shortcut"):
            take_apart(branch)  # says what is wrong
        if isinstance(activation, str):
            check_choice("PolyResidual", "activation", activation, _STATELESS)
            last = _STATELESS[activation]()
        elif activation is not None:
            last = activation
        self.branch, self.activation = branch, last
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    @property
    def degree(self) -> int | None:
        """The degree in x in evaluation mode, or None if the block is no polynomial, or may not be.

        Within the branch only layers are known that are affine in evaluation mode: Conv2d, Linear,
        BatchNorm, Dropout, Identity; others are asked for their ``degree``.
        """
        form = VARIANTS[self.variant]
        exact = self.order == 1 or (self.norm in ("none", "batch") and not form.tanh)
        if not exact or not is_affine_in_eval(self.activation):
            return None
        sides = is_affine_in_eval(self.branch) and is_affine_in_eval(self.shortcut)
        return self.order if sides else None

    def reset_parameters(self) -> None:
        """Initialise every part anew that says how."""
        for child in self.modules():
            reset = getattr(child, "reset_parameters", None)
            if child is not self and callable(reset):
                reset()
        if self.alpha is not None:
            nn.init.zeros_(self.alpha)

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """The block of ``x``; ``more`` goes to the branch."""
        self._check(x)
        out, skip = self.branch(x, *more), self.shortcut(x)
        if out.shape != skip.shape:
            raise ValueError(
                f"PolyResidual: branch and shortcut must give one shape, got {list(out.shape)} and "
                f"{list(skip.shape)}: give a shortcut that changes channels and size"
            )
        if self.order == 2:
            fused = self._fused(out, skip)
            if fused is not None:
                return fused
        total, product, factor = out + skip, out, self.before(skip)
        bounded = VARIANTS[self.variant].tanh
        for n, (linear, norm) in enumerate(zip(self.maps, self.norms, strict=True)):
            product = product * (skip if n else factor)
            term = norm(linear(product.tanh() if bounded else product))
            total = total + (term if self.alpha is None else self.alpha[n] * term)
        return cast(Tensor, self.activation(total))

    def _check(self, x: Tensor) -> None:
        """Refuse what torch's own layers would refuse in words of their own."""
        check_tensors("PolyResidual", x=x)
        first = self.branch
        while isinstance(first, nn.Sequential) and len(first):
            first = first[0]
        name = next((n for kind, n in _WIDTHS if isinstance(first, kind)), None)
        if name is None:
            return
        wanted, dim = getattr(first, name), self.layout.channel_dim
        if x.dim() < -dim or x.shape[dim] != wanted:
            raise ValueError(
                f"PolyResidual: x must have {wanted} channels in dimension {dim}, got shape "
                f"{list(x.shape)}"
            )
        weight = first._parameters.get("weight")
        if weight is not None:
            check_dtype("PolyResidual", "x", x, weight)

    def _fused(self, out: Tensor, skip: Tensor) -> Tensor | None:
        """Order 2 in few passes over rows of channels, where that is known to be the same."""
        activation = _FUSED.get(type(self.activation))
        ordinary = (self.activation, self.before, *self.maps)
        if activation is None or not all(is_ordinary(part) for part in ordinary):
            return None
        a, s = _rows(out, self.layout), _rows(skip, self.layout)
        if a is None or s is None:
            return None
        norm, found = self.norms[0], None
        batch_norms = self._of_batch()
        if batch_norms and all(can_fuse(norm, a, s) for norm in batch_norms):
            found = self._by_batch(batch_norms, skip, a, s, activation)
        elif self.variant in ("plain", "pinet"):
            if isinstance(norm, SecondOrderNorm) and norm.kind == "rms":
                return polynomial_step(norm, out, skip, skip=skip, activation=activation)
            found = _by_factors(norm, a, s, activation)
        else:
            found = self._by_maps(a, s, activation)
        return None if found is None else _laid_out(found, out, self.layout)

    def _of_batch(self) -> list[BatchNorm]:
        """The BatchNorms of the only product, where all of them take a batch's statistics now."""
        before = list(self.before)[1:] if isinstance(self.before, nn.Sequential) else []
        found = [batch_statistics(norm) for norm in (*before, *self.norms)]
        return [norm for norm in found if norm is not None] if None not in found else []

    def _by_batch(
        self, norms: list[BatchNorm], skip: Tensor, a: Tensor, s: Tensor, activation: str
    ) -> Tensor:
        """The block with a batch's statistics, of rows a and s of its two sides."""
        form = VARIANTS[self.variant]
        if not form.map_after:
            return normalised_step(norms[-1], a, s, activation=activation)
        if form.map_before:
            linear = cast(nn.Sequential, self.before)[0]
            product = normalised_step(norms[0], a, term=_mapped(linear, s, skip, self.layout))
        else:
            product = a * s
        product = product.tanh() if form.tanh else product
        term = _mapped(self.maps[0], product, skip, self.layout)
        alpha = None if self.alpha is None else self.alpha[0]
        return normalised_step(norms[-1], a, s, term, factor=alpha, activation=activation)

    def _by_maps(self, a: Tensor, s: Tensor, activation: str) -> Tensor | None:
        """The block where its BatchNorms are affine now, which its maps of channels take in."""
        if common.autocast_dtype(a) is not None or a.dtype != s.dtype:
            return None
        before = None
        if not is_ordinary(self.before, nn.Identity):
            if not is_sequence(self.before) or len(cast(nn.Sequential, self.before)) != 2:
                return None
            linear, norm = cast(nn.Sequential, self.before)
            before = folded_map(linear, norm, self.layout)
            if before is None or before.weight.dtype != a.dtype:
                return None
        alpha = None if self.alpha is None else self.alpha[0]
        after = folded_map(self.maps[0], self.norms[0], self.layout, alpha)
        if after is None or after.weight.dtype != a.dtype:
            return None
        total = residual_of_maps(before, after, a, s, bounded=VARIANTS[self.variant].tanh)
        return total.relu_() if activation == "relu" else total

    def __repr__(self) -> str:
        """One line: branch, order, variant, normalisation and activation."""
        return (
            f"PolyResidual({type(self.branch).__name__}, order={self.order}, "
            f"variant={self.variant!r}, norm={self.norm!r}, "
            f"activation={type(self.activation).__name__})"
        )


def is_affine_in_eval(module: nn.Module) -> bool:
    """Whether a module is known to be an affine map in evaluation mode.

    Example:
        >>> from torch import nn
        >>> from polygraph.nn.poly_residual import is_affine_in_eval
        >>> is_affine_in_eval(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
        True
        >>> is_affine_in_eval(nn.ReLU())
        False
    """
    if isinstance(module, nn.Sequential):
        return all(is_affine_in_eval(child) for child in module)
    if type(module) in _AFFINE_IN_EVAL:
        return not isinstance(module, _BATCH_NORMS) or module.running_mean is not None
    return getattr(module, "degree", None) == 1


def _channels(branch: nn.Module) -> int:
    """The channels of what a branch gives, as its last layer says."""
    for module in reversed(list(branch.modules())):
        for name in ("out_channels", "num_features", "out_features"):
            if isinstance(getattr(module, name, None), int):
                return int(getattr(module, name))
    raise ValueError(
        f"PolyResidual: which channels {type(branch).__name__} gives cannot be told: say channels="
    )


def _linear(channels: int, layout: Layout) -> nn.Module:
    """``[C, C]`` without bias."""
    if layout.name == "images":
        return nn.Conv2d(channels, channels, 1, bias=False)
    return nn.Linear(channels, channels, bias=False)


def _map(channels: int, layout: Layout) -> tuple[nn.Module, nn.Module]:
    """The map before the first product, and its BatchNorm."""
    return _linear(channels, layout), _norm("batch", channels, layout)


def _norm(kind: str, channels: int, layout: Layout) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    return SecondOrderNorm(channels, "batch_channel" if kind == "batch" else kind, layout)


def _by_factors(norm: nn.Module, a: Tensor, s: Tensor, activation: str) -> Tensor | None:
    """``act(a + s + N(a * s))`` of a normalisation that is affine now; None of another."""
    affine = affine_of(norm)
    if affine is None:
        return None
    scale, bias = affine
    settings: Any = {"norm": "none", "activation": activation}
    return ops.poly_step(a, s, scale, bias=bias, skip=s, **settings)


def _rows(x: Tensor, layout: Layout) -> Tensor | None:
    """``[B, rows, C]`` where channels are last in memory; None where they are not."""
    if layout.name == "images":
        if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
            return None
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    return x if x.dim() == 3 else None


def _mapped(linear: nn.Module, rows: Tensor, like: Tensor, layout: Layout) -> Tensor:
    """What a map makes of rows ``[B, rows, C]`` of ``like``.

    A 1 x 1 convolution is a product of the rows, which takes 0.6 to 0.8 of the convolution's time
    forward and backward (64 images of 32 x 32 to 4 x 4, 16 to 128 channels, one thread).
    """
    if layout.name != "images":
        return cast(Tensor, linear(rows))
    matrix = matrix_of(linear, layout)
    if matrix is not None:
        return F.linear(rows, matrix)
    return cast(Tensor, linear(_laid_out(rows, like, layout))).permute(0, 2, 3, 1).flatten(1, 2)


def _laid_out(rows: Tensor, like: Tensor, layout: Layout) -> Tensor:
    """``[B, rows, C]`` in the dimensions of ``like``, a view."""
    if layout.name != "images":
        return rows
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, rows.shape[-1]).permute(0, 3, 1, 2)
