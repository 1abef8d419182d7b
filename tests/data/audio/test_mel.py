"""Log-mel features against librosa 0.11: a few of its numbers, and itself where it is installed."""

import math

import numpy as np
import pytest
import torch
from support.devices import GPU

from polygraph.data import LogMel
from polygraph.data.audio.mel import FeatureConfig, mel_bands, statistics_of, stretch


def sweep(rate):
    """A sine of 440 Hz and one that rises from 1,000 to 4,000 Hz, a second."""
    t = np.arange(rate) / rate
    y = 0.3 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * (1000 + 1500 * t) * t)
    return y.astype(np.float32)


# librosa 0.11.0, of y = sweep(rate), n_fft = rate * 2048 // 16000:
#   m = librosa.feature.melspectrogram(y=y, sr=rate, n_fft=n_fft, hop_length=n_fft // 4, n_mels=32)
#   d = librosa.power_to_db(m, ref=np.max)
#   for b, t in PLACES: print(m[b, t], d[b, t])
PLACES = ((0, 0), (4, 0), (5, 15), (12, 3), (20, 16), (25, 28), (31, 31))
LIBROSA = {
    8000: (
        (0.1303078, -28.8671),
        (1.465066, -18.3582),
        (100.388, 0.0),
        (4.326366e-08, -80.0),
        (2.145857e-12, -80.0),
        (3.851479e-13, -80.0),
        (0.4428242, -23.5545),
    ),
    16000: (
        (0.5547279, -27.5429),
        (149.2061, -3.24579),
        (0.004816298, -48.1565),
        (13.71893, -13.6105),
        (12.15695, -14.1354),
        (0.05213264, -37.8126),
        (0.0005100211, -57.9078),
    ),
}


