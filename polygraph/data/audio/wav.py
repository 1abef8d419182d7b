"""WAV files: what the header announces is compared with what is there, then samples are read.

RIFF/WAVE with integers of 8 (unsigned), 16, 24 and 32 bits or floats of 32 and 64 bits, also by the
longer header (WAVE_FORMAT_EXTENSIBLE). Every fault is a `ValueError` that names the file, what was
wanted and what was found.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polygraph._files import open_regular
from polygraph._memory import check_room

FloatArray = NDArray[np.float32]

_INTEGER, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ENCODINGS = {_INTEGER: ("integers", (8, 16, 24, 32)), _FLOAT: ("floats", (32, 64))}
_OTHERS = {2: "ADPCM", 6: "A-law", 7: "µ-law", 17: "IMA ADPCM", 85: "MP3"}
# The rest of the identifier in the longer header, whose first two bytes are the encoding.
_SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")
_MOST_BYTES = 1 << 32  # of a file: what RIFF can announce
_MOST_CHUNKS = 1000  # before the samples
_MOST_CHANNELS = 64
RATES = (1000, 768_000)  #: samples per second that are read
_OF_A_VALUE = 20  # bytes of memory, at most, while a value of a channel is read
_SMALL = 1 << 22  # bytes that are always there


class WavHeader(NamedTuple):
    """What a WAV file announces, compared with its size.

    Attributes:
        rate: frames per second.
        channels: values in a frame.
        bits: of a value.
        is_float: whether values are floats; else they are integers.
        frames: N.
        start: where the first of them lies, in bytes.
    """

    rate: int
    channels: int
    bits: int
    is_float: bool
    frames: int
    start: int


def read_wav(
    path: str | os.PathLike[str], most_frames: int | None = None
) -> tuple[FloatArray, int]:
    """Read a WAV file; several channels are mixed down to their mean.

    Args:
        path: integers of 8, 16, 24 or 32 bits, or floats of 32 or 64.
        most_frames: read so many from the beginning at most; None for all.

    Returns:
        Samples float32 ``[N]``, integers divided by the largest so that they lie in [-1, 1), and
        the rate, samples per second.

    Raises:
        ValueError: no WAV file, truncated, without samples, of another encoding, with a sample that
            is not finite, or more than there is memory for.

    Example:
        >>> import tempfile
        >>> import wave
        >>> from polygraph.data import read_wav
        >>> path = f"{tempfile.mkdtemp()}/two.wav"
        >>> with wave.open(path, "wb") as file:
        ...     file.setparams((1, 2, 8000, 0, "NONE", ""))
        ...     file.writeframes(bytes([0, 64, 0, 128]))
        >>> read_wav(path)
        (array([ 0.5, -1. ], dtype=float32), 8000)

    See Also:
        `open_audio`, which opens data sets of such files.
    """
    path = Path(path)
    file, size = open_regular(path, _MOST_BYTES)
    with file:
        header = _read_header(path, file, size)
        count = header.frames if most_frames is None else min(most_frames, header.frames)
        needed = _OF_A_VALUE * count * header.channels
        if needed > _SMALL:  # to ask what there is takes longer than to read a second of sound
            check_room(needed, f"{path}: {count} frames")
        file.seek(header.start)
        data = file.read(count * header.channels * header.bits // 8)
    return _mixed(path, _values(header, data).reshape(count, header.channels)), header.rate


def read_wav_header(path: str | os.PathLike[str]) -> WavHeader:
    """What a WAV file announces; arguments and errors as of `read_wav`."""
    path = Path(path)
    file, size = open_regular(path, _MOST_BYTES)
    with file:
        return _read_header(path, file, size)


def _read_header(path: Path, file: BinaryIO, size: int) -> WavHeader:
    """Go through the chunks up to the one that holds samples."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise ValueError(
            f"{path}: wrong magic number: a WAV file starts with RIFF, its size and WAVE, got "
            f"{bytes(head)!r}"
        )
    form = None
    for _ in range(_MOST_CHUNKS):
        start = file.tell() + 8
        head = file.read(8)
        if len(head) < 8:
            raise ValueError(f"{path}: truncated: ends before its chunk of samples ('data')")
        length = int.from_bytes(head[4:], "little")
        if start + length > size:
            raise ValueError(
                f"{path}: truncated: its chunk {head[:4]!r} has {length} bytes, got "
                f"{max(0, size - start)}"
            )
        if head[:4] == b"fmt ":
            form = _form(path, file.read(min(length, 40)))
        if head[:4] == b"data":
            return _header(path, form, start, length)
        file.seek(start + length + length % 2)  # chunks begin at even bytes
    raise ValueError(f"{path}: more than {_MOST_CHUNKS} chunks before the samples")


