"""`scripts/gpu_check.sh` on a machine with a GPU, of which everything but the script is made up.

Python, nvcc, nvidia-smi and compute-sanitizer are a few lines of shell that end as a test wants, so
that every branch of the script runs here: what is carried or built, what fails, what is left out.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

PROGRAMS = {
    "python3": r"""
case "$*" in
  *get_device_capability*) echo 90 ;;
  *is_available*) echo a GPU ;;
  "-m pip "*) echo "$*" >pip.txt ;;
  "- no") cat >load.py; grep -q good polygraph/_C_cuda.abi3.so || { echo wrong library; exit 1; } ;;
  "setup.py "*) echo "$POLYGRAPH_CUDA_ARCHS" >built.txt; mkdir -p build/gpu/built/polygraph
    echo ${BUILT:-good} >build/gpu/built/polygraph/_C_cuda.abi3.so ;;
  *gpu_smoke.py*) echo "smoke (cuda): 9 checks, ${SMOKE:-0} failed"; exit ${SMOKE:-0} ;;
  "-m pytest "*) echo "$*"; exit ${PYTEST:-0} ;;
  *gpu_times.py*) exit ${TIMES:-0} ;;
  *bench_*) sleep ${SLEEP:-0}; exit ${BENCH:-0} ;;
  *) echo "unexpected: $*" >&2; exit 99 ;;
esac""",
    "nvcc": r"""
case "$*" in
  --version) echo nvcc ;;
  *) touch "${@: -1}" ;;
esac""",
    "nvidia-smi": "echo H100",
    "compute-sanitizer": r"""
echo "========= $*"
case "$*" in
  *"plant none") exit ${CLEAN:-0} ;;
  *gpu_smoke.py*) [ -z "${REPORT:-}" ] || echo "$REPORT"; exit ${SANITIZER:-0} ;;
  *) exit ${PLANTED:-9} ;;
