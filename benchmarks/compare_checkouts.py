"""Two checkouts in turns: which cases of the benchmarks became slower.

    python benchmarks/compare_checkouts.py BEFORE AFTER [--quick] [--benchmarks NAME ...]

BEFORE and AFTER are folders with a built library each. Two builds cannot be loaded by one process,
so in every round each gets a process of its own, and the two take turns case by case: while one
computes, the other waits. The cases, their inputs and the way of timing are those of this folder
for both; only `polygraph` is the checkout's. Exit status: 0, or 1 where a case is slower (`slower`)
or could not be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
USUAL = ("edge_conv", "ecc", "knn", "spiral_conv")
LIMIT = 1.05  # of after / before
ROUNDS = 9
SAMPLES = 5  # of a case in a round; their median counts
# Peers are never timed here, and some of them take long to load.
PEERS = ("faiss", "pykeops", "pykeops.torch", "sklearn.neighbors", "torch_cluster", "torch_scatter")


# ---- statistics ----


@dataclass
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Of at least two values."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


@dataclass
class Comparison:
    """Seconds of one case in two checkouts, and after / before within each round."""

    before: Spread
    after: Spread
    ratio: Spread
    slower: bool  #: the median ratio exceeds the limit, and the quartiles of seconds are apart
    unclear: bool  #: it exceeds the limit, but the quartiles overlap: noise, or too few rounds


def compare(before: list[float], after: list[float], limit: float = LIMIT) -> Comparison:
    """Judge one case by its seconds in every round."""
    ratio = spread([a / b for a, b in zip(after, before, strict=True)])
    first, second = spread(before), spread(after)
    exceeds = ratio.median > limit
    apart = second.low > first.high
    return Comparison(first, second, ratio, exceeds and apart, exceeds and not apart)


# ---- the process of one checkout ----


def load_benchmark(name: str) -> Any:
    """The `Benchmark` that a bench file hands to `harness.main`."""
    import harness

    found: list[Any] = []
    harness.main = found.append
    runpy.run_path(str(HERE / f"bench_{name}.py"), run_name="__main__")
    return found[0]


def median_seconds(contender: Any, which: str, clock: str) -> float:
    """Of one call, on the wall's clock or in processor time."""
    import harness

    now = time.process_time if clock == "cpu" else time.perf_counter

    def sample(repeats: int) -> float:
        start = now()
        for _ in range(repeats):
            contender.call(which)
        return (now() - start) / repeats

    once = min(sample(1) for _ in range(3))
    repeats = max(1, round(harness.SAMPLE_SECONDS / max(once, 1e-7)))
    return statistics.median(sample(repeats) for _ in range(SAMPLES if once < 1 else 2))


def serve(checkout: Path, threads: int, clock: str) -> None:
    """Answer requests, a line of JSON each, until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    sys.path[:0] = [str(checkout), str(HERE)]
    sys.modules.update({peer: None for peer in PEERS})  # type: ignore[dict-item]
    import torch

    torch.set_num_threads(threads)
    import harness

    import polygraph

    inside = Path(polygraph.__file__).resolve().parents[1] == checkout
    benchmarks: dict[str, Any] = {}
    made: dict[tuple[str, str], Any] = {}
    for line in sys.stdin:
        name, workload, which, checked = json.loads(line)
        try:
            if not inside:
                raise RuntimeError(f"polygraph came from {polygraph.__file__}")
            if name not in benchmarks:
                benchmarks[name] = load_benchmark(name)
            if (name, workload) not in made:
                made.clear()  # one problem at a time, so that two processes fit the memory
                chosen = next(w for w in benchmarks[name].workloads if w.name == workload)
                problem = benchmarks[name].make(chosen.sizes, "cpu")
                ours = {n: c for n, c in problem.contenders.items() if c.role == "ours"}
                problem.contenders = ours
                made[name, workload] = problem
            problem = made[name, workload]
            if checked:
                harness.check(problem, (which,))
            (contender,) = problem.contenders.values()
            answer = {"seconds": median_seconds(contender, which, clock)}
        except (Exception, SystemExit) as error:  # whatever it is, the case cannot be compared
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class Server:
    """A running process of one checkout."""

    def __init__(self, checkout: Path, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--serve", str(checkout), str(options.threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        self.process = subprocess.Popen(
            [*command, options.clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=checkout,
        )

    def ask(self, *request: Any) -> dict[str, Any]:
        """Have one case timed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: there is no answer, then
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"the process ended: {self.process.wait()}"}


