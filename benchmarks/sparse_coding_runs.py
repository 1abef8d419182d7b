"""Multi-layer sparse coding: what unfoldings do to a classifier, and which supports are recovered.

    python benchmarks/sparse_coding_runs.py mnist --mnist DIR --out results/NAME/sparse_mnist.json
    python benchmarks/sparse_coding_runs.py pursuit --out results/NAME/sparse_pursuit.json

``mnist``: the network of Sulam et al. (32 and 64 filters of 6 x 6 with stride 2, 512 of 4 x 4, a
linear classifier), trained with every method on the first images of MNIST; all but LISTA have the
same parameters, which is asserted. ``pursuit``: signals that a random dictionary of dictionaries
makes of codes with few entries, and the share of these that each pursuit finds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polygraph.data.image_files import read_idx_folder
from polygraph.models import MultiLayerSparseCoder

BATCH, RATE, MOMENTUM, DECAY = 128, 2e-3, 0.9, 1e-5
RUNS = (
    ("layered", 0), ("ista", 1), ("ista", 3), ("ista", 6), ("fista", 6), ("basis-pursuit", 6),
    ("lista", 6),
)  # fmt: skip
SPARSITIES = (1, 2, 4, 8, 16)
THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def classifier(method: str, unfoldings: int) -> nn.Sequential:
    """The coder with weights of 0.1 / √fan_in · N(0, 1), thresholds 0, steps that are learned."""
    layers = [nn.Conv2d(1, 32, 6, 2), nn.Conv2d(32, 64, 6, 2), nn.Conv2d(64, 512, 4)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.1 / layer.weight[0].numel() ** 0.5)
        nn.init.zeros_(layer.bias)
    coder = MultiLayerSparseCoder(layers, (1, 28, 28), unfoldings, method, steps="learned")
    return nn.Sequential(coder, nn.Flatten(), nn.Linear(512, 10))


def train(method: str, unfoldings: int, seed: int, epochs: int, data: Any) -> dict[str, Any]:
    """One network; the test accuracy after every epoch."""
    images, labels, test, truth = data
    torch.manual_seed(seed)
    model, order = classifier(method, unfoldings), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    accuracies, start = [], time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=order).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            right = [
                (model(x).argmax(1) == y).sum()
                for x, y in zip(test.split(500), truth.split(500), strict=True)
            ]
        accuracies.append(round(float(sum(right)) / len(truth), 4))
    return {
        "method": method, "unfoldings": unfoldings, "seed": seed, "test_accuracy": accuracies,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.process_time() - start, 1),
    }  # fmt: skip


def mnist(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every method with every seed, on the same images."""
    parts = read_idx_folder(arguments.mnist)
    data: list[Tensor] = []
    for part, count in (("train", arguments.images), ("test", None)):
        pixels, labels = parts[part]
        data += [
            torch.from_numpy(pixels[:count].copy()).float() / 255,
            torch.from_numpy(labels[:count].copy()),
        ]
    rows = []
    for seed in range(arguments.seeds):
        for method, unfoldings in RUNS:
            rows.append(train(method, unfoldings, seed, arguments.epochs, data))
            print(json.dumps(rows[-1]), flush=True)
    counts = {row["parameters"] for row in rows if row["method"] not in ("lista", "layered")}
    assert len(counts) <= 1, "unfoldings must not add parameters"
    return rows


@torch.no_grad()
def recover(method: str, unfoldings: int, sparsity: int, noise: float) -> dict[str, Any]:
    """Share of the true entries of the last code among as many of the largest that are found.

    Thresholds are the best of `THRESHOLDS` for each method. Dictionaries have atoms of norm 1, the
    second of few entries each, so that the code between is sparse as well.
    """
    generator = torch.Generator().manual_seed(0)
    first = nn.Linear(100, 150).double()
    second = nn.Linear(150, 200).double()
    sparse = torch.rand(200, 150, generator=generator, dtype=torch.float64)
    keep = sparse.topk(6, 1)[1]
    weights = torch.zeros(200, 150, dtype=torch.float64)
    values = 0.5 + torch.rand(200, 6, generator=generator, dtype=torch.float64)
    weights.scatter_(1, keep, values)
    dense = torch.randn(150, 100, generator=generator, dtype=torch.float64)
    first.weight.copy_(nn.functional.normalize(dense, dim=1))
    second.weight.copy_(nn.functional.normalize(weights, dim=1))
    count = 200
    truth = torch.zeros(count, 200, dtype=torch.float64)
    places = torch.rand(count, 200, generator=generator).topk(sparsity, 1)[1]
    size = 1 + torch.rand(count, sparsity, generator=generator, dtype=torch.float64)
    truth.scatter_(1, places, size)
    x = truth @ second.weight @ first.weight
    x = x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    best = (0.0, 0.0)
    for threshold in THRESHOLDS:
        for layer in (first, second):
            layer.bias.fill_(-threshold)
        coder = MultiLayerSparseCoder([first, second], (100,), unfoldings, method).eval()
        found = coder(x).topk(sparsity, 1)[1]
        share = (truth.gather(1, found) > 0).double().mean().item()
        best = max(best, (share, threshold))
    return {
        "method": method, "unfoldings": unfoldings, "sparsity": sparsity, "noise": noise,
        "recovered": round(best[0], 4), "threshold": best[1],
    }  # fmt: skip


def pursuit(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every method at every sparsity, without noise and with some."""
    rows = []
    for method, unfoldings in (
        ("layered", 0),
        ("ista", 100),
        ("fista", 100),
        ("basis-pursuit", 100),
    ):
        for noise in (0.0, 0.05):
            for sparsity in SPARSITIES:
                rows.append(recover(method, unfoldings, sparsity, noise))
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """One of the two, into a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("mnist", "pursuit"))
    parser.add_argument("--mnist", help="folder of MNIST's four files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = mnist(arguments) if arguments.what == "mnist" else pursuit(arguments)
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
