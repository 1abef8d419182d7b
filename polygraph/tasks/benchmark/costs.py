"""What models cost: inference and training steps, all models taking turns, and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from polygraph.data import MeshDataset, Split
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder
from polygraph.tasks.mesh.training import MeshRunConfig, ReconstructionLoss
from polygraph.train.batches import NormalizedBatches
from polygraph.train.provenance import peak_memory_mb

BATCHES = (1, 16)


class Subject(NamedTuple):
    """What is measured.

    Attributes:
        reconstruct: meshes ``[B, V, 3]`` to meshes, in original units.
        model: the network behind it, or None (then there is no training step).
        config: of the network's run.
    """

    reconstruct: Callable[[torch.Tensor], torch.Tensor]
    model: MeshAutoencoder | None = None
    config: MeshRunConfig | None = None


def measure_costs(
    subjects: Sequence[Subject],
    dataset: MeshDataset,
    split: Split,
    *,
    turns: int = 15,
    step_turns: int = 7,
) -> list[dict[str, float | None]]:
    """Medians of runs that take turns, so that a slow moment of the machine hits every model.

    Args:
        subjects: on the CPU, models in eval mode; they are trained for a few steps of rate zero.
        dataset: of all of them.
        split: its test meshes are reconstructed, its training meshes trained on.
        turns: of inference, of which the first fifth warms up.
        step_turns: of training steps.

    Returns:
        For each subject ``inference_1_ms`` and ``inference_16_ms`` (a batch of so many meshes),
        ``train_step_ms`` and ``peak_mib`` (of a training step; None where there is none).
    """
    costs: list[dict[str, float | None]] = [{} for _ in subjects]
    for batch in BATCHES:
        x = torch.from_numpy(dataset.gather(np.resize(split.test, batch)))
        calls = [_inference(subject, x) for subject in subjects]
        for cost, milliseconds in zip(costs, _in_turns(calls, turns), strict=True):
            cost[f"inference_{batch}_ms"] = milliseconds
    steps = [_training_step(subject, dataset, split) for subject in subjects]
    trained = [step for step in steps if step is not None]
    medians = iter(_in_turns(trained, step_turns))
    for cost, step, subject in zip(costs, steps, subjects, strict=True):
        cost["train_step_ms"] = None if step is None else next(medians)
        cost["peak_mib"] = None
        if step is not None and subject.model is not None:
            cost["peak_mib"] = peak_memory_mb(step, subject.model.mean.device)
            subject.model.eval()
    return costs


def _inference(subject: Subject, x: torch.Tensor) -> Callable[[], Any]:
    if subject.model is not None:
        x = x.to(subject.model.mean)

    def run() -> None:
        with torch.no_grad():
            subject.reconstruct(x)

    return run


def _training_step(
    subject: Subject, dataset: MeshDataset, split: Split
) -> Callable[[], Any] | None:
    """Forward, backward and Adam on one batch; nothing moves, for the rate is zero."""
    model, config = subject.model, subject.config
    if model is None or config is None:
        return None
    model.train()
    batches = NormalizedBatches(
        dataset.vertices,
        split.train,
        model,
        config.train,
        augmentation=config.augmentation,
        memory_limit=0,
    )
    batch = batches(0)
    loss = ReconstructionLoss(model, config.loss)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True)

    def step() -> None:
        loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _in_turns(calls: Sequence[Callable[[], Any]], turns: int) -> list[float]:
    """Median milliseconds of each call."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(turns):
        for call, measured in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= turns // 5:
                measured.append(1000 * (time.perf_counter() - started))
    return [float(np.median(measured)) for measured in times]
