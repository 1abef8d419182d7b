"""CUDA kernels of ECC's edge-wise halves, run on the host, against their definition."""

import shutil
import subprocess
import sys

import pytest
from support.paths import environment


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_halves_in_all_shapes():
    """Values, and the same bits with threads in another order and operands elsewhere."""
    command = [sys.executable, "-m", "support.emulated_ecc"]
    run = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    # 20 shapes in two dtypes and 4 in two others, 2 options and 2 runs each.
    assert run.stdout.splitlines() == ["compared: 192"]
