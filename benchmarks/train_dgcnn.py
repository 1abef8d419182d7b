"""DGCNN trained twice: with our edge convolutions, and with PyG's EdgeConv on edges from our knn.

The same weights at the start, the same batches, the same dropout, the same learning rates. The peer
finds its neighbours by `polygraph.ops.knn` too, so what is compared is the convolution; a point is
its own neighbour in both. The two take turns, step by step, so that they share the machine's noise.

    python benchmarks/train_dgcnn.py --steps 3200 --out train_dgcnn.json

That both compute the same is checked in float64. In float32 their sums round differently, which
changes neighbours that are about equally near, and the runs part: their accuracies are two draws of
one experiment, and are to be compared over several seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polygraph import ops
from polygraph.data import ShapeDataConfig, ShapeDataset, open_shapes
from polygraph.models import DGCNNClassifier, DGCNNClassifierConfig
from polygraph.tasks.points.training import (
    PointsRunConfig,
    PointsTask,
    build_network,
    fit_to_data,
    points_train_config,
)
from polygraph.train.checkpoint import write_json
from polygraph.train.config import seed_step
from polygraph.train.distributed import make_fabric
from polygraph.train.provenance import peak_memory_mb, provenance

REPOSITORY = Path(__file__).resolve().parents[1]
OURS, PEER = "polygraph", "torch_geometric"
WARM_UP = 2  # steps of which the time does not count: they load code and start threads


class Peer(DGCNNClassifier):
    """The same network on PyG's EdgeConv; its state_dict is the same."""

    def edge_layer(self, network: nn.Module, x: Tensor) -> Tensor:
        from torch_geometric.nn import EdgeConv

        B, N, C = x.shape
        index, _ = ops.knn(x.detach(), self.k)
        offset = torch.arange(B, device=x.device)[:, None, None] * N
        source = (index + offset).flatten()
        target = torch.arange(B * N, device=x.device).repeat_interleave(self.k)
        layer = EdgeConv(nn.Identity(), aggr="max")  # it would initialise the network anew
        layer.nn = network
        return layer(x.reshape(B * N, C), torch.stack([source, target])).view(B, N, -1)


def settings(arguments: argparse.Namespace) -> tuple[PointsRunConfig, ShapeDataset]:
    """The published recipe, in as many steps as were asked for."""
    data = ShapeDataConfig(str(arguments.data))
    dataset = open_shapes(data)
    config = PointsRunConfig(
        model=DGCNNClassifierConfig(k=arguments.k),
        data=data,
        train=points_train_config(
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            accelerator=arguments.device,
            num_threads=arguments.threads,
        ),
    )
    return fit_to_data(config, dataset), dataset


class Contender:
    """A model in training: its task, its times, its best weights."""

    def __init__(self, fabric: Any, config: PointsRunConfig, model: nn.Module, data: ShapeDataset):
        self.task = PointsTask(fabric, config, model, data)
        self.config = config
        self.device = fabric.device
        self.seconds: list[float] = []
        self.best: tuple[float, int, dict[str, Tensor]] | None = None
        self.curve: list[dict[str, float]] = []

    def step(self, step: int) -> None:
        """What the training loop does in a step; timed."""
        train = self.config.train
        for optimizer in self.task.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = train.learning_rate_at(step, self.task.num_samples)
        seed_step(train.seed, step)
        self.synchronize()
        start = time.perf_counter()
        loss = self.task.training_step(step)["loss"].item()
        self.synchronize()
        self.seconds.append(time.perf_counter() - start)
        if not loss < float("inf"):
            raise SystemExit(f"the loss is {loss} at step {step}")

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def validate(self, step: int) -> None:
        """Keep the best weights, as the training loop does."""
        found = self.task.validate()
        self.curve.append({"step": step, **found})
        if self.best is None or found["val_score"] < self.best[0]:
            self.best = found["val_score"], step, deepcopy(self.task.model.state_dict())

    def result(self, peak: float | None) -> dict[str, Any]:
        """Accuracies of the last and of the best weights; seconds; MiB."""
        last = self.task.measure(self.task.dataset.test)
        assert self.best is not None
        self.task.model.load_state_dict(self.best[2])
        timed = self.seconds[WARM_UP:] or self.seconds
        epoch = self.task.num_samples / self.config.train.batch_size
        return {
            "test": self.task.measure(self.task.dataset.test),
            "test_of_last_step": {
                key: last[key] for key in ("accuracy", "mean_class_accuracy", "loss")
            },
            "best_step": self.best[1],
            "seconds_per_epoch": statistics.fmean(timed) * epoch,
            "step_ms_median": 1000 * statistics.median(timed),
            "peak_memory_mib": peak,
            "validation": self.curve,
        }


