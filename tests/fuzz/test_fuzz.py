"""The fuzzer itself: that it passes what is right, notices what is wrong, and goes on."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polygraph import ops

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRIPT = HERE / "fuzz.py"
CASES = 300

# What planted.py plants.
FAULTS = (
    "a value a thousandth off",
    "-1 names the last row",
    "a gradient that is not there",
    "a gradient a hundredth off",
    "a tangent a hundredth off",
    "a term lost where squares overflow",
    "a constant under a root a thousandth off",
    "of equal distances the last",
    "of equal codes the last",
    "wrong entries taken",
    "an argument written to",
    "half a type's sums in half a type",
)


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def fuzz():
    """The script as a module, by its path: `fuzz` is the folder of these tests, too."""
    spec = importlib.util.spec_from_file_location("operators_fuzzer", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def noticed():
    """Of every planted fault, the first case that fails, and whether it passes without it."""
    done = run(HERE / "planted.py", CASES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(FAULTS)
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(noticed, fault):
    """By a case in which nothing is wrong where nothing is planted."""
    number, innocent = noticed[fault]
    assert number is not None
    assert innocent


def test_goes_on_where_it_ended(tmp_path):
    """Cases of a second run are added to those of the first, and all pass."""
    state = tmp_path / "state.json"
    given = (SCRIPT, "edge_sum", "--state", state, "--isa", "plain")
    for cases in (6, 12):
        done = run(*given, "--cases", cases)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(state.read_text())["0"]["edge_sum"]["plain"]
        assert found == {"passed": cases, "next": 3 * cases, "failed": []}


def test_every_operator_has_cases(fuzz):
    """pack_bits is part of hamming_knn's cases; a graph of a table is that table, flat."""
    assert {*ops.__all__} - {*fuzz.NAMES} == {"Graph", "graph_from_table", "pack_bits"}
    assert {*fuzz.NAMES} == {*fuzz.operators()}


def test_one_case_alone():
    """A case is the same in every process."""
    first, again = (run(SCRIPT, "knn", "--seed", 3, "--case", 14) for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "1 case passed" in first.stdout
    assert first.stdout == again.stdout


def test_a_crash_ends_one_case(fuzz):
    """The process is gone; its case is known, and the next one can run."""
    request = {"operator": "transpose_table", "seed": 0, "step": 1, "seconds": 60}
    server = fuzz.Server("plain", str(HERE / "planted.py"))
    answer = server.ask(first=0, cases=5, **request)
    server.close()
    assert answer["dead"]
    assert (answer["ran"], answer["next"]) == (3, 3)
    (failure,) = answer["failures"]
    assert failure["number"] == 2
    assert failure["problems"] == ["ended the process: SIGABRT"]


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_ten_minutes(tmp_path):
    """What `make fuzz` runs, from the beginning."""
    done = run(SCRIPT, "--state", tmp_path / "state.json")
    assert done.returncode == 0, done.stdout + done.stderr
