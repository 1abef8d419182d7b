"""CUDA kernels of ECC's edge-wise halves, run on the host, against their definition."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("ecc_worker.py")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_halves_in_all_shapes():
    """Values, and the same bits with threads in another order and operands elsewhere."""
    run = subprocess.run(
        [sys.executable, str(WORKER)], stdout=subprocess.PIPE, text=True, check=True
    )
    # 20 shapes in two dtypes and 4 in two others, 2 options and 2 runs each.
    assert run.stdout.splitlines() == ["compared: 192"]
