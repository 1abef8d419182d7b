"""CUDA kernels, run on the host: long segments are cut into pieces and joined again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("segments_worker.py")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_long_segments():
    """Against the CPU, and against another order of threads, in a process of its own."""
    run = subprocess.run(
        [sys.executable, str(WORKER)], stdout=subprocess.PIPE, text=True, check=True
    )
    # 15 results of five operators, 5 graphs, 3 widths, 2 of 4 dtypes in turns.
    assert run.stdout.splitlines() == ["compared: 450"]
