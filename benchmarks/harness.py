"""How every benchmark here is run: checked first, then timed in turns, memory apart.

A bench file puts its workloads on top and hands `main` a function that makes a `Problem` of each:
the same computation by several contenders on the same inputs. What is printed are ratios, because
times on a shared machine mean little; the JSON rows carry the times too. README.md says what the
numbers mean.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
FORWARD, BOTH = PASSES = ("forward", "forward+backward")
# A library with a pool of threads of its own (FAISS, OpenBLAS) keeps a core busy for some
# milliseconds after its work, which the next contender would pay for.
SETTLE_SECONDS = 0.05
SAMPLE_SECONDS = 0.02  # a call shorter than this is repeated within one sample
TOLERANCE = 1e-4  # of the largest entry: float32 sums of up to 10^5 terms against float64
MIB = 2**20
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Contender:
    """One way of computing a problem."""

    role: str  #: "ours", "peer", or "floor": a part of the work that nobody gets around
    forward: Callable[[], Tensor]
    leaves: list[Tensor]  #: what forward+backward takes gradients of
    checked: tuple[str, ...] = PASSES  #: passes whose results are compared with the definition
    both: Callable[[], Any] | None = None  #: forward+backward, where it is not what autograd does

    def call(self, which: str) -> Any:
        """One pass; inference builds no graph."""
        if which == FORWARD:
            with torch.no_grad():
                return self.forward()
        if self.both is not None:
            return self.both()
        out = self.forward()
        return torch.autograd.grad(out, self.leaves, upstream(out.shape, out.device))


@dataclass
class Problem:
    """A workload made concrete."""

    contenders: dict[str, Contender]
    definition: Callable[[], tuple[Tensor, list[Tensor]]]  #: result and gradients, in float64
    result_shape: tuple[int, ...]
    buffer_mib: float | None = None  #: the intermediate that ours claims not to store
    value: Callable[[Any], Tensor] = lambda found: found  #: what of a forward result is compared
    notes: Callable[[], dict[str, Any]] = dict  #: what else belongs in the row; called once


@dataclass
class Workload:
    """Sizes with a name."""

    name: str
    sizes: dict[str, Any]
    tiny: dict[str, Any] | None = None  #: of another kind than the benchmark's: its own


@dataclass
class Target:
    """A number that was promised: ``measured`` reads it off a row, None where it does not apply."""

    text: str
    measured: Callable[[dict[str, Any]], float | None]
    at_most: float = float("inf")
    at_least: float = float("-inf")

    def line(self, row: dict[str, Any]) -> str | None:
        """The target beside the measurement."""
        value = self.measured(row)
        if value is None:
            return None
        met = self.at_least <= value <= self.at_most
        return f"{self.text}: {value:.2f}, {'met' if met else 'MISSED'}"


@dataclass
class Benchmark:
    """All that a bench file defines."""

    name: str
    workloads: list[Workload]
    make: Callable[[dict[str, Any], str], Problem]  #: (sizes, device) -> problem
    quick: list[str]  #: names of the workloads of --quick
    tiny: dict[str, Any]  #: sizes of a call that loads code before memory is measured
    targets: list[Target] = field(default_factory=list)
    passes: tuple[str, ...] = PASSES


_UPSTREAM: dict[Any, Tensor] = {}


def upstream(shape: Any, device: Any) -> Tensor:
    """A fixed random gradient, made once and outside of every measurement."""
    key = (tuple(shape), str(device))
    if key not in _UPSTREAM:
        generator = torch.Generator().manual_seed(7)
        _UPSTREAM[key] = torch.randn(tuple(shape), generator=generator).to(device)
    return _UPSTREAM[key]


def copy_floor(forward_numbers: int, both_numbers: int, device: str) -> Contender:
    """The time to read or write that many float32 numbers, at the speed of a plain copy.

    The copy goes to newly allocated memory, as every result does.
    """
    forward = torch.ones(forward_numbers // 2, device=device)
    both = torch.ones(both_numbers // 2, device=device)
    return Contender("floor", forward.clone, [], checked=(), both=both.clone)


# ---- values ----


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest entry."""
    if actual.shape != expected.shape:
        return float("inf")
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu()
    return float((actual - expected).abs().max() / expected.abs().max())


