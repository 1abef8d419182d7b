"""Generators that are polynomials of z, and the residual and transposed ones beside them.

Source: Chrysos et al., "Π-nets: Deep Polynomial Neural Networks", CVPR 2020, and "Deep Polynomial
Neural Networks", T-PAMI 2021, section 4. Images are 32 x 32.

`PolynomialGenerator` has no activations: before the tanh at its end each pixel is a polynomial of
z, exactly so with ``norm="none"``. `ResidualGenerator` is SNGAN's, as it is or with each residual
block as one order of a polynomial. `DeconvGenerator` is DCGAN's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polygraph.models.graph_gan import (
    check_batch,
    check_channels,
    check_images,
    check_latent,
    normalize_spectra,
)
from polygraph.nn._choices import check_choice, check_numbers, check_positive
from polygraph.nn.layout import LAYOUTS
from polygraph.nn.norm import SecondOrderNorm
from polygraph.nn.polynomial import CCP, NCP

DECOMPOSITIONS = ("ccp", "ncp", "ncp-skip", "prodpoly")
BODIES = ("dcgan", "sngan")
PRODUCT_NORMS = ("rms", "instance", "batch_channel", "none")
RESIDUAL_KINDS = ("plain", "ncp", "prodpoly")


@dataclass(frozen=True)
class PolynomialGeneratorConfig:
    """A `PolynomialGenerator`.

    Attributes:
        decomposition: ``ccp``, ``ncp``, ``ncp-skip`` or ``prodpoly``.
        body: the linear maps between sizes: ``dcgan`` (transposed 4 x 4 convolutions of stride 2)
            or ``sngan`` (upsampling, two 3 x 3 convolutions, a 1 x 1 shortcut).
        order: N of the decomposition; of each of the four factors of ``prodpoly``, whose degree is
            the fourth power.
        latent_channels: size of z.
        out_channels: of the images: 1 or 3.
        channels: features at 4 x 4, 8 x 8, 16 x 16 and 32 x 32.
        norm: of the products, see `polygraph.nn.SecondOrderNorm`: ``none`` leaves an exact
            polynomial.
        mapping_order: order of an NCP that maps z first (the degrees multiply); 0 for none.
    """

    decomposition: str = "ncp"
    body: str = "dcgan"
    order: int = 4
    latent_channels: int = 128
    out_channels: int = 3
    channels: tuple[int, ...] = (256, 128, 64, 32)
    norm: str = "none"
    mapping_order: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("generator", self)
        object.__setattr__(self, "channels", tuple(self.channels))
        check_choice("generator", "decomposition", self.decomposition, DECOMPOSITIONS)
        check_choice("generator", "body", self.body, BODIES)
        check_choice("generator", "norm", self.norm, PRODUCT_NORMS)
        check_positive("generator", order=self.order, latent_channels=self.latent_channels)
        check_channels("generator", "channels", self.channels, 4)
        check_images("generator", "out_channels", self.out_channels)
        _check_mapping(self.mapping_order)


@dataclass(frozen=True)
class ResidualGeneratorConfig:
    """A `ResidualGenerator`.

    Attributes:
        kind: ``plain`` (SNGAN), ``ncp`` or ``prodpoly``.
        latent_channels: size of z.
        out_channels: of the images: 1 or 3.
        channels: features of all blocks.
        norm: of the products of ``prodpoly`` and of the mapping: a kind of
            `polygraph.nn.SecondOrderNorm`.
        mapping_order: order of an NCP that maps z first; 0 for none.
    """

    kind: str = "plain"
    latent_channels: int = 128
    out_channels: int = 3
    channels: int = 256
    norm: str = "rms"
    mapping_order: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("generator", self)
        check_choice("generator", "kind", self.kind, RESIDUAL_KINDS)
        check_choice("generator", "norm", self.norm, PRODUCT_NORMS)
        check_positive("generator", latent_channels=self.latent_channels, channels=self.channels)
        check_images("generator", "out_channels", self.out_channels)
        _check_mapping(self.mapping_order)


@dataclass(frozen=True)
class DeconvGeneratorConfig:
    """A `DeconvGenerator`.

    Attributes:
        latent_channels: size of z.
        out_channels: of the images: 1 or 3.
        channels: features at 4 x 4, 8 x 8, 16 x 16 and 32 x 32.
    """

    latent_channels: int = 128
    out_channels: int = 3
    channels: tuple[int, ...] = (512, 256, 128, 64)

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("generator", self)
        object.__setattr__(self, "channels", tuple(self.channels))
        check_positive("generator", latent_channels=self.latent_channels)
        check_channels("generator", "channels", self.channels, 4)
        check_images("generator", "out_channels", self.out_channels)


@dataclass(frozen=True)
class ResidualCriticConfig:
    """A `ResidualCritic`.

    Attributes:
        in_channels: of the images: 1 or 3.
        channels: features of all blocks.
        spectral_norm: divide each weight by its largest singular value.
    """

    in_channels: int = 3
    channels: int = 128
    spectral_norm: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("critic", self)
        check_positive("critic", channels=self.channels)
        check_images("critic", "in_channels", self.in_channels)


@dataclass(frozen=True)
class ConvCriticConfig:
    """A `ConvCritic`.

    Attributes:
        in_channels: of the images: 1 or 3.
        channels: features at 16 x 16, 8 x 8 and 4 x 4.
        batch_norm: after the second and third convolution, as published; no gradient penalty then,
            which needs each image's value to depend on that image alone.
        spectral_norm: divide each weight by its largest singular value.
    """

    in_channels: int = 3
    channels: tuple[int, ...] = (64, 128, 256)
    batch_norm: bool = True
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("critic", self)
        object.__setattr__(self, "channels", tuple(self.channels))
        check_channels("critic", "channels", self.channels, 3)
        check_images("critic", "in_channels", self.in_channels)
        if self.batch_norm and self.spectral_norm:
            raise ValueError("critic: batch_norm and spectral_norm exclude each other")


def _check_mapping(order: int) -> None:
    if order < 0:
        raise ValueError(f"generator: mapping_order must be 0 or more, got {order}")


def _mapping(channels: int, order: int, norm: str) -> nn.Module | None:
    """The mapping network: an NCP of vectors."""
    if not order:
        return None
    return NCP(nn.Linear, channels, channels, order, rank=channels, norm=norm)


class _Up(nn.Module):
    """A linear map of images to twice their size: both forms are affine, without activations."""

    def __init__(self, body: str, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut: nn.Module | None = None
        if body == "dcgan":
            self.main: nn.Module = nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1)
            return
        self.main = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x)
        if self.shortcut is None:
            return out
        return out + F.interpolate(self.shortcut(x), scale_factor=2.0)


class _NestedStep(nn.Module):
    """``x_n = N((A_n z) * (S_n x_{n-1})) + (A_n z) * b_n``, with ``+ V_n x_{n-1}`` when skipping.

    A_n z has one number per feature: a thin layer. S_n doubles the size, or keeps it. The first
    orders end before the last size is reached when N is small: the step is linear then, S_n alone.
    """

    def __init__(
        self,
        config: PolynomialGeneratorConfig,
        in_channels: int,
        out_channels: int,
        *,
        up: bool,
        product: bool,
    ) -> None:
        super().__init__()
        if up:
            self.nested: nn.Module = _Up(config.body, in_channels, out_channels)
        else:
            self.nested = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.up, self.product = up, product
        self.skip: nn.Module | None = None
        if not product:
            return
        self.latent = nn.Linear(config.latent_channels, out_channels)
        self.offset = nn.Parameter(torch.ones(out_channels))
        # S_n x comes with the size of x and A_n z with about 0.6: nothing has to start small.
        self.norm = SecondOrderNorm(out_channels, config.norm, LAYOUTS["images"], initial_scale=1.0)
        if config.decomposition == "ncp-skip":
            self.skip = (
                nn.Identity()
                if in_channels == out_channels
                else nn.Conv2d(in_channels, out_channels, 1, bias=False)
            )

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        s: Tensor = self.nested(x)
        if not self.product:
            return s
        a = self.latent(z)
        out = self.norm(a[:, :, None, None] * s) + (a * self.offset)[:, :, None, None]
        if self.skip is None:
            return cast(Tensor, out)
        previous = self.skip(x)
        if self.up:
            previous = F.interpolate(previous, scale_factor=2.0)
        return cast(Tensor, out + previous)


class PolynomialGenerator(nn.Module):
    """Images from z, ``[B, latent_channels]`` to ``[B, out_channels, 32, 32]``: a polynomial, tanh.

    ========== =================================================================================
    ccp        `polygraph.nn.CCP` of z to 4 x 4 features, then the linear body: C of the paper.
    ncp        x_1 = A_1 z at 4 x 4; each order is one step of the body: S_n makes the image larger
               in the last three, A_n z weighs its features. Orders beyond four act at 4 x 4; with
               fewer, the last steps are linear.
    ncp-skip   the same with ``+ V_n x_{n-1}``, V_n upsampling and, where features differ, 1 x 1.
    prodpoly   one NCP of z, and one NCP of 3 x 3 convolutions after each step of the body.
    ========== =================================================================================

    Args:
        config: what to build.

    Attributes:
        degree: of the values before the tanh in z, or None with a normalisation that is no
            polynomial.
    """

    def __init__(self, config: PolynomialGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        first, *rest = config.channels
        self.mapping = _mapping(config.latent_channels, config.mapping_order, config.norm)
        self.steps = nn.ModuleList()
        if config.decomposition in ("ncp", "ncp-skip"):
            self.input: nn.Module = nn.Linear(config.latent_channels, 16 * first)
            widths = [first] * (max(config.order, 4) - 3) + rest
            for n, (before, width) in enumerate(pairwise(widths)):
                step = _NestedStep(
                    config,
                    before,
                    width,
                    up=n >= len(widths) - 4,
                    product=n < config.order - 1,
                )
                self.steps.append(step)
        else:
            block = CCP if config.decomposition == "ccp" else NCP
            self.input = block(
                nn.Linear,
                config.latent_channels,
                16 * first,
                config.order,
                rank=8 * first,
                norm=config.norm,
            )
            conv = partial(nn.Conv2d, kernel_size=3, padding=1)
            for before, width in zip(config.channels, rest, strict=False):
                step_up = _Up(config.body, before, width)
                if config.decomposition == "ccp":
                    self.steps.append(step_up)
                    continue
                poly = NCP(conv, width, width, config.order, norm=config.norm)
                self.steps.append(nn.Sequential(step_up, poly))
        self.output = nn.Conv2d(config.channels[-1], config.out_channels, 3, padding=1)

    @property
    def degree(self) -> int | None:
        """The exact degree in z before the tanh, or None."""
        config = self.config
        if config.norm != "none":
            return None
        power = 4 if config.decomposition == "prodpoly" else 1
        return max(config.mapping_order, 1) * int(config.order**power)

    def polynomial(self, z: Tensor) -> Tensor:
        """The values before the tanh, ``[B, out_channels, 32, 32]``."""
        check_latent("PolynomialGenerator", z, self.config.latent_channels)
        if self.mapping is not None:
            z = self.mapping(z)
        x = self.input(z).view(len(z), -1, 4, 4)
        nested = self.config.decomposition in ("ncp", "ncp-skip")
        for step in self.steps:
            x = step(z, x) if nested else step(x)
        return cast(Tensor, self.output(x))

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        return torch.tanh(self.polynomial(z))


class _UpBlock(nn.Module):
    """BN, ReLU, upsampling, 3 x 3, BN, ReLU, 3 x 3: the branch of SNGAN's block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The branch and the shortcut; their sum is the residual block."""
        return self.branch(x), F.interpolate(self.shortcut(x), scale_factor=2.0)


