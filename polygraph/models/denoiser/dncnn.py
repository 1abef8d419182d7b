"""DnCNN: convolutions alone, the peer of graph-convolutional denoisers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from polygraph._checks import check_numbers, check_positive
from polygraph.models.denoiser.denoiser import Denoiser, check_momentum


@dataclass(frozen=True)
class DnCNNConfig:
    """A `DnCNN`.

    Attributes:
        channels: of the pictures: 1 for grey ones, 3 for colours.
        width: features.
        depth: convolutions, at least 2.
        norm_momentum: share of a batch in batch normalisation's running statistics.
    """

    channels: int = 1
    width: int = 64
    depth: int = 17
    norm_momentum: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what no network can be made of."""
        check_numbers("DnCNNConfig", self)
        check_positive("DnCNNConfig", channels=self.channels, width=self.width, depth=self.depth)
        if self.depth < 2:
            raise ValueError(f"DnCNNConfig: depth must be at least 2, got {self.depth}")
        check_momentum("DnCNNConfig", self.norm_momentum)


class DnCNN(Denoiser):
    """3 x 3 convolutions with batch normalisation and ReLU, which say what of a picture is noise.

    The first has a bias and no normalisation, the last neither, nor ReLU.

    Source: Zhang, Zuo, Chen, Meng and Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep
    CNN for Image Denoising", IEEE TIP 2017, section III; zero padding and the initial scale
    (normal, variance 2 over the inputs) are those of the authors' code.

    Args:
        config: what to build.

    Call it with noisy pictures ``[B, channels, H, W]``, black 0 and white 1; it returns them
    without their noise.

    Raises:
        ValueError: the pictures have another shape or dtype.

    Example:
        >>> import torch
        >>> from polygraph.models import DnCNN, DnCNNConfig
        >>> model = DnCNN(DnCNNConfig(width=8, depth=4)).eval()
        >>> model(torch.rand(2, 1, 20, 30)).shape
        torch.Size([2, 1, 20, 30])

    See Also:
        `GCDN`; `polygraph.tasks.denoise`, which trains both.
    """

    def __init__(self, config: DnCNNConfig) -> None:
        super().__init__()
        self.config: DnCNNConfig = config
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(config.channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(config.depth - 2):
            norm = nn.BatchNorm2d(width, 1e-4, config.norm_momentum)
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), norm, nn.ReLU()]
        layers.append(nn.Conv2d(width, config.channels, 3, padding=1, bias=False))
        self.layers = nn.Sequential(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise anew."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * layer.in_channels)))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()

    @property
    def reach(self) -> int:
        """See `Denoiser`."""
        return int(self.config.depth)

    @property
    def smallest(self) -> int:
        """See `Denoiser`."""
        return 1

    def noise(self, y: Tensor) -> Tensor:
        """What of ``y [B, channels, H, W]`` is noise, of the same shape."""
        found: Tensor = self.layers(y)
        return found
