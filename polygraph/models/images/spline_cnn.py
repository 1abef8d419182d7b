"""Small piecewise affine classifiers of images: convolutions, maxima, a mean, templates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph._inputs import check_dtype, check_tensors

# kernel and features of each convolution; None: maxima of 2 x 2
_BODIES: dict[str, tuple[tuple[int, int] | None, ...]] = {
    "small": ((3, 32), None, (3, 64), None, (1, 128)),
    "large": (
        *((3, 96), (3, 96), (3, 96), None),
        *((3, 192), (3, 192), (3, 192), None),
        *((3, 192), (1, 192)),
    ),
}


@dataclass(frozen=True)
class SplineCNNConfig:
    """A `SplineCNN`.

    Attributes:
        in_channels: of the images.
        size: height and width of the images, at least 10 for ``small`` and 30 for ``large``.
        num_classes: K.
        body: ``small``, convolutions of 32, 64 and 128 features, or ``large``, eight of 96 and 192.
        batch_norm: whether a BatchNorm stands before each ReLU.
    """

    in_channels: int = 3
    size: int = 32
    num_classes: int = 10
    body: str = "small"
    batch_norm: bool = True

    def __post_init__(self) -> None:
        """Refuse what no network can be made of."""
        owner = "SplineCNNConfig"
        check_numbers(owner, self)
        check_positive(owner, in_channels=self.in_channels, size=self.size)
        check_choice(owner, "body", self.body, _BODIES)
        if type(self.batch_norm) is not bool:
            raise ValueError(f"{owner}: batch_norm must be true or false, got {self.batch_norm!r}")
        if self.num_classes < 2:
            raise ValueError(f"{owner}: num_classes must be at least 2, got {self.num_classes}")
        if _last_size(self.body, self.size) < 1:
            least = next(n for n in range(1, 99) if _last_size(self.body, n) >= 1)
            raise ValueError(
                f"{owner}: size must be at least {least} for {self.body}, got {self.size}"
            )


def _last_size(body: str, size: int) -> int:
    """Height and width of the last layer's maps."""
    for part in _BODIES[body]:
        size = size // 2 if part is None else size - part[0] + 1
    return size


class SplineCNN(nn.Module):
    """Convolutions without padding, ReLUs and maxima; the mean over pixels; a layer without bias.

    In eval mode it is an affine function of the image in each region of a partition of all images,
    and the rows of its last layer are what the classes look for in the features.

    Source: the networks smallCNN and largeCNN of Balestriero and Baraniuk, "A Spline Theory of Deep
    Learning", ICML 2018, section 6, of which the paper gives names and the public code the widths.

    Args:
        config: what to build.

    Call it with images ``[B, in_channels, size, size]`` in [-1, 1], of its weights' dtype; it
    returns logits ``[B, num_classes]``.

    Raises:
        ValueError: the images have another shape.

    Example:
        >>> import torch
        >>> from polygraph.models import SplineCNN, SplineCNNConfig
        >>> SplineCNN(SplineCNNConfig())(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    See Also:
        `polygraph.train.orthogonality`; `polygraph.analysis.memorisation`.
    """

    def __init__(self, config: SplineCNNConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        features = config.in_channels
        for part in _BODIES[config.body]:
            if part is None:
                layers.append(nn.MaxPool2d(2))
                continue
            kernel, width = part
            layers.append(nn.Conv2d(features, width, kernel))
            layers += [nn.BatchNorm2d(width)] if config.batch_norm else []
            layers.append(nn.ReLU())
            features = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(features, config.num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of ``images [B, in_channels, size, size]``."""
        check_tensors("SplineCNN", images=images)
        want = (self.config.in_channels, self.config.size, self.config.size)
        if images.dim() != 4 or images.shape[1:] != want:
            raise ValueError(
                f"SplineCNN: images must have shape [B, {want[0]}, {want[1]}, {want[2]}], got "
                f"{list(images.shape)}"
            )
        check_dtype("SplineCNN", "images", images, self.output.weight, of="model")
        out: Tensor = self.output(self.layers(images))
        return out
