"""Random crops and mirrors against a plain loop; draws of seed, epoch and image alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from devices import GPU

from polygraph.data import ImageDataConfig, open_images
from polygraph.data.images import to_float
from polygraph.train.augment import AugmentConfig, Draws, augment, crop_and_flip, draw
from polygraph.train.batches import ImageBatches, LabelledImageBatches
from polygraph.train.config import TrainConfig, sample_batch

BOTH = AugmentConfig(crop_padding=2, flip=True)


def plain(images, draws, padding, fill):
    """One image after the other, pixel by pixel."""
    count, _, height, width = images.shape
    found = np.full_like(images, fill)
    for n in range(count):
        for row in range(height):
            for column in range(width):
                y = row + draws.top[n] - padding
                x = (width - 1 - column if draws.flip[n] else column) + draws.left[n] - padding
                if 0 <= y < height and 0 <= x < width:
                    found[n, :, row, column] = images[n, :, y, x]
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("padding", [0, 3])
def test_pixels_are_those_of_a_plain_loop(dtype, padding):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (12, 2, 5, 7)).astype(dtype)
    top, left = rng.integers(0, 2 * padding + 1, (2, 12))
    draws = Draws(top, left, np.arange(12) % 2 == 0)
    fill = 0 if dtype is np.uint8 else -1.0
    found = crop_and_flip(torch.from_numpy(images), draws, padding, fill=fill)
    assert np.array_equal(found.numpy(), plain(images, draws, padding, fill))
    assert found.dtype == torch.from_numpy(images).dtype


def test_draws_are_of_seed_epoch_and_image_alone():
    """In any batch and order the same; other epochs, seeds and images have others."""
    indices = np.random.default_rng(1).permutation(300)
    epochs = np.full(300, 4)
    whole = draw(BOTH, 7, 300, epochs, indices)
    for part in (slice(0, 1), slice(17, 50), slice(50, None, 3)):
        again = draw(BOTH, 7, 300, epochs[part], indices[part])
        for one, other in zip(whole, again, strict=True):
            assert np.array_equal(one[part], other)
    mixed = draw(BOTH, 7, 300, np.where(indices < 100, 3, 4), indices)
    assert np.array_equal(mixed.top[indices >= 100], whole.top[indices >= 100])
    assert not np.array_equal(mixed.top, whole.top)
    assert not np.array_equal(draw(BOTH, 8, 300, epochs, indices).top, whole.top)
    # Each of 5 x 5 places and both directions: 12 of 300 expected of a place, half of a side.
    counts = np.bincount(whole.top * 5 + whole.left, minlength=25)
    assert counts.min() > 0
    assert 110 < whole.flip.sum() < 190
    cropped = draw(replace(BOTH, flip=False), 7, 300, epochs, indices)
    assert np.array_equal(cropped.top, whole.top)
    assert not cropped.flip.any()
    mirrored = draw(replace(BOTH, crop_padding=0), 7, 300, epochs, indices)
    assert np.array_equal(mirrored.flip, whole.flip)
    assert not mirrored.top.any()


def test_nothing_to_do_returns_the_images():
    images = torch.zeros(2, 1, 4, 4)
    assert augment(images, AugmentConfig(), 0, 2, np.zeros(2, int), np.arange(2)) is images


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_padding": -1}, r"crop_padding must be in \[0, 32768\), got -1"),
        ({"crop_padding": 1.5}, "crop_padding must be in .*, got 1.5"),
        ({"flip": 1}, "flip must be true or false, got 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)


def test_bad_images():
    draws = Draws(*np.zeros((2, 3), int), np.zeros(3, bool))
    with pytest.raises(ValueError, match=r"must have shape \[B, C, H, W\], got \[3, 4, 4\]"):
        crop_and_flip(torch.zeros(3, 4, 4), draws, 0)
    with pytest.raises(ValueError, match="draws must be of 2 images, got 3"):
        crop_and_flip(torch.zeros(2, 1, 4, 4), draws, 0)


@pytest.fixture(scope="module")
def glyphs():
    return open_images(ImageDataConfig(num_images=70, size=16))


def batches(glyphs, kind=LabelledImageBatches, **settings):
    return kind(glyphs, TrainConfig(batch_size=12, seed=3), augmentation=BOTH, **settings)


def test_batches_are_the_images_of_their_labels(glyphs):
    ours = batches(glyphs)
    for step in (0, 4, 5, 11):
        indices, epochs = sample_batch(3, len(glyphs.train), 12, step)
        images, labels = ours(step)
        draws = draw(BOTH, 3, len(glyphs.train), epochs, indices)
        expected = plain(glyphs.images[glyphs.train[indices]], draws, 2, 0)
        assert torch.equal(images, to_float(torch.from_numpy(expected)))
        assert labels.tolist() == glyphs.labels[glyphs.train[indices]].tolist()
        assert torch.equal(batches(glyphs, ImageBatches)(step), images)


def test_processes_memory_and_resume_do_not_matter(glyphs):
    shared = [batches(glyphs, rank=rank, world=3) for rank in range(3)]
    mapped = batches(glyphs, memory_limit=0)
    for step in (9, 2):
        images, labels = batches(glyphs)(step)
        for n, part in enumerate(shared):
            assert torch.equal(part(step)[0], images[n::3])
            assert torch.equal(part(step)[1], labels[n::3])
        assert torch.equal(mapped(step)[0], images)


def test_batches_without_labels(glyphs):
    with pytest.raises(ValueError, match="glyphs-70-0 must have labels to be classified"):
        batches(replace(glyphs, labels=None))


def test_passes_without_a_remainder():
    """Each pass has the batches that are full; what is left over differs from pass to pass."""
    for epoch in range(3):
        rows = [sample_batch(1, 10, 4, step, drop_last=True) for step in (2 * epoch, 2 * epoch + 1)]
        seen = np.concatenate([indices for indices, _ in rows])
        order = np.random.default_rng([1, epoch]).permutation(10)
        assert np.array_equal(seen, order[:8])
        assert {int(e) for _, epochs in rows for e in epochs} == {epoch}
    with pytest.raises(ValueError, match="must hold at least 4, got 3"):
        sample_batch(1, 3, 4, 0, drop_last=True)


@pytest.mark.gpu
def test_pixels_are_the_same_on_a_gpu(glyphs):
    for step in range(3):
        images = torch.from_numpy(glyphs.images[glyphs.train])
        indices, epochs = sample_batch(3, len(images), 12, step)
        arguments = (BOTH, 3, len(images), epochs, indices)
        chosen = images[torch.from_numpy(indices)]
        assert torch.equal(augment(chosen.to(GPU), *arguments).cpu(), augment(chosen, *arguments))
