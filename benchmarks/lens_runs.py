"""Regions between test images, and how far templates tell classes apart: trained and untrained.

    python benchmarks/lens_runs.py --mnist MNIST --cifar10 CIFAR10 --out results/NAME/lens.json

Rows of two kinds. ``walk``: of a small CNN on MNIST at 16 x 16, all regions on segments between
test images of one class and of two (`SplineLens.walk`, float64). ``signs``: of the small CNN of the
spline papers with BatchNorm, on MNIST and on CIFAR-10, the inner products of training images with
the templates of their classes (`polygraph.analysis.memorisation`), and the same with random labels.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from small_cnn import Part, accuracy, fit, open_parts, write_rows
from torch import nn

from polygraph.analysis import SplineLens, memorisation
from polygraph.models import SplineCNN, SplineCNNConfig

SEGMENTS = 10  # of each kind and network
SIGNS = {"mnist": (3000, 6), "cifar10": (3000, 6)}  # training images, epochs
RANDOM = (500, 40)  # of CIFAR-10, with its labels and with random ones


def walked(norm: bool) -> nn.Module:
    """A CNN of two convolutions for 16 x 16."""
    torch.manual_seed(0)

    def conv(before: int, after: int) -> list[nn.Module]:
        bn: list[nn.Module] = [nn.BatchNorm2d(after)] if norm else []
        return [nn.Conv2d(before, after, 3), *bn, nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*conv(1, 4), *conv(4, 8), nn.Flatten(), nn.Linear(32, 10))


def segments(y: torch.Tensor, same: bool) -> list[tuple[int, int]]:
    """Pairs of test images, of one class or of two."""
    rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).tolist()
    found: list[tuple[int, int]] = []
    used: set[int] = set()
    for n in rows:
        other = next(
            (m for m in rows if m > n and m not in used and bool(y[m] == y[n]) == same), None
        )
        if n not in used and other is not None:
            used |= {n, other}
            found.append((n, other))
        if len(found) == SEGMENTS:
            return found
    raise ValueError("too few test images")


def walks(train: Part, test: Part) -> list[dict[str, Any]]:
    """Every network, segments of both kinds."""
    rows = []
    for name, norm, epochs in (
        ("untrained", False, 0), ("trained", False, 4), ("batchnorm", True, 4),
    ):  # fmt: skip
        model = fit(walked(norm), train, epochs, rate=2e-3)
        right = accuracy(model, test)
        lens, x = SplineLens(model.double()), test[0].double()
        for kind in ("same class", "two classes"):
            start = time.perf_counter()
            found = [lens.walk(x[n], x[m]) for n, m in segments(test[1], kind == "same class")]
            ends = [x[n] - x[m] for n, m in segments(test[1], kind == "same class")]
            rows.append({
                "kind": "walk", "network": name, "between": kind, "seed": 0, "segments": SEGMENTS,
                "test_accuracy": right,
                "regions": statistics.mean(w.regions for w in found),
                "regions_per_length": statistics.mean(
                    w.regions / float(e.norm()) for w, e in zip(found, ends, strict=True)
                ),
                "decisions": statistics.mean(len(w.boundary) for w in found),
                "residual": max(w.residual for w in found),
                "seconds_per_segment": round((time.perf_counter() - start) / SEGMENTS, 3),
            })  # fmt: skip
            print(rows[-1], flush=True)
        model.float()
    return rows


def signs(kind: str, part: Part, epochs: int, labels: str = "true") -> dict[str, Any]:
    """A network is trained, and its templates at its training images are looked at."""
    torch.manual_seed(0)
    x, y = part
    config = SplineCNNConfig(in_channels=x.shape[1], size=x.shape[2])
    model = fit(SplineCNN(config), (x, y), epochs)
    found = memorisation(model, x, y)
    row = {
        "kind": "signs", "data": kind, "labels": labels, "images": len(y), "epochs": epochs,
        "seed": 0, "train_accuracy": accuracy(model, part), "auc": found.auc,
        "sign_split": found.sign_split, "ratio": found.ratio,
        "true_mean": float(found.true.mean()), "false_mean": float(found.false.mean()),
        "histograms": [t.tolist() for t in found.histograms(30)],
    }  # fmt: skip
    print({k: v for k, v in row.items() if k != "histograms"}, flush=True)
    return row


def main() -> None:
    """All rows, from one seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mnist", required=True, help="folder of MNIST's files")
    parser.add_argument("--cifar10", required=True, help="folder of CIFAR-10's binary files")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = walks(*open_parts("mnist", options.mnist, 6000, 1000, shrink=2))
    for kind, (images, epochs) in SIGNS.items():
        part = open_parts(kind, getattr(options, kind), images, 1)[0]
        rows.append(signs(kind, part, epochs))
    images, epochs = RANDOM
    x, y = open_parts("cifar10", options.cifar10, images, 1)[0]
    rows.append(signs("cifar10", (x, y), epochs))
    drawn = torch.randint(10, y.shape, generator=torch.Generator().manual_seed(0))
    rows.append(signs("cifar10", (x, drawn), epochs, "random"))
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
