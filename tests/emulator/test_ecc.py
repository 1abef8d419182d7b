"""CUDA kernels of ECC's edge-wise halves, run on the host, against their definition."""

import shutil
import subprocess
import sys

import pytest
from support.paths import environment

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def compared(*words):
    """What the process prints."""
    command = [sys.executable, "-m", "support.emulated_ecc", *words]
    run = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.splitlines()


def test_halves_in_all_shapes():
    """Values, and the same bits with threads in another order and operands elsewhere."""
    # 11 small shapes in two dtypes and one in two others, 2 options; 5 large ones in two dtypes and
    # one in two others, one option; 2 runs each.
    assert compared() == ["compared: 120"]


@pytest.mark.slow
def test_halves_in_all_shapes_with_more_options():
    # 20 shapes in two dtypes and 4 in two others, 2 options and 2 runs each.
    assert compared("all") == ["compared: 192"]
