"""Images as users hand them over: a folder, a built-in set's name, arrays, a data set."""

from __future__ import annotations

import os
from typing import Any

from polygraph.data.images import ImageDataset


def is_in_memory(data: Any) -> bool:
    """Whether the images are here already.

    Raises:
        TypeError: it is nothing that images can come from.
    """
    if isinstance(data, ImageDataset) or hasattr(data, "shape"):
        return True
    if isinstance(data, tuple | list) and len(data) == 2:
        return True
    if isinstance(data, str | os.PathLike):
        return False
    raise TypeError(
        "data must be a folder, 'glyphs', images uint8 [N, C, H, W], (images, labels [N]) or an "
        f"ImageDataset, got {type(data).__name__}"
    )


def in_memory(data: Any, size: int = 32) -> ImageDataset:
    """The data set of images that are here already; smaller arrays are padded to the size."""
    if isinstance(data, ImageDataset):
        return data
    if hasattr(data, "shape"):
        return ImageDataset.from_arrays(data, size=size)
    return ImageDataset.from_arrays(*data, size=size)
