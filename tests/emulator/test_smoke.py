"""Every CUDA kernel, run on the host, against the CPU library."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SMOKE = Path(__file__).resolve().parents[2] / "scripts" / "gpu_smoke.py"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def smoke(*arguments):
    """Run the smoke in a process of its own; the number of its checks."""
    done = subprocess.run(
        [sys.executable, str(SMOKE), "emulated", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return int(re.search(r"smoke \(emulated\): (\d+) checks, 0 failed", done.stdout).group(1))


def test_kernels_agree_with_the_cpu():
    """In float32, threads in descending order: what relies on lower threads being first shows."""
    assert smoke("--quick", "--dtypes", "float32", "--order", "1") > 300


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("order", [0, 7])
def test_all_kernels_agree_with_the_cpu(order):
    """All dtypes, large grids too."""
    assert smoke("--order", str(order)) > 1000


def test_wrong_kernels_are_noticed():
    """A planted number among what the emulated kernels return."""
    command = [sys.executable, str(SMOKE), "emulated", "--only", "resample", "--plant", "resample"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "FAIL resample" in done.stdout
