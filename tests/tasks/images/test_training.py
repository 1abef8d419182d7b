"""Training image classifiers: result, resume, splits, selection, bad settings."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_images import DATA, MODEL, tiny_images

from polygraph.cli import main
from polygraph.data import ImageDataConfig, ImageDataset, open_images
from polygraph.models import LeNetConfig
from polygraph.tasks.images.arguments import parse_train_images
from polygraph.tasks.images.run import load_classifier, load_run
from polygraph.tasks.images.training import (
    ImagesRunConfig,
    images_train_config,
    split_training,
    train_images,
)
from polygraph.train.augment import AugmentConfig
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from polygraph.train.log import read_log

GRAPH = replace(MODEL, graph="edge-sum", k=3)


def with_train(config, **train):
    return replace(config, train=replace(config.train, **train))


def tensors(path):
    """All tensors of a checkpoint, by their places."""
    found = {}

    def walk(value, place):
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{place}/{key}")
        elif isinstance(value, torch.Tensor):
            found[place] = value

    walk(load_checkpoint(path)[0], "")
    return found


def test_a_run_writes_everything(tmp_path):
    result = train_images(tiny_images(), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "run.json", "result.json", "last.safetensors", "best.safetensors", "log.jsonl", "curve.csv",
    }  # fmt: skip
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written == json.loads(json.dumps(result))
    test, confusion = result["test"], np.array(result["test"]["confusion"])
    assert test["num_samples"] == confusion.sum() == 10
    assert test["accuracy"] == np.trace(confusion) / 10 <= test["top5_accuracy"] <= 1
    log = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "val_error" in r]
    assert [record["step"] for record in log] == [4, 8]
    best = min(log, key=lambda record: (record["val_error"], record["val_loss"]))
    assert result["best_step"] == best["step"]
    assert result["val"]["loss"] == best["val_loss"]
    run = load_run(tmp_path / "run")
    assert run.evaluate() == result["test"]
    assert run.evaluate(part="val") == result["val"]
    assert run.evaluate(part="train")["num_samples"] == 80
    assert result["parameters"] == sum(p.numel() for p in run.model.parameters())
    assert run.result == written


@pytest.mark.parametrize("model", [MODEL, GRAPH], ids=["conv", "edge-sum"])
def test_resume_ends_with_the_same_bits(tmp_path, model):
    """Crops, BatchNorm's statistics and Adam's among them."""
    config = tiny_images(model, schedule="constant")
    whole = train_images(config, tmp_path / "whole")
    train_images(with_train(config, steps=4), tmp_path / "parts")
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_images(config, tmp_path / "parts")
    parts = train_images(config, tmp_path / "parts", resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        one, two = (tensors(tmp_path / run / name) for run in ("whole", "parts"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[place], two[place]) for place in one)
    assert (parts["test"], parts["val"]) == (whole["test"], whole["val"])
    other = train_images(with_train(config, seed=1), tmp_path / "other")
    assert other["test"]["loss"] != whole["test"]["loss"]


def test_training_learns(tmp_path):
    data = replace(DATA, num_images=300)
    config = tiny_images(data=data, steps=30, eval_every=30, learning_rate=0.02, batch_size=32)
    result = train_images(config, tmp_path / "run")
    assert result["test"]["accuracy"] >= 0.3  # chance is 0.1; it reaches 0.48


def test_another_run_is_refused(tmp_path):
    config = tiny_images(steps=1)
    train_images(config, tmp_path / "run")
    for change, what in (
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"augment": AugmentConfig()}, "augment.crop_padding"),
        ({"data": replace(DATA, seed=1)}, "dataset_hash"),
        ({"split_seed": 1}, "split_hash"),
        ({"train_images": 70}, "split_hash"),
        ({"model": GRAPH}, "model.graph"),
        ({"model": LeNetConfig(size=12)}, "model.channels"),
    ):
        other = replace(config, **change)
        assert other.digest() != config.digest()
        with pytest.raises(CheckpointError, match=f"{what} is"):
            train_images(other, tmp_path / "run", resume=True)
    assert config.digest() == with_train(config, log_every=3).digest()


def test_splits_are_drawn_per_class_and_smaller_ones_are_in_larger_ones():
    data = open_images(replace(DATA, num_images=600))
    config = ImagesRunConfig(val_fraction=0.2)
    train, val = split_training(config, data)
    assert sorted([*train, *val]) == data.train.tolist()
    for label in range(10):
        members = int((data.labels[data.train] == label).sum())
        assert int((data.labels[val] == label).sum()) == round(0.2 * members)
    few, many = (split_training(replace(config, train_images=n), data) for n in (50, 100))
    assert set(few[0]) < set(many[0]) < set(train)
    assert (len(few[0]), len(many[0])) == (50, 100)
    np.testing.assert_array_equal(few[1], val)
    other = split_training(replace(config, split_seed=1), data)
    assert set(other[1]) != set(val)


def test_data_that_cannot_be_trained_on(tmp_path):
    run, pixels = tmp_path / "run", np.zeros((20, 1, 12, 12), np.uint8)

    def made(labels, **more):
        return ImageDataset.from_arrays(pixels, labels, size=12, **more)

    for data, message in (
        (made(None), "images have no labels.*one subfolder for each class"),
        (made([0] * 20), "labels must name at least 2 classes, got 1"),
        (made(range(20)), "no class has two training images"),
    ):
        with pytest.raises(ValueError, match=message):
            train_images(tiny_images(), run, dataset=data)
    with pytest.raises(ValueError, match=r"train_images must be at most 80.*got 81"):
        train_images(replace(tiny_images(), train_images=81), run)
    for name, value, message in (
        ("in_channels", 2, r"in_channels must be 1, that of glyphs-100-0, or be left out, got 2"),
        ("num_classes", 7, "num_classes must be 10"),
        ("size", 16, "size must be 12"),
    ):
        with pytest.raises(ValueError, match=message):
            train_images(tiny_images(replace(MODEL, **{name: value})), run)
    assert not run.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"val_fraction": float("nan")}, r"val_fraction must be in \(0, 1\), got nan"),
        ({"train_images": 0}, "train_images must be at least 1, got 0"),
        ({"split_seed": -1}, "split_seed must be at least 0, got -1"),
    ],
)
def test_bad_configurations(settings, message):
    with pytest.raises(ValueError, match=message):
        ImagesRunConfig(**settings)
    with pytest.raises(TypeError, match="model must be a config of a classifier, got 3"):
        ImagesRunConfig(model=3)


def test_checkpoints_of_something_else(tmp_path):
    path = tmp_path / "x.safetensors"
    for meta in ({}, {"family": "pixel", "config": {"model": {"k": "x"}}}, {"family": "none"}):
        save_checkpoint(path, {"modules": {"model": {"w": torch.zeros(2)}}}, meta)
        with pytest.raises(CheckpointError, match="not a checkpoint of an image classifier"):
            load_classifier(path)


def parsed(*words):
    return parse_train_images([*words, "--out", "x"])[0]


def test_what_a_command_line_stands_for(tmp_path):
    plain = parsed()
    assert plain.train == images_train_config()
    assert (plain.preset, plain.data.kind, plain.augment) == (
        "bed/conv", "glyphs", AugmentConfig(),
    )  # fmt: skip
    crops = AugmentConfig(crop_padding=4, flip=True)
    assert parsed("DIR").data == ImageDataConfig("folder", "DIR")
    for kind, expected in (
        ("mnist", AugmentConfig()), ("fashion-mnist", AugmentConfig()), ("cifar10", crops),
    ):  # fmt: skip
        assert parsed("DIR", "--kind", kind).augment == expected
    assert parsed("DIR", "--kind", "cifar10", "--augment.flip", "false").augment == AugmentConfig(4)
    bed = parsed("--preset", "bed/ecc-k8", "--width", "18", "--k", "4", "--train-images", "100")
    assert (bed.model.width, bed.model.k, bed.model.delta) == (18, 4, 10.0)
    assert (bed.train_images, bed.train.epochs) == (100, 20)
    sgd = parsed("--config", "images-sgd", "--preset", "lenet")
    assert sgd.train == images_train_config(
        optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, batch_size=128, epochs=120,
        schedule="multistep", milestones=(40, 60, 80, 100),
    )  # fmt: skip
    assert isinstance(sgd.model, LeNetConfig)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "bed/edge"], "did you mean 'bed/edge-k8'"),
        (["--preset", "lenet", "--width", "6"], "unknown setting --model.width"),
        (["--kind", "cifar11", "--data", "x"], "did you mean 'cifar10'"),
        (["--train-images", "x"], "train_images must be int or null, got 'x'"),
        (["--val-fraction", "1"], "val_fraction must be in (0, 1), got 1"),
        (["--augment.flip", "maybe"], "augment.flip must be bool, got 'maybe'"),
        (["--preset", "bed/edge-k8", "--model.delta", "3"], "delta is for graph ecc or light"),
    ],
)
def test_wrong_settings_are_usage_errors(tmp_path, capsys, words, message):
    out = tmp_path / "run"
    assert main(["train", "images", "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "run")
    words = ["train", "images", "--preset", "bed/edge-k8", "--width", "4", "--k", "3"]
    words += ["--data.num-images", "100", "--data.size", "12", "--batch-size", "8"]
    words += ["--accelerator", "cpu", "--schedule", "constant", "--out", out]
    assert main([*words, "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "80 train, 10 validate, 10 test" in printed
    assert "of 10 test images right" in printed
    assert main(["train", "images", "--out", out, "--resume", "--steps", "3"]) == 0
    assert "3 steps" in capsys.readouterr().out
    assert main(["evaluate", "--run", out]) == 1
    assert "holds a classifier of images" in capsys.readouterr().err
