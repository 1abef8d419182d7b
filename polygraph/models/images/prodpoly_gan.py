"""Images as one polynomial of z of high degree: vector polynomials, then products at every layer.

Source: Chrysos et al., "Π-nets: Deep Polynomial Neural Networks", CVPR 2020, sections 3.2 and 4.1
(linear generation), with the sizes of the public code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph.models.images._images import check_images, check_latent
from polygraph.models.images._mapping import make_mapping
from polygraph.models.images.latent import LATENTS
from polygraph.models.images.sizes import SIZE

STEP_NORMS = ("batch", "none")
_CHANNELS = (128, 128, 128, 128, 256, 256, 256, 256, 128, 128, 64)
_STRIDES = (2, 1, 2, 1, 2, 1, 2, 2, 1, 1)


@dataclass(frozen=True)
class ProdPolyGeneratorConfig:
    """A `ProdPolyGenerator`.

    Attributes:
        orders: of the polynomials of vectors, in succession.
        latent_channels: size of z.
        out_channels: of the images: 1 or 3.
        channels: features, those of the 1 x 1 start first.
        strides: of each layer, 2 or 1; together they lead from 1 x 1 to the size of
            the images.
        norm: before each layer: ``batch``, affine in evaluation mode, or ``none``.
        latent_distribution: of the numbers of z: ``normal``, N(0, 1), or ``uniform``, [-1, 1].
        size: height and width of the images, a power of two.
    """

    orders: tuple[int, ...] = (1, 2, 3)
    latent_channels: int = 128
    out_channels: int = 3
    channels: tuple[int, ...] = _CHANNELS
    strides: tuple[int, ...] = _STRIDES
    norm: str = "batch"
    latent_distribution: str = "uniform"
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("generator", self)
        for name in ("orders", "channels", "strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice("generator", "norm", self.norm, STEP_NORMS)
        check_choice("generator", "latent_distribution", self.latent_distribution, LATENTS)
        check_positive("generator", latent_channels=self.latent_channels)
        for name in ("orders", "channels"):
            for value in getattr(self, name):
                check_positive("generator", **{name: value})
        check_images("generator", "out_channels", self.out_channels)
        if len(self.channels) != len(self.strides) + 1:
            raise ValueError(
                "generator: channels must be one number more than strides, got "
                f"{len(self.channels)} and {len(self.strides)}"
            )
        if not set(self.strides) <= {1, 2} or math.prod(self.strides) != self.size:
            raise ValueError(
                f"generator: strides must be 1 or 2 and multiply to {self.size}, the size, got "
                f"{list(self.strides)}"
            )


class _Layer(nn.Module):
    """``(A w) * c(N(h))``: a transposed convolution, its features weighted by a linear map of w."""

    def __init__(
        self, latent: int, in_channels: int, channels: int, stride: int, norm: str
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels) if norm == "batch" else nn.Identity()
        self.conv = nn.ConvTranspose2d(in_channels, channels, 2 + stride, stride, 1)
        self.latent = nn.Linear(latent, channels)
        nn.init.ones_(self.latent.bias)

    def forward(self, w: Tensor, h: Tensor) -> Tensor:
        return cast(Tensor, self.latent(w)[:, :, None, None] * self.conv(self.norm(h)))


class ProdPolyGenerator(nn.Module):
    """A product of polynomials, without activations but for the tanh at its end.

    z goes through NCPs of vectors in succession, ``w = P(z)``, of which 1 x 1 features are made;
    transposed convolutions lead to the size of the images, each followed by the product with a
    linear map of w, ``h_n = (A_n w) * c_n(N(h_{n-1}))``; a 3 x 3 convolution makes the image. A_n w
    starts near 1. In evaluation mode, in which batch normalisation is affine, the values before the
    tanh are a polynomial of z, of degree (layers + 1) times that of P.

    Images of ``[B, latent_channels]``: ``[B, out_channels, size, size]`` in (-1, 1).

    Args:
        config: what to build.

    Attributes:
        degree: of the values before the tanh in z, in evaluation mode.

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> generator = create_model("small/prodpoly/generator")
        >>> generator(torch.rand(2, 64) * 2 - 1).shape, generator.degree
        (torch.Size([2, 3, 32, 32]), 66)

    See Also:
        `PolynomialGenerator`, with other decompositions; `polygraph.nn.ProdPoly`;
        `polygraph.analysis.degree_templates`.
    """

    def __init__(self, config: ProdPolyGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        latent, (first, *_) = config.latent_channels, config.channels
        self.mapping = make_mapping(latent, config.orders, "none")
        self.input = nn.Linear(latent, first)
        self.layers = nn.ModuleList(
            _Layer(latent, before, width, stride, config.norm)
            for (before, width), stride in zip(
                pairwise(config.channels), config.strides, strict=True
            )
        )
        self.output = nn.Conv2d(config.channels[-1], config.out_channels, 3, padding=1)

    @property
    def degree(self) -> int:
        """The degree in z before the tanh, in evaluation mode."""
        return math.prod(self.config.orders) * (len(self.layers) + 1)

    def polynomial(self, z: Tensor) -> Tensor:
        """The values before the tanh, ``[B, out_channels, size, size]``."""
        check_latent(self, z, self.config.latent_channels)
        w = z if self.mapping is None else self.mapping(z)
        h = self.input(w)[:, :, None, None]
        for layer in self.layers:
            h = layer(w, h)
        return cast(Tensor, self.output(h))

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        return torch.tanh(self.polynomial(z))