def same_start(contenders: dict[str, Contender]) -> float:
    """Largest difference of the logits of the first batch in float64, in both modes."""
    found = []
    for contender in contenders.values():
        model = deepcopy(contender.task.model).double()
        points = contender.task.batches(0)[0].double()
        seed_step(0, 0)  # dropout
        with torch.no_grad():
            found.append(torch.stack([model.eval()(points), model.train()(points)]))
    return float((found[0] - found[1]).abs().max())


def main() -> None:
    root = Path(os.environ.get("POLYGRAPH_DATA", REPOSITORY / "../shared/data"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3200, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--k", type=int, default=20, help="neighbours, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--eval-every", type=int, help="steps, default: as in training")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="threads on the CPU, default: torch's choice")
    parser.add_argument("--data", type=Path, default=root / "shapes" / "points.npz")
    parser.add_argument("--only", choices=(OURS, PEER), help="train one of the two")
    parser.add_argument("--out", type=Path, default=Path("train_dgcnn.json"))
    arguments = parser.parse_args()
    config, dataset = settings(arguments)
    fabric = make_fabric(config.train)
    start = build_network(config)
    assert isinstance(start, DGCNNClassifier)
    models: dict[str, nn.Module] = {OURS: start, PEER: Peer(start.config)}
    models[PEER].load_state_dict(start.state_dict())
    contenders = {
        name: Contender(fabric, config, model, dataset)
        for name, model in models.items()
        if arguments.only in (None, name)
    }
    row: dict[str, Any] = {
        "config": asdict(replace(config, data=replace(config.data, path=None))),
        "dataset_hash": dataset.content_hash,
        **provenance(fabric.device),
    }
    if arguments.only is None:
        row["difference_at_start"] = same_start(contenders)
        if row["difference_at_start"] > 1e-9:  # rounding in ten layers
            raise SystemExit(f"the two differ before training: {row['difference_at_start']:.1e}")
    eval_every = arguments.eval_every or config.train.eval_interval(len(dataset.train))
    peaks: dict[str, float | None] = {}
    for step in range(arguments.steps):
        for name, contender in contenders.items():
            if step == min(WARM_UP, arguments.steps - 1):
                peaks[name] = peak_memory_mb(lambda: contender.step(step), fabric.device)  # noqa: B023
            else:
                contender.step(step)
            if (step + 1) % eval_every == 0 or step + 1 == arguments.steps:
                contender.validate(step + 1)
                print(
                    f"{name:16} step {step + 1:6,}: validation error "
                    f"{contender.curve[-1]['val_error']:.3f}, "
                    f"{1000 * statistics.median(contender.seconds):,.0f} ms per step",
                    flush=True,
                )
    row["results"] = {name: c.result(peaks[name]) for name, c in contenders.items()}
    for name, found in row["results"].items():
        peak = found["peak_memory_mib"]
        print(
            f"{name:16} test {found['test']['accuracy']:.1%}, "
            f"mean of classes {found['test']['mean_class_accuracy']:.1%}, "
            f"{found['seconds_per_epoch']:.2f} s per epoch, "
            f"peak {'?' if peak is None else f'{peak:,.0f}'} MiB"
        )
    write_json(arguments.out, json.loads(json.dumps(row)))
    print(f"wrote {arguments.out.resolve()}")


if __name__ == "__main__":
    main()
