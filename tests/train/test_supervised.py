"""The supervised loop: losses, resume with every optimizer and schedule, mixed precision, `fit`."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from support.toy_task import ToyTask, train
from torch import nn
from torch.nn import functional
from train.test_loop import assert_same_state

from polygraph.data import ImageDataConfig, open_images
from polygraph.train.augment import AugmentConfig
from polygraph.train.batches import LabelledImageBatches
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from polygraph.train.config import TrainConfig
from polygraph.train.distributed import make_fabric
from polygraph.train.log import read_log
from polygraph.train.loop import NotFinite, Trainer
from polygraph.train.supervised import (
    ClassificationLoss,
    ClassifierTask,
    evaluating,
    fit,
    model_logits,
)

SGD = {"optimizer": "sgd", "learning_rate": 0.01}
RUNS = {
    "sgd": {**SGD, "nesterov": True, "schedule": "constant", "decay_all": False},
    "adamw": {"optimizer": "adamw", "schedule": "multistep", "milestones": [0.5, 1, 1.5]},
    "plateau": {**SGD, "schedule": "plateau", "patience": 0, "lr_factor": 0.5, "eval_every": 2},
    "one-cycle": {**SGD, "schedule": "onecycle", "steps": 13},
    "warm-up": {"schedule": "cosine", "warmup_epochs": 1.3, "clip_value": 0.1, "steps": 13},
}


class Killed(Exception):
    """Raised in the middle of a run."""


def killed(loss):
    raise Killed


@pytest.mark.parametrize("name", RUNS)
def test_killed_runs_end_with_the_same_bits(tmp_path, name):
    settings = {"checkpoint_every": 3, "steps": 13, **RUNS[name]}
    train(tmp_path / "whole", **settings)
    folder = tmp_path / "parts"
    for step in (4, 7, 12):
        with pytest.raises(Killed):
            train(folder, resume=True, poison={step: killed}, **settings)
    train(folder, resume=True, **settings)
    for part in ("last", "best"):
        assert_same_state(*(f / f"{part}.safetensors" for f in (tmp_path / "whole", folder)))
    rates = [
        [(r["step"], r["lr"]) for r in read_log(f / "log.jsonl") if "lr" in r]
        for f in (tmp_path / "whole", folder)
    ]
    assert rates[0] == rates[1]


def test_a_plateau_lowers_the_rate_and_is_in_the_checkpoint(tmp_path):
    """A prolonged run does as one that was never stopped: the last validation was out of turn."""
    settings = {**RUNS["plateau"], "log_every": 1} | {"optimizer": "adam", "learning_rate": 0.5}
    trainer, _ = train(tmp_path / "whole", steps=24, **settings)
    rates = [r["lr"] for r in read_log(tmp_path / "whole" / "log.jsonl") if "lr" in r]
    assert rates[0] == 0.5
    assert rates[-1] < 0.5
    assert all(b in (a, a / 2) for a, b in pairwise(rates))
    state = load_checkpoint(tmp_path / "whole" / "last.safetensors")[0]
    assert state["schedule"] == trainer.schedule.state_dict()
    for steps in (7, 24):
        train(tmp_path / "parts", steps=steps, resume=True, **settings)
    assert_same_state(*(tmp_path / f / "last.safetensors" for f in ("whole", "parts")))
    with pytest.raises(CheckpointError, match=r"train\.eval_every is 2 there and 3 here"):
        train(tmp_path / "parts", steps=30, resume=True, **settings | {"eval_every": 3})
    path = tmp_path / "parts" / "last.safetensors"
    state, meta = load_checkpoint(path)
    del state["schedule"]
    save_checkpoint(path, state, meta)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: schedule: the plateau has"):
        train(tmp_path / "parts", steps=30, resume=True, **settings)


def test_plateau_needs_a_score(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyTask, "score", None)
    with pytest.raises(ValueError, match="plateau needs a validated score"):
        train(tmp_path, **RUNS["plateau"])


def test_checkpoints_without_plateau_or_scaler_are_as_ever(tmp_path):
    train(tmp_path, steps=2)
    assert set(load_checkpoint(tmp_path / "last.safetensors")[0]) == {"modules", "optimizers"}


# ---- mixed precision ----


def half(growth_interval=3):
    """A Fabric with a loss scaler on the CPU, which `make_fabric` offers on CUDA alone."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=growth_interval)
    fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    fabric.launch()
    return fabric


