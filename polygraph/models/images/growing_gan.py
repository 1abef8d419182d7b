"""A generator and a critic that grow from 4 x 4 to the images' size while they are trained.

Source: Karras et al., "Progressive Growing of GANs for Improved Quality, Stability, and Variation",
ICLR 2018, sections 2 and 4 and table 2.

``growth`` says how many sizes a network works at: 1 is 4 x 4 alone, 4 is all up to 32 x 32, and
with 2.3 the layers of 16 x 16 are blended in by 0.3. Images have their full size always: a
generator repeats pixels, a critic averages them, so what is shown, measured and penalised does not
depend on the growth. What is not yet there costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph.models.images._images import (
    check_batch,
    check_channels,
    check_images,
    check_latent,
)
from polygraph.models.images._mapping import make_mapping, mapping_orders
from polygraph.models.images.latent import LATENTS
from polygraph.models.images.sizes import SIZE, check_size, sizes_of

LEVELS = len(sizes_of(SIZE))  #: of images of the usual size: 4 x 4, 8 x 8, 16 x 16, 32 x 32
_SLOPE = 0.2  # of the leaky ReLU


@dataclass(frozen=True)
class GrowingGeneratorConfig:
    """A `GrowingGenerator`.

    Attributes:
        latent_channels: size of z.
        out_channels: of the images: 1 or 3.
        channels: features at 4 x 4, 8 x 8, 16 x 16, ... up to the size of the images.
        mapping_order: order of an NCP that maps z first, or of several in succession; 0 for none.
        latent_distribution: of the numbers of z: ``normal``, N(0, 1), or ``uniform``, [-1, 1].
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    latent_channels: int = 128
    out_channels: int = 3
    channels: tuple[int, ...] = (128, 128, 64, 32)
    mapping_order: int | tuple[int, ...] = 0
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
        if not isinstance(self.mapping_order, int):
            object.__setattr__(self, "mapping_order", tuple(self.mapping_order))
        mapping_orders(self.mapping_order)


