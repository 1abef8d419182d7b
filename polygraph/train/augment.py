"""Random crops and mirrored images, on tensors of any device.

What is drawn for an image is a function of (seed, epoch, image), by NumPy on the CPU; what is done
to it is copying of pixels, or means of them in integers. So the same run sees the same pixels on a
CPU and on a GPU, after a resume, with any number of processes and with batches of any size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from polygraph.train.optimizer import check_flags, is_number
from polygraph.train.scaled_crop import draw_boxes, scaled_crop

_IMAGES = 2  # sets these draws apart from others of the same seed and epoch


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are changed at random. The defaults leave them alone.

    Attributes:
        crop_padding: pixels of black that are put around an image before a part of its size is cut
            out, each place as likely as the others; 4 is usual for 32 x 32 (He et al., CVPR 2016,
            section 4.2).
        flip: mirror left and right with probability 1/2. Not for digits or letters.
        crop_area: a part of between this share of the image's area and all of it is cut out, with
            sides in a ratio between 3/4 and 4/3, and scaled to the image's size; 1 cuts out
            nothing, 0.08 is usual for ImageNet (Szegedy et al., CVPR 2015, section 6).
    """

    crop_padding: int = 0
    flip: bool = False
    crop_area: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if type(self.crop_padding) is not int or not 0 <= self.crop_padding < 2**15:
            raise ValueError(
                f"train: crop_padding must be in [0, 32768), got {self.crop_padding!r}"
            )
        check_flags(self, ("flip",))
        if not is_number(self.crop_area) or not 0 < self.crop_area <= 1:
            raise ValueError(f"train: crop_area must be in (0, 1], got {self.crop_area!r}")

    def semantics(self) -> dict[str, Any]:
        """The fields, those that came later only where they differ from their defaults."""
        fields = asdict(self)
        return {n: v for n, v in fields.items() if n != "crop_area" or v != AugmentConfig.crop_area}


class Draws(NamedTuple):
    """What is drawn for each image of a batch.

    Attributes:
        top: int64 ``[B]``, first row of the crop in the padded image.
        left: int64 ``[B]``, its first column.
        flip: bool ``[B]``, whether the crop is mirrored.
    """

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flip: NDArray[np.bool_]


def draw(
    config: AugmentConfig,
    seed: int,
    num_samples: int,
    epochs: NDArray[np.int64],
    indices: NDArray[np.int64],
) -> Draws:
    """What is drawn for some images of a training set.

    Whether images are mirrored does not change how they are cut, nor the other way round.

    Args:
        config: what is drawn at all.
        seed: of the run.
        num_samples: size N of the training set.
        epochs: int64 ``[B]``, the pass in which each image is seen.
        indices: int64 ``[B]``, its place in the training set, in [0, N).
    """
    shape = (len(indices),)
    top, left = np.zeros((2, *shape), np.int64)
    flip = np.zeros(shape, np.bool_)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        rows = indices[of_epoch]
        crops, mirrors = _draws_of_epoch(seed, int(epoch), num_samples, config.crop_padding)
        top[of_epoch], left[of_epoch] = crops[:, rows]
        flip[of_epoch] = mirrors[rows] & config.flip
    return Draws(top, left, flip)


_drawn: dict[tuple[int, int, int, int], tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}


def _draws_of_epoch(
    seed: int, epoch: int, size: int, padding: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Places ``[2, size]`` and mirrors ``[size]``. The last two are kept, as permutations are."""
    key = (seed, epoch, size, padding)
    if key not in _drawn:
        while len(_drawn) >= 2:
            _drawn.pop(next(iter(_drawn)))
        crops, mirrors = (np.random.default_rng([seed, epoch, _IMAGES, part]) for part in (0, 1))
        _drawn[key] = (
            crops.integers(0, 2 * padding + 1, (2, size)),
            mirrors.integers(0, 2, size).astype(np.bool_),
        )
    return _drawn[key]


def crop_and_flip(images: Tensor, draws: Draws, padding: int, *, fill: float = 0) -> Tensor:
    """Each image padded, cut out at its place and mirrored where it is drawn so.

    Pixels are copied: the result is the same to the bit on every device.

    Args:
        images: ``[B, C, H, W]`` of any dtype: bytes, in which black is 0, or floats.
        draws: of each image.
        padding: pixels on each side, those that the draws were made for.
        fill: value of the padding; black is 0 in bytes and -1 in floats from -1 to 1.

    Returns:
        ``[B, C, H, W]``, on the device of the images.

    Raises:
        ValueError: the images have no four dimensions, or the draws are not theirs.
    """
    if images.ndim != 4:
        raise ValueError(
            f"crop_and_flip: images must have shape [B, C, H, W], got {list(images.shape)}"
        )
    if len(draws.top) != len(images):
        raise ValueError(
            f"crop_and_flip: draws must be of {len(images)} images, got {len(draws.top)}"
        )
    top, left, flip = (torch.from_numpy(part).to(images.device) for part in draws)
    if padding:
        height, width = images.shape[2:]
        padded = functional.pad(images, (padding,) * 4, value=fill)
        parts = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view of all crops
        images = parts[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def augment(
    images: Tensor,
    config: AugmentConfig,
    seed: int,
    num_samples: int,
    epochs: NDArray[np.int64],
    indices: NDArray[np.int64],
    *,
    fill: float = 0,
) -> Tensor:
    """Images of a training set as they are seen in an epoch.

    Scaled crops, then `draw` and `crop_and_flip`.

    Args:
        images: ``[B, C, H, W]``.
        config: what is done; the defaults return the images themselves.
        seed: of the run.
        num_samples: size N of the training set.
        epochs: int64 ``[B]``, the pass in which each image is seen.
        indices: int64 ``[B]``, its place in the training set, in [0, N).
        fill: value of the padding.
    """
    if config == AugmentConfig():
        return images
    if config.crop_area < 1:
        shape = images.shape[-2:]
        boxes = draw_boxes(config.crop_area, seed, num_samples, epochs, indices, shape)
        images = scaled_crop(images, boxes)
    draws = draw(config, seed, num_samples, epochs, indices)
    return crop_and_flip(images, draws, config.crop_padding, fill=fill)
