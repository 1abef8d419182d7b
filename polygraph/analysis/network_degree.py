"""What kind of function a trained network is: a polynomial of which degree, piecewise affine, none.

Two witnesses: the parts that the network calls, which name what is no polynomial, and finite
differences of the whole in float64, which need no trust in the parts. They check each other where
both can speak: differences tell degrees up to 24, parts say nothing of what a ``forward`` does
itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polygraph.analysis.degree import check_degree, polynomial_degree
from polygraph.nn.block import PolynomialBlock
from polygraph.nn.norm import SecondOrderNorm
from polygraph.nn.poly_residual import VARIANTS, PolyResidual
from polygraph.nn.polynomial import ProdPoly

MOST_SEEN = 24  # degrees that finite differences are asked for
# Short lines: half a million ReLUs have a corner on every third of this length, and a curve bends
# by about the length, where rounding is 1e-10 (both of second differences over first ones).
_STEP, _CURVED, _ROUNDING = 2.0**-20, 1e-8, 1e-14
_LINES, _STRAIGHT = 9, 3
_PIECEWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.Threshold, nn.Softshrink),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
_CURVES = (
    *(nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus),
    *(nn.Softmax, nn.LogSoftmax, nn.Hardswish, nn.Softsign, nn.Tanhshrink, nn.LogSigmoid),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LayerNorm, nn.GroupNorm),
    *(nn.LocalResponseNorm, nn.RMSNorm, nn.MultiheadAttention),
)
_PIECEWISE_NAMES = ("relu", "leaky_relu", "leaky_relu_0.02")
_BLOCKS = (PolyResidual, PolynomialBlock, ProdPoly)
_SHOWN = 3  # reasons in words


@dataclass(frozen=True)
class BlockDegree:
    """What is known of a block of a network.

    Attributes:
        name: its place in the network.
        kind: name of its class.
        degree: in its own input; None of no polynomial.

    Example:
        >>> import torch
        >>> from polygraph.analysis import network_degree
        >>> from polygraph.nn import NCP
        >>> block = NCP(torch.nn.Linear, 3, 2, order=3, norm="none")
        >>> network_degree(torch.nn.Sequential(block), (3,)).blocks
        (BlockDegree(name='0', kind='NCP', degree=3),)
    """

    name: str
    kind: str
    degree: int | None


@dataclass(frozen=True)
class NetworkDegree:
    """What `network_degree` found.

    Attributes:
        kind: ``polynomial``, ``piecewise affine`` or ``neither``.
        degree: of the polynomial; None of what is none.
        seen: whether finite differences of the whole network agree; None where the degree is beyond
            what they can tell, and follows from the degrees of its blocks.
        blocks: the polynomial blocks that it calls.
        reasons: the parts that are no polynomials, by place and kind; empty where none says so.

    Example:
        >>> import torch
        >>> from polygraph.analysis import network_degree
        >>> found = network_degree(torch.nn.Sequential(torch.nn.Linear(3, 2)), (3,))
        >>> found.kind, found.degree, found.is_affine
        ('polynomial', 1, True)

    See Also:
        `network_degree`, which makes it.
    """

    kind: str
    degree: int | None
    seen: bool | None
    blocks: tuple[BlockDegree, ...]
    reasons: tuple[str, ...]

    @property
    def is_affine(self) -> bool:
        """Whether it is one affine map."""
        return self.degree is not None and self.degree <= 1

    def __repr__(self) -> str:
        """The verdict in words."""
        if self.degree is not None:
            sure = {
                True: "finite differences of the whole network agree",
                False: "by its blocks, but finite differences of the whole network do NOT agree",
                None: "by the degrees of its blocks, too high for finite differences of the whole",
            }[self.seen]
            return f"a polynomial of degree {self.degree} ({sure})"
        more = len(self.reasons) - _SHOWN
        why = ", ".join(self.reasons[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        why = f"because of {why}" if why else f"of degree {MOST_SEEN} or less, no part says why"
        what = "piecewise affine: " if self.kind == "piecewise affine" else ""
        return f"{what}not a polynomial {why}"


def network_degree(
    model: nn.Module,
    in_shape: Sequence[int],
    *,
    call: Callable[[nn.Module, Tensor], Tensor] = lambda model, x: model(x),
    seed: int = 0,
) -> NetworkDegree:
    """Find what kind of function a network is in evaluation mode, in float64.

    Args:
        model: any module; a copy is looked at.
        in_shape: shape of one sample.
        call: calls the model with samples ``[B, *in_shape]``; for a part of it, such as what comes
            before the last tanh.
        seed: of the samples and lines.

    Example:
        >>> from polygraph.analysis import network_degree
        >>> from polygraph.models import create_model
        >>> settings = {"width": 4, "depths": (1, 1), "size": 8}
        >>> network_degree(create_model("pinet18-noact", **settings), (3, 8, 8))
        a polynomial of degree 4 (finite differences of the whole network agree)
        >>> network_degree(create_model("resnet18", **settings), (3, 8, 8))  # doctest: +ELLIPSIS
        piecewise affine: not a polynomial because of stem.2 (ReLU), blocks.0.branch.2 (ReLU), ...

    See Also:
        `check_degree`, which sees a function alone; `affine_map` for a degree of 1.
    """
    model = copy.deepcopy(model).double().eval()

    def function(x: Tensor) -> Tensor:
        with torch.no_grad():
            return call(model, x)

    draw = torch.Generator().manual_seed(seed)
    samples = torch.randn(2, *in_shape, dtype=torch.float64, generator=draw)
    called = _called(model, function, samples)
    reasons = {
        f"{name} ({why})": piecewise
        for name, module, _ in called
        for why, piecewise in _reasons(module)
    }
    blocks = tuple(_degree_of(*entry) for entry in _outermost(called))
    declared = getattr(model, "degree", None)
    if not isinstance(declared, int):
        declared = None
    if declared is None and not reasons:
        degree = polynomial_degree(function, in_shape, max_degree=MOST_SEEN, lines=2, seed=seed)
        if degree is not None:
            return NetworkDegree("polynomial", degree, True, blocks, ())
    elif declared is not None:
        beyond = declared > MOST_SEEN
        seen = None if beyond else bool(check_degree(function, in_shape, declared, lines=2))
        return NetworkDegree("polynomial", declared, seen, blocks, ())
    piecewise = all(reasons.values()) and _is_locally_affine(function, in_shape, seed)
    kind = "piecewise affine" if piecewise else "neither"
    return NetworkDegree(kind, None, None, blocks, tuple(reasons))


def _called(
    model: nn.Module, function: Callable[[Tensor], Tensor], samples: Tensor
) -> list[tuple[str, nn.Module, tuple[int, ...] | None]]:
    """The parts that a call goes through: place, module, shape of one sample of its one input."""
    found: dict[str, tuple[str, nn.Module, tuple[int, ...] | None]] = {}
    handles = []
    for name, module in model.named_modules():

        def note(part: nn.Module, inputs: tuple[Any, ...], *_: Any, name: str = name) -> None:
            single = len(inputs) == 1 and isinstance(inputs[0], Tensor)
            shape = tuple(inputs[0].shape[1:]) if single else None
            found.setdefault(name, (name or "the network", part, shape))

        handles.append(module.register_forward_hook(note))
    try:
        function(samples)
    finally:
        for handle in handles:
            handle.remove()
    order = [name for name, _ in model.named_modules()]
    return [found[name] for name in order if name in found]


def _reasons(module: nn.Module) -> list[tuple[str, bool]]:
    """Why a module is no polynomial, its parts aside, and whether it is piecewise affine."""
    kind = type(module).__name__
    if isinstance(module, _PIECEWISE):
        return [(kind, True)]
    if isinstance(module, _CURVES):
        return [(kind, False)]
    if isinstance(module, SecondOrderNorm):
        curved = module.kind not in ("none", "batch", "batch_channel")
        return [(f"{kind} {module.kind}", False)] if curved else []
    if isinstance(module, PolyResidual):
        curved = module.order > 1 and VARIANTS[module.variant].tanh
        return [(f"{kind}, its tanh", False)] if curved else []
    if isinstance(module, PolynomialBlock) and module.activation != "none":
        flat = module.order == 1 and module.activation in _PIECEWISE_NAMES
        return [(f"{kind}, its {module.activation}", flat)]
    return []


def _outermost(
    called: list[tuple[str, nn.Module, tuple[int, ...] | None]],
) -> list[tuple[str, nn.Module, tuple[int, ...] | None]]:
    """The polynomial blocks that lie in no other."""
    blocks = [entry for entry in called if isinstance(entry[1], _BLOCKS)]
    inner = {id(part) for _, block, _ in blocks for part in list(block.modules())[1:]}
    return [entry for entry in blocks if id(entry[1]) not in inner]


def _degree_of(name: str, block: nn.Module, shape: tuple[int, ...] | None) -> BlockDegree:
    """A block's degree: what it says of itself, refused where finite differences see another."""
    degree = getattr(block, "degree", None)
    if degree is not None and shape is not None and math.prod(shape) <= 2**16:
        degree = degree if check_degree(block, shape, degree, lines=1) else None
    return BlockDegree(name, type(block).__name__, degree)


def _is_locally_affine(
    function: Callable[[Tensor], Tensor], in_shape: Sequence[int], seed: int
) -> bool:
    """Whether second differences vanish on some of the short lines."""
    generator = torch.Generator().manual_seed(seed)
    straight = 0
    for _ in range(_LINES):
        start, direction = torch.randn(2, *in_shape, dtype=torch.float64, generator=generator)
        before, here, after = function(
            torch.stack([start + t * direction for t in (-_STEP, 0, _STEP)])
        )
        allowed = _CURVED * (after - before).abs().max() + _ROUNDING * here.abs().max()
        straight += bool((before - 2 * here + after).abs().max() <= allowed)
    return straight >= _STRAIGHT
