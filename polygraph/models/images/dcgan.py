"""DCGAN's generator and critic.

Source: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", ICLR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph.models.images._images import (
    check_batch,
    check_channels,
    check_images,
    check_latent,
    normalize_spectra,
)
from polygraph.models.images.latent import LATENTS
from polygraph.models.images.sizes import SIZE, check_size, sizes_of


@dataclass(frozen=True)
class DeconvGeneratorConfig:
    """A `DeconvGenerator`.

    Attributes:
        latent_channels: size of z.
        out_channels: of the images: 1 or 3.
        channels: features at 4 x 4, 8 x 8, 16 x 16, ... up to the size of the images.
        latent_distribution: of the numbers of z: ``normal``, N(0, 1), or ``uniform``, [-1, 1].
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    latent_channels: int = 128
    out_channels: int = 3
    channels: tuple[int, ...] = (512, 256, 128, 64)
    latent_distribution: str = "normal"
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("generator", self)
        check_choice("generator", "latent_distribution", self.latent_distribution, LATENTS)
        object.__setattr__(self, "channels", tuple(self.channels))
        check_positive("generator", latent_channels=self.latent_channels)
        check_size("generator", self.size)
        check_channels("generator", "channels", self.channels, self.size)
        check_images("generator", "out_channels", self.out_channels)


@dataclass(frozen=True)
class ConvCriticConfig:
    """A `ConvCritic`.

    Attributes:
        in_channels: of the images: 1 or 3.
        channels: features at half the size of the images, a quarter, ... down to 4 x 4.
        batch_norm: after the second and third convolution, as published; no gradient penalty then,
            which needs each image's value to depend on that image alone.
        spectral_norm: divide each weight by its largest singular value.
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    in_channels: int = 3
    channels: tuple[int, ...] = (64, 128, 256)
    batch_norm: bool = True
    spectral_norm: bool = False
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("critic", self)
        object.__setattr__(self, "channels", tuple(self.channels))
        check_size("critic", self.size)
        check_channels("critic", "channels", self.channels, self.size, skip=1)
        check_images("critic", "in_channels", self.in_channels)
        if self.batch_norm and self.spectral_norm:
            raise ValueError("critic: batch_norm and spectral_norm exclude each other")


class DeconvGenerator(nn.Module):
    """DCGAN's generator: ``[B, latent_channels]`` to ``[B, out_channels, size, size]`` in (-1, 1).

    Linear to 4 x 4, transposed 4 x 4 convolutions of stride 2 (three to 32 x 32), BN and ReLU after
    each, 3 x 3 to the image, tanh.

    Source: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep
    Convolutional Generative Adversarial Networks", ICLR 2016.

    Args:
        config: what to build.

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> create_model("pi/dcgan/generator")(torch.randn(2, 100)).shape
        torch.Size([2, 3, 32, 32])

    See Also:
        `ConvCritic`, its critic.
    """

    def __init__(self, config: DeconvGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        first, *rest = config.channels
        self.start = sizes_of(config.size)[0]
        self.input = nn.Linear(config.latent_channels, self.start**2 * first)
        layers: list[nn.Module] = [nn.BatchNorm2d(first), nn.ReLU()]
        for before, width in zip(config.channels, rest, strict=False):
            layers.append(nn.ConvTranspose2d(before, width, 4, 2, 1))
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(rest[-1], config.out_channels, 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        check_latent(self, z, self.config.latent_channels)
        out: Tensor = self.layers(self.input(z).view(len(z), -1, self.start, self.start))
        return out


class ConvCritic(nn.Module):
    """DCGAN's discriminator: ``[B, in_channels, size, size]`` to ``[B]``.

    4 x 4 convolutions of stride 2 with leaky ReLU (0.2), linear; values are logits.

    Args:
        config: what to build.

    Example:
        >>> import torch
        >>> from polygraph.models import ConvCritic, ConvCriticConfig
        >>> ConvCritic(ConvCriticConfig(channels=(8, 16, 32)))(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2])

    See Also:
        `DeconvGenerator`.
    """

    def __init__(self, config: ConvCriticConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = config.in_channels
        for n, width in enumerate(config.channels):
            layers.append(nn.Conv2d(before, width, 4, 2, 1))
            if config.batch_norm and n:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.LeakyReLU(0.2))
            before = width
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(sizes_of(config.size)[0] ** 2 * before, 1)
        if config.spectral_norm:
            normalize_spectra(self)

    def forward(self, x: Tensor) -> Tensor:
        """Values of images."""
        check_batch(self, x, self.config.in_channels, self.config.size)
        out: Tensor = self.output(self.layers(x).flatten(1))
        return out.squeeze(1)
