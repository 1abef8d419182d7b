"""A generator and a critic of images with graph convolutions in feature space.

The generator's second convolution at 16 x 16 and above may be a graph convolution, whose
neighbours are the pixels that look most alike, or a 3 x 3 convolution followed by self-attention,
the peer that also joins distant pixels. The critic may have the same layers.

Source: M. D'Amico, "Image generation using deep adversarial generative models on graphs",
Politecnico di Torino 2020, chapters 3 and 4; its graph convolutions are those of Valsesia,
Fracastoro and Magli ("Learning Localized Generative Models for 3D Point Clouds via Graph
Convolution", ICLR 2019; "Deep Graph-Convolutional Image Denoising", IEEE TIP 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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
    normalize_spectra,
)
from polygraph.models.images.latent import LATENTS
from polygraph.models.images.sizes import SIZE, check_size, sizes_of
from polygraph.nn.pixel_graph import KINDS, MERGES, PixelGraph, check_kind

GRAPH_KINDS = ("none", *KINDS, "attention")
NORMS = ("batch", "none")
_SLOPE = 0.2  # of the leaky ReLU


@dataclass(frozen=True)
class GraphGeneratorConfig:
    """A `GraphGenerator`.

    Attributes:
        latent_channels: size of z.
        out_channels: of the images: 1 or 3.
        channels: features at 4 x 4, 8 x 8, 16 x 16, ... up to the size of the images.
        graph: what the second layer is at the sizes of ``graph_sizes``: ``none`` (a 3 x 3
            convolution as elsewhere), ``attention``, or a kind of
            `polygraph.nn.NonLocalGraphConv2d`: ``edge-sum``, ``edge-max``, ``ecc``, ``light``, or
            ``edge-mean``, which is not in the thesis.
        graph_sizes: where; of the sizes from the third on: 16 and 32 where images are 32 x 32.
        k: neighbours of each pixel.
        rank: of ``light``.
        replicas: of ``light``, where they divide the features; elsewhere its matrices are full.
        delta: of the weights ``exp(-d² / delta)`` of neighbours, for ``ecc`` and ``light`` (10 in
            the presets); None weighs all alike.
        coordinates: whether graph convolutions see each pixel's row and column.
        norm: ``batch`` or ``none``, after every layer but the last.
        merge: how the local and the non-local part meet; see `polygraph.nn.NonLocalGraphConv2d`.
        pixel_graph: which pixels are neighbours; see `polygraph.nn.PixelGraph`.
        metric: what near means; see `polygraph.nn.PixelGraph`.
        radius: of ``pixel_graph="radius"``.
        pooled_keys: of ``attention``: see `SelfAttention2d`.
        latent_distribution: of the numbers of z: ``normal``, N(0, 1), or ``uniform``, [-1, 1].
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    latent_channels: int = 132
    out_channels: int = 3
    channels: tuple[int, ...] = (528, 264, 132, 66)
    graph: str = "none"
    graph_sizes: tuple[int, ...] = (16, 32)
    k: int = 8
    rank: int = 11
    replicas: int = 3
    delta: float | None = None
    coordinates: bool = True
    norm: str = "batch"
    merge: str = "mean"
    pixel_graph: str = "knn"
    metric: str = "euclidean"
    radius: float | None = None
    pooled_keys: bool = False
    latent_distribution: str = "normal"
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("generator", self)
        check_choice("generator", "latent_distribution", self.latent_distribution, LATENTS)
        for name in ("channels", "graph_sizes"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_positive("generator", latent_channels=self.latent_channels)
        check_size("generator", self.size)
        check_channels("generator", "channels", self.channels, self.size)
        check_images("generator", "out_channels", self.out_channels)
        check_choice("generator", "norm", self.norm, NORMS)
        _check_graph("generator", self)


@dataclass(frozen=True)
class GraphCriticConfig:
    """A `GraphCritic`.

    Attributes:
        in_channels: of the images: 1 or 3.
        channels: features at half the size of the images, a quarter, ... down to 4 x 4.
        graph: kind of an additional layer at the sizes of ``graph_sizes``; see
            `GraphGeneratorConfig`.
        graph_sizes: where: 16 is after the convolution that leads there; the size of the images
            before the first one, from the image itself to half of the first features.
        k: neighbours of each pixel.
        rank: of ``light``.
        replicas: see `GraphGeneratorConfig`.
        delta: see `GraphGeneratorConfig`.
        coordinates: see `GraphGeneratorConfig`. Off, because a gradient penalty cannot hold what
            they tell: where neighbours lie changes by jumps, and its gradient is 0. A critic
            that saw it was measured to grow without bound.
        spectral_norm: divide each weight by its largest singular value; not with graph
            convolutions.
        merge: see `GraphGeneratorConfig`; so are the other three.
        pixel_graph: which pixels are neighbours.
        metric: what near means.
        radius: of ``pixel_graph="radius"``.
        pooled_keys: of ``attention``.
        size: height and width of the images: 4, 5, 6 or 7 times a power of two.
    """

    in_channels: int = 3
    channels: tuple[int, ...] = (132, 264, 528)
    graph: str = "none"
    graph_sizes: tuple[int, ...] = (16,)
    k: int = 8
    rank: int = 11
    replicas: int = 3
    delta: float | None = None
    coordinates: bool = False
    spectral_norm: bool = False
    merge: str = "mean"
    pixel_graph: str = "knn"
    metric: str = "euclidean"
    radius: float | None = None
    pooled_keys: bool = False
    size: int = SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        check_numbers("critic", self)
        for name in ("channels", "graph_sizes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_size("critic", self.size)
        check_channels("critic", "channels", self.channels, self.size, skip=1)
        check_images("critic", "in_channels", self.in_channels)
        _check_graph("critic", self)
        if self.spectral_norm and self.graph not in ("none", "attention"):
            raise ValueError(
                "critic: spectral_norm is for convolutions, graph must be none or attention with "
                f"it, got {self.graph!r}"
            )


def _check_graph(owner: str, config: GraphGeneratorConfig | GraphCriticConfig) -> None:
    known = sizes_of(config.size)[2:]
    if not known and config.graph != "none":
        raise ValueError(f"{owner}: size must be at least 16 for a graph layer, got {config.size}")
    if not set(config.graph_sizes) <= {*known} or bool(known) > bool(config.graph_sizes):
        of = " and ".join(map(str, known))
        raise ValueError(f"{owner}: graph_sizes must be of {of}, got {config.graph_sizes}")
    check_graph_layer(owner, config, min(config.graph_sizes, default=config.size))


def check_graph_layer(owner: str, config: Any, size: int) -> None:
    """Refuse settings of which `graph_layer` makes none.

    Args:
        owner: begins the message.
        config: has the fields of `GraphGeneratorConfig` that are of the layer, from ``graph`` on.
        size: height and width of the smallest image that a layer sees.

    Raises:
        ValueError: names the setting.
    """
    check_kind(owner, "graph", config.graph, GRAPH_KINDS)
    check_positive(owner, k=config.k, rank=config.rank, replicas=config.replicas)
    candidates = size**2 - 9
    if config.k > candidates:
        raise ValueError(
            f"{owner}: k must be at most {candidates}, the pixels outside of a 3 x 3 window, got "
            f"{config.k}"
        )
    if config.delta is not None:
        if config.graph not in ("ecc", "light"):
            raise ValueError(f"{owner}: delta is for graph ecc or light, got {config.graph!r}")
        if not (config.delta > 0 and math.isfinite(config.delta)):
            raise ValueError(f"{owner}: delta must be positive and finite, got {config.delta}")
    check_choice(owner, "merge", config.merge, MERGES)
    joined = PixelGraph(config.k, config.pixel_graph, config.metric, config.radius)
    if config.graph not in KINDS and (config.merge != "mean" or joined != PixelGraph(config.k)):
        raise ValueError(
            f"{owner}: merge, pixel_graph, metric and radius are for graph convolutions, not for "
            f"graph {config.graph!r}"
        )
    if config.pooled_keys and config.graph != "attention":
        raise ValueError(f"{owner}: pooled_keys is for graph attention, not for {config.graph!r}")
    if config.metric == "projected" and config.delta is None:
        raise ValueError(f"{owner}: metric 'projected' needs delta")


class SelfAttention2d(nn.Module):
    """Self-attention over the pixels of an image, added to it with a weight that starts at 0.

    ``x + γ V(h softmax(fᵀ g))``: queries f and keys g with C/8 channels, values h with C/2; the
    sum goes over all positions.

    Source: Zhang et al., "Self-Attention Generative Adversarial Networks", ICML 2019, equations 1
    to 3; D'Amico's equations 4.1 to 4.3.

    Args:
        channels: C.
        pooled_keys: take the largest of keys and values in every 2 x 2, as the code of Zhang et al.
            has it: a quarter of the positions.

    Call it with ``[B, C, H, W]`` (H and W even where keys are pooled); the output has that shape.
    """

    def __init__(self, channels: int, pooled_keys: bool = False) -> None:
        super().__init__()
        self.pooled_keys = pooled_keys
        check_positive("SelfAttention2d", channels=channels)
        self.inner, self.values = max(1, channels // 8), max(1, channels // 2)
        self.query = nn.Conv2d(channels, self.inner, 1, bias=False)
        self.key = nn.Conv2d(channels, self.inner, 1, bias=False)
        self.value = nn.Conv2d(channels, self.values, 1, bias=False)
        self.output = nn.Conv2d(self.values, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        return x + self.attended(x, self.attention(x))

    def attention(self, x: Tensor) -> Tensor:
        """How much of each position every pixel takes: ``[B, H W, positions]``, rows add up to 1.

        Positions are pixels, or blocks of 2 x 2 where keys are pooled, row by row.
        """
        query, key = self.query(x).flatten(2), self._pooled(self.key(x))
        # Spelled out: the fused kernels have no second derivative.
        return torch.softmax(query.transpose(1, 2) @ key, dim=-1)

    def attended(self, x: Tensor, weight: Tensor) -> Tensor:
        """What is added to ``x`` with these weights of positions, of the shape of ``x``."""
        found = self._pooled(self.value(x)) @ weight.transpose(1, 2)
        out: Tensor = self.gamma * self.output(found.view(len(x), -1, *x.shape[2:]))
        return out

    def _pooled(self, x: Tensor) -> Tensor:
        return (F.max_pool2d(x, 2) if self.pooled_keys else x).flatten(2)


def graph_layer(config: Any, in_channels: int, out_channels: int) -> nn.Module:
    """The layer that ``config.graph`` names: ``[B, in_channels, H, W]`` to as many pixels."""
    if config.graph == "none":
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)
    if config.graph == "attention":
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        return nn.Sequential(conv, SelfAttention2d(out_channels, config.pooled_keys))
    from polygraph.nn.nonlocal_conv import NonLocalGraphConv2d

    return NonLocalGraphConv2d(
        in_channels,
        out_channels,
        config.k,
        config.graph,
        rank=config.rank,
        replicas=(_divides(config, in_channels, out_channels), _divides(config, in_channels)),
        delta=config.delta,
        coordinates=config.coordinates,
        merge=config.merge,
        graph=config.pixel_graph,
        metric=config.metric,
        radius=config.radius,
    )


def _divides(config: Any, *channels: int) -> int:
    """The replicas that the configuration asks for, where they divide the channels."""
    return config.replicas if all(c % config.replicas == 0 for c in channels) else 1


class GraphGenerator(nn.Module):
    """Images from z: ``[B, latent_channels]`` to ``[B, out_channels, size, size]`` in (-1, 1).

    A linear layer to 4 x 4; for each size: nearest-neighbour upsampling by 2, a 3 x 3 convolution
    to fewer features, a second layer at the same width; 1 x 1 to the image; tanh. The second layer
    is a 3 x 3 convolution, or the graph convolution of `polygraph.nn.NonLocalGraphConv2d` where the
    configuration says so.

    Source: D'Amico, Politecnico di Torino 2020, section 4.2 and figure 4.2. Not in its text: leaky
    ReLU (0.2), and batch normalisation as in WGAN-GP's generator.

    Args:
        config: what to build.

    Example:
        >>> import torch
        >>> from polygraph.models import GraphGenerator, GraphGeneratorConfig
        >>> config = GraphGeneratorConfig(
        ...     latent_channels=16, channels=(16, 8, 8, 8), graph="edge-sum", graph_sizes=(16,), k=4
        ... )
        >>> GraphGenerator(config)(torch.randn(2, 16)).shape
        torch.Size([2, 3, 32, 32])

    See Also:
        `GraphCritic`, its critic; `polygraph.nn.NonLocalGraphConv2d`, its layer.
    """

    def __init__(self, config: GraphGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        first, *rest = config.channels
        self.start = sizes_of(config.size)[0]
        self.input = nn.Linear(config.latent_channels, self.start**2 * first)
        self.input_norm = _norm(config.norm, first)
        self.stages = nn.ModuleList()
        before, size = first, self.start
        for width in rest:
            size *= 2
            if config.graph != "none" and size in config.graph_sizes:
                second = graph_layer(config, width, width)
            else:
                second = nn.Conv2d(width, width, 3, padding=1)
            self.stages.append(
                nn.Sequential(
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(before, width, 3, padding=1),
                    _norm(config.norm, width),
                    nn.LeakyReLU(_SLOPE),
                    second,
                    _norm(config.norm, width),
                    nn.LeakyReLU(_SLOPE),
                )
            )
            before = width
        self.output = nn.Conv2d(before, config.out_channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        check_latent(self, z, self.config.latent_channels)
        x = self.input(z).view(len(z), -1, self.start, self.start)
        x = F.leaky_relu(self.input_norm(x), _SLOPE)
        for stage in self.stages:
            x = stage(x)
        return torch.tanh(self.output(x))


class GraphCritic(nn.Module):
    """A number for each image: ``[B, in_channels, size, size]`` to ``[B]``.

    5 x 5 convolutions of stride 2 with leaky ReLU (0.2), no normalisation over the batch, one
    linear output; additional layers on graphs where the configuration says so. Differentiable
    twice, as a gradient penalty needs.

    Source: D'Amico, Politecnico di Torino 2020, section 4.2 and figure 4.1; the features are ours.

    Args:
        config: what to build.

    Example:
        >>> import torch
        >>> from polygraph.models import GraphCritic, GraphCriticConfig
        >>> GraphCritic(GraphCriticConfig(channels=(8, 16, 32)))(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2])

    See Also:
        `GraphGenerator`.
    """

    def __init__(self, config: GraphCriticConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before, size = config.in_channels, config.size
        if config.graph != "none" and size in config.graph_sizes:
            half = max(1, config.channels[0] // 2)
            layers += [graph_layer(config, before, half), nn.LeakyReLU(_SLOPE)]
            before = half
        for width in config.channels:
            layers += [nn.Conv2d(before, width, 5, stride=2, padding=2), nn.LeakyReLU(_SLOPE)]
            before, size = width, size // 2
            if config.graph != "none" and size in config.graph_sizes:
                layers += [graph_layer(config, width, width), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(before * size**2, 1)
        if config.spectral_norm:
            normalize_spectra(self)

    def forward(self, x: Tensor) -> Tensor:
        """Values of images."""
        check_batch(self, x, self.config.in_channels, self.config.size)
        out: Tensor = self.output(self.layers(x).flatten(1))
        return out.squeeze(1)


_NORM: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
}


def _norm(kind: str, channels: int) -> nn.Module:
    return _NORM[kind](channels)
