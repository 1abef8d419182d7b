"""Where a number comes from: commit, machine, versions; and what a step costs in memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import polygraph


def commit() -> str | None:
    """Commit of the source, with ``+changes`` when tracked files differ; None outside git."""
    folder = Path(polygraph.__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.parent:
            return None  # installed somewhere inside another project's repository
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def processor() -> str:
    """Name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Version, commit, machine and thread count, for a row of results."""
    device = torch.device(device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "polygraph": polygraph.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": machine,
        "threads": torch.get_num_threads(),
    }


def _status_mb(field: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    return None


def peak_memory_mb(function: Callable[[], Any], device: torch.device | str = "cpu") -> float | None:
    """Memory that ``function`` takes at its peak on top of what is held before, in MiB.

    On CUDA the allocator's own count; on Linux the process's resident set, after freed memory was
    given back to the system (good to a few MiB); elsewhere None.
    """
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    except OSError:
        return None
    resting = _status_mb("VmRSS")
    function()
    peak = _status_mb("VmHWM")
    return None if resting is None or peak is None else max(0.0, peak - resting)