@dataclass(frozen=True)
class GrowingCriticConfig:
    """A `GrowingCritic`.

    Attributes:
        in_channels: of the images: 1 or 3.
        channels: features at the size of the images, half of it, ... down to 4 x 4.
        minibatch_deviation: give the last convolution one feature more, the standard deviation
            over the batch, averaged over features and pixels, as published. Values then depend on
            the whole batch, which a gradient penalty does not allow.
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    in_channels: int = 3
    channels: tuple[int, ...] = (32, 64, 128, 128)
    minibatch_deviation: bool = False
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("critic", self)
        object.__setattr__(self, "channels", tuple(self.channels))
        check_size("critic", self.size)
        check_channels("critic", "channels", self.channels, self.size)
        check_images("critic", "in_channels", self.in_channels)


def growth_at(step: int, steps: int, levels: int = LEVELS) -> float:
    """How far networks have grown: phases of one length, at a size and on to the next, by turns.

    Args:
        step: steps done.
        steps: after which all sizes are there; 0: from the first step on.
        levels: how many sizes there are.

    Returns:
        In [1, ``levels``].
    """
    phases = 2 * (levels - 1)
    done = phases * min(step / steps, 1.0) if steps else phases
    whole, part = divmod(done, 2)
    return 1 + whole + max(0.0, part - 1)


class _Equalized(nn.Module):
    """A linear map whose weights begin as N(0, 1) and are scaled to He's deviation when used."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, gain: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = math.sqrt(gain / (in_channels * kernel * kernel))
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class _PixelNorm(nn.Module):
    """Features of every pixel divided by their root mean square."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def _generator_layer(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [_Equalized(in_channels, out_channels, 3), nn.LeakyReLU(_SLOPE), _PixelNorm()]


def _repeated(x: Tensor, size: int) -> Tensor:
    return x if x.shape[-1] == size else F.interpolate(x, size=(size, size))


def _deviation_over_batch(x: Tensor) -> Tensor:
    """One number, as a feature of every pixel of every image: how much a batch varies."""
    centred = x - x.mean(0, keepdim=True)
    deviation = (centred.square().mean(0) + 1e-8).sqrt().mean()
    return deviation.expand(len(x), 1, *x.shape[2:])


class Growing(nn.Module):
    """What both networks share: how far they have grown, which a checkpoint keeps.

    Args:
        size: of the images.

    Attributes:
        sizes: height and width at every level, the smallest first.
        levels: at how many of them the network works.
    """

    growth: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.sizes = sizes_of(size)
        self.levels = len(self.sizes)
        self.register_buffer("growth", torch.tensor(float(self.levels)))

    @torch.no_grad()
    def grow_to(self, growth: float) -> None:
        """Work at ``ceil(growth)`` sizes, the last one blended in by what ``growth`` is beyond.

        Raises:
            ValueError: outside of 1 to the number of sizes.
        """
        most = len(self.sizes)
        if not 1 <= growth <= most:
            raise ValueError(f"grow_to: growth must be in [1, {most}], got {growth}")
        self.growth.fill_(growth)
        self.levels = math.ceil(torch.tensor(growth, dtype=self.growth.dtype).item())

    def _fade(self) -> Tensor:
        """Weight of the last size, in (0, 1], without a wait for the device."""
        return self.growth - (self.levels - 1)

    def _nothing_of(self, *unused: Iterable[nn.Module]) -> Tensor:
        """0, and a gradient of 0 for the parameters of modules that are not in use.

        Processes that train together need a gradient of every parameter at every growth.
        """
        total = torch.zeros_like(self.growth)
        for module in chain(*unused):
            for parameter in module.parameters():
                total = total + 0.0 * parameter.flatten()[0]
        return total

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.grow_to(float(self.growth))


class GrowingGenerator(Growing):
    """``[B, latent_channels]`` to ``[B, out_channels, size, size]``; grown entirely when built.

    z normalised to the sphere, a linear layer to 4 x 4 and a 3 x 3 convolution, then for each size
    repeated pixels and two 3 x 3 convolutions; leaky ReLU and `x / rms(x)` over a pixel's features
    after each; 1 x 1 to the image from the last size, blended with the one before.

    Values are not confined to [-1, 1], as published.

    Args:
        config: what to build.

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> generator = create_model("pi/progan/generator")
        >>> generator.grow_to(1.0)  # 4 x 4 at 0, 32 x 32 at the end
        >>> generator(torch.randn(2, generator.config.latent_channels)).shape
        torch.Size([2, 3, 32, 32])

    See Also:
        `GrowingCritic`, its critic.
    """

    def __init__(self, config: GrowingGeneratorConfig) -> None:
        super().__init__(config.size)
        self.config = config
        first = config.channels[0]
        self.mapping = make_mapping(config.latent_channels, config.mapping_order, "rms")
        self.normalize = _PixelNorm()
        places = self.sizes[0] ** 2
        self.input = _Equalized(config.latent_channels, places * first, 1, gain=2 / places)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.LeakyReLU(_SLOPE), _PixelNorm(), *_generator_layer(first, first))]
        )
        for before, width in pairwise(config.channels):
            self.blocks.append(
                nn.Sequential(
                    nn.Upsample(scale_factor=2),
                    *_generator_layer(before, width),
                    *_generator_layer(width, width),
                )
            )
        self.outputs = nn.ModuleList(
            _Equalized(width, config.out_channels, 1, gain=1.0) for width in config.channels
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        check_latent(self, z, self.config.latent_channels)
        if self.mapping is not None:
            z = self.mapping(z)
        start = self.sizes[0]
        x = self.input(self.normalize(z)[:, :, None, None]).view(len(z), -1, start, start)
        levels, blocks, outputs = self.levels, list(self.blocks), list(self.outputs)
        before = x
        for block in blocks[:levels]:
            before, x = x, block(x)
        image: Tensor = outputs[levels - 1](x)
        if levels > 1:
            small = _repeated(outputs[levels - 2](before), image.shape[-1])
            image = torch.lerp(small, image, self._fade())
        image = image + self._nothing_of(
            blocks[levels:], outputs[levels:], outputs[: max(0, levels - 2)]
        )
        return _repeated(image, self.config.size)


class GrowingCritic(Growing):
    """``[B, in_channels, size, size]`` to ``[B]``; grown entirely when built.

    1 x 1 from the image, averaged to the largest size in use, and from the next smaller one, into
    which it is blended; for each size two 3 x 3 convolutions with leaky ReLU and a mean over 2 x 2;
    at 4 x 4 a 3 x 3 convolution, a linear layer, leaky ReLU, linear.

    The published standard deviation over the batch is an option: without it each value depends on
    one image, which a gradient penalty per sample needs.

    Args:
        config: what to build.

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> create_model("pi/progan/critic")(torch.randn(4, 3, 32, 32)).shape
        torch.Size([4])

    See Also:
        `GrowingGenerator`.
    """

    def __init__(self, config: GrowingCriticConfig) -> None:
        super().__init__(config.size)
        self.config = config
        # From the smallest size on, as the networks grow.
        widths = config.channels[::-1]
        self.inputs = nn.ModuleList(_Equalized(config.in_channels, width, 1) for width in widths)
        self.blocks = nn.ModuleList()
        for width, after in zip(widths[1:], widths, strict=False):
            self.blocks.append(
                nn.Sequential(
                    _Equalized(width, width, 3),
                    nn.LeakyReLU(_SLOPE),
                    _Equalized(width, after, 3),
                    nn.LeakyReLU(_SLOPE),
                    nn.AvgPool2d(2),
                )
            )
        last = widths[0]
        more = int(config.minibatch_deviation)
        self.last = nn.Sequential(
            _Equalized(last + more, last, 3), nn.LeakyReLU(_SLOPE), nn.Flatten(1)
        )
        self.values = nn.Sequential(
            _Equalized(self.sizes[0] ** 2 * last, last, 1),
            nn.LeakyReLU(_SLOPE),
            _Equalized(last, 1, 1, gain=1.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Values of images."""
        check_batch(self, x, self.config.in_channels, self.config.size)
        level, blocks, inputs = self.levels - 1, list(self.blocks), list(self.inputs)
        largest = level == len(self.sizes) - 1
        image = x if largest else F.avg_pool2d(x, self.config.size // self.sizes[level])
        out = F.leaky_relu(inputs[level](image), _SLOPE)
        if level:
            small = F.leaky_relu(inputs[level - 1](F.avg_pool2d(image, 2)), _SLOPE)
            out = torch.lerp(small, blocks[level - 1](out), self._fade())
        for block in reversed(blocks[: max(0, level - 1)]):
            out = block(out)
        if self.config.minibatch_deviation:
            out = torch.cat([out, _deviation_over_batch(out)], 1)
        values: Tensor = self.values(self.last(out)[:, :, None, None])
        return values.flatten() + self._nothing_of(
            blocks[level:], inputs[level + 1 :], inputs[: max(0, level - 1)]
        )
