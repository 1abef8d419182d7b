"""A style generator, whose synthesis is an NCP, with a mapping of layers or of a polynomial.

Sources: Karras, Laine and Aila, "A Style-Based Generator Architecture for Generative Adversarial
Networks", CVPR 2019; Chrysos et al., "Deep Polynomial Neural Networks", T-PAMI 2021, which reads it
as a polynomial and replaces its mapping by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph.models.images._images import (
    check_channels,
    check_images,
    check_latent,
)
from polygraph.models.images.latent import LATENTS
from polygraph.models.images.sizes import SIZE, check_size, sizes_of
from polygraph.nn.nested import NCP

MAPPINGS = ("layers", "ncp")
STYLE_NORMS = ("instance", "none")
_SLOPE = 0.2


@dataclass(frozen=True)
class StyleGeneratorConfig:
    """A `StyleGenerator`.

    Attributes:
        mapping: of z to w: ``layers``, linear with leaky ReLU (0.2), or ``ncp``, a polynomial.
        mapping_depth: number of layers, or order of the polynomial.
        mapping_rate: how fast the layers learn, as a share of the optimizer's rate: what they
            compute with is this share of their parameters (StyleGAN: 0.01). Of ``ncp`` it is 1.
        latent_channels: size of z and w.
        out_channels: of the images: 1 or 3.
        channels: features at 4 x 4, 8 x 8, 16 x 16, ... up to the size of the images.
        shift: add a second linear map of w, as StyleGAN does.
        activation: leaky ReLU (0.2) after each convolution, as StyleGAN has it.
        noise: add noise of N(0, 1) to each convolution, by a learned scale per feature, in training
            mode alone.
        norm: of each convolution: ``instance``, over its pixels, or ``none``.
        latent_distribution: of the numbers of z: ``normal``, N(0, 1), or ``uniform``, [-1, 1].
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    mapping: str = "layers"
    mapping_depth: int = 8
    mapping_rate: float = 1.0
    latent_channels: int = 128
    out_channels: int = 3
    channels: tuple[int, ...] = (128, 128, 64, 32)
    shift: bool = True
    activation: bool = True
    noise: bool = False
    norm: str = "instance"
    latent_distribution: str = "normal"
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("generator", self)
        object.__setattr__(self, "channels", tuple(self.channels))
        check_choice("generator", "mapping", self.mapping, MAPPINGS)
        check_choice("generator", "norm", self.norm, STYLE_NORMS)
        check_choice("generator", "latent_distribution", self.latent_distribution, LATENTS)
        check_positive(
            "generator", latent_channels=self.latent_channels, mapping_depth=self.mapping_depth
        )
        if not 0 < self.mapping_rate <= 1:
            raise ValueError(f"generator: mapping_rate must be in (0, 1], got {self.mapping_rate}")
        if self.mapping == "ncp" and self.mapping_rate != 1:
            raise ValueError(
                "generator: mapping_rate is of layers; with mapping ncp it must be 1, got "
                f"{self.mapping_rate}"
            )
        check_size("generator", self.size)
        check_channels("generator", "channels", self.channels, self.size)
        check_images("generator", "out_channels", self.out_channels)


