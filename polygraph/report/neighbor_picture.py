"""A picture of which pixels a generator joins: chosen ones, and their neighbors, in colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polygraph.analysis.nonlocal_use import neighbor_tables
from polygraph.data.image_values import to_uint8
from polygraph.report.image_grid import write_png

COLOURS = ((230, 60, 50), (50, 190, 80), (70, 130, 255))  #: of the chosen pixels, in turn
#: the chosen pixels, as parts of height and width
CHOSEN = ((0.5, 0.5), (0.25, 0.25), (0.75, 0.7))
_DARK = 0.35  # brightness of the image under the colours
_GAP = 6


def neighbor_picture(
    generator: nn.Module, z: Tensor, *, scale: int = 8, seed: int = 0
) -> NDArray[np.uint8]:
    """Each image, and beside it for every non-local layer where chosen pixels look.

    A chosen pixel is drawn full, its neighbors as frames of its colour; of attention, the eight
    positions that have most weight. A pixel of a layer at 16 x 16 is 2 x 2 pixels of the image.

    Source: the form is that of figure 3.3 of D'Amico, "Image generation using deep adversarial
    generative models on graphs", Politecnico di Torino 2020.

    Args:
        generator: in evaluation mode, with non-local layers.
        z: latent vectors ``[N, C]``.
        scale: pixels per pixel of an image, at least 3.
        seed: of graphs that are drawn.

    Returns:
        uint8 ``[height, width, 3]``: a row for each image.

    Raises:
        ValueError: no non-local layer, no z, or too small a scale.
    """
    if scale < 3 or not len(z):
        raise ValueError(
            f"neighbor_picture: scale must be at least 3 and z not empty, got {scale}, {len(z)}"
        )
    with torch.no_grad():
        images = to_uint8(generator(z).float()).cpu().numpy()
    tables = neighbor_tables(generator, z, seed=seed)
    if not tables:
        raise ValueError("neighbor_picture: the generator has no non-local layer")
    rows = []
    for n, image in enumerate(images):
        plain = np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3))
        plain = plain.repeat(scale, 0).repeat(scale, 1)
        tiles = [plain, *(_marked(plain, table[n], size) for table, size in tables)]
        rows.append(np.concatenate([_framed(tile) for tile in tiles], 1))
    return np.concatenate(rows, 0)


def _framed(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(tile, ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=255)


def _marked(plain: NDArray[np.uint8], table: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The darkened image with chosen pixels and the neighbors of a layer of that size."""
    tile = (plain * _DARK).astype(np.uint8)
    high, wide = plain.shape[0] // size[0], plain.shape[1] // size[1]
    chosen = [(int(down * size[0]), int(right * size[1])) for down, right in CHOSEN]
    for (row, column), colour in zip(chosen, COLOURS, strict=True):
        for near in table[row * size[1] + column].tolist():
            if near < 0:
                continue
            top, left = near // size[1] * high, near % size[1] * wide
            inside = plain[top + 1 : top + high - 1, left + 1 : left + wide - 1].copy()
            tile[top : top + high, left : left + wide] = colour
            tile[top + 1 : top + high - 1, left + 1 : left + wide - 1] = inside
    for (row, column), colour in zip(chosen, COLOURS, strict=True):
        top, left = row * high, column * wide
        tile[top : top + high, left : left + wide] = colour
    return tile


def write_neighbor_picture(path: str | Path, generator: nn.Module, z: Tensor) -> Path:
    """Write `neighbor_picture` to a PNG file; folders are made.

    Raises:
        ValueError: as `neighbor_picture`, or the name does not end in .png.
        OSError: the file cannot be written.
    """
    return write_png(path, neighbor_picture(generator, z))
