"""Training point cloud classifiers: result, resume, selection, bad settings."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_points import DATA, MODEL, tiny_points
from torch.nn import functional

from polygraph.data import open_shapes
from polygraph.models import DGCNNClassifier, DGCNNClassifierConfig
from polygraph.tasks.mesh.run import load_run
from polygraph.tasks.points.arguments import parse_train_points
from polygraph.tasks.points.run import load_classifier
from polygraph.tasks.points.training import (
    PointsRunConfig,
    class_logits,
    points_train_config,
    train_points,
)
from polygraph.train.batches import PointBatches
from polygraph.train.checkpoint import CheckpointError, load_checkpoint
from polygraph.train.config import TrainConfig, sample_indices
from polygraph.train.log import read_log
from polygraph.train.supervised import (
    ClassificationLoss,
    classification_summary,
    describe_nonfinite,
    predicted,
)


def with_train(config, **train):
    return replace(config, train=replace(config.train, **train))


def state(path):
    return load_checkpoint(path)[0]


def assert_same(one, two):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    else:
        assert one == two


def test_two_steps_write_everything(tmp_path):
    result = train_points(tiny_points(steps=2), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "run.json", "result.json", "last.safetensors", "best.safetensors", "log.jsonl", "curve.csv",
    }  # fmt: skip
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == json.loads(
        json.dumps(result)
    )
    assert (result["steps"], result["best_step"]) == (2, 2)
    assert result["test"]["num_samples"] == 15
    assert set(result["test"]["per_class"]) == {"sphere", "box", "cylinder", "cone", "torus"}
    assert result["seconds_per_epoch"] == pytest.approx(result["seconds"] / 2 * 40 / 8)
    model, meta = load_classifier(tmp_path / "run" / "best.safetensors")
    assert not model.training
    assert result["parameters"] == sum(p.numel() for p in model.parameters())
    assert meta["classes"] == list(open_shapes(DATA).classes)
    assert model.config == replace(MODEL, num_classes=5)


def test_training_learns(tmp_path):
    config = replace(tiny_points(steps=60, eval_every=20, learning_rate=0.01), label_smoothing=0.0)
    result = train_points(config, tmp_path / "run")
    # Five classes in equal parts: chance is 20 % (it reaches 60 %).
    assert result["test"]["accuracy"] >= 0.4
    log = read_log(tmp_path / "run" / "log.jsonl")
    losses = [record["loss"] for record in log if "loss" in record]
    assert losses[-1] < losses[0]


def test_resume_ends_with_the_same_bits(tmp_path):
    """Dropout, augmentation, BatchNorm's statistics and Adam's among them."""
    config = tiny_points(schedule="constant")
    whole = train_points(config, tmp_path / "whole")
    train_points(with_train(config, steps=5, checkpoint_every=5), tmp_path / "parts")
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_points(config, tmp_path / "parts")
    parts = train_points(config, tmp_path / "parts", resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        assert_same(*(state(tmp_path / run / name) for run in ("whole", "parts")))
    assert (parts["test"], parts["val"]) == (whole["test"], whole["val"])
    other = train_points(with_train(config, seed=1), tmp_path / "other")
    assert other["test"]["loss"] != whole["test"]["loss"]


def test_the_papers_optimizer(tmp_path):
    """`--config points-sgd`: SGD from 0.1 to 0.001, which resumes to the same bits, too."""
    words = ["--config", "points-sgd", "--accelerator", "cpu", "--out", "x"]
    train = parse_train_points(words)[0].train
    assert replace(train, accelerator="auto") == points_train_config(
        optimizer="sgd", learning_rate=0.1, min_learning_rate=0.001, momentum=0.9
    )
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "warmup_epochs": 1, "decay_all": False}
    config = tiny_points(schedule="constant", **sgd)
    whole = train_points(config, tmp_path / "whole")
    train_points(with_train(config, steps=5, checkpoint_every=5), tmp_path / "parts")
    parts = train_points(config, tmp_path / "parts", resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        assert_same(*(state(tmp_path / run / name) for run in ("whole", "parts")))
    assert parts["test"] == whole["test"]
    groups = state(tmp_path / "whole" / "last.safetensors")["optimizers"]["model"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0]
    assert {"momentum", "nesterov"} <= set(groups[0])
    other = tiny_points(schedule="constant")
    with pytest.raises(CheckpointError, match=r"train\.decay_all is False there and None here"):
        train_points(other, tmp_path / "whole", resume=True)


def test_the_best_validation_is_measured(tmp_path):
    result = train_points(tiny_points(steps=40, learning_rate=0.05), tmp_path / "run")
    log = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "val_error" in r]
    best = min(log, key=lambda record: (record["val_error"], record["val_loss"]))
    assert result["best_step"] == best["step"]
    assert 1 - result["val"]["accuracy"] == best["val_error"]
    assert result["val"]["loss"] == best["val_loss"]
    assert all(
        0 <= record["val_score"] - record["val_error"] < 1 / result["val"]["num_samples"]
        for record in log
    )
    model, _ = load_classifier(tmp_path / "run" / "best.safetensors")
    data = open_shapes(DATA)
    logits = class_logits(model, data, data.test, batch_size=8)
    assert classification_summary(logits, data.labels[data.test], data.classes) == result["test"]


def test_another_run_is_refused(tmp_path):
    config = tiny_points(steps=2)
    train_points(config, tmp_path / "run")
    for change, what in (
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"scale": 1.0}, "scale"),
        ({"shift": 0.1}, "shift"),
        ({"data": replace(DATA, seed=1)}, "dataset_hash"),
        ({"data": replace(DATA, val_seed=1)}, "split_hash"),
        ({"model": replace(MODEL, k=5)}, "model.k"),
    ):
        other = replace(config, **change)
        assert other.digest() != config.digest()
        with pytest.raises(CheckpointError, match=f"{what} is"):
            train_points(other, tmp_path / "run", resume=True)
    assert config.digest() == with_train(config, log_every=3).digest()
    with pytest.raises(CheckpointError, match="holds a network of point clouds"):
        load_run(tmp_path / "run")


def test_batches_are_scaled_and_shifted_copies():
    """Functions of seed and step alone, however many processes share them."""
    data, config = open_shapes(DATA), points_train_config(batch_size=8, seed=4)
    plain = PointBatches(data, config)
    lying = PointBatches(data, config, memory_limit=0)
    for held, gathered in zip(plain(3), lying(3), strict=True):
        assert torch.equal(held, gathered)
    moved = PointBatches(data, config, scale=1.5, shift=0.2)
    shared = [PointBatches(data, config, scale=1.5, shift=0.2, rank=r, world=2) for r in range(2)]
    factors, offsets = [], []
    for step in range(20):
        x, labels = plain(step)
        rows = data.train[sample_indices(4, len(data.train), 8, step)]
        assert torch.equal(x, torch.from_numpy(data.points[rows]))
        assert torch.equal(labels, torch.from_numpy(data.labels[rows]))
        y, same = moved(step)
        assert torch.equal(labels, same)
        assert torch.equal(moved(step)[0], y)
        assert torch.equal(torch.stack([b(step)[0] for b in shared], 1).flatten(0, 1), y)
        # The map of each axis of each cloud, from its two outermost points.
        factor = (y.amax(1) - y.amin(1)) / (x.amax(1) - x.amin(1))
        offset = y.amin(1) - factor * x.amin(1)
        expected = x * factor[:, None] + offset[:, None]
        assert float((y - expected).abs().max()) < 1e-5
        factors.append(factor)
        offsets.append(offset)
    factor, offset = torch.cat(factors), torch.cat(offsets)
    assert 2 / 3 - 1e-4 < float(factor.min()) < 0.7 < 1.45 < float(factor.max()) < 1.5 + 1e-4
    assert -0.2 - 1e-4 < float(offset.min()) < -0.19 < 0.19 < float(offset.max()) < 0.2 + 1e-4
    assert float(factor.std(dim=1).min()) > 0  # each axis has its own


def test_the_loss_smooths_over_the_other_classes():
    torch.manual_seed(0)
    model = DGCNNClassifier(replace(MODEL, num_classes=5)).double().eval()
    x, labels = torch.randn(3, 20, 3, dtype=torch.float64), torch.tensor([0, 4, 2])
    logits = model(x).detach()
    target = functional.one_hot(labels, 5).double()
    target = target * (1 - 0.2) + (1 - target) * 0.2 / 4
    expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
    loss, accuracy = ClassificationLoss(model, 0.2)(x, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert accuracy.item() == pytest.approx((logits.argmax(-1) == labels).double().mean().item())


def test_the_summary_counts():
    logits = np.eye(4)[[0, 0, 1, 1, 3]]
    found = classification_summary(logits, np.array([0, 0, 0, 1, 3]), ("a", "b", "c", "d"))
    assert found["per_class"] == {"a": 2 / 3, "b": 1.0, "d": 1.0}
    assert found["accuracy"] == 4 / 5
    assert found["mean_class_accuracy"] == pytest.approx(8 / 9)
    assert found["num_samples"] == 5


def test_what_overflows_is_wrong():
    """Neither the first class, which argmax gives for NaN, nor one of the five best."""
    logits = np.eye(6)
    logits[0] = np.nan
    logits[1, 3] = np.inf
    found = classification_summary(logits, np.array([0, 3, 2, 3, 4, 5]), tuple("abcdef"))
    assert (found["num_samples"], found["num_nonfinite"]) == (6, 2)
    assert found["accuracy"] == found["top5_accuracy"] == 4 / 6
    assert found["per_class"] == {"a": 0.0, "c": 1.0, "d": 0.5, "e": 1.0, "f": 1.0}
    assert np.sum(found["confusion"]) == 4
    assert describe_nonfinite(found) == " (output not finite for 2)"
    with pytest.raises(ValueError, match="not finite for 2 of 6 samples: it overflows there"):
        predicted(logits)
    with pytest.raises(ValueError, match="for 2 of 6 samples"):
        predicted(logits.reshape(2, 3, 6))
    assert predicted(logits[2:].reshape(2, 2, 6)).tolist() == [[2, 3], [4, 5]]


def test_the_defaults_are_the_published_recipe():
    config = PointsRunConfig()
    assert config.train == TrainConfig(
        epochs=250, batch_size=32, learning_rate=1e-3, schedule="cosine", weight_decay=1e-4
    )
    assert (config.label_smoothing, config.scale, config.shift) == (0.2, 1.5, 0.2)
    assert config.model == DGCNNClassifierConfig()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 0.6}, r"label_smoothing must be in \[0, 0.5\], got 0.6"),
        ({"label_smoothing": float("nan")}, "label_smoothing must be"),
        ({"scale": 0.5}, "scale must be finite and at least 1, got 0.5"),
        ({"scale": float("inf")}, "scale must be finite"),
        ({"shift": -0.1}, "shift must be finite and 0 or more, got -0.1"),
        ({"model": DGCNNClassifierConfig(in_channels=6)}, "in_channels must be 3.*got 6"),
    ],
)
def test_bad_configurations(settings, message):
    with pytest.raises(ValueError, match=message):
        PointsRunConfig(**settings)


def test_models_that_do_not_fit_the_data(tmp_path):
    config, run = tiny_points(steps=1), tmp_path / "run"
    with pytest.raises(ValueError, match=r"num_classes must be 5.*or null, got 4"):
        train_points(replace(config, model=replace(MODEL, num_classes=4)), run)
    with pytest.raises(ValueError, match=r"k must be at most 48.*got 49"):
        train_points(replace(config, model=replace(MODEL, k=49)), run)
    with pytest.raises(ValueError, match=r"batch_size must be at least 2 per process.*got 1"):
        train_points(with_train(config, batch_size=1), run)
    assert not run.exists()
    train_points(replace(config, model=replace(MODEL, num_classes=5)), run)


def test_checkpoints_of_something_else(tmp_path):
    from polygraph.train.checkpoint import save_checkpoint

    path = tmp_path / "x.safetensors"
    for meta in ({}, {"config": {"model": {"latent_channels": 3}}}, {"config": {"model": {}}}):
        save_checkpoint(path, {"modules": {"model": {"w": torch.zeros(2)}}}, meta)
        with pytest.raises(CheckpointError, match="not a checkpoint of a point cloud network"):
            load_classifier(path)


def test_float64_runs(tmp_path):
    train_points(tiny_points(steps=1, precision="64-true"), tmp_path / "run")
    model, _ = load_classifier(tmp_path / "run" / "best.safetensors")
    assert next(model.parameters()).dtype == torch.float64


def test_the_command_line(tmp_path, capsys):
    from polygraph.cli import main

    assert main(["train", "--help"]) == 0
    assert "Classifiers and segmenters of point clouds" in capsys.readouterr().out
    out = str(tmp_path / "run")
    config = tmp_path / "c.yaml"
    config.write_text("model: {edge_channels: [8, 8], head_channels: [12]}\nbatch_size: 4\n")
    words = ["train", "points", "--config", str(config), "--data.num_shapes", "60"]
    words += ["--data.num_points", "32", "--model.k", "5", "--accelerator", "cpu", "--out", out]
    words += ["--model.embedding_channels", "16"]
    assert main([*words, "--schedule", "constant", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2 steps" in printed
    assert "of 15 test shapes right" in printed
    assert out in printed
    written = json.loads((tmp_path / "run" / "result.json").read_text())["config"]
    assert written["model"]["edge_channels"] == [8, 8]
    assert (written["model"]["k"], written["train"]["batch_size"]) == (5, 4)
    assert written["train"]["weight_decay"] == 1e-4
    assert main([*words, "--schedule", "constant", "--steps", "3", "--resume"]) == 0
    assert main(["evaluate", "--run", out]) == 1
    assert "holds a network of point clouds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.k", "x"], "model.k must be int, got 'x'"),
        (["--model.k", "0"], "k must be a positive integer, got 0"),
        (["--modle.k", "3"], "unknown setting --modle.k; did you mean --model.k?"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--label_smoothing", "0.9"], "label_smoothing must be in [0, 0.5], got 0.9"),
        (["--config", "nothing.yaml"], "--config nothing.yaml: no such file"),
        (["--config", "mesh-quick"], "--config mesh-quick: no such file"),
        (["--data.val_fraction", "1"], "val_fraction must be in (0, 1), got 1"),
        (["--preset", "full-2"], "unknown setting --preset"),
        (["--optimizer", "sdg"], "optimizer must be one of adam, adamw, sgd, got 'sdg'; did you"),
        (["--schedule", "cosin"], "got 'cosin'; did you mean 'cosine'?"),
        (["--momentum", "0.5"], "momentum is for optimizer sgd, got 0.5 with optimizer adam"),
        (["--schedule", "multistep", "--milestones", "[3,2]"], "must be positive epochs that rise"),
    ],
)
def test_wrong_settings_are_usage_errors(tmp_path, capsys, words, message):
    from polygraph.cli import main

    out = tmp_path / "run"
    assert main(["train", "points", "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_missing_data_is_an_error(tmp_path, capsys):
    from polygraph.cli import main

    missing = str(tmp_path / "none.npz")
    words = ["train", "points", "--out", str(tmp_path / "run"), "--data.path", missing]
    assert main(words) == 1
    assert "none.npz: no such file" in capsys.readouterr().err
