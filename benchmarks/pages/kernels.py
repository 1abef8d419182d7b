"""The tables of kernels.md."""

from __future__ import annotations

from collections.abc import Iterable

from pages.chart import dots
from pages.rows import Row, number, rows, table

FORWARD, BOTH = "forward", "forward+backward"
SPIRALNET = "index_select + Linear"  # SpiralNet++'s way
COLUMNS = (
    "workload", "forward: ours, ms", "peer / ours", "ours / floor",
    "forward + backward: ours, ms", "peer / ours", "ours / floor",
    "peak MiB, forward: ours, peer (results)", "forward + backward: ours, peer (results)",
)  # fmt: skip


def ratio(of: Row, label: str) -> float | None:
    """A median ratio of times, such as ``PyG / ours``; None where that contender did not run."""
    found = of["ratios"].get(label)
    return None if found is None else found["median"]


def ratios(name: str, label: str, which: str) -> list[float]:
    """That ratio of all workloads that have it."""
    found = [ratio(r, label) for r in rows(name, **{"pass": which})]
    return [value for value in found if value is not None]


def at_degree(name: str, label: str, degree: int) -> list[float]:
    """That ratio of all workloads of so many neighbours, both passes."""
    found = [ratio(r, label) for r in rows(name) if r["sizes"]["K"] == degree]
    return [value for value in found if value is not None]


def pairs(name: str, peer: str) -> list[tuple[Row, Row]]:
    """The forward pass, and both passes together, of every workload that ran against a peer."""
    both = {r["workload"]: r for r in rows(name, **{"pass": BOTH})}
    forward = rows(name, **{"pass": FORWARD})
    return [(r, both[r["workload"]]) for r in forward if peer in r["memory_mib"]]


def memory_ratios(name: str, peer: str, which: str = BOTH) -> list[float]:
    """Peak memory of a peer, ours being 1, of all workloads that it ran."""
    memory = [r["memory_mib"] for r in rows(name, **{"pass": which})]
    return [mib[peer] / mib["ours"] for mib in memory if peer in mib]


def compared(name: str, peer: str, floor: str) -> str:
    """Ours against one peer and a floor, a line per workload."""
    return table(
        COLUMNS,
        (
            [
                forward["workload"].replace("->", "→"),
                *_times(forward, peer, floor),
                *_times(both, peer, floor),
                *(_memory(of, peer) for of in (forward, both)),
            ]
            for forward, both in pairs(name, peer)
        ),
    )


def _times(of: Row, peer: str, floor: str) -> list[str]:
    return [
        number(of["seconds"]["ours"]["median"] * 1e3, 1),
        number(ratio(of, f"{peer} / ours"), 1),
        number(ratio(of, f"ours / {floor}"), 2),
    ]


def _memory(of: Row, peer: str) -> str:
    ours, theirs = (number(of["memory_mib"][who], 1) for who in ("ours", peer))
    return f"{ours}, {theirs} ({number(of['result_mib'], 1)})"


# ---- lightweight ECC ----


def light(name: str) -> str:
    """The lightweight convolution, a line for each pass and number of threads."""
    return table(
        (
            "threads", "pass", "ours, ms", "direct form / ours", "ours / node products",
            "with full matrices / ours", "peak MiB: ours, direct form (results)",
        ),
        (
            [
                str(r["threads"]),
                r["pass"].replace("+", " + "),
                number(r["seconds"]["ours"]["median"] * 1e3),
                number(ratio(r, "direct form / ours"), 1),
                number(ratio(r, "ours / node products alone"), 2),
                number(ratio(r, "full matrices / ours"), 2),
                _memory(r, "direct form"),
            ]
            for r in rows(name)
        ),
    )  # fmt: skip


# ---- k nearest neighbours ----


def peers(of: Row) -> dict[str, float]:
    """The time of every peer, ours being 1."""
    end = " / ours"
    return {k.removesuffix(end): v["median"] for k, v in of["ratios"].items() if k.endswith(end)}


def best_peer(of: Row) -> tuple[str, float]:
    """The fastest peer, and its time, ours being 1."""
    return min(peers(of).items(), key=lambda item: item[1])


