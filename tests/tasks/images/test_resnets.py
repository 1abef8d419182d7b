"""The recipes of the papers: their settings, and a dry run on a toy tree with two processes."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.children import finish_together
from torch.nn import functional

from polygraph.cli import main
from polygraph.data import open_images
from polygraph.models.resnet import RESNETS, ResNetConfig
from polygraph.tasks.images.arguments import parse_train_images
from polygraph.tasks.images.training import build_network, fit_to_images, split_training
from polygraph.train.batches import LabelledImageBatches
from polygraph.train.checkpoint import load_checkpoint
from polygraph.train.optimizer import make_optimizer


def test_the_recipe_of_cifar():
    words = ["DIR", "--kind", "cifar10", "--preset", "prodpoly-2211", "--width", "16"]
    config = parse_train_images([*words, "--config", "images-sgd", "--out", "R"])[0]
    train = config.train
    assert config.model == replace(RESNETS["prodpoly-2211"], width=16)
    assert (train.optimizer, train.learning_rate, train.momentum) == ("sgd", 0.1, 0.9)
    assert (train.weight_decay, train.batch_size, train.epochs) == (5e-4, 128, 120)
    assert (train.milestones, train.lr_factor) == ((40, 60, 80, 100), 0.1)
    assert (config.augment.crop_padding, config.augment.flip) == (4, True)


@pytest.mark.parametrize(("batch", "rate"), [(1024, 0.4), (512, 0.2)])
def test_the_recipes_of_imagenet(batch, rate):
    config = parse_train_images(["DIR", "--config", f"images-imagenet-{batch}", "--out", "R"])[0]
    train = config.train
    assert config.model == RESNETS["prodpoly-resnet50"]
    assert config.model.norm == "tanh"
    assert (train.batch_size, train.learning_rate, train.epochs) == (batch, rate, 90)
    assert (train.warmup_epochs, train.milestones) == (5, (30, 60, 80))
    assert (train.weight_decay, train.momentum, train.optimizer) == (1e-4, 0.9, "sgd")
    assert (config.data.size, config.augment.crop_area, config.augment.flip) == (224, 0.08, True)


def toy_tree(folder, classes=3, train=8):
    """Pictures in folders of folders, as ImageNet lies."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", 2)):
        for label in range(classes):
            place = folder / part / f"n{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def by_hand(config):
    """Two processes in one: each half's own statistics, the mean of both gradients.

    What two processes do is defined by this, and not by the whole batch in one process, because
    each takes BatchNorm's statistics from its part. Running statistics are the first one's.
    """
    dataset = open_images(config.data)
    config = fit_to_images(config, dataset)
    train, _ = split_training(config, dataset)
    model = build_network(config).double().train()
    optimizer = make_optimizer(config.train, model)
    halves = [
        LabelledImageBatches(
            replace(dataset, train=train),
            config.train,
            dtype=torch.float64,
            rank=rank,
            world=2,
            augmentation=config.augment,
        )
        for rank in (0, 1)
    ]
    for step in range(config.train.steps):
        rate = config.train.learning_rate_at(step, len(train))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        for half in reversed(halves):  # the first one's buffers stay
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
            images, labels = half(step)
            (functional.cross_entropy(model(images), labels) / 2).backward()
        optimizer.step()
    return model.state_dict()


def test_a_dry_run_of_imagenet_with_two_processes(tmp_path):
    """Equal to both halves of each batch one after the other, to rounding in float64."""
    words = [str(toy_tree(tmp_path / "tree")), "--config", "images-imagenet-1024"]
    words += ["--out", str(tmp_path / "run"), "--width", "4", "--model.depths", "[1,1,1]"]
    words += ["--data.size", "32", "--data.cache-dir", str(tmp_path / "cache")]
    words += ["--batch-size", "8", "--steps", "3", "--precision", "64-true"]
    words += ["--accelerator", "cpu", "--warmup-epochs", "1"]
    port = 29500 + (os.getpid() + 500) % 1000
    said = [tmp_path / "first", tmp_path / "second"]
    finish_together(main, ["train", "images", *words], processes=2, port=port, outputs=said)
    state, meta = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert meta["classes"] == ["n0", "n1", "n2"]
    wanted = by_hand(parse_train_images(words)[0])
    found = state["modules"]["model"]
    assert found.keys() == wanted.keys()
    assert found["output.weight"].shape == (3, 64)
    for name, value in wanted.items():
        assert float((found[name] - value).abs().max()) < 1e-10, name


def test_a_preset_for_another_size_takes_that_of_the_data(tmp_path):
    tree = str(toy_tree(tmp_path / "tree", train=2))
    words = [tree, "--preset", "ir50", "--data.size", "24", "--out", "R"]
    config = parse_train_images([*words, "--data.cache-dir", str(tmp_path / "cache")])[0]
    fitted = fit_to_images(config, open_images(config.data)).model
    assert isinstance(fitted, ResNetConfig)
    assert (fitted.size, fitted.num_classes) == (24, 3)
    told = replace(config, model=replace(config.model, size=48))
    with pytest.raises(ValueError, match=r"size must be 24, that of .*, or be left out, got 48"):
        fit_to_images(told, open_images(config.data))