class ResidualGenerator(nn.Module):
    """SNGAN's generator: ``[B, latent_channels]`` to ``[B, out_channels, 32, 32]`` in (-1, 1).

    Linear to 4 x 4, three residual blocks that double the size, BN-ReLU-conv-tanh. With S the
    residual block,

    - ``plain``: ``x_n = S_n x_{n-1}``, Miyato et al., ICLR 2018, table 4;
    - ``ncp``: ``x_n = (A_n z) * S_n x_{n-1} + b_n``, A_n z one number per feature, starting near 1;
    - ``prodpoly``: with ``C x`` the block's branch and V its shortcut,
      ``x_n = V x + C x + N((C x) * (V x))``: a second-order polynomial per block.

    Args:
        config: what to build.
    """

    def __init__(self, config: ResidualGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.mapping = _mapping(config.latent_channels, config.mapping_order, config.norm)
        self.input = nn.Linear(config.latent_channels, 16 * width)
        self.blocks = nn.ModuleList(_UpBlock(width) for _ in range(3))
        self.latent, self.offset, self.norms = nn.ModuleList(), nn.ParameterList(), nn.ModuleList()
        for _ in range(3):
            if config.kind == "ncp":
                linear = nn.Linear(config.latent_channels, width)
                nn.init.ones_(linear.bias)
                self.latent.append(linear)
                self.offset.append(nn.Parameter(torch.zeros(width)))
            elif config.kind == "prodpoly":
                self.norms.append(SecondOrderNorm(width, config.norm, LAYOUTS["images"]))
        self.output = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, config.out_channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        check_latent("ResidualGenerator", z, self.config.latent_channels)
        if self.mapping is not None:
            z = self.mapping(z)
        x = self.input(z).view(len(z), -1, 4, 4)
        for n, block in enumerate(self.blocks):
            branch, shortcut = block(x)
            x = branch + shortcut
            if self.config.kind == "ncp":
                weight = self.latent[n](z)[:, :, None, None]
                x = torch.addcmul(self.offset[n][:, None, None], weight, x)
            elif self.config.kind == "prodpoly":
                x = x + self.norms[n](branch * shortcut)
        return cast(Tensor, self.output(x))


class DeconvGenerator(nn.Module):
    """DCGAN's generator: ``[B, latent_channels]`` to ``[B, out_channels, 32, 32]`` in (-1, 1).

    Linear to 4 x 4, three transposed 4 x 4 convolutions of stride 2, BN and ReLU after each, 3 x 3
    to the image, tanh.

    Source: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep
    Convolutional Generative Adversarial Networks", ICLR 2016.

    Args:
        config: what to build.
    """

    def __init__(self, config: DeconvGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        first, *rest = config.channels
        self.input = nn.Linear(config.latent_channels, 16 * first)
        layers: list[nn.Module] = [nn.BatchNorm2d(first), nn.ReLU()]
        for before, width in zip(config.channels, rest, strict=False):
            layers.append(nn.ConvTranspose2d(before, width, 4, 2, 1))
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(rest[-1], config.out_channels, 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        check_latent("DeconvGenerator", z, self.config.latent_channels)
        out: Tensor = self.layers(self.input(z).view(len(z), -1, 4, 4))
        return out


class _DownBlock(nn.Module):
    """SNGAN's block of the discriminator; the first one of all has no ReLU before it."""

    def __init__(self, in_channels: int, channels: int, *, down: bool, first: bool) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.one = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, channels, 1) if down else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.two(F.relu(self.one(x if self.first else F.relu(x))))
        skip = x if self.shortcut is None else self.shortcut(x)
        total: Tensor = out + skip
        return F.avg_pool2d(total, 2) if self.down else total


class ResidualCritic(nn.Module):
    """SNGAN's discriminator: ``[B, in_channels, 32, 32]`` to ``[B]``.

    Two residual blocks that halve the size, two that keep it, ReLU, sum over pixels, linear.

    Source: Miyato et al., ICLR 2018, table 4.

    Args:
        config: what to build.
    """

    def __init__(self, config: ResidualCriticConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.blocks = nn.Sequential(
            _DownBlock(config.in_channels, width, down=True, first=True),
            _DownBlock(width, width, down=True, first=False),
            _DownBlock(width, width, down=False, first=False),
            _DownBlock(width, width, down=False, first=False),
        )
        self.output = nn.Linear(width, 1)
        if config.spectral_norm:
            normalize_spectra(self)

    def forward(self, x: Tensor) -> Tensor:
        """Values of images."""
        check_batch("ResidualCritic", x, self.config.in_channels)
        out: Tensor = self.output(F.relu(self.blocks(x)).sum((2, 3)))
        return out.squeeze(1)


class ConvCritic(nn.Module):
    """DCGAN's discriminator: ``[B, in_channels, 32, 32]`` to ``[B]``.

    Three 4 x 4 convolutions of stride 2 with leaky ReLU (0.2), linear; values are logits.

    Args:
        config: what to build.
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
        self.output = nn.Linear(16 * before, 1)
        if config.spectral_norm:
            normalize_spectra(self)

    def forward(self, x: Tensor) -> Tensor:
        """Values of images."""
        check_batch("ConvCritic", x, self.config.in_channels)
        out: Tensor = self.output(self.layers(x).flatten(1))
        return out.squeeze(1)
