"""Nearest neighbours against every library that is in use for them.

The peers are the extra `peers`; one that is not installed, or that cannot do a workload, is named
in the row, with the reason. Every contender gets the points and returns the table of indices:
building a tree or an index is part of the call. A point is a candidate of itself where nothing is
excluded.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from typing import Any

import torch
from harness import FORWARD, Benchmark, Contender, Problem, Target, Workload, copy_floor, main
from inputs import normal
from torch import Tensor

from polygraph import ops
from polygraph.reference.knn import squared_distance


def workload(B: int, N: int, C: int, k: int, exclude: int = -1, search: int = -1) -> Workload:
    """A workload; ``exclude`` and ``search`` are the radii on a square image, -1 for none."""
    name = f"{B} x {N}, C {C}, k {k}"
    name += f", exclude {exclude}" if exclude >= 0 else ""
    name += f", search {search}" if search >= 0 else ""
    return Workload(name, {"B": B, "N": N, "C": C, "k": k, "exclude": exclude, "search": search})


WORKLOADS = [
    workload(8, 1024, 66, 8),
    workload(8, 1024, 66, 32),
    workload(8, 256, 132, 8),
    workload(16, 1024, 3, 20),
    workload(16, 1024, 64, 20),
    workload(1, 20000, 64, 16),
    workload(1, 20000, 3, 16),
    workload(1, 1000000, 3, 16),
    workload(16, 1024, 66, 16, exclude=1),
    workload(1, 4096, 132, 16, exclude=1, search=24),
    workload(4, 2048, 64, 500),
]
TINY = workload(2, 64, 3, 4).sizes

CHECKED = 256  # queries whose neighbours are compared with all distances, of all samples together
ALL_PAIRS = 2**31  # a matrix of more distances than this (8 GiB) is not asked of anybody
LONG = 10**11  # nor so many distances by brute force: minutes a call

Call = Callable[[], Tensor]


# ---- the peers: (x, k) -> a function without arguments that returns the table [B, N, k] ----


def by_cdist(x: Tensor, k: int, masked: Tensor | None) -> Call:
    """All distances in memory."""

    def call() -> Tensor:
        distance = torch.cdist(x, x)
        if masked is not None:
            distance.masked_fill_(masked, float("inf"))
        return distance.topk(k, largest=False).indices

    return call


def by_product(x: Tensor, k: int, masked: Tensor | None) -> Call:
    """The way of DGCNN's own code."""

    def call() -> Tensor:
        square = x.square().sum(-1, keepdim=True)
        near = 2 * torch.matmul(x, x.mT) - square - square.mT
        if masked is not None:
            near.masked_fill_(masked, float("-inf"))
        return near.topk(k).indices

    return call


def by_torch_cluster(x: Tensor, k: int) -> Call:
    knn = importlib.import_module("torch_cluster").knn
    samples, points, channels = x.shape
    rows = x.reshape(-1, channels)
    batch = None if samples == 1 else torch.arange(samples, device=x.device)
    batch = None if batch is None else batch.repeat_interleave(points)

    def call() -> Tensor:
        _, near = knn(rows, rows, k, batch, batch, batch_size=samples)
        return near.view(samples, points, k) % points

    return call


def by_faiss(x: Tensor, k: int) -> Call:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    clouds = list(x.numpy())

    def call() -> Tensor:
        found = []
        for cloud in clouds:
            index = faiss.IndexFlatL2(cloud.shape[1])
            index.add(cloud)
            found.append(torch.from_numpy(index.search(cloud, k)[1]))
        return torch.stack(found)

    return call


def by_pykeops(x: Tensor, k: int) -> Call:
    with contextlib.redirect_stdout(io.StringIO()):
        lazy = importlib.import_module("pykeops.torch").LazyTensor
    # Batch dimensions are KeOps' own: one call, compiled for these channels and this k.
    rows, columns = lazy(x[:, :, None].contiguous()), lazy(x[:, None].contiguous())

    def call() -> Tensor:
        with contextlib.redirect_stdout(io.StringIO()):
            return ((rows - columns) ** 2).sum(-1).argKmin(k, dim=2)

    return call


def by_scipy(x: Tensor, k: int) -> Call:
    tree = importlib.import_module("scipy.spatial").cKDTree
    clouds = list(x.numpy())

    def call() -> Tensor:
        workers = torch.get_num_threads()
        return torch.stack(
            [torch.from_numpy(tree(c).query(c, k, workers=workers)[1]) for c in clouds]
        )

    return call


