"""The built-in sounds: four tunes of a second at most, by voices that differ. No download.

A clip is a tone that stays low, stays high, rises or falls, with overtones of its voice's loudness,
somewhere in the clip, in a little noise.
"""

from __future__ import annotations

import numpy as np

from polygraph._memory import check_room
from polygraph.data.audio.wav import FloatArray

CLASSES = ("falling", "high", "low", "rising")
VOICES = ("ann", "bob", "eve")
_PITCHES = {"falling": (900, 300), "high": (800, 900), "low": (250, 300), "rising": (300, 900)}


def make_tones(count: int, seed: int, rate: int, samples: int) -> FloatArray:
    """Clips float32 ``[count, samples]``: clip n is of class n % 4 and of voice n // 4 % 3.

    A function of its arguments.
    """
    check_room(8 * count * samples, f"{count} sounds of {samples} samples")
    found = np.zeros((count, samples), np.float32)
    for n in range(count):
        rng = np.random.default_rng([seed, n])
        first, last = _PITCHES[CLASSES[n % 4]]
        voice = n // 4 % len(VOICES)
        length = int(samples * rng.uniform(0.4, 0.8))
        start = int(rng.integers(samples - length))
        pitch = np.linspace(first, last, length) * rng.uniform(0.9, 1.1) * (1 + 0.1 * voice)
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        tone = sum(np.sin(k * phase) / k ** (1 + 0.5 * voice) for k in (1, 2, 3))
        found[n, start : start + length] = tone * np.hanning(length)
        found[n] = found[n] * rng.uniform(0.05, 0.4) + rng.normal(0, 0.004, samples)
    return found
