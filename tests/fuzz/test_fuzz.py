"""The fuzzer itself: that it passes what is right, notices what is wrong, and goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLANTED = """
import sys
sys.path.insert(0, {folder!r})
import fuzz
from polygraph import ops
fuzz.operators()
right = ops.{operator}
ops.{operator} = lambda *given, **options: {wrong}
print(sum(bool(fuzz.run_case({operator!r}, 0, number)[0]) for number in range(40)))
"""


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("operator", "wrong"),
    [
        ("resample", "right(*given, **options) * (1 + 1e-3)"),
        ("spiral_conv", "right(*given, **options).detach()"),
    ],
)
def test_a_planted_fault_is_noticed(operator, wrong):
    """A value a thousandth off; a gradient that is not there."""
    done = run("-c", PLANTED.format(folder=str(HERE), operator=operator, wrong=wrong))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_goes_on_where_it_ended(tmp_path):
    """Cases of a second run are added to those of the first, and all pass."""
    state = tmp_path / "state.json"
    given = (HERE / "fuzz.py", "edge_sum", "--state", state, "--isa", "plain")
    for cases in (6, 12):
        done = run(*given, "--cases", cases)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(state.read_text())["0"]["edge_sum"]["plain"]
        assert found["passed"] == cases
        assert found["failed"] == []


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_ten_minutes(tmp_path):
    """What `make fuzz` runs, from the beginning."""
    done = run(HERE / "fuzz.py", "--state", tmp_path / "state.json")
    assert done.returncode == 0, done.stdout + done.stderr