def by_sklearn(x: Tensor, k: int) -> Call:
    neighbors = importlib.import_module("sklearn.neighbors").NearestNeighbors
    clouds = list(x.numpy())

    def call() -> Tensor:
        found = []
        for cloud in clouds:
            tree = neighbors(n_neighbors=k, algorithm="kd_tree", n_jobs=torch.get_num_threads())
            found.append(torch.from_numpy(tree.fit(cloud).kneighbors(cloud, return_distance=False)))
        return torch.stack(found)

    return call


LIBRARIES = {
    "torch-cluster": ("torch_cluster", by_torch_cluster),
    "faiss IndexFlatL2": ("faiss", by_faiss),
    "pykeops argKmin": ("pykeops", by_pykeops),
    "scipy cKDTree": ("scipy", by_scipy),
    "scikit-learn kd_tree": ("sklearn", by_sklearn),
}
TREES = ("scipy cKDTree", "scikit-learn kd_tree")


def without_window(call: Call, apart: Tensor, exclude: int, k: int) -> Call:
    """The first k of a longer list that lie outside the window: how a library excludes one."""
    pixels = torch.arange(apart.shape[0], device=apart.device)[:, None]

    def filtered() -> Tensor:
        index = call()
        inside = apart[pixels, index] <= exclude
        keep = inside.to(torch.uint8).sort(dim=-1, stable=True).indices[..., :k]
        return index.gather(-1, keep)

    return filtered


def obstacle(name: str, sizes: dict[str, int], device: str) -> str | None:
    """Why a peer has no part in a workload."""
    B, N, C, search = (sizes[n] for n in ("B", "N", "C", "search"))
    if name.endswith("topk"):
        return f"would store {B * N * N * 4 / 2**40:.1f} TiB" if B * N * N > ALL_PAIRS else None
    if device == "cuda" and name != "torch-cluster":
        return "runs on the CPU"
    if name in TREES and C > 3:
        return "is made for few dimensions"
    if search >= 0:
        return "cannot search a window"
    if name in ("faiss IndexFlatL2", "pykeops argKmin") and B * N * N > LONG:
        return f"brute force: {B * N * N:.0e} distances, minutes a call"
    return None


# ---- the problem ----


