"""Residual blocks of torchvision and timm, taken apart: the branch, the shortcut, the activation.

They are known by the names of their parts: neither library is imported.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class ResidualParts(NamedTuple):
    """A residual block ``activation(branch(x) + shortcut(x))`` in its parts.

    Attributes:
        branch: the residual branch.
        shortcut: the identity, or what changes channels and size.
        activation: behind the sum.
    """

    branch: nn.Module
    shortcut: nn.Module
    activation: nn.Module


class _Form(NamedTuple):
    """What a kind of block calls in its branch, in this order, and behind the sum."""

    branch: tuple[str, ...]
    last: str


def _form(branch: str, last: str) -> _Form:
    return _Form(tuple(branch.split()), last)


_FORMS = (
    # torchvision.models.resnet: BasicBlock, Bottleneck
    _form("conv1 bn1 relu conv2 bn2", "relu"),
    _form("conv1 bn1 relu conv2 bn2 relu conv3 bn3", "relu"),
    # timm.models.resnet: BasicBlock, Bottleneck
    _form("conv1 bn1 drop_block act1 aa conv2 bn2 se drop_path", "act2"),
    _form("conv1 bn1 act1 conv2 bn2 drop_block act2 aa conv3 bn3 se drop_path", "act3"),
)
_OPTIONAL = {"drop_block", "aa", "se", "drop_path", "downsample"}
_ACTIVATIONS = {"relu", "act1", "act2", "act3"}


def _form_of(block: nn.Module) -> _Form | None:
    names = {name for name, child in block.named_children() if child is not None}
    for form in _FORMS:
        known = {*form.branch, form.last}
        if hasattr(block, "downsample") and known - _OPTIONAL <= names <= known | _OPTIONAL:
            return form
    return None


def is_known_block(block: nn.Module) -> bool:
    """Whether a module has the parts of torchvision's or timm's residual blocks, and no others."""
    return _form_of(block) is not None


def take_apart(block: nn.Module, *, activations: bool = True) -> ResidualParts:
    """The parts of a block of torchvision or timm, which it shares with the block.

    Args:
        block: one of which `is_known_block` is true.
        activations: keep those within the branch and the one behind the sum.

    Raises:
        ValueError: it is no such block.

    Example:
        >>> from torch import nn
        >>> from polygraph.nn.residual_branch import take_apart
        >>> class Block(nn.Module):  # has the parts of torchvision's BasicBlock
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        ...         self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        ...         self.relu, self.downsample = nn.ReLU(), None
        >>> take_apart(Block()).shortcut
        Identity()
    """
    form = _form_of(block)
    if form is None:
        raise ValueError(
            f"PolyResidual: {type(block).__name__} has not the parts of torchvision's or timm's "
            "residual blocks, or has others: give its branch, and its shortcut as shortcut="
        )
    branch = nn.Sequential()
    for name in form.branch:
        part = getattr(block, name, None)
        if part is not None and (activations or name not in _ACTIVATIONS):
            branch.add_module(f"{name}{'_again' if hasattr(branch, name) else ''}", part)
    activation = getattr(block, form.last) if activations else nn.Identity()
    return ResidualParts(branch, getattr(block, "downsample", None) or nn.Identity(), activation)
