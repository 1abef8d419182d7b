"""Layers whose weights are 0 or more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from polygraph.nn.convex.initial import principled_
from polygraph.nn.convex.positive import make_non_negative


class ConvexLinear(nn.Linear):
    """`torch.nn.Linear` whose weight is 0 or more: a later layer of an input-convex network.

    It begins as Hoedt and Klambauer, NeurIPS 2023, propose: see `principled_`.

    Args:
        in_features: C.
        out_features: D.
        bias: whether a free ``[D]`` is added.
        kind: how the weight is kept at 0 or above: ``softplus`` or ``exp`` of a parameter, or
            ``clip``, which does as a projection after every step would.
        slope: of the leaky ReLU before the layer, for the first weights; 0 for ReLU.

    Attributes:
        weight: ``[D, C]``, computed from ``parametrizations.weight.original``; numbers >= 0 may be
            assigned to it.

    Call it with ``[..., C]``; it returns ``[..., D]``. The ``state_dict`` of a `torch.nn.Linear`
    with a weight >= 0 is loaded, too.

    Raises:
        ValueError: ``kind`` is none of these.

    Example:
        >>> import torch
        >>> from polygraph.nn.convex import ConvexLinear, is_input_convex
        >>> layer = ConvexLinear(8, 1)
        >>> layer
        ConvexLinear(in_features=8, out_features=1, bias=True, kind='softplus')
        >>> bool(is_input_convex([torch.nn.Linear(2, 8), torch.nn.ReLU(), layer]))
        True

    See Also:
        `convex_`, which makes the layers of a module so; `ConvexConv2d`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        kind: str = "softplus",
        slope: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.kind, self.slope = kind, slope
        _make_convex(self)

    def reset_parameters(self) -> None:
        """Draw the weight anew, and set the bias: see `principled_`."""
        if is_parametrized(self, "weight"):
            _begin(self)
        else:  # not made yet
            super().reset_parameters()

    def __repr__(self) -> str:
        """One line."""
        return f"ConvexLinear({self.extra_repr()}, kind={self.kind!r})"


class ConvexConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose weight is 0 or more: a later layer of an input-convex network.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: of `torch.nn.Conv2d`, as all that follows but ``kind`` and ``slope``.
        stride: ditto.
        padding: ditto; zeros, or as ``padding_mode`` says.
        dilation: ditto.
        groups: ditto.
        bias: whether a free ``[D]`` is added.
        padding_mode: ditto.
        kind: as of `ConvexLinear`.
        slope: as of `ConvexLinear`.

    Attributes:
        weight: ``[D, C / groups, kernel, kernel]``, computed from
            ``parametrizations.weight.original``; numbers >= 0 may be assigned to it.

    Call it with ``[B, C, H, W]``.

    Raises:
        ValueError: ``kind`` is none of `KINDS`.

    Example:
        >>> import torch
        >>> from polygraph.nn.convex import ConvexConv2d
        >>> ConvexConv2d(8, 4, 3, padding=1, kind="exp")(torch.rand(2, 8, 6, 6)).shape
        torch.Size([2, 4, 6, 6])

    See Also:
        `ConvexLinear`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        *,
        kind: str = "softplus",
        slope: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            *(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias),
            padding_mode,
            device,
            dtype,
        )
        self.kind, self.slope = kind, slope
        _make_convex(self)

    def reset_parameters(self) -> None:
        """Draw the weight anew, and set the bias: see `principled_`."""
        if is_parametrized(self, "weight"):
            _begin(self)
        else:  # not made yet
            super().reset_parameters()

    def __repr__(self) -> str:
        """One line."""
        sizes: Any = super().extra_repr  # which has no types
        return f"ConvexConv2d({sizes()}, kind={self.kind!r})"


def _make_convex(layer: Any) -> None:
    make_non_negative(layer, layer.kind)
    _begin(layer)


def _begin(layer: Any) -> None:
    """Principled numbers for a layer whose weight is parametrised."""
    drawn: Tensor = layer.weight.detach().clone()
    layer.weight = principled_(drawn, layer.bias, slope=layer.slope)
