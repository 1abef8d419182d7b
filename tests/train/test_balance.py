"""Batches in which classes come equally often."""

from dataclasses import replace

import numpy as np
import torch
from support.tiny_images import tiny_images
from support.tiny_points import tiny_points

from polygraph.data.images import open_images
from polygraph.data.shapes import open_shapes
from polygraph.train.augment import AugmentConfig
from polygraph.train.balance import BalancedBatches
from polygraph.train.batches import LabelledImageBatches, PointBatches
from polygraph.train.config import TrainConfig


def test_batches_go_on_over_passes():
    labels = np.array([0] * 7 + [1] * 2 + [2])
    ours, whole = BalancedBatches(labels, 3, 4), BalancedBatches(labels, 3, 10)
    parts = [np.concatenate(p) for p in zip(*(ours(step) for step in range(5)), strict=True)]
    wanted = [np.concatenate(p) for p in zip(*(whole(step) for step in range(2)), strict=True)]
    for part, other in zip(parts, wanted, strict=True):
        assert np.array_equal(part, other)
    assert np.array_equal(parts[2], np.tile(np.arange(10), 2))
    for start in (0, 3, 6, 10, 13, 16):
        assert sorted(labels[parts[0][start : start + 3]]) == [0, 1, 2]


def test_images_and_clouds():
    """Of few images of most classes, with their labels, told apart where one comes twice."""
    data = open_images(tiny_images().data)
    first = [np.flatnonzero(data.labels == k)[: 1 + k] for k in range(data.num_classes)]
    few = replace(data, train=np.concatenate(first))
    config = TrainConfig(batch_size=2 * data.num_classes, seed=1)
    change = AugmentConfig(crop_padding=3, flip=True)
    batches = LabelledImageBatches(few, config, balanced=True, augmentation=change)
    images, labels = batches(0)
    assert torch.bincount(labels).tolist() == [2] * data.num_classes
    twice = images[labels == 0]  # the only one of its class
    assert not torch.equal(twice[0], twice[1])
    for rank in range(2):
        part = LabelledImageBatches(
            few, config, balanced=True, augmentation=change, rank=rank, world=2
        )(0)
        assert torch.equal(part[0], images[rank::2])
        assert torch.equal(part[1], labels[rank::2])
    shapes = open_shapes(tiny_points().data)
    clouds = PointBatches(shapes, replace(config, batch_size=3 * shapes.num_classes), balanced=True)
    assert torch.bincount(clouds(0)[1]).tolist() == [3] * shapes.num_classes
