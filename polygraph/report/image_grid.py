"""Pictures of many small images in rows and columns."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polygraph._files import write_atomic


def image_grid(images: NDArray[np.uint8], columns: int = 8, *, gap: int = 1) -> NDArray[np.uint8]:
    """Images in rows, read from left to right.

    Args:
        images: uint8 ``[N, C, H, W]``, C of 1 or 3.
        columns: images per row; the last row is filled up with black.
        gap: black pixels between images and around them.

    Returns:
        uint8 ``[height, width, C]``.

    Raises:
        ValueError: another shape or dtype, no images, no columns.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "image_grid: images must be uint8 of shape [N, 1 or 3, H, W], got "
            f"{images.dtype} {list(images.shape)}"
        )
    if not len(images) or columns < 1:
        raise ValueError(
            f"image_grid: needs at least one image and one column, got {len(images)} and {columns}"
        )
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    canvas = np.zeros(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), np.uint8
    )
    for n, image in enumerate(images):
        top, left = gap + n // columns * (height + gap), gap + n % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas


def image_grid_png(images: NDArray[np.uint8], columns: int = 8, *, scale: int = 2) -> bytes:
    """`image_grid` as a PNG, every pixel ``scale`` wide and high."""
    return _png(image_grid(images, columns).repeat(scale, 0).repeat(scale, 1))


def write_image_grid(
    path: str | Path, images: NDArray[np.uint8], columns: int = 8, *, scale: int = 2
) -> Path:
    """Write `image_grid` to a PNG file; folders are made.

    Raises:
        ValueError: as `image_grid`, or the name does not end in .png.
        OSError: the file cannot be written.
    """
    return _write("write_image_grid", path, lambda: image_grid_png(images, columns, scale=scale))


def write_png(path: str | Path, canvas: NDArray[np.uint8]) -> Path:
    """Write a picture, uint8 ``[height, width, 1 or 3]``, to a PNG file; folders are made.

    Raises:
        ValueError: the name does not end in .png.
        OSError: the file cannot be written.
    """
    return _write("write_png", path, lambda: _png(canvas))


def _png(canvas: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(canvas[..., 0] if canvas.shape[2] == 1 else canvas).save(file, "PNG")
    return file.getvalue()


def _write(owner: str, path: str | Path, make: Callable[[], bytes]) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{owner}: the file must end in .png, got {path}")
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, made)
    return path
