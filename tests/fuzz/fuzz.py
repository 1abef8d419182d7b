"""Random calls of every operator against its definition, for as long as one likes.

    python tests/fuzz/fuzz.py                      ten minutes, shared fairly among the operators
    python tests/fuzz/fuzz.py knn ecc --minutes 60
    python tests/fuzz/fuzz.py --cases 50000        until each has so many cases behind it
    python tests/fuzz/fuzz.py knn --case 123       one case alone, with what is wrong with it

A case is made of (operator, seed, number) and nothing else. Numbers are dealt out in turn to the
instruction sets of the processor, each of which has a process of its own, in which a crash or a
hang ends no more than one case. How far each has come is kept in a file, so that every run goes on
where the last one ended (--fresh starts anew). Exit status: 0, or 1 where a case failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent)]

SETS = ("plain", "avx2", "avx512")
SLICE = 2.0  # seconds that an operator has before the next one's turn
PATIENCE = 60.0  # seconds after which a case is said to hang
SHOWN = 3  # failures of one kind that are printed; the others are counted

Found = tuple[list[str], dict[str, Any]]


def state_file() -> Path:
    """Where progress is kept by default."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "polygraph" / "fuzz.json"


def operators() -> dict[str, Any]:
    """Name -> function that draws a case; it loads the library."""
    import batch_norm
    import dense
    import edges
    import hamming
    import matrices
    import neighbours

    found: dict[str, Any] = {}
    for module in (neighbours, edges, matrices, dense, batch_norm, hamming):
        found |= module.OPERATORS
    return found


NAMES = (
    "knn edge_conv edge_values edge_aggregate edge_sum edge_max edge_dist2 edge_softmax "
    "graph_from_coo ecc light_ecc resample spiral_conv poly_step batch_norm_step transpose_table "
    "hamming_knn"
).split()


# ---- one case ----


def run_case(operator: str, seed: int, number: int) -> Found:
    """What is wrong with a case, and what it is made of."""
    from draws import Draw
    from judge import examine

    draw = Draw(operator, seed, number)
    try:
        problems = examine(operators()[operator](draw), draw)
    except Exception as error:  # nothing may be raised but where it is wanted
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        text = str(error).splitlines()[0] if str(error) else ""
        problems = [f"raised {type(error).__name__} at {where}: {text}"]
    return problems, draw.about


def command_of(operator: str, seed: int, number: int, isa: str) -> str:
    """What runs this case alone."""
    script = os.path.relpath(__file__, ROOT)
    return f"POLYGRAPH_ISA={isa} python {script} {operator} --seed {seed} --case {number}"


def show_case(operator: str, seed: int, number: int) -> int:
    """Run one case and print it; the exit status."""
    problems, about = run_case(operator, seed, number)
    for name, value in about.items():
        print(f"    {name}: {value}")
    for problem in problems:
        print(f"WRONG {problem}")
    print("1 case failed" if problems else "1 case passed")
    return int(bool(problems))


# ---- the process of one instruction set ----


