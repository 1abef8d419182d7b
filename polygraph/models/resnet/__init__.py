"""Residual networks of images, first-order and polynomial."""

from polygraph.models.resnet.presets import RESNETS
from polygraph.models.resnet.resnet import ResNet, ResNetConfig

__all__ = ["RESNETS", "ResNet", "ResNetConfig"]
