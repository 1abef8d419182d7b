"""CUDA kernels, run on the host: long segments are cut into pieces and joined again."""

import shutil
import subprocess
import sys

import pytest
from support.paths import environment


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_long_segments():
    """Against the CPU, and against another order of threads, in a process of its own."""
    command = [sys.executable, "-m", "support.emulated_segments"]
    run = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    # 15 results of five operators, 5 graphs, 3 widths, 2 of 4 dtypes in turns.
    assert run.stdout.splitlines() == ["compared: 450"]
