"""CUDA kernels, run on the host: the bits of a result do not depend on where its operands lie."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("layouts_worker.py")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_layouts_change_no_bit():
    """Offset, sliced and transposed operands against aligned ones, in a process of its own."""
    run = subprocess.run(
        [sys.executable, str(WORKER)], stdout=subprocess.PIPE, text=True, check=True
    )
    # 17 results of four operators, 3 widths, 4 dtypes, 4 layouts.
    assert run.stdout.splitlines() == ["compared: 816"]
