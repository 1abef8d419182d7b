"""Device time of the benchmarks' contenders, launches aside: each is captured in a CUDA graph.

    python scripts/gpu_times.py OUT.json [spiral_conv knn ...]

The benchmarks' own times include what the host spends between launches, which is most of it on
workloads of a few microseconds. What cannot be captured is timed with its launches, between two
events, and its row says so. Values are checked by the benchmarks, not here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from harness import BOTH, FORWARD, Contender, Problem, Workload, provenance

NAMES = ["spiral_conv", "knn", "edge_conv", "ecc", "poly_step", "resample", "mesh_conv"]


def timed_on_gpu(call: Callable[[], Any]) -> tuple[float, str]:
    """Milliseconds of a call, and how they were measured."""
    from triton.testing import do_bench, do_bench_cudagraph

    call()  # a kernel's first launch loads it, which a capture would refuse
    torch.cuda.synchronize()
    try:
        return do_bench_cudagraph(call, rep=10, return_mode="median"), "graph"
    except Exception as error:
        torch.cuda.synchronize()
        found: float = do_bench(call, warmup=5, rep=20, return_mode="median")
        return found, f"events, for a graph cannot hold it: {str(error).splitlines()[0][:120]}"


def timed_on_cpu(call: Callable[[], Any]) -> tuple[float, str]:
    """In the place of a GPU's time, where there is none: shows that the calls are valid."""
    call()
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start), "one call on the CPU"


def passes(problem: Problem) -> tuple[str, ...]:
    """Forward, and the gradients where there are any."""
    return (FORWARD, BOTH) if ours(problem).leaves else (FORWARD,)


def ours(problem: Problem) -> Contender:
    """The contender that is polygraph's."""
    return next(c for c in problem.contenders.values() if c.role == "ours")


def row_of(problem: Problem, which: str, device: str) -> dict[str, Any]:
    """Times of all contenders in one pass, and the errors of those that have none."""
    timed = timed_on_gpu if device == "cuda" else timed_on_cpu
    row: dict[str, Any] = {"pass": which, "ms": {}, "how": {}, "failed": {}}
    for name, contender in problem.contenders.items():
        try:
            row["ms"][name], row["how"][name] = timed(lambda c=contender: c.call(which))
        except Exception as error:
            row["failed"][name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return row


def show(row: dict[str, Any]) -> None:
    """A line of one row: ours in microseconds, the others in units of it."""
    print(f"{row['benchmark']:11} {row['workload'][:46]:46} {row['pass']:16}", end=" ")
    mine = row["ms"].get("ours")
    if mine is not None:
        others = [f"{name} {ms / mine:.2f}" for name, ms in row["ms"].items() if name != "ours"]
        print(f"ours {1e3 * mine:9.1f} us; in units of it: {', '.join(others)}", end="")
    for name, error in row["failed"].items():
        print(f"; {name} FAILED: {error}", end="")
    print(flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="one tiny workload of each")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    return options


def main() -> int:
    """Time everything; 1 where a contender failed. What is measured is written as it comes."""
    options = arguments()
    common, rows = provenance(options.device), []
    for name in options.names:
        bench = importlib.import_module(f"bench_{name}")
        for workload in [Workload("tiny", bench.TINY)] if options.tiny else bench.WORKLOADS:
            problem = bench.make(workload.sizes, options.device)
            for which in passes(problem):
                row = {"benchmark": name, "workload": workload.name, "sizes": workload.sizes}
                rows.append(row | row_of(problem, which, options.device) | common)
                show(rows[-1])
                options.out.write_text(json.dumps(rows, indent=1) + "\n")
            del problem
            if options.device == "cuda":
                torch.cuda.empty_cache()
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
