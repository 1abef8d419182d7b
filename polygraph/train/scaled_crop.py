"""Parts of images, scaled to the size of the whole: in integers, the same on every device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BOXES = 3  # sets these draws apart from others of the same seed and epoch
_RATIO = math.log(4 / 3)  # of the sides, at most
_UNIT = 256  # weights of pixels are multiples of 1 / 256


def draw_boxes(
    area: float,
    seed: int,
    num_samples: int,
    epochs: NDArray[np.int64],
    indices: NDArray[np.int64],
    shape: Sequence[int],
) -> NDArray[np.int64]:
    """The parts that are cut out of some images of a training set.

    Args:
        area: the smallest share of the image's area; the largest is 1.
        seed: of the run.
        num_samples: size N of the training set.
        epochs: int64 ``[B]``, the pass in which each image is seen.
        indices: int64 ``[B]``, its place in the training set, in [0, N).
        shape: H and W of the images.

    Returns:
        int64 ``[B, 4]``: first row, first column, height, width. A part with a side longer than the
        image's loses what is too long.
    """
    drawn = np.empty((len(indices), 4))
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        drawn[rows] = _draws_of_epoch(seed, int(epoch), num_samples)[indices[rows]]
    share = area + (1 - area) * drawn[:, 0]
    ratio = np.exp((2 * drawn[:, 1] - 1) * _RATIO / 2)
    sides = np.sqrt(share * shape[0] * shape[1])[:, None] * np.stack([1 / ratio, ratio], 1)
    sizes = np.clip(np.rint(sides), 1, shape).astype(np.int64)
    places = np.floor(drawn[:, 2:] * (np.array(shape) - sizes + 1)).astype(np.int64)
    return np.concatenate([places, sizes], 1)


_drawn: dict[tuple[int, int, int], NDArray[np.float64]] = {}


def _draws_of_epoch(seed: int, epoch: int, size: int) -> NDArray[np.float64]:
    """``[size, 4]`` in [0, 1): area, ratio, places. The last two are kept, as permutations are."""
    key = (seed, epoch, size)
    if key not in _drawn:
        while len(_drawn) >= 2:
            _drawn.pop(next(iter(_drawn)))
        _drawn[key] = np.random.default_rng([seed, epoch, _BOXES]).random((size, 4))
    return _drawn[key]


def scaled_crop(images: Tensor, boxes: NDArray[np.int64]) -> Tensor:
    """The part of each image, scaled to the image's size by linear interpolation.

    Args:
        images: uint8 ``[B, C, H, W]``.
        boxes: int64 ``[B, 4]``: first row, first column, height, width, within the image.

    Returns:
        uint8 ``[B, C, H, W]``, on the device of the images, the same to the bit on every device.

    Raises:
        ValueError: the images are no bytes of four dimensions, or a box is not within them.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            "scaled_crop: images must be uint8 of shape [B, C, H, W], got "
            f"{images.dtype} {list(images.shape)}"
        )
    sides = np.array(images.shape[2:])
    first, size = boxes[:, :2], boxes[:, 2:]
    if len(boxes) != len(images) or (first < 0).any() or (size < 1).any():
        raise ValueError(f"scaled_crop: boxes must be {len(images)} parts of at least one pixel")
    if (first + size > sides).any():
        raise ValueError(f"scaled_crop: boxes must lie within {sides.tolist()} pixels")
    rows = _interpolated(images.to(torch.int32), 2, first[:, 0], size[:, 0])
    both = _interpolated(rows, 3, first[:, 1], size[:, 1])
    return ((both + _UNIT**2 // 2) // _UNIT**2).to(torch.uint8)


def _interpolated(
    images: Tensor, dim: int, first: NDArray[np.int64], size: NDArray[np.int64]
) -> Tensor:
    """256 times the values between pixels along one dimension; centres of pixels are at halves."""
    length = images.shape[dim]
    place = (np.arange(length) + 0.5) * (size[:, None] / length) - 0.5
    place = np.clip(place, 0, size[:, None] - 1)
    low = np.floor(place)
    weight = np.rint((place - low) * _UNIT).astype(np.int32)
    below = first[:, None] + low.astype(np.int64)
    above = np.minimum(below + 1, (first + size - 1)[:, None])
    shape = [len(images), 1, 1, 1]
    shape[dim] = length

    def taken(at: NDArray[np.int64]) -> Tensor:
        index = torch.from_numpy(at).view(shape).to(images.device)
        return images.gather(dim, index.expand(images.shape))

    share = torch.from_numpy(weight).view(shape).to(images.device)
    return taken(below) * (_UNIT - share) + taken(above) * share
