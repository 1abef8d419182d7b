"""Checks and helpers that generators and critics of images share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from polygraph._checks import check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.models.images.sizes import sizes_of


def check_channels(
    owner: str, name: str, channels: tuple[int, ...], size: int, *, skip: int = 0
) -> None:
    """Refuse anything but a positive integer for each level of a size but the ``skip`` largest."""
    count = len(sizes_of(size)) - skip
    if len(channels) != count:
        raise ValueError(
            f"{owner}: {name} must be {count} numbers, got {list(channels)}, for size {size}"
        )
    for value in channels:
        check_positive(owner, **{name: value})


def check_images(owner: str, name: str, channels: int) -> None:
    """Refuse images that are neither grey nor coloured."""
    if channels not in (1, 3):
        raise ValueError(f"{owner}: {name} must be 1 or 3, got {channels}")


def normalize_spectra(module: nn.Module) -> None:
    """Put spectral normalisation on every convolution and linear layer, in place.

    Source: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018.
    One power iteration per call in training mode.
    """
    for child in list(module.modules()):
        if isinstance(child, nn.Conv2d | nn.Linear):
            spectral_norm(child)


def check_latent(model: nn.Module, z: Tensor, channels: int) -> None:
    """Refuse a z of another shape, or another dtype than the model's parameters have."""
    owner = type(model).__name__
    check_tensors(owner, z=z)
    if z.dim() != 2 or z.shape[1] != channels:
        raise ValueError(f"{owner}: z must have shape [B, {channels}], got {list(z.shape)}")
    check_dtype(owner, "z", z, next(model.parameters()), of="model")


def check_batch(model: nn.Module, x: Tensor, channels: int, size: int) -> None:
    """Refuse images of another shape, or another dtype than the model's parameters have."""
    owner = type(model).__name__
    check_tensors(owner, x=x)
    if x.dim() != 4 or tuple(x.shape[1:]) != (channels, size, size):
        raise ValueError(
            f"{owner}: x must have shape [B, {channels}, {size}, {size}], got {list(x.shape)}"
        )
    check_dtype(owner, "x", x, next(model.parameters()), of="model")
