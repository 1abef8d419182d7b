"""Training from a memory map: meshes per second, and the memory of the whole process.

    python benchmarks/bench_mesh_throughput.py DATA [--out FILE]

Ours is `polygraph.train.train_mesh` as it is, with its test at the end; the peer is the same
model in plain PyTorch (see bench_mesh_autoencoder.py) behind a DataLoader. Every run is a process
of its own; runs take turns. Times are of training alone; peaks are of the whole process, the pages
that it mapped included.

DATA is a folder with vertices.npy, faces.npy, frames.json and splits.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_mesh_autoencoder import BATCH, build, plain_pytorch, publish
from harness import MIB, provenance, resident, summary
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from polygraph.data import MeshDataConfig, MeshDataset, open_dataset
from polygraph.mesh.hierarchy import load_or_build
from polygraph.models import get_preset
from polygraph.tasks.mesh.training import preset_run, train_mesh
from polygraph.train.config import TrainConfig
from polygraph.train.log import read_log

MODEL, SPLIT = "full-2", "interpolation"
WARM = 5  # steps that are not counted


class Rows(Dataset[Tensor]):
    """Meshes ``[V, 3]`` of a memory map, in original units."""

    def __init__(self, vertices: Any, indices: NDArray[np.int64]) -> None:
        self.vertices, self.indices = vertices, indices

    def __len__(self) -> int:
        """How many."""
        return len(self.indices)

    def __getitem__(self, item: int) -> Tensor:
        """A copy of one."""
        return torch.from_numpy(np.array(self.vertices[self.indices[item]]))


def train_ours(dataset: MeshDataset, data: Path, steps: int) -> float:
    """Meshes per second of `train_mesh`."""
    train = TrainConfig(
        steps=WARM + steps,
        batch_size=BATCH,
        eval_every=WARM + steps,
        log_every=WARM,
        progress=False,
        num_threads=torch.get_num_threads(),
    )
    config = preset_run(
        MODEL, MeshDataConfig(kind="registered", path=str(data), split=SPLIT), train
    )
    with tempfile.TemporaryDirectory() as folder:
        train_mesh(config, folder, dataset=dataset)
        records = [r for r in read_log(Path(folder) / "log.jsonl") if "seconds" in r]
    first, last = records[0], records[-1]
    return BATCH * (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def train_plain(dataset: MeshDataset, steps: int, workers: int) -> float:
    """Meshes per second of plain PyTorch with a DataLoader."""
    split = dataset.split(SPLIT)
    mean, std = dataset.mean_std(split.train)
    hierarchy = load_or_build(mean, dataset.faces, spiral=get_preset(MODEL)[1])
    model = build(MODEL, hierarchy, fuse_downsampling=False)
    model.set_normalization(mean, std)
    loader = DataLoader(
        Rows(dataset.vertices, split.train), BATCH, shuffle=True, num_workers=workers
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    started = 0.0
    with plain_pytorch():
        for step, rows in enumerate(loader):
            if step == WARM:
                started = time.perf_counter()
            if step == WARM + steps:
                break
            batch = model.normalize(rows)
            functional.l1_loss(model.forward_normalized(batch), batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return BATCH * steps / (time.perf_counter() - started)


def run_one(name: str, data: Path, steps: int) -> dict[str, float]:
    """One contender, in this process."""
    dataset = open_dataset(MeshDataConfig(kind="registered", path=str(data), split=SPLIT))
    if name == "ours":
        rate = train_ours(dataset, data, steps)
    else:
        rate = train_plain(dataset, steps, int(name.rpartition(" ")[2]))
    return {"meshes_per_s": rate, "peak_mib": resident("VmHWM") / MIB}


def in_turns(data: Path, steps: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """All contenders, one after the other, ``rounds`` times."""
    names = ("ours", "DataLoader, workers 0", "DataLoader, workers 1")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, __file__, str(data), "--steps", str(steps), "--one", name]
            command += [] if threads is None else ["--threads", str(threads)]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name].append(json.loads(lines.splitlines()[-1]))
            print(name, found[name][-1], file=sys.stderr)
    dataset = open_dataset(MeshDataConfig(kind="registered", path=str(data), split=SPLIT))
    rates = {name: [run["meshes_per_s"] for run in runs] for name, runs in found.items()}
    best = max(names[1:], key=lambda name: statistics.median(rates[name]))
    return {
        **provenance("cpu"),
        "model": MODEL,
        "batch": BATCH,
        "steps": steps,
        "meshes": len(dataset),
        "train_meshes": len(dataset.split(SPLIT).train),
        "vertices": dataset.num_vertices,
        "vertices_mib": dataset.vertices.nbytes / MIB,
        "meshes_per_s": {name: summary(values) for name, values in rates.items()},
        "peak_mib": {name: max(r["peak_mib"] for r in runs) for name, runs in found.items()},
        f"ours / {best}": summary([a / b for a, b in zip(rates["ours"], rates[best], strict=True)]),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=60, help="that are timed, of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(run_one(args.one, args.data, args.steps)))
        return
    publish(in_turns(args.data, args.steps, args.rounds, args.threads), args.out)


if __name__ == "__main__":
    main()
