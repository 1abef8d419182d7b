"""Parts of images scaled to the whole: against torch's interpolation, draws, bad boxes."""

import numpy as np
import pytest
import torch
from support.devices import GPU
from torch.nn import functional

from polygraph.train.augment import AugmentConfig, augment
from polygraph.train.scaled_crop import draw_boxes, scaled_crop


def pixels(count=6, height=11, width=17):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, height, width)).astype(np.uint8))


def boxes_of(count, height, width, area=0.1, seed=0):
    return draw_boxes(area, seed, count, np.zeros(count, int), np.arange(count), (height, width))


def test_values_are_those_of_linear_interpolation():
    """Within rounding of weights to 1/256 and of values to bytes."""
    images = pixels()
    boxes = boxes_of(6, 11, 17)
    for image, box, found in zip(images, boxes, scaled_crop(images, boxes), strict=True):
        top, left, height, width = box
        part = image[None, :, top : top + height, left : left + width].double()
        wanted = functional.interpolate(part, (11, 17), mode="bilinear")[0]
        assert (found - wanted).abs().max() <= 2


def test_the_whole_image_is_itself():
    images = pixels()
    assert torch.equal(scaled_crop(images, np.tile([0, 0, 11, 17], (6, 1))), images)


def test_draws():
    """Of seed, epoch and image alone; areas and ratios in their ranges, places everywhere."""
    boxes = boxes_of(4000, 100, 100, area=0.2)
    top, left, height, width = boxes.T
    assert (top + height).max() == 100
    assert (left + width).max() == 100
    assert top.min() == left.min() == 0
    share, ratio = height * width / 1e4, width / height
    assert 0.18 < share.min() < 0.22
    assert share.max() > 0.95
    assert 0.73 < ratio.min() < ratio.max() < 1.37
    assert abs(np.log(ratio).mean()) < 0.01
    assert np.array_equal(
        boxes[7:9], draw_boxes(0.2, 0, 4000, np.zeros(2, int), np.array([7, 8]), (100, 100))
    )
    assert not np.array_equal(boxes, boxes_of(4000, 100, 100, area=0.2, seed=1))
    later = draw_boxes(0.2, 0, 4000, np.ones(4000, int), np.arange(4000), (100, 100))
    assert not np.array_equal(boxes, later)


def test_augment_crops_and_mirrors():
    images, epochs, indices = pixels(), np.zeros(6, int), np.arange(6)
    found = augment(images, AugmentConfig(crop_area=0.1), 0, 6, epochs, indices)
    assert torch.equal(found, scaled_crop(images, boxes_of(6, 11, 17)))
    both = augment(images, AugmentConfig(crop_area=0.1, flip=True), 0, 6, epochs, indices)
    mirrored = [not torch.equal(a, b) for a, b in zip(found, both, strict=True)]
    assert any(mirrored)
    for n in range(6):
        assert torch.equal(both[n].flip(2) if mirrored[n] else both[n], found[n])


def test_a_setting_that_came_later_is_not_in_older_hashes():
    assert AugmentConfig().semantics() == {"crop_padding": 0, "flip": False}
    assert AugmentConfig(crop_area=0.5).semantics()["crop_area"] == 0.5


@pytest.mark.gpu
def test_a_gpu_has_the_same_bytes():
    images, boxes = pixels(), boxes_of(6, 11, 17)
    assert torch.equal(scaled_crop(images.to(GPU), boxes).cpu(), scaled_crop(images, boxes))


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        (torch.zeros(1, 3, 4, 4), [[0, 0, 4, 4]], r"must be uint8 of shape \[B, C, H, W\]"),
        (pixels(1)[0], [[0, 0, 4, 4]], "must be uint8 of shape"),
        (pixels(2), [[0, 0, 4, 4]], "boxes must be 2 parts of at least one pixel"),
        (pixels(1), [[0, 0, 0, 4]], "of at least one pixel"),
        (pixels(1), [[-1, 0, 2, 4]], "of at least one pixel"),
        (pixels(1), [[9, 0, 3, 4]], r"must lie within \[11, 17\] pixels"),
    ],
)
def test_bad_arguments(images, boxes, message):
    with pytest.raises(ValueError, match=message):
        scaled_crop(images, np.array(boxes))


@pytest.mark.parametrize("area", [0, -0.1, 1.5, float("nan"), "0.5", True])
def test_bad_areas(area):
    with pytest.raises(ValueError, match=r"crop_area must be in \(0, 1\]"):
        AugmentConfig(crop_area=area)
