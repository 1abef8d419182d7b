"""Images as bytes and as numbers: the way there and back."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """Bytes (any shape) as float32 in [-1, 1]: x / 127.5 - 1, the range of tanh.

    Raises:
        ValueError: `images` is not uint8.

    Example:
        >>> import torch
        >>> from polygraph.data import to_float
        >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([-1.,  1.])

    See Also:
        `to_uint8`, the way back.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"to_float: images must be uint8, got {images.dtype}")
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Floating-point images in [-1, 1] (any shape) as bytes, rounded; what exceeds is clipped.

    `to_uint8(to_float(x))` is x for every byte.

    Raises:
        ValueError: `images` is not floating point, or holds NaN: no byte stands for it.

    Example:
        >>> import torch
        >>> from polygraph.data import to_uint8
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 3.0]))
        tensor([  0, 128, 255, 255], dtype=torch.uint8)

    See Also:
        `to_float`, the way back.
    """
    if not images.is_floating_point():
        raise ValueError(f"to_uint8: images must be floating point, got {images.dtype}")
    if bool(images.isnan().any()):
        raise ValueError(f"to_uint8: images must not hold NaN, got {int(images.isnan().sum())}")
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
