"""Penalties that make templates orthogonal, on a small CNN of CIFAR-10: do they help?

    python benchmarks/orthogonal_runs.py CIFAR10 --out results/NAME/orthogonal.json

The small CNN of the spline papers with BatchNorm, 1,000 training images, 10 epochs of Adam, batches
of 50 with all classes equally often; the same first weights and the same order for a seed in all
variants, no choice among epochs. The row has the test accuracy as the mean over the last three
epochs, and the mean cosine between the last layer's rows and between templates at test images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from small_cnn import Part, accuracy, fit, open_parts, write_rows

from polygraph.models import SplineCNN, SplineCNNConfig
from polygraph.train.orthogonality import mean_cosine, templates
from polygraph.train.supervised import ClassificationLoss

TRAIN, TEST, EPOCHS, LAST = 1000, 2000, 10, 3
#: name -> settings of `ClassificationLoss`
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "weights": {"orthogonality": 1.0, "on": "weights"},
    "weights, unit rows": {"orthogonality": 1.0, "on": "weights", "unit": True},
    "probes": {"orthogonality": 1.0, "on": "probes"},
    "smoothing": {"smoothing": 0.1, "spread": "all"},
}


def run(variant: str, seed: int, train: Part, test: Part) -> dict[str, Any]:
    """Train one network, and measure it after the last epochs."""
    torch.manual_seed(seed)
    model = SplineCNN(SplineCNNConfig())
    accuracies, losses, start = [], [], time.process_time()

    def note(epoch: int, loss: float) -> None:
        losses.append(round(loss, 5))
        if epoch >= EPOCHS - LAST:
            accuracies.append(accuracy(model, test))

    loss = ClassificationLoss(model, **VARIANTS[variant])
    fit(model, train, EPOCHS, seed=seed, loss=loss, after_epoch=note)
    x = test[0][:200].clone().requires_grad_()
    rows = templates(model(x), x).flatten(2)
    return {
        "variant": variant, "seed": seed, "test_accuracy": statistics.mean(accuracies),
        "train_accuracy": accuracy(model, train), "train_loss": losses,
        "cosine_weights": float(mean_cosine(model.output.weight.detach())),
        "cosine_templates": float(mean_cosine(rows).mean()),
        "seconds": round(time.process_time() - start, 1),
    }  # fmt: skip


def main() -> None:
    """Every variant with every seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cifar10", help="folder of CIFAR-10's binary files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = open_parts("cifar10", options.cifar10, TRAIN, TEST)
    rows = []
    for seed in range(options.seeds):
        for variant in VARIANTS:
            rows.append(run(variant, seed, train, test))
            print(rows[-1], flush=True)
            write_rows(options.out, rows)


if __name__ == "__main__":
    main()
