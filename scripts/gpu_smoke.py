"""Every CUDA kernel on small inputs, against the CPU library.

A first sign of life on a GPU, and the load for compute-sanitizer:

    python scripts/gpu_smoke.py cuda [--kernels]   # on a GPU; lists the kernels that ran
    python scripts/gpu_smoke.py cpu                # the CPU with itself: are the calls right?
    python scripts/gpu_smoke.py emulated           # the CUDA kernels, emulated on the CPU

The calls are in gpu_checks.py and gpu_graph_checks.py. What is expected is computed first, all of
it, by the CPU library: in the emulated mode the CUDA kernels then take the place of the CPU's, and
there is no way back.
Exit status: 0, or 1 where a check failed or an operator was never called.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_checks import all_checks
from gpu_inputs import ALL, HALF, Check, flat, normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[1]

# Difference of one entry, as a share of the largest entry of the tensor, from the CPU's float64 on
# the same numbers: what tests/support/tolerances.py allows a kernel for its own rounding. It is
# twice that for float64, where the CPU rounds as much, and for the half types, where what one
# operator rounds is the next one's input (u + v before an activation).
TOLERANCE = {
    torch.float32: 1e-5,
    torch.float64: 2e-13,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}


def load_emulator(order: int) -> None:
    """Let the CPU's tensors take the CUDA kernels from now on."""
    sys.path.insert(0, str(ROOT / "scripts" / "emulator"))
    import emulator

    emulator.load()
    emulator.set_order(order)


# ---- a call and its results ----


def converted(value: Any, device: str, dtype: torch.dtype) -> Any:
    """Arguments on a device and in a dtype, as tensors of their own."""
    if isinstance(value, tuple):
        parts = [converted(part, device, dtype) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None, copy=True)
    return value


def leaves_of(values: tuple[Any, ...]) -> list[Tensor]:
    """The floating tensors among arguments, made to require gradients."""
    found = [v for v in flat(values) if isinstance(v, Tensor) and v.is_floating_point()]
    return [value.requires_grad_() for value in found]


def upstream_of(out: Tensor, seed: int, rounded: torch.dtype) -> Tensor:
    """A gradient for a result: the same numbers everywhere, rounded to the dtype of the check."""
    return normal(*out.shape, seed=100 + seed).to(rounded).to(out.device, out.dtype)


def results_of(check: Check, given: tuple[Any, ...], rounded: torch.dtype) -> list[Tensor]:
    """What a check computes, gradients behind results; the arguments are as wanted already."""
    leaves = leaves_of(given) if check.backward else []
    with torch.set_grad_enabled(check.backward):
        out = check.call(*given)
    outs = [o for o in (out if isinstance(out, tuple) else (out,)) if o is not None]
    found = [o.detach() for o in outs]
    smooth = [o for o in outs if o.requires_grad]
    if check.backward:
        above = [upstream_of(o, i, rounded) for i, o in enumerate(smooth)]
        grads = torch.autograd.grad(smooth, leaves, above, allow_unused=True)
        found += [g for g in grads if g is not None]
    return found


class Case(NamedTuple):
    """A check in one dtype, with what is expected of it."""

    check: Check
    dtype: torch.dtype
    expected: list[Tensor]

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.check.name:44} {str(self.dtype).removeprefix('torch.'):9}"


def expect(check: Check, dtype: torch.dtype) -> Case:
    """What the CPU finds in float64, of the numbers as the dtype rounds them.

    Neighbours are ordered by distances in float32, unless the points are float64: what is to be
    equal in every bit is computed in that.
    """
    given = converted(check.arguments, "cpu", dtype)
    wide = torch.float32 if check.exact and dtype != torch.float64 else torch.float64
    try:
        return Case(check, dtype, results_of(check, converted(given, "cpu", wide), dtype))
    except Exception as error:
        raise RuntimeError(f"the check {check.name!r} in {dtype} is no valid call") from error


def dtypes_of(check: Check, mode: str, wanted: list[torch.dtype]) -> list[torch.dtype]:
    """The dtypes that a check has in a mode, of those that are wanted."""
    there = [dtype for dtype in check.dtypes if dtype in wanted]
    if mode == "cpu" and not check.cpu_half:
        return [dtype for dtype in there if dtype not in HALF]
    return there


def compute(case: Case, device: str) -> list[Tensor]:
    """What the device finds."""
    found = results_of(case.check, converted(case.check.arguments, device, case.dtype), case.dtype)
    return [tensor.cpu() for tensor in found]


# ---- comparing ----


def difference(actual: Tensor, expected: Tensor, exact: bool) -> float:
    """As a share of the largest entry; inf where nothing can be compared."""
    if actual.shape != expected.shape:
        return float("inf")
    if exact or not actual.is_floating_point():
        return 0.0 if torch.equal(actual, expected) else float("inf")
    if actual.numel() == 0:
        return 0.0
    actual, expected = actual.double(), expected.double()
    worst = float((actual - expected).abs().max()) / (float(expected.abs().max()) or 1.0)
    return worst if worst == worst else float("inf")


