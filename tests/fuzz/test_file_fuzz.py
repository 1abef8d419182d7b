"""Damaged files, some hundreds of them; and that the fuzzer notices what a reader lets pass."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from polygraph.mesh import read_mesh
from polygraph.mesh.cloud import read_cloud
from polygraph.mesh.formats import off, text

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "files.py"


@pytest.fixture(scope="module")
def fuzzer():
    sys.path.insert(0, str(HERE))
    try:
        import files
    finally:
        sys.path.remove(str(HERE))
    return files


def faults(fuzzer, numbers, folder):
    return [fault for n in numbers if (fault := fuzzer.run_case(0, n, folder)[1]) is not None]


def test_damaged_files(fuzzer, tmp_path):
    assert faults(fuzzer, range(330), tmp_path) == []


def test_valid_files_are_read(fuzzer, tmp_path):
    """What is not damaged is not refused."""
    rng = np.random.default_rng(0)
    for kind in fuzzer.KINDS:
        path = tmp_path / f"whole{fuzzer.make(kind, rng).suffix}"
        path.write_bytes(fuzzer.make(kind, rng).data)
        cloud = path.suffix in (".pcd", ".xyz")
        assert len(read_cloud(path) if cloud else read_mesh(path).vertices) == 8


@pytest.mark.parametrize(
    ("module", "name", "broken", "kind", "words"),
    [
        (off, "_check_counts", lambda *_: None, "off", "was not noticed"),
        (text, "_parse", lambda _, kinds, words: np.zeros(len(words)), "xyz", "other vertices"),
        (text, "_parse", lambda *_: [][0], "pcd-ascii", "raised IndexError"),
    ],
    ids=["counts", "numbers", "exceptions"],
)
def test_a_planted_fault_is_noticed(
    fuzzer, module, name, broken, kind, words, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, name, broken)
    cases = range(fuzzer.KINDS.index(kind), 60 * len(fuzzer.KINDS), len(fuzzer.KINDS))
    assert any(words in fault for fault in faults(fuzzer, cases, tmp_path))


def test_one_case_alone():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--seed", "3", "--case", "14"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 cases from 14 with seed 3, 0 failed" in done.stdout
