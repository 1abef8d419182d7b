"""Random changes of sounds, on tensors of any device: how loud, fast, late, noisy.

The pipeline of the polynomial networks' speech results (github.com/tugstugi/pytorch-speech-
commands): each change is made with a probability, of a strength that is drawn. What is drawn for a
sound is a function of (seed, epoch, place in the epoch), by NumPy on the CPU. So the same run sees
the same sounds, but for rounding, on a CPU and on a GPU, after a resume, with any number of
processes and with batches of any size.

We depart from it where sounds lie longer than a clip (they are cut before they are sped up, not
after), and in the noise: it is added before the spectrum, as loud as the clip times its share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from polygraph._checks import check_numbers

_SOUNDS = 3  # sets these draws apart from others of the same seed and epoch
_MADE = 16  # pieces of noise where there are no recordings
_LEAST_LOUDNESS = 1e-6  # of a piece of noise: below it is silence


@dataclass(frozen=True)
class SoundAugmentConfig:
    """How training sounds are changed at random; each change by itself.

    Attributes:
        probability: of each change; 0 leaves sounds alone.
        amplitude: least and greatest factor of loudness.
        speed: the greatest share by which a sound becomes longer and lower, or shorter and higher.
        stretch: the greatest share by which it becomes faster or slower at its pitch.
        shift_frames: the greatest number of hops by which it comes later or earlier; of 32 in a
            clip.
        noise: the greatest share of noise.
    """

    probability: float = 0.5
    amplitude: tuple[float, ...] = (0.7, 1.1)
    speed: float = 0.2
    stretch: float = 0.2
    shift_frames: int = 8
    noise: float = 0.45

    def __post_init__(self) -> None:
        """Refuse what cannot be done; lists (from JSON) become tuples."""
        check_numbers("augment", self)
        object.__setattr__(self, "amplitude", tuple(self.amplitude))
        if not 0 <= self.probability <= 1:
            raise ValueError(f"augment: probability must be in [0, 1], got {self.probability}")
        for name in ("speed", "stretch", "noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"augment: {name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.shift_frames < 32:
            raise ValueError(f"augment: shift_frames must be in [0, 32), got {self.shift_frames}")
        low, high = self.amplitude if len(self.amplitude) == 2 else (0, 0)
        if not 0 < low <= high <= 100:
            raise ValueError(
                "augment: amplitude must be two factors that rise, in (0, 100], got "
                f"{list(self.amplitude)}"
            )


class SoundDraws(NamedTuple):
    """What is drawn for each sound of a batch, ``[B]``.

    Attributes:
        amplitude: factor of loudness.
        speed: samples of the sound that go by in one of the result.
        pace: moments of the spectrum likewise.
        shift: hops by which it comes later.
        noise: share of noise.
        piece: which noise, in [0, 2^31).
    """

    amplitude: NDArray[np.float64]
    speed: NDArray[np.float64]
    pace: NDArray[np.float64]
    shift: NDArray[np.int64]
    noise: NDArray[np.float64]
    piece: NDArray[np.int64]


def draw_sounds(
    config: SoundAugmentConfig,
    seed: int,
    num_samples: int,
    epochs: NDArray[np.int64],
    places: NDArray[np.int64],
) -> SoundDraws:
    """What is drawn for some sounds of a training set.

    Args:
        config: what is drawn at all.
        seed: of the run.
        num_samples: size N of the training set.
        epochs: int64 ``[B]``, the pass in which each sound is heard.
        places: int64 ``[B]``, where in the pass, in [0, N).
    """
    real, whole = np.zeros((4, len(places))), np.zeros((2, len(places)), np.int64)
    found = SoundDraws(real[0], real[1], real[2], whole[0], real[3], whole[1])
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        parts = _draws_of_epoch(config, seed, int(epoch), num_samples)
        for all_of_it, part in zip(found, parts, strict=True):
            all_of_it[of_epoch] = part[places[of_epoch]]
    return found


_drawn: dict[tuple[Any, ...], SoundDraws] = {}


def _draws_of_epoch(config: SoundAugmentConfig, seed: int, epoch: int, size: int) -> SoundDraws:
    """The draws of a pass. The last two are kept, as permutations are."""
    key = (config, seed, epoch, size)
    if key not in _drawn:
        while len(_drawn) >= 2:
            _drawn.pop(next(iter(_drawn)))
        _drawn[key] = _make_draws(config, seed, epoch, size)
    return _drawn[key]


def _make_draws(config: SoundAugmentConfig, seed: int, epoch: int, size: int) -> SoundDraws:
    """Every change has a generator of its own: what one does leaves the others' draws as they are.

    Strengths are drawn in [-1, 1] and for all sounds, changed or not.
    """

    def strengths(part: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        rng = np.random.default_rng([seed, epoch, _SOUNDS, part])
        return rng.random(size) < config.probability, rng.uniform(-1, 1, size)

    low, high = config.amplitude
    louder, loudness = strengths(0)
    longer, length = strengths(1)
    paced, pace = strengths(2)
    moved, shift = strengths(3)
    noisy, noise = strengths(4)
    hops = np.floor((shift + 1) / 2 * (2 * config.shift_frames + 1)).astype(np.int64)
    hops = hops.clip(0, 2 * config.shift_frames) - config.shift_frames
    piece = np.random.default_rng([seed, epoch, _SOUNDS, 5]).integers(0, 2**31, size)
    return SoundDraws(
        np.where(louder, low + (high - low) * (loudness + 1) / 2, 1.0),
        np.where(longer, 1 / (1 + config.speed * length), 1.0),
        np.where(paced, 1 + config.stretch * pace, 1.0),
        np.where(moved, hops, 0),
        np.where(noisy, config.noise * (noise + 1) / 2, 0.0),
        piece,
    )


def make_noise(recorded: Tensor, samples: int) -> Tensor:
    """Pieces of noise ``[P, samples]``, float32, each with mean square 1.

    Args:
        recorded: recordings ``[P, samples]``; silent ones are left out. Where none is left noise is
            made: from white, with as much of all frequencies, to brown, whose power falls with the
            square of the frequency.
        samples: of a piece.
    """
    loudness = recorded.square().mean(1).sqrt()
    heard = loudness > _LEAST_LOUDNESS
    if bool(heard.any()):
        return recorded[heard] / loudness[heard, None]
    rng = np.random.default_rng(0)
    frequency = np.maximum(1, np.arange(samples // 2 + 1))
    spectra = rng.normal(size=(_MADE, len(frequency), 2)).view(np.complex128)[..., 0]
    slopes = np.linspace(0, 1, _MADE)[:, None]
    sounds = np.fft.irfft(spectra * frequency**-slopes, samples)
    sounds /= np.sqrt(np.square(sounds).mean(1, keepdims=True))
    return torch.from_numpy(sounds.astype(np.float32))


def change_sounds(clips: Tensor, draws: SoundDraws, noise: Tensor, hop: int) -> Tensor:
    """Clips louder, faster, later and noisier as drawn; their pace is the spectrum's business.

    A clip is read at other moments, between its samples along lines, and is silent beyond its ends.

    Args:
        clips: float ``[B, S]``.
        draws: of each clip.
        noise: ``[P, S]``, see `make_noise`.
        hop: samples by which a shift of 1 moves.

    Returns:
        ``[B, S]``, on the device of the clips; the same to rounding on all.

    Raises:
        ValueError: the draws are not of these clips.
    """
    if len(draws.speed) != len(clips):
        raise ValueError(
            f"change_sounds: draws must be of {len(clips)} clips, got {len(draws.speed)}"
        )

    def column(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(clips.device, clips.dtype)[:, None]

    count = clips.shape[1]
    late = column(draws.shift * hop)
    moments = torch.arange(count, device=clips.device, dtype=clips.dtype) - late
    # How far a sound is ahead is a smaller number than where it is, and keeps more digits.
    ahead = moments * column(draws.speed - 1)
    below = ahead.floor()
    share = ahead.sub_(below)
    index = moments.add_(below).long().add_(2).clamp_(0, count + 2)
    padded = functional.pad(clips, (2, 2))  # silence before and behind
    moved = padded.gather(1, index).lerp_(padded.gather(1, index.add_(1)), share)
    moved.mul_(column(draws.amplitude))
    part = column(draws.noise)
    chosen = torch.from_numpy(draws.piece % len(noise)).to(noise.device)
    loudness = moved.square().mean(1, keepdim=True).sqrt()
    return moved.mul_(1 - part).addcmul_(noise[chosen].to(moved), loudness * part)
