"""A finished run of a denoiser: its model without its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph._arrays import as_numpy
from polygraph.data.store import progress
from polygraph.models.denoiser.presets import build_denoiser, denoiser_config
from polygraph.models.denoiser.tiles import OVERLAP, TILE, denoise_tiles
from polygraph.models.state import build_with
from polygraph.tasks.denoise.picture_training import measure_pictures
from polygraph.train.checkpoint import (
    CheckpointError,
    load_checkpoint,
    part_of,
)
from polygraph.train.frame import SupervisedRun
from polygraph.train.patch_batches import WHITE
from polygraph.train.recorded import checkpoint_of

_FLOATS = (np.float16, np.float32, np.float64)
_MOST = 10.0  # of a float picture, whose white is 1


@dataclass(frozen=True, repr=False)
class Run(SupervisedRun):
    """A trained denoiser.

    From `polygraph.tasks.denoise.train` or `polygraph.tasks.denoise.load`. Its ``model`` maps noisy
    pictures ``[B, C, H, W]``, white being 1, to clean ones.
    """

    def __repr__(self) -> str:
        """Folder and noise."""
        return f"Run({str(self.folder)!r}, sigma {' to '.join(f'{s:g}' for s in self.sigma)})"

    @property
    def sigma(self) -> tuple[float, ...]:
        """Of the noise that it was trained for, white being 255: one number, or the ends."""
        return tuple(float(s) for s in self.meta["config"]["sigma"])

    def denoise(
        self, picture: Any, *, tile: int = TILE, overlap: int = OVERLAP, show: bool = False
    ) -> NDArray[Any]:
        """A picture without its noise.

        A network of grey pictures takes the channels of colours one after the other.

        Args:
            picture: ``[H, W]`` or ``[H, W, 3]``, NumPy or PyTorch; uint8, or floats in which white
                is 1, which need not be clipped.
            tile: pixels that the network sees at a time, see
                `polygraph.models.denoise_tiles`.
            overlap: pixels of a tile's margin.
            show: a progress bar of tiles, on a terminal.

        Returns:
            The same shape; uint8, rounded and clipped, of uint8; float32, not clipped, of floats.

        Raises:
            ValueError: shape or dtype is wrong, a value is not finite or far beyond white, or the
                picture is smaller than the network takes.
        """
        pixels = as_numpy(picture)
        _check_picture(pixels)
        grey = pixels.ndim == 2
        channels = self.model.config.channels
        if grey and channels == 3:
            raise ValueError(
                "denoise: the run is of colours, picture must have shape [H, W, 3], got "
                f"{list(pixels.shape)}"
            )
        planes = pixels[None] if grey else pixels.transpose(2, 0, 1)
        least = self.model.smallest
        if min(planes.shape[1:]) < least:
            raise ValueError(
                f"denoise: picture must have at least {least} rows and columns, got "
                f"{planes.shape[1]} x {planes.shape[2]}"
            )
        out = np.empty(planes.shape, np.uint8 if pixels.dtype == np.uint8 else np.float32)
        groups = [slice(0, 3)] if channels == 3 else [slice(n, n + 1) for n in range(len(planes))]
        parameter = next(self.model.parameters())
        for n, group in enumerate(groups):
            part = torch.from_numpy(np.ascontiguousarray(planes[group]))
            y = part.to(parameter.device, parameter.dtype)
            y = y.div_(WHITE) if part.dtype == torch.uint8 else y
            label = (
                f"denoising, channel {n + 1} of {len(groups)}" if len(groups) > 1 else "denoising"
            )

            def shown(tiles: list[Any], label: str = label) -> Any:
                return progress(tiles, label, len(tiles))

            made = denoise_tiles(
                self.model, y, tile=tile, overlap=overlap, progress=shown if show else None
            )
            if out.dtype == np.uint8:
                made = made.mul_(WHITE).round_().clamp_(0, WHITE)
            out[group] = made.cpu().numpy()
        return out[0] if grey else np.ascontiguousarray(out.transpose(1, 2, 0))

    def evaluate(self, pictures: Sequence[Any], sigma: float, *, seed: int = 0) -> dict[str, Any]:
        """PSNR and SSIM of clean pictures with noise of a seed.

        Args:
            pictures: uint8 ``[H, W]``, or ``[H, W, 3]`` of a run of colours.
            sigma: standard deviation of the noise, white being 255.
            seed: of the noise.

        Returns:
            What `polygraph.tasks.denoise.picture_training.measure_pictures` gives.

        Raises:
            ValueError: a picture has another shape or dtype.
        """
        from polygraph.data.pictures import picture_set

        dataset = picture_set(pictures, self.model.config.channels)
        return measure_pictures(self.model, dataset, range(len(pictures)), [sigma], seed)


def _check_picture(pixels: NDArray[Any]) -> None:
    good = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        raise ValueError(
            f"denoise: picture must not have an alpha channel, got {list(pixels.shape)}: take it "
            "away, or lay the picture over a colour"
        )
    if not good or pixels.size == 0:
        raise ValueError(
            f"denoise: picture must have shape [H, W] or [H, W, 3], got {list(pixels.shape)}"
        )
    if pixels.dtype != np.uint8 and pixels.dtype not in _FLOATS:
        raise ValueError(
            "denoise: picture must be uint8, or floats in which white is 1, got "
            f"{pixels.dtype}: divide by the value of white"
        )
    if pixels.dtype == np.uint8:
        return
    if not np.isfinite(pixels).all():
        raise ValueError(
            f"denoise: picture must be finite, got {int((~np.isfinite(pixels)).sum())} values that "
            "are not"
        )
    most = float(np.abs(pixels).max())
    if most > _MOST:
        raise ValueError(
            f"denoise: white must be 1 in a picture of floats, got a value of {most:g}: divide by "
            "the value of white"
        )


def estimate_noise(picture: Any) -> float:
    """Standard deviation of a picture's noise, white being 255, by scikit-image's `estimate_sigma`.

    It is the median of the finest wavelet coefficients (Donoho and Johnstone 1994), which holds for
    Gaussian noise that is alike everywhere; a texture is taken for noise in part.

    Args:
        picture: ``[H, W]`` or ``[H, W, 3]``, uint8 or floats in which white is 1.

    Raises:
        ImportError: scikit-image or PyWavelets is missing; the message names the extra.
        ValueError: the picture is no such array.
    """
    pixels = as_numpy(picture)
    _check_picture(pixels)
    try:
        import pywt  # noqa: F401 - scikit-image imports it only when it is called
        from skimage import restoration
    except ImportError as error:
        raise ImportError(
            "to estimate noise takes scikit-image: pip install 'polygraph-nn[images]'; or say how "
            "strong it is, --sigma 25"
        ) from error
    unit = 1.0 if pixels.dtype == np.uint8 else WHITE
    axis = None if pixels.ndim == 2 else 2
    estimate: Any = restoration.estimate_sigma  # it has no types
    found = estimate(pixels.astype(np.float64), average_sigmas=True, channel_axis=axis)
    return float(found) * unit


def load_run(folder: str | Path, device: torch.device | str = "cpu") -> Run:
    """Load the weights that were best on validation.

    Raises:
        CheckpointError: the folder holds no run of a denoiser.
    """
    folder = Path(folder)
    checkpoint = checkpoint_of(folder, "denoise")
    assert checkpoint is not None  # of a mesh autoencoder alone there is none
    state, meta = load_checkpoint(checkpoint)
    try:
        config = denoiser_config(meta["family"], meta["config"]["model"])
        model = build_with(
            lambda: build_denoiser(config), config, part_of(state, "modules", checkpoint)["model"]
        )
        sigma = [float(s) for s in meta["config"]["sigma"]]
        if len(sigma) not in (1, 2):
            raise ValueError(f"sigma is {sigma}")
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{checkpoint}: not a checkpoint of a denoiser ({reason})") from error
    return Run(folder, model.to(device), meta)
