"""Mesh autoencoders: what a step of polynomial and first-order models costs.

    python benchmarks/bench_mesh_autoencoder.py cost DATA [--out FILE]

Times one training step of the second-order model against the same model in plain PyTorch
(index_select + linear, every vertex convolved before the selection), and inference of the
polynomial models against the first-order one, in turns. Their errors are a matter of
`polygraph benchmark mesh`.

DATA is a folder with vertices.npy, faces.npy, frames.json and splits.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from harness import provenance
from torch import Tensor

from polygraph import ops, reference
from polygraph.data import MeshDataConfig, open_dataset
from polygraph.mesh.hierarchy import MeshHierarchy, load_or_build
from polygraph.models import MeshAutoencoder, get_preset

TIMED = ("first-order", "simple-2", "full-2", "full-2-noact", "full-3")
LATENT_CHANNELS = 16
BATCH = 16


def plain_spiral_conv(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    transposed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Spiral convolution as it is written without an extension: gather, store, multiply."""
    padded = F.pad(x, (0, 0, 0, 1))
    slots = torch.where(index < 0, x.shape[1], index).flatten()
    gathered = padded.index_select(1, slots).view(x.shape[0], index.shape[0], -1)
    return F.linear(gathered, weight, bias)


def plain_resample(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    *,
    transposed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Resampling by index_select and a weighted sum."""
    gathered = x.index_select(1, index.flatten()).view(x.shape[0], *index.shape, -1)
    return (gathered * weight[..., None]).sum(2)


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """Let the layers call plain PyTorch instead of the kernels."""
    with (
        mock.patch.object(ops, "spiral_conv", plain_spiral_conv),
        mock.patch.object(ops, "resample", plain_resample),
        mock.patch.object(ops, "poly_step", reference.poly_step),
    ):
        yield


def medians(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Times in ms of calls that take turns, after two turns to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn >= 2:
                times[name].append(1000 * (time.perf_counter() - started))
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Median and spread (the middle half) in ms."""
    low, _, high = statistics.quantiles(times, n=4)
    return {"median_ms": statistics.median(times), "low_ms": low, "high_ms": high}


def build(name: str, hierarchy: MeshHierarchy, **changes: bool) -> MeshAutoencoder:
    """A preset's model with the same random weights at every call."""
    torch.manual_seed(0)
    config, _ = get_preset(name)
    return MeshAutoencoder(replace(config, latent_channels=LATENT_CHANNELS, **changes), hierarchy)


def training_step(model: MeshAutoencoder, batch: Tensor) -> Callable[[], None]:
    """One step: forward, backward, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        loss = F.l1_loss(model.forward_normalized(batch), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def cost(data: Path, rounds: int) -> dict[str, object]:
    """Time training steps and inference; values are compared first."""
    dataset = open_dataset(MeshDataConfig(kind="registered", path=str(data)))
    split = dataset.split("interpolation")
    mean, std = dataset.mean_std(split.train)
    hierarchy = load_or_build(mean, dataset.faces, spiral=get_preset("full-2")[1])
    x = torch.from_numpy(dataset.gather(split.test[:BATCH]))
    results: dict[str, object] = {
        **provenance("cpu"),
        "batch": BATCH,
        "sizes": hierarchy.sizes,
    }

    models = {name: build(name, hierarchy) for name in TIMED}
    for model in models.values():
        model.set_normalization(mean, std)
    batch = models["full-2"].normalize(x)
    steps: dict[str, Callable[[], None]] = {}
    for name in ("first-order", "full-2"):
        ours, twin = models[name], build(name, hierarchy, fuse_downsampling=False)
        twin.set_normalization(mean, std)
        # A polynomial block's norm belongs to the vertices that stay: its unfused twin is another
        # function, and the kernels must agree with the fused model itself in plain PyTorch.
        checked = ours
        if name == "first-order":
            twin.load_state_dict(ours.state_dict())
            checked = twin
        with plain_pytorch(), torch.no_grad():
            expected = checked.forward_normalized(batch)
        torch.testing.assert_close(ours.forward_normalized(batch), expected, rtol=1e-3, atol=1e-4)
        steps[name] = training_step(ours, batch)
        plain_step = training_step(twin, batch)

        def plain(step: Callable[[], None] = plain_step) -> None:
            with plain_pytorch():
                step()

        steps[f"{name} in plain PyTorch"] = plain
    times = medians(steps, rounds)
    results["training_step"] = {name: summary(t) for name, t in times.items()}
    for name in ("first-order", "full-2"):
        ratio = statistics.median(times[f"{name} in plain PyTorch"]) / statistics.median(
            times[name]
        )
        results[f"training_step_speedup {name}"] = ratio
    with torch.inference_mode():
        for size in (1, BATCH):
            part = x[:size]
            calls = {n: (lambda m=m, part=part: m(part)) for n, m in models.items()}
            times = medians(calls, 6 * rounds)
            first = statistics.median(times["first-order"])
            results[f"inference batch {size}"] = {
                name: {**summary(t), "x_first_order": statistics.median(t) / first}
                for name, t in times.items()
            }
    return results


def publish(results: dict[str, Any], path: Path | None) -> None:
    """Print results, and write them to a JSON file."""
    text = json.dumps(results, indent=2)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cost",))
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    publish(cost(args.data, args.rounds), args.out)


if __name__ == "__main__":
    main()