@pytest.mark.parametrize("rate", [8000, 16000])
def test_numbers_of_librosa(rate):
    """Power to 1e-5 of itself or 1e-7 of the largest, decibels to 0.01."""
    clips = torch.from_numpy(sweep(rate))[None]
    features = LogMel(rate, rate)
    assert (features.n_fft, features.hop) == (rate * 2048 // 16000, rate * 512 // 16000)
    power = (features.bands @ features.power(clips))[0]
    decibels, least = features(clips)[0, 0], 1e-7 * float(power.max())
    assert decibels.shape == (32, 32)
    for (band, moment), (mel, level) in zip(PLACES, LIBROSA[rate], strict=True):
        assert float(power[band, moment]) == pytest.approx(mel, rel=1e-5, abs=least)
        assert float(decibels[band, moment]) == pytest.approx(level, abs=0.01)
    logs = LogMel(rate, rate, "log")(clips)[0, 0]
    torch.testing.assert_close(logs, (power + 1e-6).log())


def test_librosa_itself():
    librosa = pytest.importorskip("librosa")
    rng = np.random.default_rng(0)
    for rate, samples in ((8000, 8000), (16000, 16000), (44100, 44100), (16000, 24000)):
        clips = (rng.normal(size=(3, samples)) * np.geomspace(1, 1e-4, samples)).astype(np.float32)
        clips[1, : samples // 2] = 0
        clips[2, :] = 0
        features = LogMel(rate, samples)
        bands = librosa.filters.mel(sr=rate, n_fft=features.n_fft, n_mels=32)
        np.testing.assert_allclose(mel_bands(rate, features.n_fft), bands, atol=1e-8)
        found = features(torch.from_numpy(clips)).numpy()[:, 0]
        for clip, ours in zip(clips, found, strict=True):
            power = librosa.feature.melspectrogram(
                y=clip, sr=rate, n_fft=features.n_fft, hop_length=features.hop, n_mels=32
            )
            wanted = librosa.power_to_db(power, ref=np.max)
            np.testing.assert_allclose(ours, wanted, atol=0.01)


def test_the_pace_is_a_phase_vocoders():
    """Magnitudes alone: those of librosa's phase vocoder."""
    librosa = pytest.importorskip("librosa")
    rng = np.random.default_rng(0)
    spectrum = rng.normal(size=(65, 32)) + 1j * rng.normal(size=(65, 32))
    for pace in (0.8, 0.93, 1.0, 1.2):
        wanted = np.abs(librosa.phase_vocoder(spectrum, rate=pace, hop_length=32))
        wanted = np.pad(wanted, ((0, 0), (0, 32)))[:, :32]
        magnitude = torch.from_numpy(np.abs(spectrum))[None]
        found = stretch(magnitude, torch.tensor([pace], dtype=torch.float64))[0].numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_bands_are_triangles_of_equal_area():
    bands = mel_bands(16000, 2048)
    assert bands.shape == (32, 1025)
    areas = bands[8:].sum(1) * 16000 / 2048  # those below are a few frequencies wide
    np.testing.assert_allclose(areas, 1, rtol=0.02)
    assert (np.diff(bands.argmax(1)) > 0).all()


def test_silence_and_single_samples():
    clips = torch.zeros(2, 8000)
    clips[1, 4000] = 1
    found = LogMel(8000, 8000)(clips)
    assert float(found[0].abs().max()) == 0
    assert float(found[1].max()) == 0
    assert float(found[1].min()) == -80
    assert float(LogMel(8000, 8000, "log")(clips)[0].max()) == pytest.approx(math.log(1e-6))


def test_a_clip_does_not_depend_on_its_batch():
    clips = torch.randn(5, 8000, generator=torch.Generator().manual_seed(0))
    features = LogMel(8000, 8000)
    whole = features(clips)
    torch.testing.assert_close(features(clips[3:4]), whole[3:4], rtol=0, atol=1e-4)
    paces = torch.tensor([1.0, 1.1, 0.9, 1.0, 1.2])
    stretched = features(clips, paces)
    torch.testing.assert_close(stretched[3], whole[3], rtol=0, atol=1e-3)
    assert (stretched[1] - whole[1]).abs().max() > 1
    assert float(stretched[4, 0, :, 28:].max()) == -80  # silence behind a faster end


def test_statistics_make_bands_of_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(rng.normal(size=(40, 8000)).astype(np.float32))
    features = LogMel(8000, 8000)
    levels = features(clips).numpy()
    rows = np.arange(5, 40)
    statistics = statistics_of(levels, rows)
    np.testing.assert_allclose(statistics["mean"], levels[rows, 0].mean((0, 2)), rtol=1e-5)
    features.normalize_with(statistics)
    normal = features(clips[5:])
    torch.testing.assert_close(normal.mean((0, 1, 3)), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std((0, 1, 3)), torch.ones(32), atol=1e-2, rtol=0)
    silent = statistics_of(np.zeros((2, 1, 32, 32), np.float32), np.arange(2))
    assert silent["std"] == [1.0] * 32


@pytest.mark.gpu
def test_the_same_on_a_gpu():
    clips = torch.randn(4, 8000, generator=torch.Generator().manual_seed(0))
    paces = torch.tensor([1.0, 1.1, 0.9, 1.0])
    features = LogMel(8000, 8000)
    wanted = features(clips, paces)
    found = features.to(GPU)(clips.to(GPU), paces.to(GPU))
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=0.01)


def test_what_no_features_are_of():
    with pytest.raises(ValueError, match="samples must be at least 2000, got 100"):
        LogMel(8000, 100)
    with pytest.raises(ValueError, match=r"scale must be one of db, log, got 'dB'"):
        LogMel(8000, 8000, "dB")
    with pytest.raises(ValueError, match=r"scale must be one of db, log, got 'x'"):
        FeatureConfig("x")
    features = LogMel(8000, 8000)
    with pytest.raises(ValueError, match=r"shape \[B, 8000\], got \[2, 4000\]"):
        features(torch.zeros(2, 4000))
    good = {"mean": [0.0] * 32, "std": [1.0] * 32}
    for change in ({"std": [0.0] * 32}, {"mean": [float("nan")] * 32}, {"mean": [0.0] * 3}):
        with pytest.raises(ValueError, match="must be 32 usable numbers"):
            features.normalize_with({**good, **change})