def overflow(loss):
    """The same loss, with a gradient that float16 and the scaler's float32 cannot hold."""
    return loss + (loss - loss.detach()) * 1e37


def test_the_loss_scaler_goes_on_where_it_was(tmp_path):
    """A step whose gradient overflows is left out, and the scale halved; that is kept, too."""
    settings = {"precision": "16-mixed", "checkpoint_every": 3, "steps": 11, "grad_clip": 1.0}
    poison = {4: overflow}
    whole = half()
    train(tmp_path / "whole", fabric=whole, poison=poison, **settings)
    state = load_checkpoint(tmp_path / "whole" / "last.safetensors")[0]
    assert state["precision"] == whole.strategy.precision.state_dict()
    assert state["precision"]["scale"] == 2.0**8  # doubled after 3 steps, halved, doubled twice
    steps = state["optimizers"]["net"]["state"][0]["step"]
    assert steps.item() == 10
    folder = tmp_path / "parts"
    for step in (5, 8):
        with pytest.raises(Killed):
            train(folder, resume=True, fabric=half(), poison={**poison, step: killed}, **settings)
    train(folder, resume=True, fabric=half(), poison=poison, **settings)
    assert_same_state(*(f / "last.safetensors" for f in (tmp_path / "whole", folder)))
    again, meta = load_checkpoint(folder / "last.safetensors")
    assert again["precision"] == state["precision"]
    for bad in ({}, {"precision": {**again["precision"], "scale": "1"}}):
        parts = {k: v for k, v in again.items() if k != "precision"}
        save_checkpoint(folder / "last.safetensors", {**parts, **bad}, meta)
        with pytest.raises(CheckpointError, match="no state of a loss scaler"):
            train(folder, resume=True, fabric=half(), **settings)


def test_bfloat16_runs_and_resumes(tmp_path):
    settings = {**SGD, "precision": "bf16-mixed", "schedule": "constant", "checkpoint_every": 2}
    train(tmp_path / "whole", steps=5, **settings)
    train(tmp_path / "exact", steps=5, **settings | {"precision": "32-true"})
    train(tmp_path / "parts", steps=3, **settings)
    train(tmp_path / "parts", steps=5, resume=True, **settings)
    assert_same_state(*(tmp_path / f / "last.safetensors" for f in ("whole", "parts")))
    found, exact = (
        load_checkpoint(tmp_path / f / "last.safetensors")[0]["modules"]["net"]["0.weight"]
        for f in ("whole", "exact")
    )
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).abs().max()) < 0.05


def test_float16_needs_cuda():
    with pytest.raises(ValueError, match="16-mixed needs CUDA; on the CPU there is bf16-mixed"):
        make_fabric(TrainConfig(precision="16-mixed", accelerator="cpu"))


# ---- classifiers ----


class Images(ClassifierTask):
    """A small classifier of images, some of the training images of which validate."""

    def __init__(self, fabric, config, dataset):
        torch.manual_seed(config.seed)
        size = dataset.channels * dataset.size**2
        net = nn.Sequential(nn.Flatten(), nn.Linear(size, 32), nn.ReLU(), nn.Linear(32, 10))
        super().__init__(
            fabric,
            config,
            net,
            ClassificationLoss(net, 0.1, "all"),
            len(dataset.train),
            labels=dataset.labels,
            classes=dataset.classes,
            val=dataset.train[:30],
        )
        self.dataset = dataset
        self.batches = LabelledImageBatches(
            dataset, config, device=self.device, augmentation=AugmentConfig(crop_padding=1)
        )

    def batch(self, step):
        return self.batches(step)

    def logits(self, indices):
        return model_logits(self.model, self.dataset.batch, indices, 16)


