"""How threads wait and how many there are: settled before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import polygraph
from polygraph import _threads
from polygraph._threads import SPINS, container_processors, openmp_runtimes, settle_threads

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


@pytest.fixture
def settled(monkeypatch):
    """A function that settles in a process without torch, and returns what it has set."""
    monkeypatch.delitem(sys.modules, "torch")
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def settle(root, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name in NAMES:  # what is set is undone after the test
            monkeypatch.setenv(name, os.environ.get(name, ""))
            if name not in environment:
                del os.environ[name]
        settle_threads(root)
        return {n: os.environ[n] for n in NAMES if n in os.environ and n not in environment}

    return settle


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_threads_sleep_after_a_short_while(settled, tmp_path):
    assert settled(tmp_path) == {"GOMP_SPINCOUNT": str(SPINS)}


@pytest.mark.parametrize(
    "environment", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "infinity"}]
)
def test_what_the_user_chose_counts(settled, tmp_path, environment):
    assert settled(tmp_path, **environment) == {}


def test_nothing_is_set_once_torch_is_there(monkeypatch, tmp_path):
    """It would not be read, and processes that are started later would inherit it."""
    monkeypatch.setattr(_threads.os, "environ", {})
    settle_threads(tmp_path)
    assert _threads.os.environ == {}


def test_a_container_has_as_many_threads_as_processors(settled, tmp_path, monkeypatch):
    """Torch counts the machine's; what the user or torchrun says counts."""
    monkeypatch.setattr(_threads, "processors", lambda: 64)
    write(tmp_path / "proc/self/cgroup", "0::/box\n")
    write(tmp_path / "sys/fs/cgroup/box/cpu.max", "250000 100000\n")
    assert container_processors(tmp_path) == 2.5
    assert settled(tmp_path)["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in settled(tmp_path, OMP_NUM_THREADS="7")
    write(tmp_path / "sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert container_processors(tmp_path) == 0.5


def test_control_groups_of_version_1_and_without_limit(tmp_path):
    assert container_processors(tmp_path) is None
    write(tmp_path / "proc/self/cgroup", "4:cpu,cpuacct:/box\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", "max 100000\n")
    write(tmp_path / "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n")
    assert container_processors(tmp_path) is None
    write(tmp_path / "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "400000\n")
    assert container_processors(tmp_path) == 4


def test_openmp_runtimes_by_their_files(tmp_path):
    lines = [
        "7f0 r-xp 0 fe:00 1 /a b/torch/lib/libgomp.so.1",
        "7f1 r--p 0 fe:00 1 /a b/torch/lib/libgomp.so.1",
        "7f2 r-xp 0 fe:00 2 /x/faiss_cpu.libs/libgomp-e985bcbb.so.1.0.0",
        "7f3 r-xp 0 fe:00 3 /x/libompt-not.so",
    ]
    write(tmp_path / "maps", "\n".join(lines))
    assert openmp_runtimes(tmp_path / "maps") == ["libgomp-e985bcbb.so.1.0.0", "libgomp.so.1"]
    assert openmp_runtimes(tmp_path / "none") == []


def test_the_command_line_settles_before_torch_is_imported():
    """As libgomp itself says."""
    program = "import sys; from polygraph.cli import main; main(['doctor'])"
    environment = {k: v for k, v in os.environ.items() if k not in NAMES}
    environment |= {"OMP_DISPLAY_ENV": "verbose", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(Path(polygraph.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch has another OpenMP library")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in done.stderr
