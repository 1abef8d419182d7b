"""How many threads compute, and how they wait for each other: settled before torch is imported.

Between two parallel loops OpenMP's threads wait by spinning, as long as other processes leave them
their processors the fastest way. Where they do not, a thread that spins keeps its processor from
the one that it waits for, until the system takes it away: a training step beside one busy process
took 6 times as long as alone. A shorter spin, then sleep, costs little alone and gives way.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

from polygraph._memory import control_groups

#: How often libgomp looks before it sleeps; its own default is 300,000.
SPINS = 10_000
_CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def settle_threads(root: Path = Path("/")) -> None:
    """Set how threads wait, and how many there are in a container, if nobody has.

    Environment variables are read when torch is imported: afterwards nothing is done. What the
    user has set counts: ``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``, ``OMP_NUM_THREADS``.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in _CHOSEN):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    share = container_processors(root)
    if share is not None and share < processors():
        # torch counts the machine's, of which most would wait for their turn.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(share))))


def processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def container_processors(root: Path = Path("/")) -> float | None:
    """Processors whose time the control groups of this process leave it, or None for all.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    shares = []
    for group in control_groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            quota, period = map(int, (group / "cpu.max").read_text().split())
            shares.append(quota / period)
        with contextlib.suppress(OSError, ValueError):
            quota = int((group / "cpu.cfs_quota_us").read_text())
            period = int((group / "cpu.cfs_period_us").read_text())
            if quota > 0:  # -1: no limit
                shares.append(quota / period)
    return min(shares, default=None)


def wait_policy() -> str | None:
    """What the environment says about waiting, as ``NAME=value``, or None."""
    chosen = [f"{name}={os.environ[name]}" for name in _CHOSEN if name in os.environ]
    return " ".join(chosen) or None


def openmp_runtimes(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """File names of the OpenMP libraries in this process; with several, their threads compete.

    Args:
        maps: what the process has loaded, as Linux lists it.
    """
    try:
        loaded = maps.read_text()
    except OSError:
        return []
    return sorted(set(re.findall(r"/(lib(?:gomp|iomp5|omp)[-.][^/\n]*)", loaded)))
