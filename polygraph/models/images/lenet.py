"""LeNet: a small image classifier, trained on the data set itself to be the extractor of scores.

Inception's features are of photographs; what a network that was trained on clothes or digits sees
in clothes or digits is the better measure there, and needs no download. Its scores must not be
compared with Inception's, which is why they carry its name and its data set's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polygraph._checks import check_numbers, check_positive
from polygraph._inputs import check_dtype, check_tensors


@dataclass(frozen=True)
class LeNetConfig:
    """What a `LeNet` is made of.

    Attributes:
        in_channels: of the images.
        size: height and width of the images, a multiple of 4.
        num_classes: K.
        channels: of the two convolutions.
        hidden_channels: of the first hidden layer.
        num_features: of the second, the features that are compared.
    """

    in_channels: int = 1
    size: int = 32
    num_classes: int = 10
    channels: tuple[int, int] = (16, 32)
    hidden_channels: int = 120
    num_features: int = 84

    def __post_init__(self) -> None:
        """Refuse what no network can be made of; lists (from JSON) become tuples."""
        check_numbers("LeNetConfig", self)
        channels = tuple(self.channels)
        if len(channels) != 2:
            raise ValueError(f"LeNetConfig: channels must be two numbers, got {list(channels)}")
        object.__setattr__(self, "channels", channels)
        names = ("in_channels", "size", "num_classes", "hidden_channels", "num_features")
        check_positive("LeNetConfig", **{name: getattr(self, name) for name in names})
        check_positive("LeNetConfig", **{f"channels[{i}]": c for i, c in enumerate(channels)})
        if self.size % 4:
            raise ValueError(f"LeNetConfig: size must be a multiple of 4, got {self.size}")
        if self.num_classes < 2:
            raise ValueError(f"LeNetConfig: num_classes must be at least 2, got {self.num_classes}")


class LeNet(nn.Module):
    """Two 5 x 5 convolutions with pooling, two hidden layers of 120 and 84, ReLU.

    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE
    1998, figure 2. We depart from it: padded convolutions, more channels (16 and 32 for 6 and 16),
    maxima for means, ReLU for tanh, a linear last layer.

    Args:
        config: sizes.
        label: what scores taken through it are labelled with, see `polygraph.metrics.image_scores`.

    Call it with images ``[B, in_channels, size, size]`` in [-1, 1], of its weights' dtype; it
    returns logits ``[B, num_classes]``. Deterministic.

    Raises:
        ValueError: the images have another shape.

    Example:
        >>> import torch
        >>> from polygraph.models import LeNet, LeNetConfig
        >>> features, logits = LeNet(LeNetConfig()).extract(torch.rand(2, 1, 32, 32))
        >>> features.shape, logits.shape
        (torch.Size([2, 84]), torch.Size([2, 10]))

    See Also:
        `InceptionV3`; `polygraph.metrics.image_scores`.
    """

    def __init__(self, config: LeNetConfig, label: str = "LeNet") -> None:
        super().__init__()
        self.config, self.label = config, label
        first, second = config.channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(config.in_channels, first, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = nn.Sequential(
            nn.Linear(second * (config.size // 4) ** 2, config.hidden_channels),
            nn.ReLU(),
            nn.Linear(config.hidden_channels, config.num_features),
            nn.ReLU(),
        )
        self.last = nn.Linear(config.num_features, config.num_classes)
        # KID's kernel, (xᵀy / F + 1)³, is made for features of size 1; training sets this.
        self.feature_scale: Tensor
        self.register_buffer("feature_scale", torch.ones(()))

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of ``images [B, in_channels, size, size]``.

        Returns:
            Features ``[B, num_features]``, 0 or more, times `feature_scale` (a buffer: after
            training their mean square is 1); logits ``[B, num_classes]``.
        """
        check_tensors(self.label, images=images)
        want = (self.config.in_channels, self.config.size, self.config.size)
        if images.dim() != 4 or images.shape[1:] != want:
            raise ValueError(
                f"{self.label}: images must have shape [B, {want[0]}, {want[1]}, {want[2]}], got "
                f"{list(images.shape)}"
            )
        check_dtype(self.label, "images", images, self.last.weight, of="model")
        features = self.hidden(torch.flatten(self.convolutions(images), 1))
        return features * self.feature_scale, self.last(features)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of ``images [B, in_channels, size, size]``."""
        return self.extract(images)[1]
