"""One process or several: Fabric from the environment, rows gathered, a clean end."""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from polygraph.train.config import TrainConfig


def make_fabric(config: TrainConfig) -> Any:
    """A launched ``lightning_fabric.Fabric``: one process, or DDP over those torchrun started.

    Args:
        config: ``accelerator``, ``precision``, ``num_threads``, ``batch_size`` and ``seed`` are
            used.

    Raises:
        ImportError: lightning-fabric is missing; the message names the extra.
        ValueError: the batch cannot be shared evenly among the processes; CUDA is asked for, or
            needed for the precision, and there is none.
    """
    try:
        fabric_module = importlib.import_module("lightning_fabric")
        strategies = importlib.import_module("lightning_fabric.strategies")
    except ImportError as error:
        raise ImportError(
            "training needs lightning-fabric: pip install 'polygraph-nn[train]'"
        ) from error
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if config.batch_size % world:
        raise ValueError(
            "train: batch_size must be a multiple of the number of processes, got "
            f"{config.batch_size} for {world}"
        )
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("train: accelerator is cuda, but torch finds no CUDA device")
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    devices, nodes, strategy = 1, 1, "auto"
    if world > 1:
        devices = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        nodes = world // devices
        # Buffers are neighbour tables and constants, equal everywhere, or statistics, of which
        # the first process's are taken before they are used; DDP would send them at every step.
        # From torch 2.13 on the old name of the setting warns.
        settings = inspect.signature(DistributedDataParallel.__init__).parameters
        new = "forward_sync_buffers" in settings
        name = "forward_sync_buffers" if new else "broadcast_buffers"
        strategy = strategies.DDPStrategy(**{name: False})
    accelerator = config.accelerator
    if (
        accelerator == "auto"
    ):  # Fabric's own "auto" would also take MPS, for which we have no kernels
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if config.precision == "16-mixed" and accelerator == "cpu":  # Fabric would take bf16-mixed
        raise ValueError("train: precision 16-mixed needs CUDA; on the CPU there is bf16-mixed")
    fabric = fabric_module.Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
        precision=config.precision,
    )
    fabric.launch()
    return fabric


def shard(indices: NDArray[np.int64], fabric: Any) -> NDArray[np.int64]:
    """This rank's part of ``indices``: every world_size-th entry."""
    return indices[fabric.global_rank :: fabric.world_size]


def gather_rows(rows: NDArray[np.float64] | None, total: int, fabric: Any) -> NDArray[np.float64]:
    """Put the rows of all ranks back into the order before :func:`shard`.

    Args:
        rows: float64 [n, V] of this rank, or None when its part is empty.
        total: number of rows over all ranks.
        fabric: the launched Fabric.

    Returns:
        float64 [total, V] on every rank.
    """
    if fabric.world_size == 1:
        if rows is None:
            raise ValueError("gather_rows: rows is None on the only process")
        return rows
    width = torch.tensor(0 if rows is None else rows.shape[1], device=fabric.device)
    torch.distributed.all_reduce(width, torch.distributed.ReduceOp.MAX)
    columns = int(width)
    share = -(-total // fabric.world_size)
    padded = torch.zeros(share, columns, dtype=torch.float64, device=fabric.device)
    if rows is not None:
        padded[: len(rows)] = torch.from_numpy(rows)
    parts = [torch.empty_like(padded) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(parts, padded)
    rows = torch.stack(parts, dim=1).reshape(-1, columns)[:total].cpu().numpy()
    return rows


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean over all processes of a tensor without a graph; of one process the tensor itself."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return value
    found = value.detach().clone()
    torch.distributed.all_reduce(found)
    return found / torch.distributed.get_world_size()


def same_buffers(modules: dict[str, torch.nn.Module], fabric: Any) -> None:
    """Give all ranks the running statistics of the first, so that they validate one model."""
    if fabric.world_size > 1:
        for module in modules.values():
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.data.copy_(fabric.broadcast(buffer))


@contextlib.contextmanager
def process_group(fabric: Any) -> Iterator[list[Any]]:
    """Ends the process group in the order that does not abort.

    Put model, optimizer and whatever holds them into the yielded list and keep no other reference.
    On the CPU, destroying a gloo group while a DDP object lives aborts now and then at exit (torch
    2.13): so wait for the others, drop the objects, collect, and only then destroy. After an
    exception nothing is waited for: the others may be gone.
    """
    owned: list[Any] = []
    yield owned
    if fabric.world_size > 1 and torch.distributed.is_initialized():
        fabric.barrier()
        owned.clear()
        gc.collect()
        torch.distributed.destroy_process_group()