def _form(path: Path, data: bytes) -> tuple[int, ...]:
    """Encoding, channels, rate, bytes per frame and bits per value, checked."""
    if len(data) < 16:
        raise ValueError(f"{path}: its chunk 'fmt ' must have 16 bytes or more, got {len(data)}")
    encoding, channels, rate, _, step, bits = struct.unpack("<HHIIHH", data[:16])
    if encoding == _EXTENSIBLE:
        if len(data) < 40 or data[26:] != _SUBFORMAT:
            raise ValueError(f"{path}: its extended header is of no known encoding")
        encoding = int.from_bytes(data[24:26], "little")
    if encoding not in _ENCODINGS:
        name = _OTHERS.get(encoding, f"number {encoding}")
        raise ValueError(f"{path}: samples must be integers (PCM) or floats, got encoding {name}")
    what, widths = _ENCODINGS[encoding]
    if bits not in widths:
        raise ValueError(f"{path}: {what} must have {_listed(widths)} bits, got {bits}")
    if not 1 <= channels <= _MOST_CHANNELS:
        raise ValueError(f"{path}: channels must be 1 to {_MOST_CHANNELS}, got {channels}")
    check_rate(path, rate)
    if step != channels * bits // 8:
        raise ValueError(
            f"{path}: a frame of {channels} x {bits} bits has {channels * bits // 8} bytes, its "
            f"header says {step}"
        )
    return encoding, channels, rate, step, bits


def check_rate(path: object, rate: int) -> None:
    """Refuse a number of samples per second at which nothing is recorded; ``path`` is named."""
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"{path}: the rate must be {RATES[0]} to {RATES[1]}, got {rate}")


def _listed(widths: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, widths[:-1]))} or {widths[-1]}"


def _header(path: Path, form: tuple[int, ...] | None, start: int, length: int) -> WavHeader:
    if form is None:
        raise ValueError(f"{path}: its samples ('data') come before their description ('fmt ')")
    encoding, channels, rate, step, bits = form
    if length == 0:
        raise ValueError(f"{path}: want at least one sample, got none")
    if length % step:
        raise ValueError(
            f"{path}: its {length} bytes of samples are no whole frames of {step} bytes"
        )
    return WavHeader(rate, channels, bits, encoding == _FLOAT, length // step, start)


def _values(header: WavHeader, data: bytes) -> NDArray[Any]:
    """Values of all channels as floats; integers of up to 24 bits are exact in float32."""
    bits = header.bits
    if header.is_float:
        return np.frombuffer(data, f"<f{bits // 8}")
    if bits == 8:  # the only integers without a sign
        whole = np.frombuffer(data, np.uint8) - np.int16(128)
    elif bits == 24:  # three bytes, put on top of an empty one
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        whole, bits = wide.view("<i4")[:, 0], 32
    else:
        whole = np.frombuffer(data, f"<i{bits // 8}")
    values: NDArray[Any] = whole.astype(np.float64 if bits == 32 else np.float32)
    values /= 2 ** (bits - 1)
    return values


def _mixed(path: Path, values: NDArray[Any]) -> FloatArray:
    """The mean of the channels ``[N, channels]`` as float32 ``[N]``."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values[:, 0] if values.shape[1] == 1 else values.mean(1, dtype=np.float64)
        samples = np.ascontiguousarray(mean, np.float32)
    return checked_samples(path, samples)


def checked_samples(path: object, samples: FloatArray) -> FloatArray:
    """The samples themselves.

    Raises:
        ValueError: one of them is NaN or infinite.
    """
    finite = np.isfinite(samples)
    if not finite.all():
        at = int((~finite).argmax())
        raise ValueError(f"{path}: samples must be finite in float32, got {samples[at]} at {at}")
    return samples
