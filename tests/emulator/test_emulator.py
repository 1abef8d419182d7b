"""What the emulator of CUDA notices: planted faults, and none where there is none."""

import ctypes
import math
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "emulator"
sys.path.insert(0, str(SCRIPTS))

import emulator  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
THREADS = 96


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The emulator with planted kernels in the place of the library's."""
    library = tmp_path_factory.mktemp("planted") / "planted.so"
    sources = [str(SCRIPTS / "emulator.cpp"), str(Path(__file__).with_name("planted.cpp"))]
    command = ["g++", *emulator.FLAGS, *emulator.INCLUDES, "-shared", *sources, "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def in_process(planted, kernel):
    """Launch a planted kernel in a process of its own."""
    call = f"ctypes.CDLL({planted._name!r}).{kernel}((ctypes.c_float * {THREADS})(), {THREADS})"
    return subprocess.run(
        [sys.executable, "-c", f"import ctypes; {call}"], capture_output=True, text=True
    )


def started(planted, kernel, order=0):
    """Launch a planted kernel; its error and its results."""
    out = np.full(THREADS, -1.0, dtype=np.float32)
    planted.emulator_set_order(order)
    function = getattr(planted, kernel)
    function.restype = ctypes.c_char_p
    error = function(out.ctypes.data_as(ctypes.c_void_p), THREADS).decode()
    return error, out


@pytest.mark.parametrize("order", [0, 1, 7])
def test_right_kernels(planted, order):
    """Barriers and the operations of a warp, in every order of threads."""
    error, out = started(planted, "neighbour", order)
    assert error == ""
    assert np.array_equal(out, (np.arange(THREADS) + 1) % THREADS)
    error, out = started(planted, "warp", order)
    assert error == ""
    assert np.array_equal(out, np.ones(THREADS))


def test_race_depends_on_the_order(planted):
    """Without the barrier two orders of threads give different results."""
    results = [started(planted, "race", order)[1] for order in (0, 1)]
    assert not np.array_equal(*results)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("divergent", "threads wait for ever: 48 at a barrier of the block, .* 48 have ended"),
        ("missing_lanes", "threads wait for ever: .* 48 at an operation of their warp"),
        ("foreign_lanes", "waits for lanes of its warp and is not one of them"),
        ("assertion", "device-side assertion: threadIdx.x != 3 .*thread 3"),
    ],
)
def test_faults_end_the_launch(planted, kernel, message):
    """With an error that says what and where; the next launch is none the worse."""
    error, _ = started(planted, kernel)
    assert error.startswith("emulator: ")
    assert re.search(message, error)
    assert "in block (0, 0) of" in error
    assert started(planted, "neighbour")[0] == ""


def test_misaligned_pack_ends_the_process(planted):
    """A pack at an address that is no multiple of its size, as a GPU ends the launch."""
    assert in_process(planted, "neighbour").returncode == 0
    done = in_process(planted, "misaligned")
    assert done.returncode != 0
    assert re.search("misaligned address .* requires 16 byte alignment", done.stderr)


def test_unwritten_shared_memory_is_nan(planted):
    """What no thread has written shows in the result."""
    error, out = started(planted, "unwritten")
    assert error == ""
    assert np.isnan(out).all()


@pytest.mark.parametrize(("a", "b", "c"), [(0.1, 0.2, 0.3), (-0.1, 0.7, 1e-9), (1.5, 2.0, 0.25)])
def test_rounding_up(planted, a, b, c):
    """The least number of the type that is not below the exact result."""
    wide, narrow = ctypes.c_double(), ctypes.c_float()
    planted.fused_up(*map(ctypes.c_double, (a, b, c)), ctypes.byref(wide), ctypes.byref(narrow))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assert Fraction(wide.value) >= exact
    assert Fraction(math.nextafter(wide.value, -math.inf)) < exact
    a, b, c = (float(np.float32(v)) for v in (a, b, c))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    below = float(np.nextafter(np.float32(narrow.value), np.float32(-np.inf)))
    assert Fraction(narrow.value) >= exact
    assert Fraction(below) < exact