esac""",
}


class Machine:
    """A folder with the script, and a PATH on which its programs come first."""

    def __init__(self, root):
        self.root = root
        self.bin = root / "bin"
        for folder in ("bin", "scripts", "csrc/op", "polygraph", "tests/support"):
            (root / folder).mkdir(parents=True)
        shutil.copy(REPOSITORY / "scripts" / "gpu_check.sh", root / "scripts")
        for name in ("setup.py", "csrc/op/op.cu"):
            (root / name).write_text("source")
        (root / "tests" / "support" / "helper.py").write_text(
            "@pytest.mark." + "gpu"
        )  # not this file
        (root / "tests" / "test_op.py").write_text("from support.helper import *")
        (root / "tests" / "test_other.py").write_text("nothing")
        for name, text in PROGRAMS.items():
            (self.bin / name).write_text(f"#!/usr/bin/env bash{text}\n")
            (self.bin / name).chmod(0o755)

    def carry(self, text="good", sources=None):
        """Libraries as `make gpu-ready` leaves them."""
        sources = self.run("sources").stdout if sources is None else sources
        folder = self.root / "build" / "gpu" / "lib"
        (folder / "polygraph").mkdir(parents=True)
        (folder / "sources").write_text(sources)
        (folder / "polygraph" / "_C_cuda.abi3.so").write_text(text)

    def run(self, *arguments, **changes):
        """The script, with standard error in its output."""
        environment = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}"} | changes
        for name in {"OUT", "PYTHON", "TESTS", "BENCHMARKS"} - set(changes):
            environment.pop(name, None)
        command = ["bash", str(self.root / "scripts" / "gpu_check.sh"), *arguments]
        out = subprocess.PIPE
        return subprocess.run(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True
        )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# ---- the libraries ----


def test_carried_libraries(machine):
    """They are put in their place; no compiler is asked."""
    machine.carry()
    done = machine.run("check")
    assert done.returncode == 0, done.stdout
    assert "libraries: those in build/gpu/lib" in done.stdout
    assert (machine.root / "polygraph" / "_C_cuda.abi3.so").read_text() == "good"
    assert not (machine.root / "built.txt").exists()
    assert "ops.resample" in (machine.root / "load.py").read_text()  # a kernel has to run


@pytest.mark.parametrize(
    ("carried", "reason"),
    [(("good", "of yesterday"), "of other sources"), (("bad",), "wrong library")],
)
def test_libraries_that_do_not_serve_are_built(machine, carried, reason):
    """For this GPU alone; and kept for the next command, until the sources change."""
    machine.carry(*carried)
    (machine.root / "polygraph" / "_C_cuda.abi3.so").write_text("good, but of yesterday")
    done = machine.run("check")
    assert done.returncode == 0, done.stdout
    assert reason in done.stdout
    assert "build for sm_90: well" in done.stdout
    assert (machine.root / "built.txt").read_text() == "90\n"
    assert "build for" not in machine.run("time").stdout
    (machine.root / "setup.py").write_text("changed")
    assert "build for sm_90: well" in machine.run("time").stdout


def test_libraries_in_place(machine):
    """Where nothing was carried, what `make setup` built is taken."""
    (machine.root / "polygraph" / "_C_cuda.abi3.so").write_text("good")
    done = machine.run("check")
    assert done.returncode == 0, done.stdout
    assert "libraries: those in place" in done.stdout


def test_libraries_that_cannot_be_had(machine):
    """Nothing else is tried."""
    done = machine.run("check", BUILT="bad")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("1 FAILED: libraries")
    assert "smoke" not in done.stdout


def test_wheels(machine):
    """They go to a folder of their own, without a look at a network."""
    machine.carry()
    wheels = machine.root / "build" / "gpu" / "wheels"
    wheels.mkdir()
    (wheels / "a.whl").write_text("")
    assert "wheels: well (1)" in machine.run("check").stdout
    assert "--no-index --no-deps" in (machine.root / "pip.txt").read_text()


# ---- the steps ----


def test_check(machine):
    """All steps, in one archive; only files with gpu tests."""
    machine.carry()
    done = machine.run("check")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("gpu_check check: all well")
    assert "tests/test_op.py: well" in done.stdout
    assert "test_other" not in done.stdout
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        assert f"{tool}: well planted bug found" in done.stdout
    results = machine.root / "build" / "gpu" / "results"
    assert [path.name for path in results.iterdir()] == ["check.tgz"]


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"SMOKE": "1"}, "1 FAILED: smoke"),
        ({"PYTEST": "1"}, "1 FAILED: tests/test_op.py"),
        ({"PYTEST": "5"}, "1 FAILED: tests/test_op.py"),  # no test was collected
        ({"PLANTED": "0"}, "4 FAILED: memcheck racecheck synccheck initcheck"),
        ({"CLEAN": "9"}, "4 FAILED: memcheck racecheck synccheck initcheck"),
        ({"SANITIZER": "9"}, "3 FAILED: memcheck racecheck synccheck"),
        ({"SANITIZER": "1"}, "4 FAILED: memcheck racecheck synccheck initcheck"),
        (
            {"SANITIZER": "9", "REPORT": "=====     at void polygraph::edge_sum_kernel<float>"},
            "4 FAILED: memcheck racecheck synccheck initcheck",
        ),
    ],
)
def test_what_fails_in_check(machine, changes, failed):
    """Each step by itself; a failed smoke leaves out the rest."""
    machine.carry()
    done = machine.run("check", **changes)
    assert done.returncode == 1, done.stdout
    assert done.stdout.splitlines()[-1].endswith(failed)
    assert ("test_op" in done.stdout) == ("SMOKE" not in changes)


def test_without_a_sanitizer(machine):
    """What cannot be checked is not well."""
    (machine.bin / "compute-sanitizer").unlink()
    places = [shutil.which("compute-sanitizer"), "/usr/local/cuda/bin/compute-sanitizer"]
    if any(place is not None and Path(place).exists() for place in places):
        pytest.skip("there is one here")
    machine.carry()
    done = machine.run("check")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("1 FAILED: sanitizers")


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, "gpu_check time: all well"),
        ({"TIMES": "1"}, "1 FAILED: device times"),
        ({"BENCH": "1"}, "2 FAILED: bench_knn bench_ecc"),
    ],
)
def test_what_fails_in_time(machine, changes, failed):
    """One that fails leaves the others."""
    machine.carry()
    done = machine.run("time", BENCHMARKS="knn ecc", **changes)
    assert done.returncode == (0 if not changes else 1)
    assert done.stdout.splitlines()[-1].endswith(failed)


def test_out_of_time(machine):
    """A step is ended with its command, and what follows is not begun."""
    machine.carry()
    changes = {"BENCHMARKS": "knn ecc", "GPU_CHECK_SECONDS": "3", "SLEEP": "600"}
    done = machine.run("time", **changes)
    assert done.returncode == 1
    assert "bench_knn: FAILED, out of time" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("2 FAILED: bench_knn bench_ecc")
