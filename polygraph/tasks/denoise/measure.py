"""How good pictures without their noise are: PSNR and SSIM of each, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.data.image_files import Images
from polygraph.train.patch_batches import WHITE, noise_like

#: of every picture, in the order of a row
COLUMNS = ("noisy_psnr", "psnr", "psnr_8bit", "noisy_ssim", "ssim")
WINDOW = 11  #: of SSIM, in pixels


def noise_of(shape: Sequence[int], sigma: float, seed: int, picture: int) -> NDArray[np.float32]:
    """The noise that a picture is measured with, a function of these alone.

    Args:
        shape: of the picture.
        sigma: standard deviation, white being 255; the same noise, larger, for another.
        seed: of the run's noise.
        picture: its place in the set.

    Returns:
        float32, white being 1, not clipped: what exceeds black and white tells a network how strong
        the noise is, and pictures in files have lost it.
    """
    return noise_like(shape, sigma, np.random.default_rng([seed, picture]))


def psnr(made: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of one picture ``[C, H, W]`` in [0, 1].

    It is -10 log10 of the mean squared error over all pixels and channels.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    ratio: Tensor = peak_signal_noise_ratio(
        made[None].double(), clean[None].double(), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return float(ratio)


def ssim(made: Tensor, clean: Tensor) -> float:
    """Structural similarity (Wang et al., IEEE TIP 2004) of one picture ``[C, H, W]`` in [0, 1].

    Windows of 11 x 11 with a Gaussian of 1.5.

    Raises:
        ValueError: the picture is smaller than a window.
    """
    if min(clean.shape[1:]) < WINDOW:
        raise ValueError(
            f"ssim: want at least {WINDOW} rows and columns, got {list(clean.shape[1:])}"
        )
    from torchmetrics.functional.image import structural_similarity_index_measure

    found: Any = structural_similarity_index_measure(
        made[None].float(), clean[None].float(), data_range=1.0, kernel_size=WINDOW
    )
    return float(found)


def as_float(picture: Images) -> Tensor:
    """A picture's bytes as float32 in [0, 1]."""
    return torch.from_numpy(picture).float() / WHITE


def measure_row(made: Tensor, noisy: Tensor, clean: Tensor) -> list[float]:
    """The numbers of `COLUMNS`.

    What was made is clipped to [0, 1] first, and for the third number rounded to 8 bits as well;
    what is noisy is neither.
    """
    clipped = made.clamp(0, 1)
    return [
        psnr(noisy, clean),
        psnr(clipped, clean),
        psnr((clipped * WHITE).round() / WHITE, clean),
        ssim(noisy, clean),
        ssim(clipped, clean),
    ]


def summarize_rows(rows: NDArray[np.float64], names: Sequence[str]) -> dict[str, Any]:
    """Means over pictures, not over pixels, and the numbers of each by its name.

    Args:
        rows: ``[pictures, 5]``, see `COLUMNS`.
        names: of the pictures.
    """
    means = {name: float(rows[:, n].mean()) for n, name in enumerate(COLUMNS)}
    each = {
        name: {column: float(value) for column, value in zip(COLUMNS, row, strict=True)}
        for name, row in zip(names, rows, strict=True)
    }
    return {"num_pictures": len(rows), **means, "per_picture": each}
