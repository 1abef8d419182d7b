"""Convexified networks, convolutional ones of the same shape and a kernel machine on MNIST.

    python benchmarks/convexified_runs.py --mnist DIR --out results/NAME/convexified.json \
        [--pictures CIFAR10] [--names basic rand rot img img+rot] [--seeds 5] [--scale 0.1]

Everything at ``--scale 1`` is as published: 10,000 images train, 2,000 validate, 50,000 test, steps
and iterations; a smaller scale has fewer of each. The CNNs that were published with the convexified
ones take whitened images and plain SGD; "tuned" ones the images as they are, Adam, and the epoch
and the rate that are best on the validation images. Each row has the test error, measured once.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polygraph.data import ImageDataset, make_mnist_variation
from polygraph.data.cifar import read_cifar10
from polygraph.data.image_files import read_idx_folder
from polygraph.data.mnist_variations import PARTS, VARIATIONS
from polygraph.models import ConvexifiedCNN
from polygraph.models.convexified import PRESETS

BATCH, STEPS, RATE, MOST_NORM = 50, 10_000, 2e-3, 100.0  # of the published CNNs
TUNED_EPOCHS, TUNED_RATES = 20, (1e-3, 3e-3)
ZCA = 0.1


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


def network(layers: int, quadratic: bool = False) -> nn.Sequential:
    """5 x 5 filters without padding, means of 2 x 2: 16, or 16 and 32."""
    activation = Square if quadratic else nn.ReLU
    steps: list[nn.Module] = []
    channels, size = 1, 28
    for width in (16, 32)[:layers]:
        steps += [nn.Conv2d(channels, width, 5), activation(), nn.AvgPool2d(2)]
        channels, size = width, (size - 4) // 2
    return nn.Sequential(*steps, nn.Flatten(), nn.Linear(channels * size**2, 10))


def as_published(model: nn.Sequential) -> nn.Sequential:
    """Weights of N(0, 0.1²) cut at two deviations, biases 0.1."""
    for module in model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.1, a=-0.2, b=0.2)
            nn.init.constant_(module.bias, 0.1)
    return model


def whitening(train: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and ZCA matrix of images ``[N, 784]``, each without its own mean."""
    centred = train - train.mean(1, keepdim=True)
    mean = centred.mean(0)
    values, vectors = torch.linalg.eigh(((centred - mean).T @ (centred - mean)) / len(train))
    return mean, (vectors * (values.clamp(min=0) + ZCA).rsqrt()) @ vectors.T


@torch.no_grad()
def error_of(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of wrong answers."""
    wrong = [
        (model(x).argmax(1) != y).sum()
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    ]
    return float(sum(wrong)) / len(labels)


class Data:
    """Parts of a variation: float images ``[N, 1, 28, 28]`` in [0, 1] and labels."""

    def __init__(self, dataset: ImageDataset) -> None:
        assert dataset.labels is not None
        assert dataset.val is not None
        self.name, self.hash = dataset.name, dataset.content_hash
        images, labels = torch.from_numpy(np.array(dataset.images)), dataset.labels
        for part, rows in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)):
            setattr(self, part, (images[rows].float() / 255, torch.from_numpy(labels[rows].copy())))

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def published_cnn(data: Data, layers: int, quadratic: bool, seed: int, scale: float) -> dict:
    """The CNN of the paper's table: the error after the last step."""
    torch.manual_seed(seed)
    model = as_published(network(layers, quadratic))
    (train, labels), (test, truth) = data.train, data.test
    mean, matrix = whitening(train.flatten(1))

    def prepared(images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return ((flat - flat.mean(1, keepdim=True) - mean) @ matrix).view_as(images)

    train, order = prepared(train), torch.Generator().manual_seed(seed)
    start = time.process_time()
    for _ in range(round(STEPS * scale)):
        rows = torch.randint(len(train), (BATCH,), generator=order)
        logits = model(train[rows])
        loss = nn.functional.cross_entropy(logits, labels[rows], reduction="sum")
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                norm = float(gradient.norm())
                parameter -= RATE * min(1.0, MOST_NORM / max(norm, 1e-12)) * gradient
    seconds = time.process_time() - start
    return {"error": error_of(model, prepared(test), truth), "seconds": round(seconds, 1)}


def tuned_cnn(data: Data, layers: int, seed: int) -> dict:
    """Adam along a cosine; rate and epoch are chosen on the validation images."""
    (train, labels), start = data.train, time.process_time()
    best: tuple[float, float, int, dict[str, Tensor]] = (2.0, 0.0, 0, {})
    for rate in TUNED_RATES:
        torch.manual_seed(seed)
        model, order = network(layers), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TUNED_EPOCHS)
        for epoch in range(TUNED_EPOCHS):
            for rows in torch.randperm(len(train), generator=order).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(train[rows]), labels[rows]).backward()
                optimizer.step()
            schedule.step()
            error = error_of(model, *data.val)
            if error < best[0]:
                state = {name: value.clone() for name, value in model.state_dict().items()}
                best = error, rate, epoch + 1, state
    model.load_state_dict(best[3])
    return {
        "error": error_of(model, *data.test), "rate": best[1], "epoch": best[2],
        "seconds": round(time.process_time() - start, 1),
    }  # fmt: skip