def most_beyond(peer: str) -> float:
    """The most MiB that ours takes beyond a peer, of all workloads."""
    memory = [r["memory_mib"] for r in rows("knn") if peer in r["memory_mib"]]
    return max(mib["ours"] - mib[peer] for mib in memory)


def uses_tree(of: Row) -> bool:
    """Few channels: ours is a tree there, so that a product of matrices is no yardstick."""
    return "ours / copy" in of["ratios"]


def beyond_result(of: Row) -> dict[str, float]:
    """Peak memory without the result, which all must hold, in MiB."""
    return {who: max(0.0, mib - of["result_mib"]) for who, mib in of["memory_mib"].items()}


def knn() -> str:
    """Ours against the best of all peers, and torch-cluster."""
    return table(
        (
            "clouds x points, channels, k", "ours, ms", "best peer / ours", "torch-cluster / ours",
            "ours / matrix product alone", "MiB beyond the result: ours", "least of the peers",
            "most",
        ),
        map(_knn_line, rows("knn")),
    )  # fmt: skip


def _knn_line(of: Row) -> list[str]:
    name, best = best_peer(of)
    beyond = beyond_result(of)
    ours = beyond.pop("ours")
    product = None if uses_tree(of) else ratio(of, "ours / product alone")
    return [
        of["workload"],
        number(of["seconds"]["ours"]["median"] * 1e3, 1),
        f"{number(best, 1)} ({name})",
        number(peers(of).get("torch-cluster")),
        number(product, 2),
        *(number(mib) for mib in (ours, min(beyond.values()), max(beyond.values()))),
    ]


def all_peers() -> str:
    """Every peer's time, ours being 1."""
    names = dict.fromkeys(name for r in rows("knn") for name in peers(r))
    body: Iterable[list[str]] = (
        [r["workload"], *(number(peers(r).get(name), 1) for name in names)] for r in rows("knn")
    )
    return table(("clouds x points, channels, k", *names), body)


def turns(name: str, labels: Iterable[str]) -> str:
    """Ratios of all rows, with the quartiles over rounds."""
    labels = list(labels)

    def shown(of: dict[str, float] | None) -> str:
        parts = [number(of[key], 2) for key in ("median", "low", "high")] if of else ["–"]
        return parts[0] if len(parts) == 1 else f"{parts[0]} ({parts[1]} to {parts[2]})"

    body = (
        [r["workload"], r["pass"], *(shown(r["ratios"].get(label)) for label in labels)]
        for r in rows(name)
    )
    return table(("workload", "pass", *labels), body)


def medians(name: str, label: str, which: str) -> dict[str, float]:
    """That ratio of every workload, by its name."""
    found = {r["workload"]: ratio(r, label) for r in rows(name, **{"pass": which})}
    return {workload: value for workload, value in found.items() if value is not None}


# ---- all together ----

PEERS = {  # a name in the charts -> file and peer
    "spiral convolution, SpiralNet++'s way": ("spiral_conv", SPIRALNET),
    "EdgeConv, PyG": ("edge_conv", "PyG"),
    "NNConv (ECC), PyG": ("ecc", "PyG"),
    "mesh convolutions, PyG": ("mesh_conv", "PyG"),
    "resampling, torch.sparse.mm": ("resample", "sparse.mm"),
    "polynomial step, plain PyTorch": ("poly_step", "plain PyTorch"),
}


def chart_of_times() -> str:
    """How many times as fast as a peer every workload is."""
    lines = {
        text: (ratios(name, f"{peer} / ours", FORWARD), ratios(name, f"{peer} / ours", BOTH))
        for text, (name, peer) in PEERS.items()
    }
    cluster = ratios("knn", "torch-cluster / ours", FORWARD)
    best = [best_peer(r)[1] for r in rows("knn")]
    return dots(
        "Time of the peer / time of ours",
        ("forward", "forward + backward"),
        {"k-NN, torch-cluster": (cluster, []), "k-NN, best of all peers": (best, [])} | lines,
    )


def chart_of_memory() -> str:
    """How many times as much memory a peer takes. k-NN needs next to nothing, as its peers do."""
    lines = {
        text: (memory_ratios(name, peer, FORWARD), memory_ratios(name, peer, BOTH))
        for text, (name, peer) in PEERS.items()
    }
    return dots("Peak memory of the peer / of ours", ("forward", "forward + backward"), lines)
