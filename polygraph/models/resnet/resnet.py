"""Residual networks of images, first-order and polynomial: one configuration for all of them.

A first-order network and its polynomial twin differ in ``order`` and ``variant`` alone. What each
variant computes is in `polygraph.nn.PolyResidual`; which networks the papers have, in
`polygraph.models.resnet.presets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.models.resnet.branches import (
    Activation,
    basic_branch,
    bottleneck_branch,
    ir_branch,
    shortcut,
    stem,
)
from polygraph.models.resnet.regularize import DropBlock2d
from polygraph.nn.poly_residual import MOST_ORDER, PRODUCT_NORMS, VARIANTS, PolyResidual

BLOCKS: dict[str, Callable[..., nn.Sequential]] = {
    "basic": basic_branch,
    "bottleneck": bottleneck_branch,
    "ir": ir_branch,
}
_EXPANSION = {"basic": 1, "bottleneck": 4, "ir": 1}
STEMS = ("cifar", "imagenet")
ACTIVATIONS: dict[str, Activation] = {
    "relu": lambda channels: nn.ReLU(inplace=True),
    "prelu": nn.PReLU,
    "none": lambda channels: nn.Identity(),
}


@dataclass(frozen=True)
class ResNetConfig:
    """A `ResNet`.

    Attributes:
        in_channels: of the images.
        size: height and width of the images. Only ``ir`` is made for a size; all take any other.
        num_classes: K.
        width: features of the stem and the first stage; each further stage has twice as many
            (bottlenecks four times those).
        depths: blocks of each stage. The first stage keeps the size (``ir``: halves it, too), each
            further one halves it.
        block: ``basic``, ``bottleneck`` or ``ir`` (of face recognition).
        stem: ``cifar`` or ``imagenet``.
        activation: ``relu``, ``prelu`` or ``none``: in the stem, in the branches, behind the sums
            (not of ``ir``).
        order: of each block as a polynomial, 1 to 5; 1 is the ordinary residual network.
        variant: what stands around the products, see `polygraph.nn.PolyResidual`.
        norm: of the products instead of the variant's: ``none``, ``batch``, ``rms`` or ``tanh``.
        embedding_channels: of ``ir``: size of the embedding.
        dropout: of ``ir``: share of the features before the embedding.
        embedding_only: without the last linear layer: the network's output is the embedding.
        stage_pool: max-pooling of 3 x 3 with stride 1 after all stages but the last.
        drop_block: share of features that DropBlock zeroes after the first two stages.
        instance_share: of ``basic``: share of the channels of a block's first normalisation that
            are normalised image by image, in all stages but the last.
    """

    in_channels: int = 3
    size: int = 32
    num_classes: int = 10
    width: int = 64
    depths: tuple[int, ...] = (2, 2, 2, 2)
    block: str = "basic"
    stem: str = "cifar"
    activation: str = "relu"
    order: int = 1
    variant: str = "pinet"
    norm: str | None = None
    embedding_channels: int = 512
    dropout: float = 0.4
    embedding_only: bool = False
    stage_pool: bool = False
    drop_block: float = 0.0
    instance_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no network can be made of; lists (from JSON) become tuples."""
        owner = "ResNetConfig"
        check_numbers(owner, self)
        object.__setattr__(self, "depths", tuple(self.depths))
        names = ("in_channels", "size", "width", "order", "embedding_channels")
        check_positive(owner, **{name: getattr(self, name) for name in names})
        if not self.depths:
            raise ValueError(f"{owner}: depths must name at least one stage, got []")
        for stage, depth in enumerate(self.depths):
            check_positive(owner, **{f"depths[{stage}]": depth})
        for name, most in (("width", 2**16), ("order", MOST_ORDER), ("embedding_channels", 2**16)):
            if getattr(self, name) > most:
                raise ValueError(
                    f"{owner}: {name} must be at most {most}, got {getattr(self, name)}"
                )
        if max(self.depths) > 2**10 or len(self.depths) > 8:
            raise ValueError(
                f"{owner}: depths must be at most 8 stages of at most 1024 blocks, got "
                f"{list(self.depths)}"
            )
        if self.num_classes < 2:
            raise ValueError(f"{owner}: num_classes must be at least 2, got {self.num_classes}")
        self._check_choices(owner)
        for name in ("dropout", "drop_block", "instance_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{owner}: {name} must be in [0, 1), got {getattr(self, name)}")
        if 0 < self.instance_share and not 0 < int(self.width * self.instance_share):
            raise ValueError(
                f"{owner}: instance_share {self.instance_share} of width {self.width} is no channel"
            )

    def _check_choices(self, owner: str) -> None:
        check_choice(owner, "block", self.block, BLOCKS)
        check_choice(owner, "stem", self.stem, STEMS)
        check_choice(owner, "activation", self.activation, ACTIVATIONS)
        check_choice(owner, "variant", self.variant, VARIANTS)
        if self.norm is not None:
            check_choice(owner, "norm", self.norm, PRODUCT_NORMS)
        if self.instance_share and self.block != "basic":
            raise ValueError(
                f"{owner}: instance_share is of basic blocks, got block {self.block!r}"
            )

    @property
    def feature_channels(self) -> int:
        """Channels of the last stage."""
        return (self.width << (len(self.depths) - 1)) * _EXPANSION[self.block]


