"""Random changes of sounds against plain NumPy; draws of seed, epoch and place alone; batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.devices import GPU

from polygraph.data import AudioDataConfig, LogMel, open_audio
from polygraph.data.audio.mel import statistics_of
from polygraph.train.balance import balanced_order
from polygraph.train.config import TrainConfig, sample_indices
from polygraph.train.sound_augment import (
    SoundAugmentConfig,
    SoundDraws,
    change_sounds,
    draw_sounds,
    make_noise,
)
from polygraph.train.sound_batches import SoundBatches, clip_features

ALL = SoundAugmentConfig()
NONE = SoundAugmentConfig(probability=0.0)


def drawn(config, places, epoch=4, size=400, seed=7):
    return draw_sounds(config, seed, size, np.full(len(places), epoch), places)


def test_sounds_are_those_of_plain_numpy():
    """Loudness, speed and place of one sound after the other, by np.interp; then noise."""
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(6, 300))
    draws = SoundDraws(
        np.array([1, 0.7, 1, 1, 1.1, 0.9]),
        np.array([1, 1, 1 / 0.8, 1 / 1.2, 1.1, 0.93]),
        np.ones(6),
        np.array([0, 0, 0, 3, -8, 2]),
        np.array([0, 0, 0, 0, 0.3, 0.45]),
        np.array([0, 1, 2, 3, 4, 2**31 - 1]),
    )
    noise = make_noise(torch.zeros(0, 300), 300)
    found = change_sounds(torch.from_numpy(clips), draws, noise, 10).numpy()
    padded = np.pad(clips, ((0, 0), (1, 1)))
    for n, ours in enumerate(found):
        places = (np.arange(300) - 10 * draws.shift[n]) * draws.speed[n]
        sound = np.interp(places, np.arange(-1, 301), padded[n], 0, 0) * draws.amplitude[n]
        hum = noise[draws.piece[n] % len(noise)].numpy() * np.sqrt(np.square(sound).mean())
        np.testing.assert_allclose(ours, sound + draws.noise[n] * (hum - sound), atol=1e-6)
    np.testing.assert_array_equal(found[0], clips[0])
    with pytest.raises(ValueError, match="draws must be of 5 clips, got 6"):
        change_sounds(torch.zeros(5, 300), draws, noise, 10)


def test_draws_are_of_seed_epoch_and_place_alone():
    """In any batch and order the same; other epochs and seeds have others."""
    places = np.random.default_rng(1).permutation(400)
    whole = drawn(ALL, places)
    for part in (slice(0, 1), slice(17, 50), slice(50, None, 3)):
        for one, other in zip(whole, drawn(ALL, places[part]), strict=True):
            np.testing.assert_array_equal(one[part], other)
    mixed = draw_sounds(ALL, 7, 400, np.where(places < 100, 3, 4), places)
    assert np.array_equal(mixed.speed[places >= 100], whole.speed[places >= 100])
    for other in (drawn(ALL, places, epoch=5), drawn(ALL, places, seed=8), mixed):
        assert not np.array_equal(other.speed, whole.speed)
    without = drawn(replace(ALL, noise=0.0, shift_frames=0), places)
    assert not without.noise.any()
    assert not without.shift.any()
    for name in ("amplitude", "speed", "pace"):
        assert np.array_equal(getattr(without, name), getattr(whole, name))


def test_draws_are_as_strong_and_as_frequent_as_asked():
    """Half of the sounds of each change; the others are left alone."""
    draws = drawn(ALL, np.arange(4000), size=4000)
    for values, neutral, low, high in (
        (draws.amplitude, 1, 0.7, 1.1),
        (1 / draws.speed, 1, 0.8, 1.2),
        (draws.pace, 1, 0.8, 1.2),
        (draws.shift, 0, -8, 8),
        (draws.noise, 0, 0, 0.45),
    ):
        changed = values[values != neutral]
        least, most = (0.43, 0.51) if values is draws.shift else (0.47, 0.53)  # 1 in 17 is 0
        assert least < len(changed) / 4000 < most
        assert low <= changed.min() < low + 0.05 * (high - low)
        assert high >= changed.max() > high - 0.05 * (high - low)
    assert set(draws.shift.tolist()) == {*range(-8, 9)}
    quiet = drawn(NONE, np.arange(50))
    assert (quiet.amplitude == 1).all()
    assert not quiet.noise.any()


def test_noise_is_of_one_loudness():
    made = make_noise(torch.zeros(0, 4000), 4000)
    recorded = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    heard = make_noise(torch.cat([recorded, torch.zeros(2, 4000)]) * 0.01, 4000)
    assert (made.shape, heard.shape) == ((16, 4000), (3, 4000))
    for noise in (made, heard):
        torch.testing.assert_close(noise.square().mean(1), torch.ones(len(noise)))
    steps = made.diff().square().mean(1)
    assert (steps.diff() < 0).all()  # white first, brown last


@pytest.fixture(scope="module")
def tones():
    return open_audio(AudioDataConfig(num_clips=50))


@pytest.fixture(scope="module")
def prepared(tones):
    features = LogMel(8000, 8000)
    levels = clip_features(tones, features)
    features.normalize_with(statistics_of(levels, tones.train))
    return features, clip_features(tones, features)


def batches(tones, prepared, augmentation=ALL, **settings):
    config = TrainConfig(batch_size=12, seed=3)
    return SoundBatches(tones, config, *prepared, augmentation=augmentation, **settings)


def test_batches_without_changes_are_the_clips(tones, prepared):
    ours = batches(tones, prepared, NONE)
    for step in (0, 3, 4):
        features, labels = ours(step)
        rows = tones.train[sample_indices(ours.config.seed, len(tones.train), 12, step)]
        assert labels.tolist() == tones.labels[rows].tolist()
        assert np.array_equal(features.numpy(), prepared[1][rows])
        assert torch.equal(batches(tones, prepared, None)(step)[0], features)


def test_processes_memory_and_resume_do_not_matter(tones, prepared):
    """The same bits from memory and from the map; of parts of a batch to rounding."""
    shared = [batches(tones, prepared, rank=rank, world=3) for rank in range(3)]
    mapped = batches(tones, prepared, memory_limit=0)
    for step in (9, 2):
        features, labels = batches(tones, prepared)(step)
        assert features.shape == (12, 1, 32, 32)
        assert torch.equal(mapped(step)[0], features)
        for n, part in enumerate(shared):
            torch.testing.assert_close(part(step)[0], features[n::3], rtol=0, atol=1e-3)
            assert torch.equal(part(step)[1], labels[n::3])
    plain = batches(tones, prepared, NONE)(9)[0]
    changed = (batches(tones, prepared)(9)[0] - plain).abs().amax((1, 2, 3)) > 0.1
    assert 8 <= changed.sum() <= 12  # one in 32 is left alone


def test_balanced_orders_have_all_classes_alike():
    labels = np.array([0] * 60 + [1] * 9 + [2] * 31 + [4])
    for epoch in range(3):
        order = balanced_order(labels, 5, epoch)
        counts = np.bincount(order, minlength=len(labels))
        assert len(order) == 101
        assert sorted(np.bincount(labels[order], minlength=5)[[0, 1, 2, 4]]) == [25, 25, 25, 26]
        for number in (0, 1, 2, 4):
            of_class = counts[labels == number]
            assert of_class.max() - of_class.min() <= 1
        for start in range(0, 100, 4):  # every four are of four classes
            assert sorted(labels[order[start : start + 4]]) == [0, 1, 2, 4]
        assert np.array_equal(order, balanced_order(labels, 5, epoch))
    assert not np.array_equal(balanced_order(labels, 5, 0), balanced_order(labels, 5, 1))


def test_balanced_batches(tones, prepared):
    few = replace(tones, train=np.concatenate([tones.train[tones.labels[tones.train] < 2], [2]]))
    ours = batches(few, prepared, balanced=True)
    size = len(few.train)
    labels = torch.cat([ours(step)[1] for step in range(size)])[: size * 12]
    counts = torch.bincount(labels, minlength=4)
    assert counts[3] == 0
    assert counts[:3].min() >= 12 * (size // 3)


@pytest.mark.gpu
def test_batches_are_the_same_on_a_gpu(tones, prepared):
    features = LogMel(8000, 8000).to(GPU)
    features.load_state_dict(prepared[0].state_dict())
    there = SoundBatches(
        tones, TrainConfig(batch_size=12, seed=3), features, prepared[1], augmentation=ALL
    )
    for step in range(3):
        found, wanted = there(step), batches(tones, prepared)(step)
        torch.testing.assert_close(found[0].cpu(), wanted[0], rtol=0, atol=0.01)
        assert torch.equal(found[1].cpu(), wanted[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probability": 1.5}, r"probability must be in \[0, 1\], got 1.5"),
        ({"speed": 1.0}, r"speed must be in \[0, 1\), got 1.0"),
        ({"noise": -0.1}, r"noise must be in \[0, 1\), got -0.1"),
        ({"shift_frames": 32}, r"shift_frames must be in \[0, 32\), got 32"),
        ({"amplitude": (1.1, 0.7)}, r"amplitude must be two factors that rise.*\[1.1, 0.7\]"),
        ({"amplitude": (1.0,)}, r"amplitude must be two factors that rise.*\[1.0\]"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SoundAugmentConfig(**settings)
    assert SoundAugmentConfig(amplitude=[0.5, 2]).amplitude == (0.5, 2)
