"""Small sounds and data sets of them, written by the standard library."""

import struct
import wave

import numpy as np


def write_pcm(path, values, rate=8000, bits=16, channels=1):
    """Integers ``[N]`` (or ``[N * channels]``) as a PCM file."""
    values = np.asarray(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    if bits == 8:
        data = (values + 128).astype(np.uint8).tobytes()
    elif bits == 24:
        data = np.ascontiguousarray(values, "<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    else:
        data = values.astype(f"<i{bits // 8}").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, bits // 8, rate, 0, "NONE", ""))
        file.writeframes(data)
    return path


def wav_bytes(data, *, encoding=1, channels=1, rate=8000, bits=16, step=None, tail=b"", before=b""):
    """A WAV file, byte by byte; ``tail`` follows the 16 bytes of its header."""
    step = channels * bits // 8 if step is None else step
    form = struct.pack("<HHIIHH", encoding, channels, rate, rate * step, step, bits) + tail
    chunks = before + b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def tone(pitch, seconds=0.5, rate=8000, loudness=0.3):
    """A sine as 16-bit integers."""
    t = np.arange(round(seconds * rate)) / rate
    return np.round(32767 * loudness * np.sin(2 * np.pi * pitch * t)).astype(np.int16)


def digits(root, takes=4, speakers=("ann", "bob"), words=(0, 1, 2), rate=8000):
    """A folder in the layout of the Free Spoken Digit Dataset; words have pitches of their own."""
    for word in words:
        for n, speaker in enumerate(speakers):
            for take in range(takes):
                pitch = 300 * (word + 1) * (1 + 0.05 * n) + 5 * take
                write_pcm(root / f"{word}_{speaker}_{take}.wav", tone(pitch, rate=rate), rate)
    return root
