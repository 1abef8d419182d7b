"""CUDA kernels, run on the host: the bits of a result do not depend on where its operands lie."""

import shutil
import subprocess
import sys

import pytest
from support.paths import environment


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_layouts_change_no_bit():
    """Offset, sliced and transposed operands against aligned ones, in a process of its own."""
    command = [sys.executable, "-m", "support.emulated_layouts"]
    run = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    # 17 results of four operators, 3 widths, 4 dtypes, 4 layouts.
    assert run.stdout.splitlines() == ["compared: 816"]
