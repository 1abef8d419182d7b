"""One sound at a rate of one's choice: WAV by our own reader, other formats by soundfile.

Rates are changed by `scipy.signal.resample_poly`, a windowed sinc in polyphase form that is well
kept; it runs once, when a data set is decoded, so that a version on the GPU would gain nothing.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polygraph.data.audio.wav import (
    FloatArray,
    check_rate,
    checked_samples,
    read_wav,
    read_wav_header,
)

WAV_SUFFIXES = (".wav", ".wave")
SUFFIXES = (*(".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus"), *WAV_SUFFIXES)
_MOST_TERM = 1 << 16  # of a ratio of rates: its filter has 20 times as many coefficients
_MARGIN = 32  # samples of the slower rate that the filter reads beyond the last one kept


class Form(NamedTuple):
    """What is known of a sound before it is decoded.

    Attributes:
        rate: samples per second.
        whole: whether 16-bit integers hold its samples exactly, at this rate.
    """

    rate: int
    whole: bool


def list_sounds(root: Path) -> list[Path]:
    """Files below ``root`` with the suffix of a sound, hidden ones left out, sorted by path."""
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def read_form(path: Path) -> Form:
    """Look at a sound's header.

    Raises:
        ImportError: no WAV file, and soundfile is missing; the message names the extra.
        ValueError: the file is damaged.
    """
    if path.suffix.lower() in WAV_SUFFIXES:
        header = read_wav_header(path)
        whole = header.channels == 1 and not header.is_float and header.bits <= 16
        return Form(header.rate, whole)
    with _opened(path) as file:
        return Form(int(file.samplerate), False)


def read_sound(
    path: str | os.PathLike[str], rate: int | None = None, seconds: float | None = None
) -> tuple[FloatArray, int]:
    """Read a sound, mixed down to one channel.

    Args:
        path: a WAV file; or FLAC, Ogg, MP3, AIFF where soundfile is installed.
        rate: samples per second that are wanted; None: the file's own.
        seconds: read so much from the beginning at most; None for all.

    Returns:
        Samples float32 ``[N]`` and their rate.

    Raises:
        ImportError: soundfile or SciPy is missing; the message names the extra.
        ValueError: the file is damaged, or the rates have no simple ratio.
    """
    path = Path(path)
    own = read_form(path).rate
    rate = own if rate is None else rate
    most = None
    if seconds is not None:
        most = math.ceil(seconds * own) + (math.ceil(_MARGIN * own / min(own, rate)))
    if path.suffix.lower() in WAV_SUFFIXES:
        samples, _ = read_wav(path, most)
    else:
        with _opened(path) as file:
            values = file.read(-1 if most is None else most, dtype="float64", always_2d=True)
        if not len(values):
            raise ValueError(f"{path}: want at least one sample, got none")
        samples = checked_samples(path, values.mean(1).astype(np.float32))
    samples = resample(samples, own, rate)
    return samples if seconds is None else samples[: round(seconds * rate)], rate


def resample(samples: FloatArray, rate: int, to: int) -> FloatArray:
    """Samples float32 ``[N]`` at another rate: ``[ceil(N * to / rate)]``.

    Raises:
        ImportError: SciPy is missing; the message names the extra.
        ValueError: the rates have no simple ratio.
    """
    if rate == to:
        return samples
    common = math.gcd(rate, to)
    up, down = to // common, rate // common
    if max(up, down) > _MOST_TERM:
        raise ValueError(f"resample: from {rate} to {to} is no ratio of small numbers")
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ImportError(
            "changing the rate of sounds needs scipy: pip install 'polygraph-nn[audio]'"
        ) from error
    return np.ascontiguousarray(resample_poly(samples, up, down), np.float32)


def _opened(path: Path) -> Any:
    """A file that is no WAV, opened by soundfile."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(
            f"{path}: sounds other than WAV need soundfile: pip install 'polygraph-nn[audio]'"
        ) from error
    try:
        file = soundfile.SoundFile(path)
    except Exception as error:  # libsndfile fails with a RuntimeError of its own
        raise ValueError(f"{path}: not a readable sound: {str(error).splitlines()[0]}") from error
    check_rate(path, int(file.samplerate))
    return file