def serve(progress: str) -> None:
    """Run the cases that are asked for, a line of JSON each, until there are no more."""
    import torch

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    with open(progress, "r+b") as file:
        place = mmap.mmap(file.fileno(), 8)
    print(json.dumps({"isa": SETS[instruction_set()]}), file=answers, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        number, ran, failures = ask["first"], 0, []
        end = time.monotonic() + ask["seconds"]
        while ran < ask["cases"] and time.monotonic() < end:
            place[:] = number.to_bytes(8, "little")
            problems, about = run_case(ask["operator"], ask["seed"], number)
            if problems:
                failures.append({"number": number, "problems": problems, "about": about})
            number, ran = number + ask["step"], ran + 1
        answer = {"ran": ran, "next": number, "failures": failures}
        print(json.dumps(answer, default=str), file=answers, flush=True)


def instruction_set() -> int:
    """The one that this process has."""
    import torch

    operators()
    return int(torch.ops.polygraph.instruction_set())


class Server:
    """A process held to an instruction set."""

    def __init__(self, isa: str, script: str = __file__) -> None:
        self.isa = isa
        descriptor, name = tempfile.mkstemp()
        os.write(descriptor, bytes(8))
        os.close(descriptor)
        self.progress = Path(name)
        environment = os.environ | {"POLYGRAPH_ISA": isa, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, script, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.buffer = b""
        self.has = json.loads(self.line(300.0) or "{}").get("isa")

    def number(self) -> int:
        """The case that is running."""
        return int.from_bytes(self.progress.read_bytes()[:8], "little")

    def line(self, patience: float) -> str | None:
        """The next answer; None where the process ended, or a case takes too long."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        seen, since = self.number(), time.monotonic()
        while b"\n" not in self.buffer:
            if select.select([descriptor], [], [], 0.5)[0]:
                part = os.read(descriptor, 1 << 16)
                if not part:
                    return None
                self.buffer += part
            elif self.number() != seen:
                seen, since = self.number(), time.monotonic()
            elif time.monotonic() - since > patience:
                self.process.kill()
                return None
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Have cases run; what came of it, or the case in which the process ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        line = self.line(PATIENCE)
        if line is not None:
            return dict(json.loads(line))
        status = self.process.wait()
        number = self.number()
        what = "hung" if status == -signal.SIGKILL else f"ended the process: {ended(status)}"
        failure = {"number": number, "problems": [what], "about": {}}
        ran = (number - request["first"]) // request["step"] + 1
        return {"ran": ran, "next": number + request["step"], "failures": [failure], "dead": True}

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.progress.unlink(missing_ok=True)


def ended(status: int) -> str:
    """An exit status in words."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


# ---- progress ----


class State:
    """How far each operator has come, by seed and instruction set."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.seeds: dict[str, Any] = {}
        if path is not None and path.exists():
            self.seeds = json.loads(path.read_text())

    def of(self, seed: int, operator: str, isa: str) -> dict[str, Any]:
        """passed, next (number of the next case) and failed (numbers)."""
        entry = self.seeds.setdefault(str(seed), {}).setdefault(operator, {})
        return dict(entry.setdefault(isa, {"passed": 0, "next": SETS.index(isa), "failed": []}))

    def add(self, seed: int, operator: str, isa: str, answer: dict[str, Any]) -> None:
        """What came of some cases."""
        old = self.of(seed, operator, isa)
        numbers = [f["number"] for f in answer["failures"]]
        self.seeds[str(seed)][operator][isa] = {
            "passed": old["passed"] + answer["ran"] - len(numbers),
            "next": answer["next"],
            "failed": [*old["failed"], *numbers],
        }

    def cases(self, seed: int, operator: str, sets: list[str]) -> int:
        """That have run."""
        found = [self.of(seed, operator, isa) for isa in sets]
        return sum(f["passed"] + len(f["failed"]) for f in found)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(self.seeds, indent=1) + "\n")
        part.replace(self.path)


# ---- the run ----


class Run:
    """Processes of all instruction sets, and what has come of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.state = State(None if options.fresh else options.state)
        self.state.path = options.state
        self.kinds: Counter[str] = Counter()
        self.end = time.monotonic() + options.minutes * 60
        self.saved = time.monotonic()
        self.lock = threading.Lock()
        self.processors = threading.Semaphore(os.cpu_count() or 1)
        self.sets: list[str] = []

    def left(self, operator: str) -> int:
        """Cases that an instruction set should still run, of those that are wanted."""
        if not self.options.cases:
            return 10**9
        done = self.state.cases(self.options.seed, operator, self.sets)
        share = -(-(self.options.cases - done) // len(self.sets))
        return max(0, share)

    def work(self, server: Server) -> None:
        """Whichever operator had least of the time is next, until there is no time or no case."""
        isa = server.isa
        spent = dict.fromkeys(self.options.operators, 0.0)
        while time.monotonic() < self.end:
            with self.lock:
                waiting = [o for o in spent if self.left(o) > 0]
                if not waiting:
                    break
                operator = min(waiting, key=lambda o: spent[o])
                known = self.state.of(self.options.seed, operator, isa)
                cases = self.left(operator)
            with self.processors:
                start = time.monotonic()
                answer = server.ask(
                    operator=operator,
                    seed=self.options.seed,
                    first=known["next"],
                    step=len(SETS),
                    seconds=min(SLICE, self.end - start),
                    cases=cases,
                )
                spent[operator] += time.monotonic() - start
            with self.lock:
                self.note(operator, isa, answer)
            if answer.get("dead"):
                server.close()
                server = Server(isa)
        server.close()

    def note(self, operator: str, isa: str, answer: dict[str, Any]) -> None:
        """Keep an answer, and print the failures in it."""
        self.state.add(self.options.seed, operator, isa, answer)
        for failure in answer["failures"]:
            kind = f"{operator}: {kind_of(failure['problems'][0])}"
            self.kinds[kind] += 1
            if self.kinds[kind] <= SHOWN:
                report(operator, self.options.seed, isa, failure)
        if time.monotonic() - self.saved > 10:
            self.state.save()
            self.saved = time.monotonic()

    def all(self) -> None:
        """Run them all at once, on as many processors as there are."""
        servers = [Server(isa) for isa in self.options.isa]
        self.sets = [server.isa for server in servers if server.has == server.isa]
        for server in servers:
            if server.isa not in self.sets:
                print(f"this processor has no {server.isa}")
                server.close()
        threads = [
            threading.Thread(target=self.work, args=[s]) for s in servers if s.isa in self.sets
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            print("interrupted; the next run goes on from here")
            self.end = 0.0
            for thread in threads:
                thread.join()
        self.state.save()


def run(options: argparse.Namespace) -> int:
    """Ask for cases until the time, or the number of cases, is up; the exit status."""
    running = Run(options)
    running.all()
    table(options, running.state, running.sets)
    for kind, count in running.kinds.most_common():
        print(f"{count} FAILED, {kind}")
    return int(bool(running.kinds) or not running.sets)


def kind_of(problem: str) -> str:
    """A problem without its numbers."""
    return re.sub(r"\(?-?\d[\d.e+-]*( of \d+ entries\))?", "#", problem)


def report(operator: str, seed: int, isa: str, failure: dict[str, Any]) -> None:
    """Print a failure, and how to see it again."""
    print(f"FAILED {operator}, case {failure['number']}, {isa}")
    for problem in failure["problems"]:
        print(f"    {problem}")
    made = ", ".join(f"{name} {value}" for name, value in failure["about"].items())
    print(f"    made of: {made}" if made else "    nothing is known of it")
    print(f"    again: {command_of(operator, seed, failure['number'], isa)}", flush=True)


def table(options: argparse.Namespace, state: State, sets: list[str]) -> None:
    """Print how far all have come."""
    print(f"cases passed with seed {options.seed}, by instruction set")
    for operator in options.operators:
        found = [state.of(options.seed, operator, isa) for isa in sets]
        counts = ", ".join(f"{isa} {f['passed']}" for isa, f in zip(sets, found, strict=True))
        failed = sum(len(f["failed"]) for f in found)
        more = f"; {failed} FAILED" if failed else ""
        print(f"    {operator:16} {sum(f['passed'] for f in found):7}  ({counts}){more}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help=", ".join(NAMES))
    parser.add_argument("--minutes", type=float, help="default 10; no limit with --cases")
    parser.add_argument("--cases", type=int, default=0, metavar="N", help="of each operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, metavar="NUMBER", help="run this one alone")
    parser.add_argument("--isa", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--state", type=Path, default=state_file(), help="file of the progress")
    parser.add_argument("--fresh", action="store_true", help="forget the progress")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.operators) - set(NAMES))
    if unknown:
        parser.error(f"no such operator: {', '.join(unknown)}")
    if options.seed < 0:
        parser.error(f"--seed must not be negative, got {options.seed}")
    if options.case is not None and len(options.operators) != 1:
        parser.error("--case needs one operator")
    options.operators = options.operators or NAMES
    if options.minutes is None:
        options.minutes = 10**6 if options.cases else 10
    return options


def main() -> int:
    """Run; the exit status."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return 0
    options = parse()
    if options.case is not None:
        return show_case(options.operators[0], options.seed, options.case)
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
