"""Residual branches of images, their shortcuts, and the stems before them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from polygraph.models.resnet.regularize import InstanceBatchNorm2d

Activation = Callable[[int], nn.Module]  #: makes the activation of some channels


def conv(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size, or halves it with a stride of 2."""
    return nn.Conv2d(before, after, size, stride, size // 2, bias=False)


def basic_branch(
    before: int, after: int, stride: int, activation: Activation, instance_share: float = 0.0
) -> nn.Sequential:
    """Conv 3x3, BN, activation, conv 3x3, BN (He et al., CVPR 2016).

    ``instance_share`` of the first normalisation's channels is normalised image by image.
    """
    first = InstanceBatchNorm2d(after, instance_share) if instance_share else nn.BatchNorm2d(after)
    return nn.Sequential(
        conv(before, after, 3, stride),
        first,
        activation(after),
        conv(after, after, 3),
        nn.BatchNorm2d(after),
    )


def bottleneck_branch(
    before: int, after: int, stride: int, activation: Activation, instance_share: float = 0.0
) -> nn.Sequential:
    """Conv 1x1, 3x3, 1x1, each with BN, activations between; a quarter of the channels within.

    The stride is the 3 x 3 convolution's.
    """
    del instance_share  # of basic branches alone
    inner = after // 4
    return nn.Sequential(
        conv(before, inner, 1),
        nn.BatchNorm2d(inner),
        activation(inner),
        conv(inner, inner, 3, stride),
        nn.BatchNorm2d(inner),
        activation(inner),
        conv(inner, after, 1),
        nn.BatchNorm2d(after),
    )


def ir_branch(
    before: int, after: int, stride: int, activation: Activation, instance_share: float = 0.0
) -> nn.Sequential:
    """BN, conv 3x3, BN, activation, conv 3x3, BN (Deng et al., ArcFace, CVPR 2019, "IR").

    The stride is the second convolution's.
    """
    del instance_share
    return nn.Sequential(
        nn.BatchNorm2d(before),
        conv(before, after, 3),
        nn.BatchNorm2d(after),
        activation(after),
        conv(after, after, 3, stride),
        nn.BatchNorm2d(after),
    )


def shortcut(before: int, after: int, stride: int) -> nn.Module:
    """The identity, or conv 1x1 and BN where channels or size change."""
    if before == after and stride == 1:
        return nn.Identity()
    return nn.Sequential(conv(before, after, 1, stride), nn.BatchNorm2d(after))


def stem(kind: str, before: int, after: int, activation: Activation) -> nn.Sequential:
    """What makes features of images.

    ``cifar`` is a 3 x 3 convolution that keeps the size, ``imagenet`` a 7 x 7 one that halves it
    and a max-pooling that halves it again; each with BN and an activation.
    """
    if kind == "cifar":
        return nn.Sequential(conv(before, after, 3), nn.BatchNorm2d(after), activation(after))
    return nn.Sequential(
        conv(before, after, 7, 2),
        nn.BatchNorm2d(after),
        activation(after),
        nn.MaxPool2d(3, 2, 1),
    )
