"""Log-mel features: 32 bands by 32 moments of a sound, on any device.

The spectrum is `torch.stft`'s: power of Hann windows of four hops, centred, with zeros around. Its
bands are Slaney's: triangles on a scale that is linear below 1 kHz and logarithmic above, of equal
area. Both are librosa's defaults, and so are decibels (``db``): relative to the loudest entry of
the clip, at least 1e-10, no more than 80 below. ``log`` is log(1e-6 + power).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polygraph._checks import check_choice, check_numbers

SIZE = 32  #: bands, and moments
SCALES = ("db", "log")
_HOP_SHARE = 0.032  # of the clip: of 16,000 samples 512, of 8,000 samples 256
_OF_A_WINDOW = 4  # hops
_LEAST_SAMPLES = 2000  # of a clip: 32 bands of fewer would be empty
_BREAK = 1000.0  # Hz, where the mel scale turns from linear to logarithmic
_LINEAR, _LOG_STEP = 200 / 3, math.log(6.4) / 27  # Hz per mel below it, and per mel above
_LEAST_POWER, _MOST_DECIBELS, _OFFSET = 1e-10, 80.0, 1e-6


@dataclass(frozen=True)
class FeatureConfig:
    """How loudness is told.

    Attributes:
        scale: ``db``, decibels below the loudest entry of the clip, or ``log``, log(1e-6 + power).
    """

    scale: str = "db"

    def __post_init__(self) -> None:
        """Refuse another scale."""
        check_numbers("features", self)
        check_choice("features", "scale", self.scale, SCALES)


def _mel_of(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _BREAK / _LINEAR + np.log(np.maximum(hertz, _BREAK) / _BREAK) / _LOG_STEP
    return np.where(hertz < _BREAK, hertz / _LINEAR, above)


def _hertz_of(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _BREAK * np.exp(_LOG_STEP * (mel - _BREAK / _LINEAR))
    return np.where(mel < _BREAK / _LINEAR, mel * _LINEAR, above)


def mel_bands(rate: int, n_fft: int, bands: int = SIZE) -> NDArray[np.float64]:
    """Weights ``[bands, n_fft // 2 + 1]`` of Slaney's mel bands from 0 to half the rate.

    Band b is a triangle over the frequencies f_b, f_{b+1}, f_{b+2}, which are evenly spaced in mel,
    times 2 / (f_{b+2} - f_b).
    """
    frequencies = np.linspace(0, rate / 2, n_fft // 2 + 1)
    edges = _hertz_of(np.linspace(0, _mel_of(np.array(rate / 2)), bands + 2))
    widths = np.diff(edges)[:, None]
    rising = (frequencies - edges[:-2, None]) / widths[:-1]
    falling = (edges[2:, None] - frequencies) / widths[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * (2 / (edges[2:] - edges[:-2]))[:, None], np.float64)


class LogMel(nn.Module):
    """Log-mel features of clips, less the mean of each band and by its standard deviation.

    Of S samples a hop has h = round(0.032 S), a window 4 h: 512 and 2,048 of a second at 16 kHz,
    256 and 1,024 at 8 kHz. The mean is 0 and the standard deviation 1 until `normalize_with`.

    Args:
        rate: samples per second.
        samples: S of every clip, at least 2,000.
        scale: ``db`` or ``log``, see `polygraph.data.audio.mel`.

    Call it with clips ``[B, S]``, floating point; it returns ``[B, 1, 32, 32]``: bands from below,
    and moments. Equal to librosa's within rounding. Deterministic on a CPU.

    Raises:
        ValueError: other scales, shorter clips, clips of another shape.

    Example:
        >>> import torch
        >>> from polygraph.data import LogMel
        >>> clips = torch.sin(torch.arange(8000) * 0.5)[None]
        >>> features = LogMel(8000, 8000)(clips)
        >>> features.shape, features.max()
        (torch.Size([1, 1, 32, 32]), tensor(0.))

    See Also:
        `open_audio`, which opens clips.
    """

    window: Tensor
    bands: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, rate: int, samples: int, scale: str = "db") -> None:
        super().__init__()
        check_choice("LogMel", "scale", scale, SCALES)
        if samples < _LEAST_SAMPLES:
            raise ValueError(f"LogMel: samples must be at least {_LEAST_SAMPLES}, got {samples}")
        self.rate, self.samples, self.scale = rate, samples, scale
        self.hop = round(_HOP_SHARE * samples)
        self.n_fft = _OF_A_WINDOW * self.hop
        bands = torch.from_numpy(mel_bands(rate, self.n_fft))
        self.register_buffer("window", torch.hann_window(self.n_fft))
        self.register_buffer("bands", bands.to(torch.float32))
        self.register_buffer("mean", torch.zeros(SIZE))
        self.register_buffer("std", torch.ones(SIZE))

    def __repr__(self) -> str:
        """Sizes and scale."""
        return f"LogMel({self.samples} samples at {self.rate} Hz, {self.scale})"

    def forward(self, clips: Tensor, pace: Tensor | None = None) -> Tensor:
        """Features ``[B, 1, 32, 32]`` of clips ``[B, S]``.

        Args:
            clips: on the device of the module and of its dtype.
            pace: ``[B]``, how much faster each clip goes at the same pitch; None leaves them.
        """
        if clips.dim() != 2 or clips.shape[1] != self.samples:
            raise ValueError(
                f"LogMel: clips must have shape [B, {self.samples}], got {list(clips.shape)}"
            )
        power = self.power(clips)
        if pace is not None:
            power = stretch(power.sqrt(), pace).square()
        # In memory moments come before frequencies: one product of two matrices.
        levels = self._levels(power.transpose(1, 2) @ self.bands.T)
        normal = (levels - self.mean) / self.std
        return normal.transpose(1, 2).contiguous()[:, None]

    def power(self, clips: Tensor) -> Tensor:
        """Power spectra ``[B, n_fft // 2 + 1, 32]`` of clips ``[B, S]``."""
        spectrum = torch.stft(
            clips,
            self.n_fft,
            self.hop,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        # A sum over pairs of real and imaginary parts takes five times as long on a CPU.
        return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)

    def _levels(self, power: Tensor) -> Tensor:
        if self.scale == "log":
            return (power + _OFFSET).log()
        decibels = 10 * power.clamp(min=_LEAST_POWER).log10()
        decibels = decibels - decibels.amax((1, 2), keepdim=True)
        return decibels.clamp(min=-_MOST_DECIBELS)

    def normalize_with(self, statistics: dict[str, Any]) -> None:
        """Take ``mean`` and ``std``, 32 numbers each, as `statistics_of` gives them.

        Raises:
            ValueError: they are not finite, or a standard deviation is not positive.
        """
        for name in ("mean", "std"):
            values = torch.as_tensor(statistics[name], dtype=torch.float64)
            low = 0 if name == "std" else -math.inf
            if values.shape != (SIZE,) or not bool((values.isfinite() & (values > low)).all()):
                raise ValueError(f"LogMel: {name} must be {SIZE} usable numbers, got {values}")
            getattr(self, name).copy_(values)


def stretch(magnitude: Tensor, pace: Tensor) -> Tensor:
    """Magnitudes ``[B, F, T]`` at another pace ``[B]``: column t is read at t times the pace.

    Between columns they are interpolated, behind the last there is silence: the magnitudes of a
    phase vocoder, whose phases no power spectrum needs.
    """
    moments = torch.arange(magnitude.shape[-1], device=pace.device, dtype=torch.float64)
    places = moments * pace.to(torch.float64)[:, None]
    weights = 1 - (places[:, None, :] - moments[:, None]).abs()
    return magnitude @ weights.clamp(min=0).to(magnitude.dtype)


def statistics_of(levels: NDArray[np.float32], rows: NDArray[np.int64]) -> dict[str, list[float]]:
    """Mean and standard deviation of each band over some clips.

    Args:
        levels: features ``[N, 1, 32, 32]`` that were not normalised.
        rows: int64, the clips.

    Returns:
        ``mean`` and ``std``, 32 numbers each; the standard deviation of a band that is always the
        same is 1.
    """
    total, squares = np.zeros((2, SIZE))
    for start in range(0, len(rows), 1024):
        block = levels[rows[start : start + 1024], 0].astype(np.float64)
        total += block.sum((0, 2))
        squares += np.square(block).sum((0, 2))
    mean = total / (len(rows) * SIZE)
    variance = np.maximum(0, squares / (len(rows) * SIZE) - mean**2)
    std = np.sqrt(variance)
    std[std < 1e-6] = 1
    return {"mean": mean.tolist(), "std": std.tolist()}