def convexified(data: Data, seed: int, scale: float) -> list[dict[str, Any]]:
    """Both depths of one fit."""
    layers = [
        replace(c, iterations=round(c.iterations * scale), window=max(1, round(c.window * scale)))
        for c in PRESETS["ccnn-2-mnist"]
    ]
    start = time.process_time()
    model = ConvexifiedCNN(layers, seed=seed, memory=3 << 30).fit(*data.train, validation=data.val)
    seconds = round(time.process_time() - start, 1)
    rows = []
    for depth, certificate in enumerate(model.certificates_, 1):
        rows.append({
            "model": f"ccnn-{depth}", "error": 1 - model.score(*data.test, depth=depth),
            "loss": certificate.loss, "lower_bound": certificate.lower_bound,
            "nuclear_norm": certificate.nuclear_norm, "seconds": seconds,
            "history": [
                [step.iteration, round(step.seconds, 1), round(step.loss, 5), step.error]
                for step in model.history_[depth - 1]
            ],
        })  # fmt: skip
    return rows


def svm(data: Data) -> dict[str, Any]:
    """A kernel machine with the RBF kernel; its two settings are chosen on validation."""
    from sklearn.svm import SVC

    start = time.process_time()
    flat = {part: getattr(data, part)[0].flatten(1).numpy() for part in ("train", "val", "test")}
    best: tuple[float, Any, float, float] = (2.0, None, 0.0, 0.0)
    for c in (1.0, 10.0):
        for gamma in (0.01, 0.03):
            model = SVC(C=c, gamma=gamma).fit(flat["train"], data.train[1])
            error = 1 - model.score(flat["val"], data.val[1])
            if error < best[0]:
                best = error, model, c, gamma
    return {
        "error": 1 - best[1].score(flat["test"], data.test[1]), "c": best[2], "gamma": best[3],
        "seconds": round(time.process_time() - start, 1),
    }  # fmt: skip


def main() -> None:
    """Every model on every variation with every seed; a file after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mnist", required=True, help="folder of MNIST's four files")
    parser.add_argument("--pictures", help="folder of CIFAR-10, for what has pictures behind")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=["basic", "rand", "rot"], choices=VARIATIONS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts, scale = read_idx_folder(arguments.mnist), arguments.scale
    images = np.concatenate([parts[part][0] for part in ("train", "test")])
    labels = np.concatenate([parts[part][1] for part in ("train", "test")])
    rows: list[dict[str, Any]] = []

    def add(data: Data, seed: int, found: dict[str, Any], **more: Any) -> None:
        rows.append({
            "data": data.name, "hash": data.hash[:16], "seed": seed, "scale": scale, **more, **found
        })  # fmt: skip
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "history"}), flush=True)
        text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
        arguments.out.write_text(text)

    for name in arguments.names:
        pictures = None
        if name.startswith("img"):
            pictures = read_cifar10(arguments.pictures)["train"][0]
        for seed in range(arguments.seeds):
            sizes = [round(part * scale) for part in PARTS]
            data = Data(
                make_mnist_variation(
                    name, images, labels, pictures=pictures, seed=seed, parts=sizes
                )
            )
            for layers in (1, 2):
                found = published_cnn(data, layers, False, seed, scale)
                add(data, seed, found, model=f"cnn-{layers}")
                add(data, seed, tuned_cnn(data, layers, seed), model=f"cnn-{layers}, tuned")
            found = published_cnn(data, 2, True, seed, scale)
            add(data, seed, found, model="cnn-2, quadratic")
            add(data, seed, svm(data), model="svm")
            for found in convexified(data, seed, scale):
                add(data, seed, found)


if __name__ == "__main__":
    main()