@contextlib.contextmanager
def servers(checkouts: list[Path], options: argparse.Namespace) -> Iterator[list[Server]]:
    """One process for each checkout, ended afterwards."""
    running = [Server(checkout, options) for checkout in checkouts]
    try:
        yield running
    finally:
        for server in running:
            server.process.kill()
            server.process.wait()


# ---- the run ----


def cases(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """(benchmark, workload, pass) of all that is wanted."""
    sys.path[:0] = [str(options.before.resolve()), str(HERE)]
    found = []
    for name in options.benchmarks:
        benchmark = load_benchmark(name)
        for workload in benchmark.workloads:
            quick = not options.quick or workload.name in benchmark.quick
            wanted = not options.only or any(text in workload.name for text in options.only)
            if quick and wanted:
                passes = [p for p in benchmark.passes if options.which in (None, p)]
                found += [(name, workload.name, which) for which in passes]
    return found


def revision(checkout: Path) -> dict[str, Any]:
    """Commit of a checkout, and whether it has changes; empty where there is no history."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    return {"folder": str(checkout), "commit": git("rev-parse", "HEAD"), "changed": changed}


def line_of(case: tuple[str, str, str], found: Comparison) -> str:
    """What is printed of a case."""
    ratio = found.ratio
    note = "  SLOWER" if found.slower else "  unclear" if found.unclear else ""
    name = ", ".join(case)
    return f"{ratio.median:6.3f}  [{ratio.low:.3f}, {ratio.high:.3f}]  {name}{note}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser.add_argument("--benchmarks", nargs="+", choices=names, default=USUAL, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="the quick workloads of each")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="workloads with this in the name")
    parser.add_argument("--pass", dest="which", help="forward or forward+backward alone")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"of the ratio ({LIMIT})")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock",
        choices=["cpu", "wall"],
        help="processor time, which others on the machine take less from, or the wall's "
        "(default: cpu with one thread)",
    )
    parser.add_argument("--out", type=Path, help="write all numbers to this JSON file")
    options = parser.parse_args()
    options.clock = options.clock or ("cpu" if options.threads == 1 else "wall")
    for checkout in (options.before, options.after):
        if not list(checkout.glob("polygraph/_C*.so")):
            parser.error(f"{checkout}: no built library there")
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {options.rounds}")
    return options


def main() -> int:
    """Time, print and write; the exit status."""
    options = parse()
    checkouts = [options.before.resolve(), options.after.resolve()]
    wanted = cases(options)
    seconds: dict[Any, list[list[float]]] = {case: [[], []] for case in wanted}
    errors: dict[Any, str] = {}
    for turn in range(options.rounds):
        with servers(checkouts, options) as running:
            for case in wanted:
                # Who comes second finds the machine as the first has left it: each does, in turns.
                for side in (0, 1) if turn % 2 == 0 else (1, 0):
                    answer = running[side].ask(*case, turn == 0)
                    if "error" in answer:
                        errors.setdefault(case, f"{checkouts[side]}: {answer['error']}")
                    else:
                        seconds[case][side].append(answer["seconds"])
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print(f"after / before, median of {options.rounds} rounds [quartiles]; {options.clock} time")
    rows = []
    slower = []
    for case in wanted:
        if case in errors:
            print(f"ERROR  {', '.join(case)}: {errors[case]}")
            continue
        found = compare(*seconds[case], options.limit)
        slower += [case] if found.slower else []
        print(line_of(case, found))
        names = dict(zip(("benchmark", "workload", "pass"), case, strict=True))
        rows.append(names | asdict(found) | {"seconds": seconds[case]})
    if options.out:
        about = {"before": revision(checkouts[0]), "after": revision(checkouts[1])}
        about |= {"rounds": options.rounds, "threads": options.threads, "clock": options.clock}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps(about | {"limit": options.limit, "cases": rows}, indent=1)
        )
    print(f"{len(wanted)} cases, {len(slower)} slower by more than {options.limit}")
    return int(bool(slower) or bool(errors) or not wanted)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        sys.exit(main())