def check(problem: Problem, passes: tuple[str, ...] = PASSES) -> dict[str, dict[str, float]]:
    """Error of every contender against the definition; stops where one is wrong."""
    out, grads = problem.definition()
    errors: dict[str, dict[str, float]] = {}
    for name, contender in problem.contenders.items():
        for which in [c for c in contender.checked if c in passes]:
            found = contender.call(which)
            if which == FORWARD:
                pairs = [(problem.value(found), out)]
            else:
                pairs = list(zip(found, grads, strict=True))
            error = max(relative_error(a, e) for a, e in pairs)
            if not error <= TOLERANCE:
                raise SystemExit(
                    f"{name}, {which}: wrong values, error {error:.1e} of the largest entry "
                    f"(allowed {TOLERANCE:.0e}); nothing was timed"
                )
            errors.setdefault(which, {})[name] = error
    return errors


# ---- time ----


def seconds(
    contender: Contender, which: str, repeats: int, device: str, clock: str = "wall"
) -> float:
    """Seconds per call."""
    if device == "cuda":
        torch.cuda.synchronize()
    now = CLOCKS[clock]
    start = now()
    for _ in range(repeats):
        contender.call(which)
    if device == "cuda":
        torch.cuda.synchronize()
    return (now() - start) / repeats


def take_turns(
    problem: Problem, which: str, rounds: int, device: str, limit: float, clock: str = "wall"
) -> dict[str, list[float]]:
    """Samples of every contender, one after the other in every round, so that they share noise.

    A contender sits out the rounds that would take it beyond ``limit`` seconds, but for the first.
    """
    repeats, once = {}, {}
    for name, contender in problem.contenders.items():
        first = seconds(contender, which, 1, device)
        more = 3 if first < 1 else 0
        once[name] = min([first] + [seconds(contender, which, 1, device) for _ in range(more)])
        repeats[name] = max(1, round(SAMPLE_SECONDS / max(once[name], 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in problem.contenders}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for name, contender in problem.contenders.items():
                if turn and (turn + 1) * repeats[name] * once[name] > limit:
                    continue
                time.sleep(SETTLE_SECONDS)
                samples[name].append(seconds(contender, which, repeats[name], device, clock))
    finally:
        gc.enable()
    return samples


def summary(values: list[float]) -> dict[str, float]:
    """Median and the quartiles around it."""
    values = values * 2 if len(values) == 1 else values
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def ratios(problem: Problem, samples: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """peer/ours and ours/floor, taken within each round, where the machine was the same."""
    ours = next(n for n, c in problem.contenders.items() if c.role == "ours")
    found = {}
    for name, contender in problem.contenders.items():
        if contender.role == "ours":
            continue
        top, bottom = (name, ours) if contender.role == "peer" else (ours, name)
        label = f"{name} / ours" if contender.role == "peer" else f"ours / {name}"
        pairs = zip(samples[top], samples[bottom], strict=False)  # the rounds that both were in
        found[label] = summary([a / b for a, b in pairs])
    return found


# ---- peak memory, in a process of its own ----


def resident(label: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(label):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {label} in /proc/self/status")


def peak_bytes(benchmark: Benchmark, workload: Workload, name: str, which: str, device: str) -> int:
    """Bytes that one call adds at its peak to what its inputs hold, results included."""
    tiny = workload.tiny or benchmark.tiny
    for other, contender in benchmark.make(tiny, device).contenders.items():
        if other == name:
            contender.call(which)  # loads the code, starts the threads
    problem = benchmark.make(workload.sizes, device)
    if which == BOTH:
        upstream(problem.result_shape, device)
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        problem.contenders[name].call(which)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    problem.contenders[name].call(which)
    return resident("VmHWM") - before


def memory_mib(file: str, workload: str, name: str, which: str, device: str, threads: int) -> float:
    """`peak_bytes` of a fresh process, in MiB."""
    # With a fixed mmap threshold freed tensors go back to the system at once: nothing that making
    # the inputs left behind can be used unseen, and the peak is the call's own.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, file, "--device", device, "--threads", str(threads)]
    command += ["--memory", workload, name, which]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(run.stdout.split()[-1]) / MIB


# ---- rows ----


def git(*arguments: str) -> str:
    """Output of a git command in the repository; empty where there is none, or no git."""
    command = ["git", "-C", str(REPOSITORY), *arguments]
    try:
        run = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def commit() -> dict[str, Any]:
    """Which commit is measured, and whether with changes.

    A copy of the files without their history is told by ``POLYGRAPH_COMMIT``: the commit, with
    ``-dirty`` behind it if it had changes.
    """
    told = os.environ.get("POLYGRAPH_COMMIT")
    if told:
        return {"commit": told.removesuffix("-dirty"), "changed": told.endswith("-dirty")}
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    return {"commit": git("rev-parse", "HEAD"), "changed": changed}


def machine(device: str) -> dict[str, Any]:
    """Processor, cores and instruction set; no names of hosts."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    import polygraph.ops  # noqa: F401 - loads the library

    sets = ("plain", "avx2", "avx512")
    found = {
        "cpu": model,
        "cores": os.cpu_count(),
        "instruction_set": sets[torch.ops.polygraph.instruction_set()],
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def provenance(device: str) -> dict[str, Any]:
    """What a row needs to be understood later."""
    return commit() | {
        "machine": machine(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device,
        "dtype": "float32",
    }


def measure(benchmark: Benchmark, workload: Workload, options: argparse.Namespace) -> list[dict]:
    """The rows of one workload: one per pass."""
    problem = benchmark.make(workload.sizes, options.device)
    errors = check(problem, benchmark.passes)
    notes = problem.notes()
    rows = []
    for which in benchmark.passes:
        samples = take_turns(
            problem, which, options.rounds, options.device, options.limit, options.clock
        )
        row = {
            "benchmark": benchmark.name,
            "workload": workload.name,
            "sizes": workload.sizes,
            "pass": which,
            "rounds": options.rounds,
            **({} if options.clock == "wall" else {"clock": options.clock}),
            "ratios": ratios(problem, samples),
            "seconds": {name: summary(values) for name, values in samples.items()},
            "samples": {name: len(values) for name, values in samples.items()},
            "errors": errors.get(which, {}),
        } | notes
        if not options.no_memory:
            row["memory_mib"] = {
                name: memory_mib(
                    sys.argv[0], workload.name, name, which, options.device, options.threads
                )
                for name, contender in problem.contenders.items()
                if contender.role != "floor"
            }
            row["result_mib"] = result_mib(problem, which)
            row["buffer_mib"] = problem.buffer_mib
        rows.append(row)
    return rows


def result_mib(problem: Problem, which: str) -> float:
    """What a pass must hold in the end: the result, and the gradients of our leaves."""
    numbers = torch.Size(problem.result_shape).numel()
    if which == BOTH:
        ours = next(c for c in problem.contenders.values() if c.role == "ours")
        numbers += sum(leaf.numel() for leaf in ours.leaves)
    return numbers * 4 / MIB


def show(row: dict[str, Any], targets: list[Target]) -> None:
    """Print a row's ratios, its memory, and its targets."""
    print(f"{row['workload']}  {row['pass']}")
    for label, ratio in row["ratios"].items():
        print(f"    {label:32} {ratio['median']:7.2f}   [{ratio['low']:.2f}, {ratio['high']:.2f}]")
    if "memory_mib" in row:
        peaks = ", ".join(f"{name} {mib:.1f}" for name, mib in row["memory_mib"].items())
        print(f"    peak MiB: {peaks}; the results alone {row['result_mib']:.1f}")
    for target in targets:
        line = target.line(row)
        if line is not None:
            print(f"    target {line}")


def parse(benchmark: Benchmark) -> argparse.Namespace:
    """The command line that every benchmark has."""
    parser = argparse.ArgumentParser(prog=f"bench_{benchmark.name}.py")
    parser.add_argument("--quick", action="store_true", help="few workloads, few rounds")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny workload alone: does the benchmark run?"
    )
    parser.add_argument("--out", type=Path, help="write the rows to this JSON file")
    parser.add_argument("--rounds", type=int, help="samples per contender (default 21, quick 5)")
    parser.add_argument(
        "--limit", type=float, default=20, help="seconds of a contender in a row (default 20)"
    )
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", help="these workloads alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    # On a machine that others keep busy: what one thread works, not what it waits for.
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 5 if options.quick else 21
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {options.rounds}")
    if options.clock == "cpu" and (options.threads != 1 or options.device != "cpu"):
        parser.error("--clock cpu counts the work of one thread: it needs --threads 1")
    unknown = set(options.only or []) - {w.name for w in benchmark.workloads}
    if unknown:
        parser.error(f"--only: no such workload: {', '.join(sorted(unknown))}")
    return options


def main(benchmark: Benchmark) -> None:
    """Run a bench file."""
    options = parse(benchmark)
    torch.set_num_threads(options.threads)
    if options.memory:
        name, contender, which = options.memory
        workload = next(w for w in benchmark.workloads if w.name == name)
        print(peak_bytes(benchmark, workload, contender, which, options.device))
        return
    names = options.only or (benchmark.quick if options.quick else None)
    chosen = [w for w in benchmark.workloads if names is None or w.name in names]
    if options.tiny:
        chosen = [Workload("tiny", benchmark.tiny)]
    common = provenance(options.device)
    print(json.dumps(common))
    print("ratios of times: median over rounds [quartiles]; peer / ours above 1 is in our favour")
    rows = []
    for workload in chosen:
        for row in measure(benchmark, workload, options):
            rows.append(row | common)
            show(rows[-1], benchmark.targets)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
