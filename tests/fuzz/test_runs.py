"""Some dozens of the damaged folders and archives of runs.py, and that it notices what is wrong."""

import os
import time
from pathlib import Path

import pytest
from fuzz import runs

from polygraph.train.checkpoint import CheckpointError


@pytest.mark.parametrize(("kind", "cases"), [("runs", 10), ("archives", 40)])
def test_damage_is_refused_or_does_no_harm(kind, cases):
    counts, failures = runs.run_cases(kind, 1, cases)
    assert not failures
    assert counts["refused"] > cases / 10
    assert counts[""] > 0
    assert counts["refused"] + counts[""] == cases


def test_the_fuzzer_notices(tmp_path, monkeypatch):
    def fails(error):
        def use(folder):
            raise error

        return use

    place = tmp_path / "run"
    assert runs.outcome(lambda folder: 3, place, 3) == ""
    assert runs.outcome(lambda folder: 3, place, 4) == "another result, in silence"
    assert runs.outcome(fails(CheckpointError(f"{place}/a: bad")), place, 3) == "refused"
    assert "names no file" in runs.outcome(fails(ValueError("bad")), place, 3)
    for error in (KeyError("a"), RecursionError(), MemoryError(), RuntimeError("sizes")):
        assert "none of ours" in runs.outcome(fails(error), place, 3)
    assert "hangs" in runs.outcome(fails(TimeoutError()), place, 3)


def test_killed_children_are_told_from_those_that_end(tmp_path):
    def write(folder: Path) -> None:
        time.sleep(0.2)
        (folder / "done").touch()

    assert runs.forked(lambda: time.sleep(60), 0.05)
    assert not runs.forked(lambda: write(tmp_path), None)
    assert (tmp_path / "done").exists()
    with pytest.raises(RuntimeError, match="ended with an error"):
        runs.forked(lambda: os.listdir(tmp_path / "none"), None)


def test_every_trainer_is_known(tmp_path):
    """What the fuzzer imports moves with the tests."""
    kinds = {"mesh", "points", "gan", "images", "audio", "verify"}
    kinds |= {"denoise", "vertices"}
    assert set(runs.trainers(tmp_path)) == kinds
