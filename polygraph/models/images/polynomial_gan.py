"""Generators that are polynomials of z.

Source: Chrysos et al., "Π-nets: Deep Polynomial Neural Networks", CVPR 2020, and "Deep Polynomial
Neural Networks", T-PAMI 2021, section 4.

`PolynomialGenerator` has no activations: before the tanh at its end each pixel is a polynomial of
z, exactly so with ``norm="none"``. Their generators with residual blocks are in
:mod:`~polygraph.models.images.sngan`, their critics there and in
:mod:`~polygraph.models.images.dcgan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph.models.images._images import check_channels, check_images, check_latent
from polygraph.models.images._mapping import (
    AFFINE_NORMS,
    PRODUCT_NORMS,
    make_mapping,
    mapping_degree,
    mapping_orders,
)
from polygraph.models.images.latent import LATENTS
from polygraph.models.images.sizes import SIZE, check_size, sizes_of
from polygraph.nn.layout import LAYOUTS
from polygraph.nn.nested import NCP
from polygraph.nn.norm import SecondOrderNorm
from polygraph.nn.polynomial import CCP

DECOMPOSITIONS = ("ccp", "ncp", "ncp-skip", "prodpoly")
BODIES = ("dcgan", "sngan")


@dataclass(frozen=True)
class PolynomialGeneratorConfig:
    """A `PolynomialGenerator`.

    Attributes:
        decomposition: ``ccp``, ``ncp``, ``ncp-skip`` or ``prodpoly``.
        body: the linear maps between sizes: ``dcgan`` (transposed 4 x 4 convolutions of stride 2)
            or ``sngan`` (upsampling, two 3 x 3 convolutions, a 1 x 1 shortcut).
        order: N of the decomposition; of each of the factors of ``prodpoly``, one for each size:
            its degree is the fourth power for images of 32 x 32.
        latent_channels: size of z.
        out_channels: of the images: 1 or 3.
        channels: features at 4 x 4, 8 x 8, 16 x 16, ... up to the size of the images.
        norm: of the products, see `polygraph.nn.SecondOrderNorm`: ``none`` leaves an exact
            polynomial, ``batch_channel`` one in evaluation mode.
        mapping_order: order of an NCP that maps z first, or of several in succession (the degrees
            multiply); 0 for none.
        latent_distribution: of the numbers of z: ``normal``, N(0, 1), or ``uniform``, [-1, 1].
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    decomposition: str = "ncp"
    body: str = "dcgan"
    order: int = 4
    latent_channels: int = 128
    out_channels: int = 3
    channels: tuple[int, ...] = (256, 128, 64, 32)
    norm: str = "none"
    mapping_order: int | tuple[int, ...] = 0
    latent_distribution: str = "normal"
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("generator", self)
        check_choice("generator", "latent_distribution", self.latent_distribution, LATENTS)
        object.__setattr__(self, "channels", tuple(self.channels))
        check_choice("generator", "decomposition", self.decomposition, DECOMPOSITIONS)
        check_choice("generator", "body", self.body, BODIES)
        check_choice("generator", "norm", self.norm, PRODUCT_NORMS)
        check_positive("generator", order=self.order, latent_channels=self.latent_channels)
        check_size("generator", self.size)
        check_channels("generator", "channels", self.channels, self.size)
        check_images("generator", "out_channels", self.out_channels)
        if not isinstance(self.mapping_order, int):
            object.__setattr__(self, "mapping_order", tuple(self.mapping_order))
        mapping_orders(self.mapping_order)


def _of_unit_gain(conv: nn.Module, fan: int) -> nn.Module:
    """A convolution with normal weights of variance ``1 / fan``."""
    nn.init.normal_(cast(Tensor, conv.weight), std=fan**-0.5)
    return conv


