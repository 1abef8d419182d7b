"""Audio data sets: one type for all of them, one configuration, one function that opens them.

Clips are of one rate and one length: what is longer is cut, what is shorter is followed by zeros.
They are decoded once and kept in the cache, memory-mapped, as 16-bit integers where the files have
no more (32,000 bytes of a second at 16 kHz), else as float32.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph._arrays import array_sha256, as_numpy
from polygraph._checks import check_choice, check_numbers
from polygraph.data.audio import tones
from polygraph.data.audio.layouts import LAYOUTS, Clips, find_clips
from polygraph.data.audio.mel import SIZE
from polygraph.data.audio.sounds import read_form, read_sound
from polygraph.data.audio.splits import IntArray, Parts, check_split, split_clips
from polygraph.data.audio.wav import RATES
from polygraph.data.store import MANIFEST, Entry, NpyWriter, progress, write_synced

Samples = NDArray[Any]

ARRAYS = "arrays"  #: kind of what was handed over in memory
AUDIO_KINDS = ("tones", "auto", *LAYOUTS, ARRAYS)
_LEAST_SAMPLES, _MOST_SAMPLES = 2000, 1 << 24  # of a clip
_TONES_RATE = 8000
_MOST_NOISE = 1 << 26  # bytes of noise that are kept


@dataclass(frozen=True)
class AudioDataConfig:
    """Which sounds, and in which form.

    Attributes:
        kind: "tones" (built in), "speech-commands", "spoken-digits", "folder" (folders of sounds,
            which are classes), "auto" (which of these a folder looks like) or "arrays" (handed over
            in memory).
        path: the folder; not for "tones" and "arrays".
        rate: samples per second; null: that of the files, when all have the same. Files of another
            rate are resampled to it.
        seconds: of a clip: longer ones are cut, shorter ones are followed by zeros.
        split: which clips test: "official", "takes:0-4", "speaker:NAME" or "random"; null: official
            where there is one.
        test_fraction: of the split "random", share of each class that tests.
        cache_dir: where decoded clips are kept; None for the user's cache.
        full_check: verify the SHA-256 of the cached clips, and not only their sizes.
        num_clips: number of built-in tones.
        seed: of the tones; draws the clips that test.
    """

    kind: str = "tones"
    path: str | None = None
    rate: int | None = None
    seconds: float = 1.0
    split: str | None = None
    test_fraction: float = 0.1
    cache_dir: str | None = None
    full_check: bool = False
    num_clips: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no data set can be opened from."""
        check_numbers("data", self, ("seed",))
        check_choice("data", "kind", self.kind, AUDIO_KINDS)
        without_path = self.kind in ("tones", ARRAYS)
        if without_path and self.path is not None:
            raise ValueError(
                f"data: path must not be set for kind {self.kind!r}, got {self.path!r}"
            )
        if not without_path and self.path is None:
            raise ValueError(f"data: path must be set for kind {self.kind!r}, got none")
        if self.rate is not None and not RATES[0] <= self.rate <= RATES[1]:
            raise ValueError(f"data: rate must be in [{RATES[0]}, {RATES[1]}], got {self.rate}")
        if not 0 < self.seconds <= 3600:
            raise ValueError(f"data: seconds must be in (0, 3600], got {self.seconds}")
        check_split(self.split)
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"data: test_fraction must be in (0, 1), got {self.test_fraction}")
        for name, low in (("num_clips", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"data: {name} must be at least {low}, got {getattr(self, name)}")
        if self.num_clips > 1_000_000:
            raise ValueError(f"data: num_clips must be at most 1000000, got {self.num_clips}")


@dataclass(frozen=True)
class AudioDataset:
    """Clips in memory (or memory-mapped), and what each of them is for.

    Attributes:
        name: for people.
        samples: int16, whose unit is 1 / 32768, or float32 ``[N, S]``, read-only.
        rate: samples per second.
        labels: int64 ``[N]`` in ``[0, len(classes))``.
        classes: their names.
        speakers: of each clip; None where nothing says.
        train: int64, ascending: clips that train.
        test: int64, ascending: clips that are held out.
        val: int64, ascending: clips that validate, where the data set says which; or None.
        split: name of this division.
        noise: recordings that are no clips, ``[P, S]`` as the samples are; P may be 0.
        content_hash: SHA-256 of samples, rate, labels and noise.
        split_hash: SHA-256 of the parts.

    Example:
        >>> from polygraph.data import AudioDataConfig, open_audio
        >>> open_audio(AudioDataConfig(num_clips=40))
        AudioDataset('tones-40-0', 40 clips of 8000 at 8000 Hz, 4 classes, random: 36 train, 4 test)

    See Also:
        `open_audio`.
    """

    name: str
    samples: Samples
    rate: int
    labels: IntArray
    classes: tuple[str, ...]
    speakers: tuple[str, ...] | None
    train: IntArray
    test: IntArray
    val: IntArray | None
    split: str
    noise: Samples
    content_hash: str
    split_hash: str

    def __repr__(self) -> str:
        """One line: the name, sizes, the parts."""
        return (
            f"AudioDataset({self.name!r}, {len(self)} clips of {self.samples.shape[1]} at "
            f"{self.rate} Hz, {self.num_classes} classes, {self.split}: {len(self.train)} train, "
            f"{len(self.test)} test)"
        )

    def __len__(self) -> int:
        """Number of clips, of all parts together."""
        return len(self.samples)

    @property
    def channels(self) -> int:
        """Of the features that networks see."""
        return 1

    @property
    def size(self) -> int:
        """Height and width of the features."""
        return SIZE

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def clips(self, indices: NDArray[np.integer[Any]]) -> Tensor:
        """Clips of these indices as float32 ``[B, S]`` on the CPU."""
        return to_float(torch.from_numpy(self.samples[indices]))

    @classmethod
    def from_arrays(
        cls,
        samples: Any,
        labels: Any,
        rate: int,
        *,
        classes: Sequence[str] | None = None,
        speakers: Sequence[str] | None = None,
        test: Any = None,
        seconds: float = 1.0,
        name: str = "arrays",
    ) -> AudioDataset:
        """A data set of clips that are in memory.

        Args:
            samples: int16, or floating point with the unit 1, ``[N, L]``: cut or followed by zeros
                to ``seconds``.
            labels: integers ``[N]`` from 0.
            rate: samples per second.
            classes: names of the classes; None: their numbers.
            speakers: of each clip.
            test: indices or bool ``[N]``, the clips that test; None: a tenth of each class, drawn.
            seconds: of a clip.
            name: for people.

        Raises:
            ValueError: a shape, a type or a label does not fit, or a sample is not finite.
        """
        clips = as_numpy(samples)
        if clips.ndim != 2 or not clips.size or clips.dtype.kind not in "if":
            raise ValueError(
                f"{name}: samples must be int16 or floats of shape [N, L], got {clips.dtype} "
                f"{list(clips.shape)}"
            )
        if clips.dtype.kind == "i" and clips.dtype != np.int16:
            raise ValueError(f"{name}: whole samples must be int16, got {clips.dtype}")
        if clips.dtype.kind == "f" and not np.isfinite(clips).all():
            raise ValueError(f"{name}: samples must be finite")
        AudioDataConfig(rate=rate, seconds=seconds)  # checks both
        label = as_numpy(labels)
        if label.shape != (len(clips),) or label.dtype.kind not in "iu":
            raise ValueError(f"{name}: labels must be integers of shape [{len(clips)}]")
        names = tuple(map(str, range(int(label.max()) + 1) if classes is None else classes))
        if label.min() < 0 or label.max() >= len(names):
            raise ValueError(f"{name}: labels must lie in [0, {len(names)})")
        if speakers is not None and len(speakers) != len(clips):
            raise ValueError(f"{name}: want a speaker of each of {len(clips)} clips")
        kind = np.dtype("<i2") if clips.dtype == np.int16 else np.dtype("<f4")
        fitted = np.stack([_fitted(clip.astype(kind), _length(rate, seconds)) for clip in clips])
        words = [names[n] for n in label]
        whose = None if speakers is None else list(speakers)
        found = Clips("folder", [], words, whose)
        if test is not None:
            is_test = np.zeros(len(clips), np.bool_)
            is_test[as_numpy(test)] = True
            found = Clips("folder", [], words, whose, parts=_parts_of(is_test))
        label = label.astype(np.int64)
        parts = split_clips(found, label, None, 0.1, 0)
        return _dataset(name, fitted, rate, label, names, found, parts, fitted[:0])


def to_float(samples: Tensor) -> Tensor:
    """Samples of a data set, int16 or float32, as float32 with the unit 1."""
    return samples.to(torch.float32) / 32768 if samples.dtype == torch.int16 else samples


def open_audio(config: AudioDataConfig) -> AudioDataset:
    """Open the data set at the rate and in the length asked for.

    Deterministic: the same files and the same configuration give the same samples and hashes.

    Raises:
        FileNotFoundError: the folder, or a list that must lie there, does not exist.
        ImportError: soundfile or SciPy is missing; the message names the extra.
        ValueError: a file is damaged, files have several rates and ``rate`` does not say which is
            wanted, or a part would be empty.

    Example:
        >>> from polygraph.data import AudioDataConfig, open_audio
        >>> dataset = open_audio(AudioDataConfig(num_clips=40, split="speaker:eve"))
        >>> dataset.clips(dataset.test).shape, dataset.split
        (torch.Size([12, 8000]), 'speaker:eve')

    See Also:
        `LogMel`, the features of clips.
    """
    if config.kind == "tones":
        return _open_tones(config)
    if config.kind == ARRAYS:
        raise ValueError("data: arrays in memory are not kept: hand them over again, or a folder")
    assert config.path is not None
    root = Path(config.path)
    layout = None if config.kind == "auto" else config.kind
    found = find_clips(root, layout, with_lists=config.split in (None, "official"))
    classes = tuple(sorted(set(found.words)))
    number = {word: n for n, word in enumerate(classes)}
    labels = np.array([number[word] for word in found.words], np.int64)
    parts = split_clips(found, labels, config.split, config.test_fraction, config.seed)
    samples, noise, rate = _cached(root, found, config)
    return _dataset(root.resolve().name, samples, rate, labels, classes, found, parts, noise)


def _open_tones(config: AudioDataConfig) -> AudioDataset:
    rate = config.rate or _TONES_RATE
    count = config.num_clips
    samples = tones.make_tones(count, config.seed, rate, _length(rate, config.seconds))
    labels = np.arange(count, dtype=np.int64) % len(tones.CLASSES)
    voices = [tones.VOICES[n // len(tones.CLASSES) % len(tones.VOICES)] for n in range(count)]
    found = Clips("folder", [], [tones.CLASSES[n] for n in labels], voices)
    parts = split_clips(found, labels, config.split, config.test_fraction, config.seed)
    name = f"tones-{count}-{config.seed}"
    return _dataset(name, samples, rate, labels, tones.CLASSES, found, parts, samples[:0])


def _parts_of(is_test: NDArray[np.bool_]) -> list[str]:
    return ["test" if held else "train" for held in is_test]


def _length(rate: int, seconds: float) -> int:
    """Samples of a clip.

    Raises:
        ValueError: too few for the features, or absurdly many.
    """
    length = round(rate * seconds)
    if not _LEAST_SAMPLES <= length <= _MOST_SAMPLES:
        raise ValueError(
            f"data: a clip must have {_LEAST_SAMPLES} to {_MOST_SAMPLES} samples, got {seconds} s "
            f"at {rate} Hz, {length}"
        )
    return length


def _common_form(root: Path, found: Clips, rate: int | None) -> tuple[int, bool]:
    """The rate of all clips, and whether 16-bit integers hold them exactly.

    Raises:
        ValueError: the files have several rates, and none is asked for.
    """
    forms = [read_form(path) for path in (*found.files, *found.noise)]
    counts = Counter(form.rate for form in forms[: len(found.files)])
    if rate is None and len(counts) > 1:
        shown = ", ".join(f"{count} of {hz} Hz" for hz, count in counts.most_common(5))
        raise ValueError(
            f"{root}: its sounds have {len(counts)} rates ({shown}): say at which they are wanted, "
            "--data.rate N; the others are resampled"
        )
    rate = next(iter(counts)) if rate is None else rate
    return rate, all(form.whole and form.rate == rate for form in forms)


def _cached(root: Path, found: Clips, config: AudioDataConfig) -> tuple[Samples, Samples, int]:
    """Clips and noise, memory-mapped, and their rate; decoded first where they are not there."""
    kind = f"audio-{config.rate or 'own'}-{config.seconds!r}"
    entry = Entry(kind, root, [*found.files, *found.noise], config.cache_dir)
    manifest = entry.load(config.full_check)
    if manifest is None:
        with entry.locked():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said already
                manifest = entry.load(config.full_check)  # made by another process, meanwhile
            if manifest is None:
                rate, whole = _common_form(root, found, config.rate)
                length = _length(rate, config.seconds)
                with entry.replace() as folder:
                    _write(entry, folder, found, rate, length, "<i2" if whole else "<f4")
                manifest = {"rate": rate}
    samples, noise = (
        np.load(entry.folder / name, mmap_mode="r", allow_pickle=False)
        for name in ("samples.npy", "noise.npy")
    )
    return samples, noise, int(manifest["rate"])


def _write(entry: Entry, folder: Path, found: Clips, rate: int, length: int, kind: str) -> None:
    writer = NpyWriter(folder / "samples.npy", (len(found.files), length), kind)
    try:
        for path in progress(found.files, f"reading {entry.root.name}", len(found.files)):
            clip, _ = read_sound(path, rate, length / rate)
            writer.write(_fitted(_as_kind(clip, kind), length)[None])
        described = {"samples.npy": writer.close()}
    finally:
        writer.abandon()
    pieces = _pieces(found.noise, rate, length, kind)
    noise = NpyWriter(folder / "noise.npy", pieces.shape, kind)
    try:
        noise.write(pieces)
        described["noise.npy"] = noise.close()
    finally:
        noise.abandon()
    listing = [path.relative_to(entry.root).as_posix() for path in found.files]
    described["files.json"] = write_synced(folder / "files.json", json.dumps(listing))
    write_synced(folder / MANIFEST, entry.manifest(described, rate=rate))


def _pieces(files: Sequence[Path], rate: int, length: int, kind: str) -> Samples:
    """Recordings of noise in pieces ``[P, length]``, one after the other; rests are left out."""
    found = [np.zeros((0, length), kind)]
    room = _MOST_NOISE // (length * np.dtype(kind).itemsize)
    for path in files:
        sound, _ = read_sound(path, rate, room * length / rate)
        count = min(len(sound) // length, room)
        found.append(_as_kind(sound[: count * length], kind).reshape(count, length))
        room -= count
        if not room:
            break
    return np.concatenate(found)


def _as_kind(samples: Samples, kind: str) -> Samples:
    """Float samples in the type of the cache; 16-bit integers are exact."""
    return (samples * 32768 if kind == "<i2" else samples).astype(kind)


def _fitted(clip: Samples, length: int) -> Samples:
    """A clip of that length: cut, or followed by zeros."""
    return np.pad(clip[:length], (0, max(0, length - len(clip))))


def _dataset(
    name: str,
    samples: Samples,
    rate: int,
    labels: IntArray,
    classes: tuple[str, ...],
    found: Clips,
    parts: Parts,
    noise: Samples,
) -> AudioDataset:
    samples.setflags(write=False)
    labels.setflags(write=False)
    return AudioDataset(
        name=name,
        samples=samples,
        rate=rate,
        labels=labels,
        classes=classes,
        speakers=None if found.speakers is None else tuple(found.speakers),
        train=parts.train,
        test=parts.test,
        val=parts.val,
        split=parts.name,
        noise=noise,
        content_hash=array_sha256(np.int64(rate), samples, labels.astype("<i8"), noise),
        split_hash=array_sha256(
            *(p.astype("<i8") for p in (parts.train, parts.test, parts.val) if p is not None)
        ),
    )