def run(dataset, config, folder):
    fabric = make_fabric(config)
    task = Images(fabric, config, dataset)
    Trainer(task, config, fabric, folder).run(resume=True)
    return task


@pytest.fixture(scope="module")
def glyphs():
    return open_images(ImageDataConfig(num_images=300, size=16))


def test_a_classifier_of_images_learns(tmp_path, glyphs):
    config = TrainConfig(
        optimizer="sgd",
        nesterov=True,
        learning_rate=0.05,
        schedule="onecycle",
        decay_all=False,
        batch_size=32,
        steps=60,
        eval_every=20,
        accelerator="cpu",
    )
    task = run(glyphs, config, tmp_path)
    found = task.measure(glyphs.test)
    assert found["num_samples"] == len(glyphs.test)
    assert found["accuracy"] > 0.5  # a guess is right in 0.1
    records = read_log(tmp_path / "log.jsonl")
    assert {"loss", "accuracy", "lr"} <= {key for record in records for key in record}
    scores = {r["step"]: r["val_score"] for r in records if "val_score" in r}
    assert list(scores) == [20, 40, 60]
    best = load_checkpoint(tmp_path / "best.safetensors")[1]["progress"]["step"]
    assert scores[best] == min(scores.values())
    logits = task.logits(glyphs.test[:7])
    assert logits.dtype == np.float64
    assert np.allclose(logits, task.logits(glyphs.test)[:7], atol=1e-5)


@pytest.mark.parametrize("spread", ["all", "others"])
def test_label_smoothing(spread):
    """Against the target distribution written out."""
    torch.manual_seed(0)
    model, classes, share = nn.Linear(6, 5).double(), 5, 0.2
    x, labels = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 4, 2, 2])
    logits = model(x).detach()
    ones = functional.one_hot(labels, classes).double()
    spread_over = 1 - ones if spread == "others" else torch.ones_like(ones)
    target = ones * (1 - share) + share * spread_over / spread_over.sum(1, keepdim=True)
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    loss, accuracy = ClassificationLoss(model, share, spread)(x, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert accuracy.item() == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    plain, _ = ClassificationLoss(model)(x, labels)
    assert plain.item() == functional.cross_entropy(logits, labels).item()


def test_bad_losses():
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), got nan"):
        ClassificationLoss(nn.Linear(2, 2), float("nan"))
    with pytest.raises(ValueError, match="spread must be others or all, got 'label'"):
        ClassificationLoss(nn.Linear(2, 2), 0.1, "label")
    x, labels = torch.ones(1, 2), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"at most \(K - 1\) / K with K = 2 classes, got 0\.6"):
        ClassificationLoss(nn.Linear(2, 2), 0.6)(x, labels)
    assert ClassificationLoss(nn.Linear(2, 1))(x, labels)[0] == 0  # a single class is always right


def test_evaluation_puts_the_mode_back():
    net, found = nn.Dropout(), []

    def fail():
        with evaluating(net):
            found.extend([net.training, torch.is_grad_enabled()])
            raise Killed

    with pytest.raises(Killed):
        fail()
    assert found == [False, False]
    assert net.training


# ---- in memory ----


def test_fit_is_the_plain_loop():
    x = torch.randn(20, 8, 3, generator=torch.Generator().manual_seed(0))

    def net_and_optimizer():
        torch.manual_seed(1)
        net = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        return net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)

    net, optimizer, schedule = net_and_optimizer()
    for batch in x:
        optimizer.zero_grad()
        (net(batch) - 1).square().mean().backward()
        optimizer.step()
        schedule.step()
    other, *rest = net_and_optimizer()
    loss = Squares(other)
    fit(loss, lambda step: (x[step],), rest[0], 20, schedule=rest[1])
    assert torch.equal(net.weight, other.weight)
    with pytest.raises(NotFinite, match=r"^two: the loss is nan at step 3$"):
        fit(loss, lambda step: (x[step] * torch.nan,), rest[0], 3, label="two")


class Squares(nn.Module):
    """How far a network's values are from 1."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch):
        return (self.net(batch) - 1).square().mean()
