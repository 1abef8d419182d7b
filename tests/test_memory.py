"""What memory there is, by files as Linux has them; archives that would take too much of it."""

import zipfile

import numpy as np
import pytest

from polygraph._arrays import read_npz
from polygraph._memory import available_bytes

GIB = 1 << 30


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def machine(tmp_path):
    """A machine of which 8 GiB are available."""
    write(tmp_path, proc__meminfo=f"MemTotal: 99 kB\nMemAvailable: {8 << 20} kB\n")
    return tmp_path


def test_the_machine_and_no_limit(machine, tmp_path):
    assert available_bytes(machine) == 8 * GIB
    assert available_bytes(tmp_path / "none") > 1 << 60
    write(machine, proc__self__cgroup="0::/a/b\n")
    write(machine, sys__fs__cgroup__a__memory_dot_max="max\n")
    assert available_bytes(machine) == 8 * GIB


def test_a_limit_of_version_2_counts_at_every_level(machine):
    write(machine, proc__self__cgroup="0::/a/b\n")
    place = "sys__fs__cgroup__a__memory_dot_"
    write(machine, **{place + "max": str(2 * GIB), place + "current": str(GIB)})
    write(machine, **{place + "stat": f"anon 5\ninactive_file {GIB // 2}\n"})
    assert available_bytes(machine) == 3 * GIB // 2


def test_a_limit_of_version_1_and_of_a_container(machine):
    write(machine, proc__self__cgroup="4:memory:/not/visible/here\n0::/\n")
    place = "sys__fs__cgroup__memory__memory_dot_"
    write(machine, **{place + "limit_in_bytes": str(GIB), place + "usage_in_bytes": str(2 * GIB)})
    write(machine, **{place + "stat": "cache 7\n"})
    assert available_bytes(machine) == 0


def test_archives_are_counted_before_they_are_expanded(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(1 << 23))
    with pytest.raises(ValueError, match=r"bomb\.npz: at most 100 times .* got 67108992"):
        read_npz(path)
    np.savez(path, x=np.arange(3), y=np.ones((2, 2)))
    found = read_npz(path)
    assert found["x"].tolist() == [0, 1, 2]
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x.npy", b"")
    with pytest.raises(ValueError, match=r"bomb\.npz: must have at most 1000 arrays"):
        read_npz(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"bomb\.npz: not a readable \.npz archive"):
        read_npz(path)
    with pytest.raises(ValueError, match="not a file but a folder"):
        read_npz(tmp_path)
