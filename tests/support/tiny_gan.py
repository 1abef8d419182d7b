"""Adversarial runs on random images, with networks that train in a second."""

from dataclasses import fields, replace

import numpy as np
import pytest

from polygraph.data import ImageDataConfig, ImageDataset
from polygraph.tasks.gan.presets import GAN_PRESETS, get_gan_preset
from polygraph.tasks.gan.training import GanRunConfig
from polygraph.train.config import TrainConfig

NARROW = {
    "channels": 4,  # of residual networks
    "latent_channels": 5,
    "rank": 2,
}


def random_images(channels=1, num_train=12, num_test=3, size=32):
    """Noise without labels."""
    count = num_train + num_test
    images = np.random.default_rng(0).integers(0, 256, (count, channels, size, size))
    rows = np.arange(count)
    parts = rows[:num_train], rows[num_train:]
    return ImageDataset(
        f"noise-{channels}", images.astype(np.uint8), None, (), *parts, f"{channels}", "split"
    )


def narrowed(config):
    """The same kind of network with few features."""
    known = {field.name for field in fields(config)}
    changed = {name: value for name, value in NARROW.items() if name in known}
    if isinstance(config.channels, tuple):
        changed["channels"] = tuple((6, 5, 4, 3)[min(n, 3)] for n in range(len(config.channels)))
    return replace(config, **changed)


def tiny_gan(preset="small/baseline", gan=None, **train):
    """A preset's run with few features and samples; ``gan`` changes its settings of the pair."""
    found = get_gan_preset(preset)
    small = {"critic_steps": 2, "generator_batch": found.gan.generator_batch and 3}
    small["grow_steps"] = 0
    pair = replace(found.gan, **{**small, **(gan or {})})
    settings = {**found.train, "batch_size": 2, "accelerator": "cpu", "steps": 2, "log_every": 1}
    return GanRunConfig(
        narrowed(found.generator),
        narrowed(found.critic),
        ImageDataConfig(size=found.generator.size),
        gan=pair,
        train=TrainConfig(**{**settings, **train}),
        preset=preset,
    )


def presets(*kinds):
    """All names, to parametrize a test with: slow where every kind has been seen before.

    Args:
        kinds: functions of a name; what they return is the kind of a preset.
    """
    seen = set()
    found = []
    for name in GAN_PRESETS:
        of = {(place, kind(name)) for place, kind in enumerate(kinds)}
        found.append(pytest.param(name, marks=[pytest.mark.slow] if of <= seen else []))
        seen |= of
    return found


def networks(name):
    """Generator and critic, but for their number of neighbours."""
    preset = GAN_PRESETS[name]
    pair = preset.generator, preset.critic
    return tuple(replace(n, k=8) if hasattr(n, "k") else n for n in pair)


def tiny_networks(name):
    """The same of few features."""
    return tuple(map(narrowed, networks(name)))


def kinds_of_networks(name):
    """The classes of settings of generator and critic."""
    preset = GAN_PRESETS[name]
    return type(preset.generator), type(preset.critic)


def optimization(name):
    """Loss, optimizer, and whether the generator is averaged."""
    gan = GAN_PRESETS[name].gan
    return gan.loss, gan.optimizer, gan.ema > 0
