"""What all denoisers are: networks that see a picture and say what of it is noise."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from polygraph._inputs import check_dtype, check_tensors


class Denoiser(nn.Module):
    """A network whose output is taken from what it is given: ``x = y - noise(y)``.

    Attributes:
        config: what it is made of; ``config.channels`` are those of the pictures.
    """

    config: Any

    @abstractmethod
    def noise(self, y: Tensor) -> Tensor:
        """What of ``y [B, channels, H, W]`` is noise, of the same shape."""

    @property
    @abstractmethod
    def reach(self) -> int | None:
        """Rows and columns over which a pixel of ``y`` can change one of the result, in eval mode.

        None: it has no bound.
        """

    @property
    @abstractmethod
    def smallest(self) -> int:
        """The least height and width of a picture."""

    def forward(self, y: Tensor, sigma: Any = None) -> Tensor:
        """The picture without its noise.

        Args:
            y: noisy pictures ``[B, channels, H, W]``, black 0 and white 1, of the weights' dtype;
                noise is not clipped, so values may lie outside.
            sigma: the noise's standard deviation. Not looked at: these networks are trained for a
                range of noise, and see it. It is here because other libraries' denoisers are called
                with it (deepinv: ``model(y, sigma)``).

        Returns:
            ``[B, channels, H, W]``, not clipped.

        Raises:
            ValueError: the shape or dtype is wrong.
        """
        return y - self.noise(self.checked(y))

    def checked(self, y: Tensor) -> Tensor:
        """``y``, if it is pictures.

        Raises:
            ValueError: its shape or dtype is wrong.
        """
        owner, channels = type(self).__name__, self.config.channels
        check_tensors(owner, y=y)
        if y.dim() != 4 or y.shape[1] != channels:
            raise ValueError(
                f"{owner}: y must have shape [B, {channels}, H, W], got {list(y.shape)}"
            )
        check_dtype(owner, "y", y, next(self.parameters()), of="model")
        least = self.smallest
        if min(y.shape[2:]) < least:
            raise ValueError(
                f"{owner}: y must have at least {least} rows and columns, got "
                f"{y.shape[2]} x {y.shape[3]}"
            )
        return y


def start_glorot(module: nn.Module) -> None:
    """Glorot's uniform weights and biases of 0, for every convolution and linear layer."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def check_momentum(owner: str, momentum: float) -> None:
    """Refuse a share of running statistics that is not in (0, 1].

    Raises:
        ValueError: names ``norm_momentum``.
    """
    if not 0 < momentum <= 1:
        raise ValueError(f"{owner}: norm_momentum must be in (0, 1], got {momentum}")


def is_inference(module: nn.Module) -> bool:
    """Whether nobody will ask for gradients: then features need not exist all at once."""
    return not module.training and not torch.is_grad_enabled()
