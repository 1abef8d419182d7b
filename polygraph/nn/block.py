"""What polynomial blocks are made of: the step of a recursion, and the class they derive from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polygraph import ops
from polygraph._checks import check_choice, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.layout import Layout
from polygraph.nn.norm import SecondOrderNorm
from polygraph.nn.ordinary import is_ordinary

OperatorFactory = Callable[..., nn.Module]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "elu": F.elu,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu_0.02": lambda x: F.leaky_relu(x, 0.02),  # the slope of the public mesh code
}
_CHANNEL_DIMS = {nn.Linear: -1, nn.Conv1d: -2, nn.Conv2d: -3}  # of their input
_FUSED = ("none", "elu", "relu", "leaky_relu")


def plain_parameter(module: nn.Module, name: str) -> Tensor | None:
    """``module.name`` without ``nn.Module.__getattr__``, which costs a microsecond.

    A parameter that something has replaced (a parametrisation) is found in the ordinary way.
    """
    found = module._parameters
    return found[name] if name in found else getattr(module, name)


def polynomial_step(
    norm: SecondOrderNorm,
    a: Tensor,
    s: Tensor | None,
    *,
    skip: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """``act(a + norm(a * s) + skip + bias)``: one fused pass where norm and layout allow it.

    Fused are the norms ``rms``, ``vertex_rms`` and ``none`` of vertices, and of images whose
    channels are last in memory (``torch.channels_last``). On the CPU other images are laid out so
    first, and the result stays so: convolutions behind it are faster, too.

    With ``s=None``, the channels of ``a`` are those of a and s one after the other, as one wide
    operator leaves them.

    Example:
        >>> import torch
        >>> from polygraph.nn import LAYOUTS, SecondOrderNorm, polynomial_step
        >>> norm = SecondOrderNorm(1, "none", initial_scale=1.0)
        >>> a, s = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
        >>> polynomial_step(norm, a, s).detach().T  # a + a * s
        tensor([[ 4., 10.]])

    See Also:
        `polygraph.ops.poly_step`, the fused operator.
    """
    if norm.fused and is_ordinary(norm, SecondOrderNorm):
        if norm.layout.name == "vertices":
            return _fused_step(norm, a, s, skip, bias, activation)
        if _of_one_shape(a, s, skip) and _channels_last(a := _laid_out(a)):
            s, skip = (None if x is None else _pixel_rows(x) for x in (s, skip))
            out = _fused_step(norm, _pixel_rows(a), s, skip, bias, activation)
            height, width = a.shape[-2:]
            return out.view(*a.shape[:-3], height, width, -1).movedim(-1, -3)
    if s is None:
        a, s = a.chunk(2, norm.layout.channel_dim)
    out = a + norm(a * s)
    if skip is not None:
        out = out + skip
    if bias is not None:
        out = out + norm.layout.per_channel(bias)
    return ACTIVATIONS[activation](out)


def _channels_last(images: Tensor) -> bool:
    """Whether the pixels of ``[..., C, H, W]`` are rows of channels, as vertices are."""
    row, pixel = images.stride()[-2:]
    return images.shape[-3] > 1 and images.stride(-3) == 1 and row == images.shape[-1] * pixel


def _laid_out(images: Tensor) -> Tensor:
    """Images ``[B, C, H, W]`` with channels last in memory, where a copy pays off.

    A generator of 32 features (`polygraph.models.PolynomialGenerator`, ``prodpoly``, 16 images of
    32 x 32) takes 49 ms forward and backward on one thread instead of 63 to 76 with the step
    composed of PyTorch's operators.
    """
    if images.dim() != 4 or images.shape[1] == 1 or images.device.type != "cpu":
        return images
    return images.contiguous(memory_format=torch.channels_last)


def _of_one_shape(a: Tensor, s: Tensor | None, skip: Tensor | None) -> bool:
    """Whether nothing broadcasts; without s, the channels of ``a`` are those of a and s."""
    if s is not None and s.shape != a.shape:
        return False
    made = (*a.shape[:-3], a.shape[-3] // (2 if s is None else 1), *a.shape[-2:])
    return skip is None or tuple(skip.shape) == made


def _pixel_rows(images: Tensor) -> Tensor:
    """``[..., C, H, W]`` as ``[..., H · W, C]``, a view where the channels are last in memory."""
    return images.movedim(-3, -1).flatten(-3, -2)


def _fused_step(
    norm: SecondOrderNorm,
    a: Tensor,
    s: Tensor | None,
    skip: Tensor | None,
    bias: Tensor | None,
    activation: str,
) -> Tensor:
    """The step on vertices ``[..., V, D]``."""
    shift = plain_parameter(norm, "shift")
    if shift is not None:
        bias = shift if bias is None else shift + bias
    out = ops.poly_step(
        a,
        s,
        plain_parameter(norm, "scale"),
        bias=bias,
        skip=skip,
        norm="none" if norm.kind == "none" else "rms",
        activation=activation if activation in _FUSED else "none",
    )
    return out if activation in _FUSED else ACTIVATIONS[activation](out)


class PolynomialBlock(nn.Module):
    """What all blocks share; not used on its own.

    Attributes:
        order: the degree of the block, normalisation and activation aside.
        degree: the exact degree of the output in the input, or None where a normalisation or an
            activation makes it something else than a polynomial.
        layout: what the dimensions of the operators' output mean.

    Example:
        >>> import torch
        >>> from polygraph.nn import NCP, PolynomialBlock
        >>> block = NCP(torch.nn.Linear, 8, 8, order=3, norm="none")
        >>> isinstance(block, PolynomialBlock), block.order, block.degree
        (True, 3, 3)

    See Also:
        `CCP`, `NCP`, `NCPSkip`, `Simple`, `FirstOrder`; `ProdPoly` for blocks in succession.
    """

    layout: Layout
    beta: nn.Parameter | None

    def __init__(
        self, in_channels: int, out_channels: int, order: int, norm: str, activation: str
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_positive(name, in_channels=in_channels, out_channels=out_channels, order=order)
        check_choice(name, "activation", activation, ACTIVATIONS)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.order = order
        self.norm = norm
        self.activation = activation

    @property
    def degree(self) -> int | None:
        """The exact degree in the input, or None if the block is no polynomial."""
        exact = self.activation == "none" and (self.norm == "none" or self.order == 1)
        exact = exact and all(getattr(part, "linear", True) is not False for part in self.modules())
        return self.order if exact else None

    def _check(self, operator: nn.Module, x: Tensor) -> None:
        """Refuse what torch's own layers would refuse in words of their own; ours check it."""
        if type(operator) not in _CHANNEL_DIMS or not isinstance(x, Tensor):
            check_tensors(type(self).__name__, x=x)
            return
        owner, dim = type(self).__name__, _CHANNEL_DIMS[type(operator)]
        if x.dim() < -dim or x.shape[dim] != self.in_channels:
            raise ValueError(
                f"{owner}: x must have {self.in_channels} channels in dimension {dim}, got shape "
                f"{list(x.shape)}"
            )
        weight = operator._parameters.get("weight")
        if weight is not None:
            check_dtype(owner, "x", x, weight)

    def _norms(
        self, channels: int, operators: list[nn.Module], dummy_vertex: bool
    ) -> Sequence[SecondOrderNorm]:
        """A ModuleList: a norm for each product, whose vertices are those of its operator."""
        norms = nn.ModuleList(
            SecondOrderNorm(
                channels,
                self.norm,
                self.layout,
                num_vertices=getattr(operator, "num_targets", None),
                dummy_vertex=dummy_vertex,
            )
            for operator in operators
        )
        return cast("Sequence[SecondOrderNorm]", norms)

    def _beta(self, channels: int, norms: Sequence[SecondOrderNorm]) -> nn.Parameter | None:
        """The bias of the output, unless the last norm has a shift of its own for every vertex."""
        if len(norms) and norms[-1].shift is not None:
            return None
        return nn.Parameter(torch.zeros(channels))

    def _first_order(self, linear: Tensor) -> Tensor:
        """The output of order 1."""
        assert self.beta is not None
        return ACTIVATIONS[self.activation](linear + self.layout.per_channel(self.beta))

    def reset_parameters(self) -> None:
        """Initialise every operator, normalisation and bias anew."""
        for child in self.modules():
            reset = getattr(child, "reset_parameters", None)
            if child is not self and callable(reset):
                reset()
        for parameter in self.parameters(recurse=False):
            nn.init.zeros_(parameter)

    def __repr__(self) -> str:
        """One line: channels, order, operator, normalisation and activation."""
        operator = type(next(self.children())).__name__
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, order={self.order}, "
            f"operator={operator}, norm={self.norm!r}, activation={self.activation!r})"
        )
