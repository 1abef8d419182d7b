"""Runs polygraph's CUDA kernels on the host, for machines without a GPU.

`build` compiles csrc's CUDA sources with an ordinary C++ compiler, against headers that emulate
CUDA's built-ins; `load` puts the kernels in the place of the CPU's: from then on tensors on the CPU
take the way of tensors on a GPU. Wrong results, values read before they were written, threads that
wait for ever and failed assertions show. Speed does not, nor all that threads at once can do.

    python scripts/emulator/emulator.py      # builds, prints the library's path
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "emulator"
INCLUDES = ["-isystem", str(HERE / "include"), f"-I{ROOT / 'csrc'}"]
FLAGS = [
    "-std=c++20",
    "-O1",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",  # a pack is stored as one wide scalar
    "-ffp-contract=off",  # products and sums round one by one, but where a kernel fuses them
    "-Wall",
    "-Wno-unknown-pragmas",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-D__assert_fail=emulator_assert_failed",
    "-fsanitize=alignment",  # a pack at an address that a GPU refuses ends the process
    "-fno-sanitize-recover=alignment",
]
if platform.machine() == "x86_64":
    FLAGS += ["-mavx2", "-mfma", "-mf16c", "-Wno-psabi"]


def _newest(folder: Path) -> float:
    headers = [*folder.rglob("*.h"), *folder.rglob("*.cuh")]
    return max(path.stat().st_mtime for path in headers)


def build(folder: Path = BUILD, extra: tuple[str, ...] = ()) -> Path:
    """Compile what is not up to date; return the library's path.

    Args:
        folder: where objects and the library go.
        extra: more flags for the compiler, such as a sanitizer's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of tests ask for it at once
        return _build(folder, extra)


def _build(folder: Path, extra: tuple[str, ...]) -> Path:
    compiler = os.environ.get("CXX", "g++")
    include = ["-isystem", str(Path(torch.__file__).parent / "include")]
    headers = max(_newest(ROOT / "csrc"), _newest(HERE), Path(__file__).stat().st_mtime)

    def compile_one(source: Path) -> tuple[Path, bool]:
        output = folder / f"{source.stem}.o"
        if output.exists() and output.stat().st_mtime > max(headers, source.stat().st_mtime):
            return output, False
        kind = [] if source.suffix == ".cpp" else ["-include", "registered_for_cpu.h"]
        command = [compiler, *FLAGS, *extra, *INCLUDES, *include, *kind, "-x", "c++"]
        made = output.with_suffix(f".{os.getpid()}.tmp")
        subprocess.run([*command, "-c", str(source), "-o", str(made)], check=True)
        made.replace(output)
        return output, True

    sources = [HERE / "emulator.cpp", *sorted(ROOT.glob("csrc/*/*.cu"))]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / "polygraph_emulated.so"
    if not library.exists() or any(fresh for _, fresh in objects):
        libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch", "-lc10"]
        made = library.with_suffix(f".{os.getpid()}.tmp")
        command = [compiler, "-shared", "-fsanitize=alignment", *extra]
        command += [*(str(path) for path, _ in objects), "-Wl,--no-as-needed", *libraries]
        command += ["-o", str(made)]
        subprocess.run(command, check=True)
        made.replace(library)
    return library


def load(library: Path | None = None) -> None:
    """Let tensors on the CPU take the CUDA kernels, built where they are not yet.

    There is no way back within the process.
    """
    library = build() if library is None else library
    from polygraph.ops import common

    torch.ops.load_library(library)  # over the CPU's kernels, of which torch warns once
    common.takes_cuda_kernels = lambda tensor: True


def set_order(order: int, library: Path = BUILD / "polygraph_emulated.so") -> None:
    """Run the threads of a block ascending (0), descending (1) or shuffled (other numbers).

    Results must not depend on it: where they do, threads race.
    """
    ctypes.CDLL(str(library)).emulator_set_order(order)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(build())
