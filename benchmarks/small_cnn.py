"""What the runs of the spline lens share: images as its papers take them, and short trainings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polygraph.data import ImageDataConfig, open_images
from polygraph.data.images import to_float
from polygraph.train.balance import balanced_order
from polygraph.train.provenance import provenance
from polygraph.train.supervised import ClassificationLoss

Part = tuple[Tensor, Tensor]  # images float32 [N, C, H, W], labels int64 [N]
BATCH = 50


def open_parts(kind: str, folder: str, train: int, test: int, shrink: int = 1) -> list[Part]:
    """The first images of the training and of the test set: mean 0, largest magnitude 1.

    ``shrink``: pixels in each direction of which one is made.
    """
    data = open_images(ImageDataConfig(kind=kind, path=folder))
    assert data.labels is not None
    parts = []
    for rows in (data.train[:train], data.test[:test]):
        x = to_float(torch.from_numpy(data.images[rows].copy()))
        x = nn.functional.avg_pool2d(x, shrink)
        x = x - x.mean((1, 2, 3), keepdim=True)
        x = x / x.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        parts.append((x, torch.from_numpy(data.labels[rows])))
    return parts


def fit(
    model: nn.Module,
    part: Part,
    epochs: int,
    *,
    seed: int = 0,
    rate: float = 5e-4,
    loss: ClassificationLoss | None = None,
    after_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> nn.Module:
    """Adam, batches of 50 in which classes come equally often; returns the model in eval mode."""
    x, y = part
    loss = ClassificationLoss(model) if loss is None else loss
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for rows in np.split(balanced_order(y.numpy(), seed, epoch), len(y) // BATCH):
            value = loss(x[rows], y[rows])[0]
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            total += value.item() * len(rows)
        after_epoch(epoch, total / len(y))
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    """The share of right answers, in eval mode."""
    model.eval()
    found = torch.cat([model(x).argmax(1) for x in part[0].split(250)])
    return float((found == part[1]).double().mean())


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows with where they come from, one a line."""
    origin = {
        k: v for k, v in provenance().items() if k in ("commit", "torch", "machine", "threads")
    }
    lines = [json.dumps({**row, **origin}) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
