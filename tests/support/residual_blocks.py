"""Polynomial residual blocks with numbers that are no special case."""

import torch
from torch import nn

from polygraph.nn import PolyResidual

C = 4


def branch():
    """A convolution and its BatchNorm."""
    return nn.Sequential(nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))


def randomized(block):
    """The block in float64, its parameters and statistics drawn."""
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return block.double()


def made(*arguments, **settings):
    """A `PolyResidual` of that branch."""
    torch.manual_seed(0)
    return randomized(PolyResidual(branch(), *arguments, **settings))