def compare(case: Case, actual: list[Tensor]) -> float:
    """The worst of a case's tensors."""
    if len(actual) != len(case.expected):
        return float("inf")
    pairs = zip(actual, case.expected, strict=True)
    return max((difference(a, e, case.check.exact) for a, e in pairs), default=float("inf"))


def tolerance(case: Case) -> float:
    """Long sums may lose half a digit a term, all in line: still far from one term left out."""
    unit = torch.finfo(case.dtype).eps / 2
    per_term = 0.0 if case.dtype in HALF else unit * case.check.terms
    return max(TOLERANCE[case.dtype], 2 * per_term if case.dtype == torch.float64 else per_term)


def spoil(tensors: list[Tensor]) -> None:
    """Change a number, as a wrong kernel would."""
    for tensor in tensors:
        if tensor.numel():
            tensor.view(-1)[-1] += 1
            return


# ---- what was called, and what ran ----


class Calls(TorchDispatchMode):
    """Remembers the names of polygraph's operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the call and make it."""
        if func.namespace == "polygraph":
            self.names.add(func._schema.name.split("::")[1])
        return func(*args, **(kwargs or {}))


def sources(pattern: str) -> set[str]:
    """What a pattern finds in the CUDA sources."""
    files = [f for kind in ("cu", "cuh") for f in (ROOT / "csrc").glob(f"*/*.{kind}")]
    return {name for file in files for name in re.findall(pattern, file.read_text())}


def cuda_operators() -> set[str]:
    """The operators that the CUDA library registers."""
    return sources(r'm\.impl\("(\w+)"')


def cuda_kernels() -> set[str]:
    """Names of the kernels in the sources."""
    return sources(r"__global__[^;{]*?\b(\w+_kernel)\(")


def report_of(ran: set[str]) -> list[str]:
    """Lines on the kernels of polygraph among those that ran, and on those that never did."""
    ours = sorted(name for name in ran if "polygraph" in name)
    never = [name for name in sorted(cuda_kernels()) if not any(name in key for key in ours)]
    return [
        f"{len(ours)} kernels of polygraph ran (every instance of a template counts)",
        *ours,
        f"kernels that never ran: {', '.join(never) or 'none'}",
    ]


@contextlib.contextmanager
def listing_kernels(wanted: bool) -> Iterator[None]:
    """Print, in the end, which kernels ran on the GPU; without a profiler, why there is no list."""
    if not wanted:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    trace = profile(activities=[ProfilerActivity.CUDA])
    trace.start()
    yield
    try:
        trace.stop()
        print("\n".join(report_of({event.key for event in trace.key_averages()})))
    except Exception as error:
        print(f"no list of the kernels: {error}")


# ---- the run ----


def run(case: Case, device: str, plant: str | None) -> bool:
    """Compute and compare one case, print a line; whether it was right."""
    try:
        actual = compute(case, device)
    except Exception as error:  # whatever it is, the line names the check
        print(f"FAIL {case.name} {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
        if device == "cuda" and "CUDA error" in str(error):
            raise SystemExit("smoke: the device is lost, nothing else can run") from error
        return False
    if plant is not None and plant in case.check.name:
        spoil(actual)
    worst = compare(case, actual)
    right = worst <= tolerance(case)
    print(f"{'ok  ' if right else 'FAIL'} {case.name} {worst:.1e}", flush=True)
    return right


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", nargs="?", default="cuda", choices=["cuda", "cpu", "emulated"])
    parser.add_argument("--only", metavar="TEXT", help="the checks whose name contains this")
    parser.add_argument("--quick", action="store_true", help="without the checks of many rows")
    names = [str(dtype).removeprefix("torch.") for dtype in ALL]
    parser.add_argument("--dtypes", nargs="+", choices=names, default=names, help="these alone")
    parser.add_argument(
        "--order",
        type=int,
        default=0,
        help="emulated: threads run ascending (0), descending (1) or shuffled (other numbers)",
    )
    parser.add_argument(
        "--kernels", action="store_true", help="list the kernels that ran (not under a sanitizer)"
    )
    parser.add_argument(
        "--plant", metavar="TEXT", help="make the results of these checks wrong: they must fail"
    )
    options = parser.parse_args()
    if options.mode == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here")
    if options.kernels and options.mode != "cuda":
        parser.error("--kernels needs a GPU")
    return options


def main() -> int:
    """Run the checks; the exit status."""
    options = arguments()
    checks = [c for c in all_checks() if options.only is None or options.only in c.name]
    checks = [c for c in checks if not (options.quick and c.large)]
    calls = Calls()
    with calls:
        wanted = [getattr(torch, name) for name in options.dtypes]
        cases = [expect(c, d) for c in checks for d in dtypes_of(c, options.mode, wanted)]
    if options.mode == "emulated":
        load_emulator(options.order)
    device = "cuda" if options.mode == "cuda" else "cpu"
    with listing_kernels(options.kernels):
        failed = sum(not run(case, device, options.plant) for case in cases)
    missed = sorted(cuda_operators() - calls.names) if options.only is None else []
    if missed:
        print(f"operators that no check calls: {', '.join(missed)}")
    print(f"smoke ({options.mode}): {len(cases)} checks, {failed} failed")
    return int(failed > 0 or bool(missed) or not cases)


if __name__ == "__main__":
    sys.exit(main())
