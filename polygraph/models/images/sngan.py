"""SNGAN's generator and critic, and generators whose residual blocks are orders of a polynomial.

Sources: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018;
Chrysos et al., "Π-nets: Deep Polynomial Neural Networks", CVPR 2020, for the polynomial kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph.models.images._images import (
    check_batch,
    check_images,
    check_latent,
    normalize_spectra,
)
from polygraph.models.images._mapping import PRODUCT_NORMS, make_mapping, mapping_orders
from polygraph.models.images.latent import LATENTS
from polygraph.models.images.sizes import SIZE, check_size, halvings_to, sizes_of
from polygraph.nn.layout import LAYOUTS
from polygraph.nn.norm import SecondOrderNorm

RESIDUAL_KINDS = ("plain", "ncp", "residual-poly")


@dataclass(frozen=True)
class ResidualGeneratorConfig:
    """A `ResidualGenerator`.

    Attributes:
        kind: ``plain`` (SNGAN), ``ncp`` or ``residual-poly``; see `ResidualGenerator`.
        latent_channels: size of z.
        out_channels: of the images: 1 or 3.
        channels: features of all blocks.
        norm: of the products of ``residual-poly`` and of the mapping: a kind of
            `polygraph.nn.SecondOrderNorm`.
        mapping_order: order of an NCP that maps z first, or of several in succession; 0 for none.
            Before ``ncp`` they make it the papers' ProdPoly, a product of polynomials.
        latent_distribution: of the numbers of z: ``normal``, N(0, 1), or ``uniform``, [-1, 1].
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    kind: str = "plain"
    latent_channels: int = 128
    out_channels: int = 3
    channels: int = 256
    norm: str = "rms"
    mapping_order: int | tuple[int, ...] = 0
    latent_distribution: str = "normal"
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("generator", self)
        check_choice("generator", "latent_distribution", self.latent_distribution, LATENTS)
        if self.kind == "prodpoly":
            raise ValueError(
                "generator: kind 'prodpoly' is called 'residual-poly' now; the papers' product of "
                "NCPs is kind 'ncp' with mapping_order, such as (2, 2)"
            )
        check_choice("generator", "kind", self.kind, RESIDUAL_KINDS)
        check_choice("generator", "norm", self.norm, PRODUCT_NORMS)
        check_positive("generator", latent_channels=self.latent_channels, channels=self.channels)
        check_size("generator", self.size)
        check_images("generator", "out_channels", self.out_channels)
        if not isinstance(self.mapping_order, int):
            object.__setattr__(self, "mapping_order", tuple(self.mapping_order))
        mapping_orders(self.mapping_order)


@dataclass(frozen=True)
class ResidualCriticConfig:
    """A `ResidualCritic`.

    Attributes:
        in_channels: of the images: 1 or 3.
        channels: features of all blocks.
        spectral_norm: divide each weight by its largest singular value.
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    in_channels: int = 3
    channels: int = 128
    spectral_norm: bool = True
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("critic", self)
        check_positive("critic", channels=self.channels)
        check_size("critic", self.size)
        check_images("critic", "in_channels", self.in_channels)


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
    """SNGAN's generator: ``[B, latent_channels]`` to ``[B, out_channels, size, size]`` in (-1, 1).

    Linear to 4 x 4, residual blocks that double the size (three to 32 x 32), BN-ReLU-conv-tanh.
    With S_n the residual block (branch and shortcut),

    - ``plain``: ``x_n = S_n x_{n-1}``, Miyato et al., ICLR 2018, table 4;
    - ``ncp``: ``x_n = (A_n z) * (S_n x_{n-1} + b_n)``, Chrysos et al., CVPR 2020, equation 4 and
      section 5.1. A_n z has one number per feature; it starts near 1, and b_n at 0, so that the
      network begins as SNGAN. With `mapping_order` z is itself a polynomial of z, or several in
      succession: their ProdPoly;
    - ``residual-poly``, which is of no paper: with ``C x`` the block's branch and V its shortcut,
      ``x_n = V x + C x + N((C x) * (V x))``, a second-order polynomial of its input in each block.

    Args:
        config: what to build.

    Example:
        >>> import torch
        >>> from polygraph.models import ResidualGenerator, ResidualGeneratorConfig
        >>> ResidualGenerator(ResidualGeneratorConfig(channels=8))(torch.randn(2, 128)).shape
        torch.Size([2, 3, 32, 32])

    See Also:
        `ResidualCritic`, its critic; `PolynomialGenerator`.
    """

    def __init__(self, config: ResidualGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.mapping = make_mapping(config.latent_channels, config.mapping_order, config.norm)
        self.start, *larger = sizes_of(config.size)
        self.input = nn.Linear(config.latent_channels, self.start**2 * width)
        self.blocks = nn.ModuleList(_UpBlock(width) for _ in larger)
        self.latent, self.norms = nn.ModuleList(), nn.ModuleList()
        self.constants = nn.ParameterList()
        for _ in larger:
            if config.kind == "ncp":
                linear = nn.Linear(config.latent_channels, width)
                nn.init.ones_(linear.bias)
                self.latent.append(linear)
                self.constants.append(nn.Parameter(torch.zeros(width)))
            elif config.kind == "residual-poly":
                self.norms.append(SecondOrderNorm(width, config.norm, LAYOUTS["images"]))
        self.output = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, config.out_channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        check_latent(self, z, self.config.latent_channels)
        if self.mapping is not None:
            z = self.mapping(z)
        x = self.input(z).view(len(z), -1, self.start, self.start)
        for n, block in enumerate(self.blocks):
            branch, shortcut = block(x)
            x = branch + shortcut
            if self.config.kind == "ncp":
                x = self._times_latent(n, z, x)
            elif self.config.kind == "residual-poly":
                x = x + self.norms[n](branch * shortcut)
        return cast(Tensor, self.output(x))

    def _times_latent(self, n: int, z: Tensor, x: Tensor) -> Tensor:
        """``(A_n z) * (x + b_n)``, by one pass over the pixels."""
        weight = self.latent[n](z)
        offset = weight * self.constants[n]
        return torch.addcmul(offset[:, :, None, None], weight[:, :, None, None], x)


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
    """SNGAN's discriminator: ``[B, in_channels, size, size]`` to ``[B]``.

    Residual blocks that halve the size to 8 x 8 or less, two that keep it, ReLU, sum over pixels,
    linear.

    Source: Miyato et al., ICLR 2018, table 4.

    Args:
        config: what to build.

    Example:
        >>> import torch
        >>> from polygraph.models import ResidualCritic, ResidualCriticConfig
        >>> ResidualCritic(ResidualCriticConfig(channels=8))(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2])

    See Also:
        `ResidualGenerator`.
    """

    def __init__(self, config: ResidualCriticConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.blocks = nn.Sequential(
            _DownBlock(config.in_channels, width, down=True, first=True),
            *(
                _DownBlock(width, width, down=True, first=False)
                for _ in range(halvings_to(config.size, 8) - 1)
            ),
            _DownBlock(width, width, down=False, first=False),
            _DownBlock(width, width, down=False, first=False),
        )
        self.output = nn.Linear(width, 1)
        if config.spectral_norm:
            normalize_spectra(self)

    def forward(self, x: Tensor) -> Tensor:
        """Values of images."""
        check_batch(self, x, self.config.in_channels, self.config.size)
        out: Tensor = self.output(F.relu(self.blocks(x)).sum((2, 3)))
        return out.squeeze(1)
