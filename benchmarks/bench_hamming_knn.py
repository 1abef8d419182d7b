"""Nearest codes by Hamming distance against faiss's binary index.

The peer is the extra `peers`. Both get packed codes and return lists; faiss orders ties as it
finds them, so the distances of the lists are compared, and ours besides with the definition.
Adding the bank to faiss's index, which copies it, is no part of its call. The floor is what
nobody gets around in memory: the bank is read once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from harness import FORWARD, Benchmark, Contender, Problem, Target, Workload, copy_floor, main
from torch import Tensor

from polygraph import ops


def workload(N: int, M: int, bits: int, k: int, entry: str = "bits") -> Workload:
    """A workload; ``entry`` is the dtype of entries that are no truth values."""
    name = f"{N} codes, {M} queries, {bits} {entry}, k {k}"
    return Workload(name, {"N": N, "M": M, "bits": bits, "k": k, "entry": entry})


WORKLOADS = [
    workload(5000, 200, 100_000, 15),
    workload(50_000, 1000, 100_000, 15),
    workload(50_000, 1000, 1024, 15),
    workload(5000, 200, 10_000, 15, "uint8"),
]
TINY = workload(64, 8, 100, 3).sizes

CHECKED = 4  # queries whose lists are compared with the definition


def drawn(samples: int, entries: int, entry: str, seed: int) -> Tensor:
    """Random codes, made packed: those of a large bank do not fit unpacked."""
    generator = torch.Generator().manual_seed(seed)
    if entry != "bits":
        values = torch.randint(0, 4, (samples, entries), generator=generator)
        return values.to(getattr(torch, entry))
    words = -(-entries // 64)
    codes = torch.empty(samples, words, dtype=torch.int64)
    codes.random_(-(2**63), None, generator=generator)
    codes[:, -1] &= (1 << entries - 64 * (words - 1)) - 1 if entries % 64 else -1
    return codes.view(torch.uint64)


def distances(x: Tensor, query: Tensor) -> Tensor:
    """Of one code to all, by the definition: ``[N]``."""
    if x.dtype != torch.uint64:
        return (x != query).sum(1)
    bits = torch.arange(256)[:, None].bitwise_right_shift(torch.arange(8)).bitwise_and(1).sum(1)
    found = []
    for rows in x.view(torch.uint8).split(1000):
        found.append(bits[(rows ^ query.view(torch.uint8)).int()].sum(1))
    return torch.cat(found)


def by_faiss(x: Tensor, y: Tensor, k: int) -> Callable[[], Tensor]:
    """Distances of the lists."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    bank, queries = (t.view(torch.uint8).numpy() for t in (x, y))
    index = faiss.IndexBinaryFlat(8 * bank.shape[1])
    index.add(bank)
    return lambda: torch.from_numpy(index.search(queries, k)[0])


def make(sizes: dict[str, Any], device: str) -> Problem:
    """Ours, the peer where it is here and can, and the floor."""
    if device != "cpu":
        raise SystemExit("hamming_knn runs on the CPU alone")
    N, M, bits, k, entry = (sizes[n] for n in ("N", "M", "bits", "k", "entry"))
    x, y = drawn(N, bits, entry, 0), drawn(M, bits, entry, 1)
    contenders = {"ours": Contender("ours", lambda: ops.hamming_knn(x, k, y=y)[1], [])}
    absent: dict[str, str] = {}
    try:
        if entry != "bits":
            absent["faiss IndexBinaryFlat"] = "compares bits alone"
        else:
            contenders["faiss IndexBinaryFlat"] = Contender("peer", by_faiss(x, y, k), [])
    except ImportError as error:
        absent["faiss IndexBinaryFlat"] = f"not installed: {error}"
    for contender in contenders.values():
        contender.checked = (FORWARD,)
    numbers = x.numel() * x.element_size() // 4
    contenders["copy"] = copy_floor(numbers, numbers, device)

    def definition() -> tuple[Tensor, list[Tensor]]:
        return ops.hamming_knn(x, k, y=y)[1].double(), []

    def notes() -> dict[str, Any]:
        """Ours must be the exact list of the definition."""
        index, distance = ops.hamming_knn(x, k, y=y[:CHECKED])
        for m, query in enumerate(y[:CHECKED]):
            wanted = distances(x, query).sort(stable=True)
            same = torch.equal(index[m], wanted.indices[:k])
            if not (same and torch.equal(distance[m], wanted.values[:k])):
                raise SystemExit("ours: not the list sorted by (distance, index)")
        return {"absent": absent, "popcounts": M * N * x.shape[1] if entry == "bits" else 0}

    return Problem(
        contenders,
        definition,
        (M, k, 4),  # an int64 each for index and distance
        M * N * 4 / 2**20,
        lambda found: found.double(),
        notes,
    )


def best_peer(row: dict[str, Any]) -> float | None:
    peers = [r["median"] for label, r in row["ratios"].items() if label.endswith("/ ours")]
    return min(peers, default=None) if row["sizes"]["bits"] >= 10_000 else None


TARGETS = [
    Target("best peer / ours, at least 1.5", best_peer, at_least=1.5),
    Target(
        "MiB beyond inputs and results, at most 200",
        lambda row: row["memory_mib"]["ours"] - row["result_mib"] if "memory_mib" in row else None,
        at_most=200,
    ),
]


if __name__ == "__main__":
    quick = [WORKLOADS[0].name, WORKLOADS[3].name]
    main(Benchmark("hamming_knn", WORKLOADS, make, quick, TINY, TARGETS, (FORWARD,)))