class ResNet(nn.Module):
    """A residual network of images, whose blocks may be polynomials.

    Stem, stages of residual blocks, the mean over all pixels, a linear layer. With ``ir`` the
    features of all pixels go through BatchNorm, dropout, a linear layer and BatchNorm to the
    embedding, of which a linear layer makes the logits.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the polynomials
    and their sources: `polygraph.nn.PolyResidual`. Convolutions start as He et al. have it, those
    of R-PolyNets with a standard deviation of 4 / √fan_in.

    Args:
        config: what to build.

    Call it with images ``[B, in_channels, H, W]`` in [-1, 1], of its weights' dtype; it returns
    logits ``[B, num_classes]``, or the embedding with ``embedding_only``.

    Attributes:
        stem: see `ResNetConfig`.
        blocks: the residual blocks, one after the other, with what stands between stages.
        head: makes the embedding of the last features.
        output: makes the logits of the embedding.

    Raises:
        ValueError: the images have another shape or dtype.

    Example:
        >>> import torch
        >>> from polygraph.models import create_model
        >>> model = create_model("prodpoly-2211", width=8)
        >>> model(torch.rand(2, 3, 32, 32)).shape, model.embed(torch.rand(2, 3, 24, 24)).shape
        (torch.Size([2, 10]), torch.Size([2, 64]))
        >>> create_model("pinet18-noact", width=4, depths=(1, 1, 1, 1)).degree  # in eval mode
        16

    See Also:
        `polygraph.nn.PolyResidual`, its block; `polygraph.analysis.affine_map`, which gives a
        linear one as one matrix.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        activation = ACTIVATIONS[config.activation]
        self.stem = stem(config.stem, config.in_channels, config.width, activation)
        self.blocks = nn.Sequential(*self._stages(activation))
        self.head, channels = self._head()
        self.output = (
            nn.Identity() if config.embedding_only else nn.Linear(channels, config.num_classes)
        )
        self._initialise()

    def _stages(self, activation: Activation) -> Iterator[nn.Module]:
        """The blocks, and what stands between the stages."""
        config = self.config
        before, last = config.width, len(config.depths) - 1
        for stage, depth in enumerate(config.depths):
            after = config.width * 2**stage * _EXPANSION[config.block]
            for number in range(depth):
                stride = 2 if number == 0 and (stage or config.block == "ir") else 1
                share = config.instance_share if stage < last else 0.0
                branch = BLOCKS[config.block](before, after, stride, activation, share)
                yield PolyResidual(
                    branch,
                    config.order,
                    config.variant,
                    norm=config.norm,
                    activation=nn.Identity() if config.block == "ir" else activation(after),
                    shortcut=shortcut(before, after, stride),
                    channels=after,
                )
                before = after
            if config.stage_pool and stage < last:
                yield nn.MaxPool2d(3, 1, 1)
            if config.drop_block and stage < min(2, last):
                yield DropBlock2d(config.drop_block)

    def _head(self) -> tuple[nn.Sequential, int]:
        """What makes the embedding, and its size."""
        config, channels = self.config, self.config.feature_channels
        if config.block != "ir":
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels
        halvings = len(config.depths) + (2 if config.stem == "imagenet" else 0)
        side = math.ceil(config.size / 2**halvings)
        return nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Dropout(config.dropout),
            nn.AdaptiveAvgPool2d(side),
            nn.Flatten(),
            nn.Linear(channels * side**2, config.embedding_channels),
            nn.BatchNorm1d(config.embedding_channels),
        ), config.embedding_channels

    def _initialise(self) -> None:
        """Convolutions as the sources have them."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if self.config.variant == "r-polynet":
                    nn.init.normal_(module.weight, std=4 / math.sqrt(module.weight[0].numel()))
                else:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def degree(self) -> int | None:
        """The degree of the logits in the images in evaluation mode, None of no polynomial."""
        plain_stem = self.config.activation == "none" and self.config.stem == "cifar"
        if not plain_stem or self.config.stage_pool:
            return None
        degree = 1
        for block in self.blocks:
            if isinstance(block, PolyResidual):
                if block.degree is None:
                    return None
                degree *= block.degree
        return degree

    def embed(self, images: Tensor) -> Tensor:
        """The embedding ``[B, F]`` of images ``[B, in_channels, H, W]``."""
        check_tensors("ResNet", images=images)
        channels = self.config.in_channels
        if images.dim() != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
            raise ValueError(
                f"ResNet: images must have shape [B, {channels}, H, W], got {list(images.shape)}"
            )
        weight = cast(nn.Conv2d, self.stem[0]).weight
        check_dtype("ResNet", "images", images, weight, of="model")
        images = images.contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.head(self.blocks(self.stem(images))))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of images, or their embedding."""
        return cast(Tensor, self.output(self.embed(images)))