def make(sizes: dict[str, int], device: str) -> Problem:
    """Ours, the peers that are here and can, and the floors."""
    B, N, C, k, exclude, search = sizes.values()
    x = normal(B, N, C, seed=0, device=device)
    side = round(N**0.5)
    image = exclude >= 0 or search >= 0
    apart = pixels_apart(side, device) if image else None
    masked = None
    options: dict[str, Any] = {}
    if image:
        masked = apart <= exclude
        masked |= apart > search if search >= 0 else masked
        options = {"grid": (side, side), "exclude_radius": exclude}
        options["search_radius"] = search if search >= 0 else None

    contenders = {"ours": Contender("ours", lambda: ops.knn(x, k, **options)[0], [])}
    absent: dict[str, str] = {}
    calls: dict[str, Callable[[], Call]] = {
        "cdist + topk": lambda: by_cdist(x, k, masked),
        "product + topk": lambda: by_product(x, k, masked),
    }
    longer = k + (2 * exclude + 1) ** 2 if exclude >= 0 else k
    for name, (_, prepare) in LIBRARIES.items():
        calls[name] = lambda prepare=prepare: prepare(x, longer)
    for name, prepare in calls.items():
        reason = obstacle(name, sizes, device)
        try:
            call = None if reason else prepare()
        except ImportError as error:
            reason = f"not installed: {error}"
        if reason:
            absent[name] = reason
            continue
        if image and name in LIBRARIES:
            call = without_window(call, apart, exclude, k)
        contenders[name] = Contender("peer", call, [])
    for name, floor in floors(x, k).items():
        contenders[name] = floor
    for contender in contenders.values():
        contender.checked = () if contender.role == "floor" else (FORWARD,)

    rows = torch.linspace(0, N - 1, max(1, min(N, CHECKED // B)), device=device).long()
    hidden = None if masked is None else masked[rows]

    exact = exact_rows(x, rows, k, hidden)
    tables: list[Tensor] = []  # of all contenders in turn, ours first

    def distances(near: Tensor) -> Tensor:
        """In float64, from the checked queries ``[B, Q, k]`` to what was found, ascending."""
        points = x.gather(1, near.flatten(1)[..., None].expand(-1, -1, C)).view(B, -1, k, C)
        return (points.double() - x[:, rows, None].double()).square().sum(-1).sort().values

    def value(index: Tensor) -> Tensor:
        tables.append(index)
        return distances(index[:, rows])

    def notes() -> dict[str, Any]:
        """Ours must be the exact list; how many entries of it the others return in their place."""
        if not torch.equal(tables[0][:, rows], exact):
            raise SystemExit("ours: not the list sorted by (distance, index); nothing was timed")
        peers = [name for name, c in contenders.items() if c.role == "peer"]
        same = [float((table == tables[0]).double().mean()) for table in tables[1:]]
        tables.clear()
        agree = dict(zip(peers, same, strict=True))
        return {"absent": absent, "same_entries": agree, "versions": versions()}

    # The result is an int64 and a float32 for every entry: three times four bytes.
    shape = (B, N, k, 3)
    buffer = B * N * N * 4 / 2**20
    return Problem(contenders, lambda: (distances(exact), []), shape, buffer, value, notes)


def exact_rows(x: Tensor, rows: Tensor, k: int, hidden: Tensor | None) -> Tensor:
    """The table by the definition, for some queries: ``[B, Q, k]``."""
    found = []
    for cloud in x:
        for at, row in enumerate(rows.tolist()):
            distance = squared_distance(cloud[row], cloud)
            if hidden is not None:
                distance = distance.masked_fill(hidden[at], float("nan"))  # sorts behind inf
            found.append(distance.sort(stable=True).indices[:k])
    return torch.stack(found).view(len(x), len(rows), k)


def pixels_apart(side: int, device: str) -> Tensor:
    """Rows or columns between any two pixels, whichever are more."""
    pixels = torch.arange(side * side, device=device)
    row, column = pixels // side, pixels % side
    return torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())


def floors(x: Tensor, k: int) -> dict[str, Contender]:
    """The product of all pairs alone, and for clouds reading the points and writing the result."""
    B, N, C = x.shape
    found = {}
    if B * N * N <= LONG:
        # In squares that stay in cache: nothing of size N x N is written.
        outs: dict[tuple[int, int], Tensor] = {}

        def product() -> Tensor:
            for cloud in x:
                for left in cloud.split(1024):
                    for right in cloud.split(1024):
                        shape = (len(left), len(right))
                        out = outs.setdefault(shape, x.new_empty(shape))
                        torch.mm(left, right.T, out=out)
            return x

        found["product alone"] = Contender("floor", product, [])
    if C <= 3:
        once = B * N * (C + 3 * k)
        found["copy"] = copy_floor(once, once, x.device.type)
    return found


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("torch-cluster", "faiss-cpu", "pykeops", "scipy", "scikit-learn"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


# ---- the targets ----


def best_peer(row: dict[str, Any]) -> float:
    return min(r["median"] for label, r in row["ratios"].items() if label.endswith("/ ours"))


def ratio(row: dict[str, Any], label: str) -> float | None:
    return row["ratios"].get(label, {}).get("median")


def features(row: dict[str, Any]) -> bool:
    return row["device"] == "cpu" and row["sizes"]["C"] >= 32 and row["sizes"]["k"] <= 32


def clouds(row: dict[str, Any]) -> bool:
    return row["device"] == "cpu" and row["sizes"]["C"] == 3


def on_gpu(row: dict[str, Any]) -> bool:
    return row["device"] == "cuda"


def target(
    text: str, applies: Callable[[dict], bool], measured: Callable, **bound: float
) -> Target:
    return Target(text, lambda row: measured(row) if applies(row) else None, **bound)


TARGETS = [
    target("best peer / ours, at least 3", features, best_peer, at_least=3),
    target("best peer / ours, at least 2", clouds, best_peer, at_least=2),
    target(
        "ours / product alone, at most 1.6",
        features,
        lambda row: ratio(row, "ours / product alone"),
        at_most=1.6,
    ),
    target(
        "MiB beyond inputs and results, at most 64",
        lambda row: "memory_mib" in row,
        lambda row: row["memory_mib"]["ours"] - row["result_mib"],
        at_most=64,
    ),
    target(
        "cdist + topk / ours, at least 3",
        on_gpu,
        lambda row: ratio(row, "cdist + topk / ours"),
        at_least=3,
    ),
    target(
        "torch-cluster / ours, at least 10",
        on_gpu,
        lambda row: ratio(row, "torch-cluster / ours"),
        at_least=10,
    ),
]


if __name__ == "__main__":
    quick = [w.name for w in WORKLOADS[:4]]
    main(Benchmark("knn", WORKLOADS, make, quick, TINY, TARGETS, (FORWARD,)))
