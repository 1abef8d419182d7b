"""Input-convex networks on MNIST: first weights, ways to keep weights at 0 or above, skips.

    python benchmarks/convex_runs.py --mnist DIR --out results/NAME/convex_mnist.json

Three hidden layers of 256, 10,000 training images, Adam, the same order of images for a seed in all
variants, no choice among epochs: the test accuracy after every epoch is written. Convexity is
checked on 1,000 test images in float64 (`check_convex`: a million pairs for each of ten logits),
and the share of pairs of test images whose middle lies above a chord is counted.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polygraph.analysis import check_convex
from polygraph.data import ImageDataConfig, open_images
from polygraph.nn.convex import InputSkips, convex_

WIDTHS = (784, 256, 256, 256, 10)
TRAIN, BATCH, EPOCHS = 10_000, 64, 8
#: name -> settings of `convex_`, None for a free network; whether there are skips
VARIANTS: dict[str, tuple[dict[str, str] | None, bool]] = {
    "free": (None, False),
    "clip, usual": ({"kind": "clip", "initial": "keep"}, False),
    "clip, principled": ({"kind": "clip", "initial": "principled"}, False),
    "softplus, usual": ({"kind": "softplus", "initial": "keep"}, False),
    "softplus, principled": ({"kind": "softplus", "initial": "principled"}, False),
    "exp, principled": ({"kind": "exp", "initial": "principled"}, False),
    "clip, usual, skips": ({"kind": "clip", "initial": "keep"}, True),
    "clip, principled, skips": ({"kind": "clip", "initial": "principled"}, True),
}

Data = tuple[Tensor, Tensor, Tensor, Tensor]


def open_mnist(folder: str) -> Data:
    """Images ``[N, 784]`` of mean 0 and variance 1 over all, labels; of training and test."""
    dataset = open_images(ImageDataConfig(kind="mnist", path=folder, size=28))
    assert dataset.labels is not None
    parts = []
    for rows in (dataset.train[:TRAIN], dataset.test):
        parts += [dataset.batch(rows).flatten(1), torch.from_numpy(dataset.labels[rows])]
    mean, std = parts[0].mean(), parts[0].std()
    return (parts[0] - mean) / std, parts[1], (parts[2] - mean) / std, parts[3]


def build(variant: str) -> nn.Module:
    """A network, from the global generator."""
    settings, skips = VARIANTS[variant]
    steps: list[nn.Module] = []
    for before, after in pairwise(WIDTHS):
        steps += [nn.Linear(before, after), nn.ReLU()]
    model: nn.Module = InputSkips(steps[:-1]) if skips else nn.Sequential(*steps[:-1])
    return model if settings is None else convex_(model, **settings)


def run(variant: str, seed: int, rate: float, data: Data) -> dict[str, Any]:
    """Train one network, and measure it after every epoch."""
    train, labels, test, truth = data
    torch.manual_seed(seed)
    model, order = build(variant), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    accuracies, losses, start = [], [], time.process_time()
    for _ in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(TRAIN, generator=order).split(BATCH):
            loss = nn.functional.cross_entropy(model(train[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(round(total / TRAIN, 5))
        with torch.no_grad():
            accuracies.append(round((model(test).argmax(1) == truth).double().mean().item(), 4))
    seconds = time.process_time() - start
    model.double()
    points = test[:1000].double()
    report = check_convex(model, points)
    with torch.no_grad():
        first, second = points[:500], points[500:]
        above = model((first + second) / 2) - (model(first) + model(second)) / 2
    return {
        "variant": variant, "seed": seed, "learning_rate": rate, "test_accuracy": accuracies,
        "train_loss": losses, "convex": report.holds, "largest_violation": report.largest,
        "pairs": report.planes, "chords_violated": (above > 1e-9).double().mean().item(),
        "parameters": sum(p.numel() for p in model.parameters()), "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    """Every variant with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mnist", required=True, help="folder of MNIST's four files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, rows = open_mnist(arguments.mnist), []
    for seed in range(arguments.seeds):
        for variant in VARIANTS:
            for rate in arguments.rates:
                rows.append(run(variant, seed, rate, data))
                print(json.dumps(rows[-1]), flush=True)
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
