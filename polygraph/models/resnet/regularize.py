"""What R-PolyNets add to a residual network so that it trains without activations.

Source: Chrysos, Wang, Deng and Cevher, "Regularization of polynomial networks for image
recognition", CVPR 2023, with the settings of its public configuration for CIFAR-10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DropBlock2d(nn.Module):
    """Zero squares of features in training, and scale the others so that their sum is kept.

    Each place is the centre of a square of ``block_size`` with such a chance that about
    ``probability`` of all features are zero; the same places for all channels. In evaluation mode
    the identity. Squares are no larger than the image.

    Source: Ghiasi, Lin and Le, "DropBlock: A regularization method for convolutional networks",
    NeurIPS 2018, algorithm 1.
    """

    def __init__(self, probability: float, block_size: int = 7) -> None:
        super().__init__()
        self.probability, self.block_size = probability, block_size

    def forward(self, x: Tensor) -> Tensor:
        """``x [B, C, H, W]`` with squares of zeros."""
        if not self.training or self.probability == 0:
            return x
        height, width = x.shape[-2:]
        side = min(self.block_size, height, width)
        centres = torch.rand(len(x), 1, height, width, device=x.device, dtype=x.dtype)
        chance = self.probability / side**2
        padding = (side // 2, (side - 1) // 2) * 2
        dropped = functional.max_pool2d(
            functional.pad((centres < chance).to(x.dtype), padding), side, 1
        )
        kept = 1 - dropped
        return x * kept * (kept.numel() / kept.sum().clamp_min(1))

    def extra_repr(self) -> str:
        """Its settings."""
        return f"{self.probability:g}, block_size={self.block_size}"


class InstanceBatchNorm2d(nn.Module):
    """Instance normalisation of the first share of the channels, BatchNorm of the others.

    Source: Pan et al., "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net",
    ECCV 2018. The instances' statistics are those of an image, also in evaluation mode: no affine
    map, and so no polynomial.
    """

    def __init__(self, channels: int, share: float) -> None:
        super().__init__()
        self.split = int(channels * share)
        self.instance = nn.InstanceNorm2d(self.split, affine=True)
        self.batch = nn.BatchNorm2d(channels - self.split)

    def forward(self, x: Tensor) -> Tensor:
        """``x [B, C, H, W]``, normalised."""
        first, second = x[:, : self.split], x[:, self.split :]
        return torch.cat([self.instance(first), self.batch(second)], 1)
