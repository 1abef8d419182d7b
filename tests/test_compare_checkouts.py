"""The comparison of two checkouts: its statistics, on made-up times, and one run."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "compare_checkouts.py"


@pytest.fixture(scope="module")
def compared():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("compare_checkouts", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


QUIET = [1.00, 1.01, 0.99, 1.02, 0.98, 1.00, 1.01, 0.99, 1.00]


def times(values, factor):
    return [factor * value for value in values]


def test_median_and_quartiles_by_hand(compared):
    """Nine values: the third and the seventh are the quartiles."""
    found = compared.compare([1.0] * 9, [9, 1, 8, 2, 7, 3, 6, 4, 5])
    assert (found.ratio.low, found.ratio.median, found.ratio.high) == (3, 5, 7)
    assert (found.before.median, found.after.median) == (1, 5)


@pytest.mark.parametrize(
    ("factor", "slower"), [(1.0, False), (0.8, False), (1.04, False), (1.06, True), (2.0, True)]
)
def test_a_quiet_machine(compared, factor, slower):
    """What exceeds the limit is found, what does not is not."""
    found = compared.compare(QUIET, times(QUIET, factor))
    assert (found.slower, found.unclear) == (slower, False)
    assert found.ratio.median == pytest.approx(factor)


def test_noise_is_no_slowdown(compared):
    """The median exceeds the limit, but the quartiles of the seconds overlap."""
    found = compared.compare([1.0, 1.3, 0.9, 1.2, 1.0], [1.1, 1.4, 1.0, 1.0, 1.3])
    assert found.ratio.median > compared.LIMIT
    assert (found.slower, found.unclear) == (False, True)


def test_one_wild_round_changes_nothing(compared):
    """A pause of the machine in one round."""
    after = times(QUIET, 1.0)
    after[4] *= 50
    assert not compared.compare(QUIET, after).slower
    before = list(QUIET)
    before[4] *= 50
    assert compared.compare(before, times(QUIET, 1.2)).slower


def test_ratios_are_taken_within_rounds(compared):
    """A machine that becomes slower and slower, for both alike."""
    drift = [1.0, 1.5, 2.0, 2.5, 3.0]
    found = compared.compare(drift, times(drift, 1.02))
    assert found.ratio.median == pytest.approx(1.02)
    assert found.ratio.high == pytest.approx(1.02)


def test_the_limit_is_the_callers(compared):
    found = compared.compare(QUIET, times(QUIET, 1.06), 1.1)
    assert not found.slower
    assert not found.unclear


def run(tmp_path, *arguments):
    """Compare this checkout with another folder; the finished process and the rows."""
    out = tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPT), str(ROOT), *map(str, arguments), "--rounds", "2"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    return done, json.loads(out.read_text()) if out.exists() else None


def test_a_checkout_with_itself(tmp_path):
    """Both sides are timed, and written with their commits; the limit is out of noise's reach."""
    only = ["--benchmarks", "poly_step", "--only", "1256, D 16", "--limit", "1000"]
    done, found = run(tmp_path, ROOT, *only)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 cases, 0 slower" in done.stdout
    assert found["before"] == found["after"]
    assert [case["pass"] for case in found["cases"]] == ["forward", "forward+backward"]
    assert all(len(side) == 2 for case in found["cases"] for side in case["seconds"])


def test_a_library_that_does_not_load_is_an_error(tmp_path):
    """Nothing is compared with a checkout whose package came from elsewhere, or is broken."""
    package = tmp_path / "other" / "polygraph"
    package.mkdir(parents=True)
    (package / "_C.abi3.so").touch()
    (package / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    only = ["--benchmarks", "poly_step", "--only", "1256, D 16", "--pass", "forward"]
    done, _ = run(tmp_path, tmp_path / "other", *only)
    assert done.returncode == 1
    assert "ERROR  poly_step, 1256, D 16, forward" in done.stdout


def test_a_folder_without_a_library_is_refused(tmp_path):
    done, _ = run(tmp_path, tmp_path)
    assert done.returncode == 2
    assert "no built library there" in done.stderr
