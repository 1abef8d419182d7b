"""Log-mel features of a batch, with and without random changes, against librosa clip by clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from harness import FORWARD, Benchmark, Contender, Problem, Workload, main
from inputs import normal
from torch import Tensor

from polygraph.data import LogMel
from polygraph.train.sound_augment import (
    SoundAugmentConfig,
    SoundDraws,
    change_sounds,
    draw_sounds,
    make_noise,
)

WORKLOADS = [
    Workload("96 clips, 16 kHz", {"B": 96, "rate": 16000, "changed": 0}),
    Workload("96 clips, 16 kHz, changed", {"B": 96, "rate": 16000, "changed": 1}),
    Workload("96 clips, 8 kHz", {"B": 96, "rate": 8000, "changed": 0}),
    Workload("96 clips, 8 kHz, changed", {"B": 96, "rate": 8000, "changed": 1}),
]
TINY = {"B": 2, "rate": 8000, "changed": 1}


def by_librosa(
    librosa: Any, clips: list[Any], features: LogMel, draws: SoundDraws | None, noise: Any
) -> Tensor:
    """The same features of one clip after the other, as the published pipeline makes them."""
    n_fft, hop, count = features.n_fft, features.hop, features.samples
    bands = librosa.filters.mel(sr=features.rate, n_fft=n_fft, n_mels=32)
    moments = np.arange(count)
    found = []
    for n, clip in enumerate(clips):
        pace = 1.0
        if draws is not None:
            pace = draws.pace[n]
            places = (moments - hop * draws.shift[n]) * draws.speed[n]
            clip = np.interp(places, np.arange(-1, count + 1), np.pad(clip, 1), 0, 0)
            clip = (clip * draws.amplitude[n]).astype(np.float32)
            hum = noise[draws.piece[n] % len(noise)] * np.sqrt(np.square(clip).mean())
            clip = clip + np.float32(draws.noise[n]) * (hum - clip)
        spectrum = librosa.stft(clip, n_fft=n_fft, hop_length=hop)
        if pace != 1:
            spectrum = librosa.phase_vocoder(spectrum, rate=pace, hop_length=hop)
            spectrum = librosa.util.fix_length(spectrum, size=32)
        power = bands @ np.square(np.abs(spectrum))
        found.append(librosa.power_to_db(power, ref=np.max))
    return torch.from_numpy(np.stack(found)[:, None])


def make(sizes: dict[str, int], device: str) -> Problem:
    """Ours, librosa where it is installed, and the spectra alone."""
    B, rate = sizes["B"], sizes["rate"]
    fading = torch.linspace(1, 0.01, rate, device=device)
    clips = normal(B, rate, seed=0, device=device) * fading
    features = LogMel(rate, rate).to(device)
    noise = make_noise(torch.zeros(0, rate), rate).to(device)
    draws = None
    if sizes["changed"]:
        draws = draw_sounds(SoundAugmentConfig(), 0, B, np.zeros(B, int), np.arange(B))

    def ours(sounds: Tensor, made: LogMel, hum: Tensor) -> Tensor:
        if draws is None:
            return made(sounds)
        pace = torch.from_numpy(draws.pace).to(sounds.device)
        return made(change_sounds(sounds, draws, hum, made.hop), pace)

    def definition() -> tuple[Tensor, list[Tensor]]:
        exact = LogMel(rate, rate).double()
        return ours(clips.cpu().double(), exact, noise.cpu().double()), []

    contenders = {
        "ours": Contender("ours", lambda: ours(clips, features, noise), []),
        "spectra alone": Contender("floor", lambda: features.power(clips), [], checked=()),
    }
    try:
        import librosa
    except ImportError:
        print("librosa is not installed: no peer")
    else:
        rows, hum = list(clips.cpu().numpy()), noise.cpu().numpy()
        contenders["librosa, clip by clip"] = Contender(
            "peer", lambda: by_librosa(librosa, rows, features, draws, hum), []
        )
    return Problem(contenders, definition, (B, 1, 32, 32))


if __name__ == "__main__":
    main(
        Benchmark(
            "audio",
            WORKLOADS,
            make,
            quick=["96 clips, 16 kHz, changed"],
            tiny=TINY,
            passes=(FORWARD,),
        )
    )
