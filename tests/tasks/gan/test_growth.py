"""Networks that grow while they are trained: how far, together, and what is drawn of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.tiny_gan import random_images, tiny_gan

from polygraph.tasks.gan.pair import GanTask
from polygraph.tasks.gan.run import load_generator
from polygraph.tasks.gan.training import build_pair, fit_to_images, train_gan
from polygraph.train.config import seed_step
from polygraph.train.distributed import make_fabric


def test_networks_grow_together(tmp_path):
    """With the steps, the average too; a checkpoint tells how far."""
    config = tiny_gan("pi/progan", {"grow_steps": 12}, steps=8)
    images = random_images()
    config = fit_to_images(config, images)
    pair, fabric = build_pair(config), make_fabric(config.train)
    task = GanTask(fabric, config.train, config.gan, *pair, images, tmp_path)
    for step, growth in ((0, 1.0), (3, 1.5), (4, 2.0), (7, 2.5), (12, 4.0), (90, 4.0)):
        seed_step(0, step)
        task.training_step(step)
        assert [float(module.growth) for module in task.modules.values()] == [growth] * 3
    train_gan(config, tmp_path / "run", dataset=random_images())
    generator, _ = load_generator(tmp_path / "run" / "last.safetensors")
    assert (float(generator.growth), generator.levels) == (2.5, 3)
    images = generator(torch.randn(2, generator.config.latent_channels))
    assert torch.equal(images, F.interpolate(images[:, :, ::2, ::2], scale_factor=2))
    names = {path.name for path in (tmp_path / "run" / "growth").iterdir()}
    assert names == {"0004.png", "0008.png"}
    with pytest.raises(ValueError, match=r"grow need each other.*GrowingGenerator and GraphCritic"):
        train_gan(replace(config, critic=tiny_gan().critic), tmp_path, dataset=random_images())


def test_a_picture_of_every_size(tmp_path):
    """Before the next one is blended in, and at the end; a run that goes on has the same."""
    config = tiny_gan("pi/progan", {"grow_steps": 6}, steps=8, checkpoint_every=3)
    train_gan(config, tmp_path / "run", dataset=random_images())
    folder = tmp_path / "run" / "growth"
    found = {path.name: np.asarray(Image.open(path)) for path in folder.iterdir()}
    assert sorted(found) == ["0004.png", "0008.png", "0016.png", "0032.png"]
    for name, picture in found.items():
        first, block = picture[2:66, 2:66], 64 // int(name[:4])  # twice as large, in a frame
        assert np.array_equal(first, np.kron(first[::block, ::block], np.ones((block, block))))
        assert first.std() > 0
    train_gan(tiny_gan(steps=1), tmp_path / "other", dataset=random_images())
    assert not (tmp_path / "other" / "growth").exists()
