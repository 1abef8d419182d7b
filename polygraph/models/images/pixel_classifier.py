"""A small classifier of images whose middle layers may be graph convolutions: a test bed for them.

What a graph layer does to a generator is seen through a game of two networks, and only in scores.
Here it stands in a plain convolutional classifier, where loss and accuracy tell at once, and each
part of it (coordinates, weights of edges, merge, graph, distance) is an option of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from polygraph._checks import check_numbers, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.models.images.graph_gan import check_graph_layer, graph_layer

_SLOPE = 0.2  # of the leaky ReLU
_STAGES = 3


@dataclass(frozen=True)
class PixelClassifierConfig:
    """A `PixelClassifier`.

    Attributes:
        in_channels: of the images.
        size: height and width of the images, a multiple of 4 and at least 8.
        num_classes: K.
        width: features of the first stage; the second has twice, the third four times as many. A
            multiple of 3 for ``light``, whose replicas must divide it.
        graph: what the second layer of the first two stages is: ``none`` (a 3 x 3 convolution, as
            in the third), ``attention``, or a kind of `polygraph.nn.NonLocalGraphConv2d`:
            ``edge-sum``, ``edge-max``, ``edge-mean``, ``ecc``, ``light``.
        k: neighbours of each pixel.
        rank: of ``light``.
        replicas: of ``light``, where they divide the features; elsewhere its matrices are full.
        delta: of the weights ``exp(-d² / delta)`` of neighbours, for ``ecc`` and ``light`` (10 in
            the presets); None weighs all alike.
        coordinates: whether graph convolutions see each pixel's row and column.
        merge: how the local and the non-local part meet; see `polygraph.nn.NonLocalGraphConv2d`.
        pixel_graph: which pixels are neighbours; see `polygraph.nn.PixelGraph`.
        metric: what near means; see `polygraph.nn.PixelGraph`.
        radius: of ``pixel_graph="radius"``.
        pooled_keys: of ``attention``: see `polygraph.models.images.graph_gan.SelfAttention2d`.
    """

    in_channels: int = 3
    size: int = 32
    num_classes: int = 10
    width: int = 66
    graph: str = "none"
    k: int = 8
    rank: int = 11
    replicas: int = 3
    delta: float | None = None
    coordinates: bool = True
    merge: str = "mean"
    pixel_graph: str = "knn"
    metric: str = "euclidean"
    radius: float | None = None
    pooled_keys: bool = False

    def __post_init__(self) -> None:
        """Refuse what no network can be made of."""
        owner = "PixelClassifierConfig"
        check_numbers(owner, self)
        check_positive(owner, in_channels=self.in_channels, width=self.width)
        if self.size < 8 or self.size % 4:
            raise ValueError(
                f"{owner}: size must be a multiple of 4 and at least 8, got {self.size}"
            )
        if self.num_classes < 2:
            raise ValueError(f"{owner}: num_classes must be at least 2, got {self.num_classes}")
        check_graph_layer(owner, self, self.size // 2)


class PixelClassifier(nn.Module):
    """Three stages of two 3 x 3 convolutions, the mean over all pixels, a linear layer.

    Features double from stage to stage, and a stride of 2 halves the sides; batch normalisation and
    leaky ReLU (0.2) after every layer. In the first two stages the second layer is what the
    configuration says: a convolution, a graph convolution or self-attention.

    Source: the experiment that D'Amico, "Image generation using deep adversarial generative models
    on graphs", Politecnico di Torino 2020, proposes in chapter 5; sizes and stages are ours.

    Args:
        config: what to build.

    Call it with images ``[B, in_channels, size, size]`` in [-1, 1], of its weights' dtype; it
    returns logits ``[B, num_classes]``.

    Raises:
        ValueError: the images have another shape.

    Example:
        >>> import torch
        >>> from polygraph.models import PixelClassifier, PixelClassifierConfig
        >>> config = PixelClassifierConfig(width=6, graph="edge-sum", k=4)
        >>> PixelClassifier(config)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    See Also:
        `polygraph.nn.NonLocalGraphConv2d`, the layer; `GraphGenerator`, which it is made for;
        `polygraph.tasks.images`, which trains it.
    """

    def __init__(self, config: PixelClassifierConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = config.in_channels
        for stage in range(_STAGES):
            width, stride = config.width << stage, 1 if stage == 0 else 2
            last = stage == _STAGES - 1
            second = (
                nn.Conv2d(width, width, 3, padding=1) if last else graph_layer(config, width, width)
            )
            for layer in (nn.Conv2d(before, width, 3, stride, padding=1), second):
                layers += [layer, nn.BatchNorm2d(width), nn.LeakyReLU(_SLOPE)]
            before = width
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(before, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of ``images [B, in_channels, size, size]``."""
        check_tensors("PixelClassifier", images=images)
        want = (self.config.in_channels, self.config.size, self.config.size)
        if images.dim() != 4 or images.shape[1:] != want:
            raise ValueError(
                f"PixelClassifier: images must have shape [B, {want[0]}, {want[1]}, {want[2]}], "
                f"got {list(images.shape)}"
            )
        check_dtype("PixelClassifier", "images", images, self.output.weight, of="model")
        out: Tensor = self.output(self.layers(images).mean((2, 3)))
        return out
