"""Pictures side by side: clean, noisy, without the noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from polygraph.data.image_files import Images
from polygraph.report.image_grid import write_image_grid
from polygraph.tasks.denoise.measure import as_float, noise_of
from polygraph.tasks.denoise.run import Run

_SIDE = 192  # of a piece


def write_strip(run: Run, path: str | Path, *, side: int = _SIDE) -> Path:
    """For each test picture a row: the middle of it, that with noise, and that without it again.

    Args:
        run: with the data that it was trained on.
        path: of the PNG file.
        side: rows and columns of the pieces, the smallest test picture's at most.

    Raises:
        ValueError: the run's data are not at hand.
    """
    dataset = run.dataset
    if dataset is None:
        raise ValueError(f"{run.folder}: its pictures are not at hand, which train() keeps")
    numbers = dataset.parts["test"]
    side = min([side, *(min(dataset.pictures[n].shape[1:]) for n in numbers)])
    sigma = run.sigma[-1]
    pieces: list[Images] = []
    for place, n in enumerate(numbers):
        picture = dataset.pictures[n]
        top, left = ((size - side) // 2 for size in picture.shape[1:])
        clean = as_float(picture[:, top : top + side, left : left + side])
        noisy = clean + torch.from_numpy(noise_of(clean.shape, sigma, 0, place))
        values = noisy[0] if len(noisy) == 1 else noisy.permute(1, 2, 0)
        made = torch.from_numpy(run.denoise(values))
        made = made[None] if made.dim() == 2 else made.permute(2, 0, 1)
        pieces += [_bytes(part) for part in (clean, noisy, made)]
    return write_image_grid(path, np.stack(pieces), 3, scale=1)


def _bytes(picture: torch.Tensor) -> Images:
    return np.asarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