class _Up(nn.Module):
    """A linear map of images to twice their size: both forms are affine, without activations.

    Both begin with the size of their input: an output is a sum of as many terms as ``fan`` says,
    each of which the weights make as much smaller. By PyTorch's own initial weights ``dcgan``'s map
    makes features about three times smaller, and a coupled decomposition has three in succession.
    """

    def __init__(self, body: str, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut: nn.Module | None = None
        if body == "dcgan":
            self.main: nn.Module = _of_unit_gain(
                nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1), fan=4 * in_channels
            )
            return
        wide, deep = 9 * in_channels, 9 * out_channels
        self.main = nn.Sequential(
            nn.Upsample(scale_factor=2),
            _of_unit_gain(nn.Conv2d(in_channels, out_channels, 3, padding=1), fan=wide),
            _of_unit_gain(nn.Conv2d(out_channels, out_channels, 3, padding=1), fan=2 * deep),
        )
        self.shortcut = _of_unit_gain(nn.Conv2d(in_channels, out_channels, 1), fan=2 * in_channels)

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
        start = torch.ones
        if config.decomposition == "ncp":
            # What earlier steps have learned reaches the image through all A_n z that follow. These
            # would change its sign from z to z around 0, so that nothing constant gets through:
            # they start around 1, and b_n at 0, as those of `ResidualGenerator`.
            nn.init.ones_(self.latent.bias)
            nn.init.normal_(self.latent.weight, std=config.latent_channels**-0.5)
            start = torch.zeros
        self.offset = nn.Parameter(start(out_channels))
        # S_n x comes with the size of x, or half of it, and A_n z with 0.3 to 1.4: nothing has to
        # start small.
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
    """``[B, latent_channels]`` to ``[B, out_channels, size, size]``: a polynomial of z, tanh.

    ========== =================================================================================
    ccp        `polygraph.nn.CCP` of z to 4 x 4 features, then the linear body: C of the paper.
    ncp        x_1 = A_1 z at 4 x 4; each order is one step of the body: S_n makes the image larger
               in the last ones, A_n z weighs its features. Orders beyond the number of sizes (four
               for 32 x 32) act at 4 x 4; with fewer, the last steps are linear.
    ncp-skip   the same with ``+ V_n x_{n-1}``, V_n upsampling and, where features differ, 1 x 1.
    prodpoly   one NCP of z, and one NCP of 3 x 3 convolutions after each step of the body.
    ========== =================================================================================

    Maps between sizes start with unit gain, so that pictures have contrast, and ``A_n z`` of
    ``ncp``, by which all that earlier steps find is multiplied, around 1, with ``b_n`` at 0.

    Args:
        config: what to build.

    Attributes:
        degree: of the values before the tanh in z, in evaluation mode; None with a normalisation
            that is not affine there.

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> generator = create_model("small/ncp/generator", norm="none")
        >>> generator(torch.randn(2, 64)).shape, generator.degree
        (torch.Size([2, 3, 32, 32]), 8)

    See Also:
        `ResidualGenerator`, which has products in its blocks; `polygraph.nn.NCP`.
    """

    def __init__(self, config: PolynomialGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        first, *rest = config.channels
        self.start = sizes_of(config.size)[0]
        places = self.start**2
        self.mapping = make_mapping(config.latent_channels, config.mapping_order, config.norm)
        self.steps = nn.ModuleList()
        if config.decomposition in ("ncp", "ncp-skip"):
            self.input: nn.Module = nn.Linear(config.latent_channels, places * first)
            widths = [first] * max(config.order - len(rest), 1) + rest
            for n, (before, width) in enumerate(pairwise(widths)):
                step = _NestedStep(
                    config,
                    before,
                    width,
                    up=n >= len(widths) - 1 - len(rest),
                    product=n < config.order - 1,
                )
                self.steps.append(step)
        else:
            block = CCP if config.decomposition == "ccp" else NCP
            self.input = block(
                nn.Linear,
                config.latent_channels,
                places * first,
                config.order,
                rank=places * first // 2,
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
        """The exact degree in z before the tanh, in evaluation mode, or None."""
        config = self.config
        if config.norm not in AFFINE_NORMS:
            return None
        power = len(config.channels) if config.decomposition == "prodpoly" else 1
        return mapping_degree(config.mapping_order) * int(config.order**power)

    def polynomial(self, z: Tensor) -> Tensor:
        """The values before the tanh, ``[B, out_channels, size, size]``."""
        check_latent(self, z, self.config.latent_channels)
        if self.mapping is not None:
            z = self.mapping(z)
        x = self.input(z).view(len(z), -1, self.start, self.start)
        nested = self.config.decomposition in ("ncp", "ncp-skip")
        for step in self.steps:
            x = step(z, x) if nested else step(x)
        return cast(Tensor, self.output(x))

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        return torch.tanh(self.polynomial(z))
