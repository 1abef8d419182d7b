"""Where things are, and what processes need to find them."""

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = TESTS.parent
EMULATOR = REPOSITORY / "scripts" / "emulator"


def environment(**changes):
    """For a process that imports the package, `support` and the emulator of CUDA."""
    path = os.pathsep.join(map(str, (REPOSITORY, TESTS, EMULATOR)))
    return os.environ | {"PYTHONPATH": path} | changes
