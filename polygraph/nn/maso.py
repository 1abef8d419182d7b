"""Max-affine spline operators: layers written out as maxima of affine functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.ordinary import has_hooks, is_sequence

_AFFINE = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d),
)


class MASO(nn.Module):
    """``z_k = max_r <A_kr, x> + B_kr``: a max-affine spline operator.

    Source: Balestriero and Baraniuk, "A Spline Theory of Deep Learning", ICML 2018, eq. 2.

    Args:
        A: floating ``[K, R, D]``, the slopes of R affine functions for each of K outputs.
        B: ``[K, R]``, their values at 0.

    Attributes:
        A: a buffer.
        B: a buffer.

    Call it with ``[B, D]``; it returns ``[B, K]``. Nothing is learned.

    Raises:
        ValueError: the shapes do not fit, or there is no region.

    Example:
        >>> import torch
        >>> from polygraph.nn import MASO
        >>> absolute = MASO(torch.tensor([[[1.0], [-1.0]]]), torch.zeros(1, 2))
        >>> absolute, absolute(torch.tensor([[-3.0]])), absolute.regions(torch.tensor([[-3.0]]))
        (MASO(1 -> 1, 2 regions), tensor([[3.]]), tensor([[1]]))

    See Also:
        `to_maso`, which writes the layers of a network so.
    """

    A: Tensor
    B: Tensor

    def __init__(self, A: Tensor, B: Tensor) -> None:
        super().__init__()
        if A.dim() != 3 or A.shape[:2] != B.shape or A.shape[1] < 1 or A.dtype != B.dtype:
            raise ValueError(
                "MASO: A must have shape [K, R, D] and B [K, R], of one dtype, with R >= 1, got "
                f"{A.dtype} {list(A.shape)} and {B.dtype} {list(B.shape)}"
            )
        self.register_buffer("A", A)
        self.register_buffer("B", B)

    def _values(self, x: Tensor) -> Tensor:
        check_tensors("MASO", x=x)
        check_dtype("MASO", "x", x, self.A)
        if x.dim() != 2 or x.shape[1] != self.A.shape[2]:
            raise ValueError(f"MASO: x must have shape [B, {self.A.shape[2]}], got {list(x.shape)}")
        values = functional.linear(x, self.A.flatten(0, 1))
        found: Tensor = values.unflatten(1, self.B.shape) + self.B  # type: ignore[no-untyped-call]
        return found

    def forward(self, x: Tensor) -> Tensor:
        """``[B, K]`` of ``x [B, D]``."""
        return self._values(x).amax(2)

    def regions(self, x: Tensor) -> Tensor:
        """Which affine function is the largest, int64 ``[B, K]``; of equal ones the first."""
        return self._values(x).argmax(2)

    def after(self, affine: MASO) -> MASO:
        """One operator for this one behind an affine one.

        Args:
            affine: with one region.

        Raises:
            ValueError: it has more regions (what comes out need then be no maximum), or another
                number of outputs than this one has inputs.
        """
        outputs, regions, _ = affine.A.shape
        if regions != 1 or outputs != self.A.shape[2]:
            raise ValueError(
                f"MASO: affine must have one region and {self.A.shape[2]} outputs, got {affine!r}"
            )
        return MASO(self.A @ affine.A[:, 0], self.B + self.A @ affine.B[:, 0])

    def __repr__(self) -> str:
        """One line: sizes."""
        outputs, regions, inputs = self.A.shape
        word = "region" if regions == 1 else "regions"
        return f"MASO({inputs} -> {outputs}, {regions} {word})"


def to_maso(
    module: nn.Module, in_shape: Sequence[int], *, dtype: torch.dtype | None = None
) -> nn.Sequential:
    """The layers of a network as max-affine spline operators, with the same values.

    Convolutions become their matrices: this is for small inputs, proofs and tests.

    Args:
        module: ReLU, leaky ReLU (slope at most 1; -1 is the magnitude), maximum pooling of images
            or an affine layer: linear, convolution, average pooling, flatten, BatchNorm in eval
            mode. Or a `torch.nn.Sequential` of such.
        in_shape: shape of one sample, without the batch.
        dtype: of a module without parameters; default: that of PyTorch.

    Returns:
        Flatten, a `MASO` for each layer, and the module's own shape at the end: it maps
        ``[B, *in_shape]`` to what the module gives, up to rounding.

    Raises:
        ValueError: a layer is none of these, named by its place; or it is not affine as it is, as
            BatchNorm and dropout in training mode.

    Example:
        >>> import torch
        >>> from polygraph.nn import to_maso
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
        ... )
        >>> made = to_maso(model, (1, 4, 4))
        >>> made[1:-1]
        Sequential(
          (1): MASO(16 -> 8, 1 region)
          (2): MASO(8 -> 8, 2 regions)
          (3): MASO(8 -> 2, 4 regions)
        )
        >>> x = torch.randn(5, 1, 4, 4)
        >>> torch.allclose(made(x), model(x), atol=1e-6)
        True

    See Also:
        `MASO.after`, which merges an affine layer and what follows it.
    """
    parameter = next(module.parameters(), torch.empty(0, dtype=dtype))
    layers: list[nn.Module] = []
    shape = torch.Size(in_shape)
    with torch.no_grad():
        for place, part in _parts(module, ""):
            name = f"{place or 'the module'} ({type(part).__name__})"
            made, shape = _layer(part, shape, name, parameter)
            layers.append(made)
    return nn.Sequential(nn.Flatten(), *layers, nn.Unflatten(1, shape or (1,)))


def _parts(module: nn.Module, place: str) -> list[tuple[str, nn.Module]]:
    if not is_sequence(module):
        return [(place, module)]
    return [
        found
        for name, part in module.named_children()
        for found in _parts(part, f"{place}.{name}" if place else name)
    ]


def _layer(part: Any, shape: torch.Size, name: str, like: Tensor) -> tuple[MASO, torch.Size]:
    """An operator, and the shape of what it gives."""
    if has_hooks(part):
        raise ValueError(f"to_maso: {name} has hooks, which may do anything")
    if isinstance(part, nn.ReLU | nn.LeakyReLU):
        slope = part.negative_slope if isinstance(part, nn.LeakyReLU) else 0.0
        if slope > 1:
            raise ValueError(f"to_maso: {name} has a slope of {slope}, above 1: it is concave")
        eye = torch.eye(math.prod(shape), dtype=like.dtype, device=like.device)
        return MASO(torch.stack((eye, slope * eye), 1), like.new_zeros(len(eye), 2)), shape
    if isinstance(part, nn.MaxPool2d):
        return _max_pool(part, shape, name, like)
    if isinstance(part, _AFFINE):
        normal = isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None
        dropped = isinstance(part, nn.modules.dropout._DropoutNd)
        if normal or (part.training and (dropped or hasattr(part, "running_mean"))):
            raise ValueError(f"to_maso: {name} is affine in eval mode alone: call eval() first")
        return _affine(part, shape, like)
    raise ValueError(f"to_maso: {name} is not known to be a maximum of affine functions")


def _affine(
    part: Callable[[Tensor], Tensor], shape: torch.Size, like: Tensor
) -> tuple[MASO, torch.Size]:
    """By its values at 0 and at the unit vectors."""
    size = math.prod(shape)
    units = torch.eye(size, dtype=like.dtype, device=like.device)
    values = part(torch.cat((torch.zeros_like(units[:1]), units)).view(-1, *shape))
    zero, rest = values[:1].flatten(1), values[1:].flatten(1)
    return MASO((rest - zero).T[:, None], zero.T), values.shape[1:]


def _max_pool(
    part: nn.MaxPool2d, shape: torch.Size, name: str, like: Tensor
) -> tuple[MASO, torch.Size]:
    """A window's pixels; in the place of those that padding adds, another one of the window."""
    if part.ceil_mode or part.return_indices or len(shape) != 3:
        raise ValueError(
            f"to_maso: {name} must have neither ceil_mode nor return_indices, and pool [C, H, W]"
        )
    C, H, W = shape
    out = part(like.new_zeros(1, *shape)).shape[1:]
    pixels = torch.arange(1, H * W + 1, dtype=torch.float64).view(1, 1, H, W)  # 0 is padding
    windows = functional.unfold(pixels, part.kernel_size, part.dilation, part.padding, part.stride)[
        0
    ].T.long()
    windows = torch.where(windows == 0, windows.amax(1, keepdim=True), windows) - 1
    every = torch.arange(C).view(-1, 1, 1) * H * W + windows  # [C, outputs, slots]
    A = functional.one_hot(every.flatten(0, 1), C * H * W)
    return MASO(A.to(like.device, like.dtype), like.new_zeros(A.shape[:2])), out