class StyleStep(nn.Module):
    """``h_k = (A_k w) * n(act(c(h_{k-1}))) + A'_k w``: a convolution in a style.

    Without shift, activation and normalisation it is a step of an NCP with the constant 0,
    ``x_n = (A_n w) * S_n x_{n-1}``. A_k w starts near 1, A'_k w near 0.

    Args:
        config: of the generator.
        in_channels: features that come in.
        channels: features that go out.

    Example:
        >>> import torch
        >>> from polygraph.models.images.style_gan import StyleGeneratorConfig, StyleStep
        >>> step = StyleStep(StyleGeneratorConfig(latent_channels=8), 4, 6)
        >>> step(torch.randn(2, 8), torch.randn(2, 4, 16, 16)).shape
        torch.Size([2, 6, 16, 16])
    """

    def __init__(self, config: StyleGeneratorConfig, in_channels: int, channels: int) -> None:
        super().__init__()
        self.activation = nn.LeakyReLU(_SLOPE) if config.activation else nn.Identity()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=config.activation)
        self.norm = nn.InstanceNorm2d(channels) if config.norm == "instance" else nn.Identity()
        self.scale = nn.Linear(config.latent_channels, channels)
        nn.init.ones_(self.scale.bias)
        self.shift = nn.Linear(config.latent_channels, channels) if config.shift else None
        if self.shift is not None:
            nn.init.zeros_(self.shift.bias)
        self.noise = nn.Parameter(torch.zeros(channels)) if config.noise else None

    def forward(self, w: Tensor, h: Tensor) -> Tensor:
        """Features ``[B, channels, H, W]`` of styles ``w [B, latent_channels]``."""
        h = self.conv(h)
        if self.noise is not None and self.training:
            grain = torch.randn_like(h[:, :1])
            h = h + self.noise[:, None, None] * grain
        h = self.norm(self.activation(h))
        scale: Tensor = self.scale(w)[:, :, None, None]
        if self.shift is None:
            return scale * h
        return torch.addcmul(self.shift(w)[:, :, None, None], scale, h)


class _ScaledLinear(nn.Linear):
    """A linear layer that begins with the size of its input behind a leaky ReLU, and learns slowly.

    By PyTorch's own initial weights a layer makes what depends on z about two and a half times
    smaller: of eight a two-thousandth is left, and all images begin alike.

    Args:
        width: features that come in and go out.
        rate: what of the parameters is computed with. They are as much larger, so that a step of
            Adam changes what is computed by this share of its usual size.
    """

    def __init__(self, width: int, rate: float) -> None:
        super().__init__(width, width)
        self.rate = rate
        nn.init.kaiming_normal_(self.weight, a=_SLOPE)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.weight /= rate

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[B, width]`` of features."""
        return nn.functional.linear(x, self.rate * self.weight, self.rate * self.bias)

    def extra_repr(self) -> str:
        """Sizes and rate."""
        return f"{super().extra_repr()}, rate={self.rate}"


class StyleGenerator(nn.Module):
    """``[B, latent_channels]`` to ``[B, out_channels, size, size]`` in (-1, 1).

    z is divided by its root mean square and mapped to w. A learned constant of 4 x 4 goes through
    two steps (`StyleStep`) of w at each size; pixels are repeated between sizes; 1 x 1 to the
    image, tanh.

    Args:
        config: what to build.

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> generator = create_model("pi/style-ncp/generator", channels=(16, 16, 8, 8))
        >>> generator(torch.randn(2, 128)).shape
        torch.Size([2, 3, 32, 32])

    See Also:
        `GrowingGenerator`, the body without styles; `polygraph.nn.NCP`.
    """

    def __init__(self, config: StyleGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width, first = config.latent_channels, config.channels[0]
        if config.mapping == "ncp":
            self.mapping: nn.Module = NCP(
                nn.Linear, width, width, config.mapping_depth, rank=width, norm="none"
            )
        else:
            layers: list[nn.Module] = []
            for _ in range(config.mapping_depth):
                layers += [_ScaledLinear(width, config.mapping_rate), nn.LeakyReLU(_SLOPE)]
            self.mapping = nn.Sequential(*layers)
        start = sizes_of(config.size)[0]
        self.constant = nn.Parameter(torch.randn(first, start, start))
        self.steps = nn.ModuleList()
        for before, channels in zip((first, *config.channels), config.channels, strict=False):
            self.steps.append(StyleStep(config, before, channels))
            self.steps.append(StyleStep(config, channels, channels))
        self.output = nn.Conv2d(config.channels[-1], config.out_channels, 1)

    def styles(self, z: Tensor) -> Tensor:
        """W of z, ``[B, latent_channels]``."""
        check_latent(self, z, self.config.latent_channels)
        normalized = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        return cast(Tensor, self.mapping(normalized))

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        w = self.styles(z)
        h = self.constant.expand(len(z), -1, -1, -1)
        for n, step in enumerate(self.steps):
            if n and n % 2 == 0:
                h = nn.functional.interpolate(h, scale_factor=2.0)
            h = step(w, h)
        return torch.tanh(self.output(h))
