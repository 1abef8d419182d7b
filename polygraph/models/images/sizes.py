"""Sizes of images: which there are between the smallest and the largest, networks for another one.

Generators begin at 4 x 4 (5, 6 or 7 for sizes such as 28) and double; critics halve. A *level* is
one of these sizes, the smallest first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

SIZE = 32  #: height and width of the images, where nothing else is said
_LEAST = 4  # the smallest size of a level


def sizes_of(size: int) -> tuple[int, ...]:
    """Height and width at every level of a network for images of a size.

    Raises:
        ValueError: the size is not 4, 5, 6 or 7 times 2, 4, 8, ...

    Example:
        >>> from polygraph.models.images.sizes import sizes_of
        >>> sizes_of(64), sizes_of(28)
        ((4, 8, 16, 32, 64), (7, 14, 28))
    """
    doublings = math.floor(math.log2(size / _LEAST)) if size >= _LEAST else 0
    start, rest = divmod(size, 2**doublings)
    if rest or doublings < 1:
        raise ValueError(
            f"size must be 4, 5, 6 or 7 times a power of two, such as 28, 32 or 64, got {size}"
        )
    return tuple(start * 2**level for level in range(doublings + 1))


def check_size(owner: str, size: int) -> None:
    """Refuse a size that no network doubles its way to."""
    try:
        sizes_of(size)
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from error


def halvings_to(size: int, most: int) -> int:
    """How often a size is halved, once at least, until it is no larger than ``most``."""
    return max(1, sum(level > most for level in sizes_of(size)))


def at_size(config: Any, size: int) -> Any:
    """The config of a generator or a critic for images of another size.

    Features of the levels that both have stay as they are. Each further level has half the features
    of the one before it. Graph layers stay at their levels, as far as these are left.

    Raises:
        ValueError: no such network has that size.

    Example:
        >>> from polygraph.models.images import ConvCriticConfig, DeconvGeneratorConfig
        >>> from polygraph.models.images.sizes import at_size
        >>> at_size(DeconvGeneratorConfig(), 64).channels
        (512, 256, 128, 64, 32)
        >>> at_size(ConvCriticConfig(), 64).channels  # critics begin with the largest size
        (32, 64, 128, 256)
    """
    if size == config.size:
        return config
    before, after = sizes_of(config.size), sizes_of(size)
    changes: dict[str, Any] = {"size": size}
    if hasattr(config, "strides"):
        changes["strides"] = strides_to(config.strides, size)
    elif isinstance(config.channels, tuple):
        reverse = -1 if hasattr(config, "in_channels") else 1
        more = len(after) - len(before)
        changes["channels"] = _widths(config.channels[::reverse], more)[::reverse]
    if hasattr(config, "graph_sizes"):
        places = [before.index(found) for found in config.graph_sizes]
        changes["graph_sizes"] = tuple(after[n] for n in places if n < len(after))
    return replace(config, **changes)


def _widths(channels: tuple[int, ...], more: int) -> tuple[int, ...]:
    """Features of levels, the smallest first, for as many more (or fewer) of them."""
    if more <= 0:
        return channels[: len(channels) + more]
    return (*channels, *(max(1, channels[-1] >> n) for n in range(1, more + 1)))


def strides_to(strides: Sequence[int], size: int) -> tuple[int, ...]:
    """Strides of as many layers that lead from 1 x 1 to another size: the last ones change.

    Example:
        >>> from polygraph.models.images.sizes import strides_to
        >>> strides_to((2, 2, 1, 2, 1), 16), strides_to((2, 2, 1, 2, 1), 4)
        ((2, 2, 1, 2, 2), (2, 2, 1, 1, 1))
    """
    found, now = list(strides), math.prod(strides)
    for at in reversed(range(len(found))):
        if now < size and found[at] == 1:
            found[at], now = 2, 2 * now
        elif now > size and found[at] == 2:
            found[at], now = 1, now // 2
    return tuple(found)
