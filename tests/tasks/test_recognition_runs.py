"""Rows of runs of sounds and of identities, of which a results page is made."""

import json
import shutil

import image_runs
import numpy as np
import pytest
import recognition_runs
from support.tiny_audio import tiny_audio
from support.tiny_verify import tiny_verify

from polygraph.data import AudioDataConfig, open_audio
from polygraph.tasks import audio
from polygraph.tasks.audio.training import train_audio
from polygraph.tasks.verify.training import train_verify


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A short run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    train_audio(tiny_audio(), folder / "tones-s0")
    train_verify(tiny_verify(), folder / "glyphs-s0")
    return folder


def rows_of(kind, out, *folders):
    recognition_runs.main([kind, *map(str, folders), "--out", str(out)])
    return json.loads(out.read_text())


def test_rows_of_sounds(runs, tmp_path):
    """The clips that are said to be wrong are those that the run gets wrong."""
    (row,) = rows_of("audio", tmp_path / "rows.json", runs / "tones-s0")
    result = json.loads((runs / "tones-s0/result.json").read_text())
    assert (row["run"], row["variant"], row["seed"]) == ("tones-s0", "tones", 0)
    assert row["held_out"] == "random"
    run = audio.load(runs / "tones-s0")
    sounds = open_audio(AudioDataConfig(**result["config"]["data"]))
    wrong = run.predict(sounds.clips(sounds.test)) != sounds.labels[sounds.test]
    assert row["test"]["wrong"] == np.flatnonzero(wrong).tolist()
    assert row["test"]["accuracy"] == result["test"]["accuracy"] == 1 - wrong.mean()


def test_rows_of_identities(runs, tmp_path):
    (row,) = rows_of("verify", tmp_path / "rows.json", runs / "glyphs-s0")
    test = json.loads((runs / "glyphs-s0/result.json").read_text())["test"]
    assert row["test"]["accuracy"] == np.mean(test["pairs"]["fold_accuracy"])
    assert row["test"]["num_pairs"] == 120
    assert row["test"]["rank1"] == test["identification"]["rank1"]


def test_runs_that_cannot_be_compared(runs, tmp_path):
    out = tmp_path / "rows.json"
    with pytest.raises(SystemExit, match=r"no finished run here \(result.json is missing\)"):
        rows_of("audio", out, tmp_path)
    shutil.copytree(runs / "tones-s0", tmp_path / "tones-s1")
    with pytest.raises(SystemExit, match="its name must end in -s0, its seed"):
        rows_of("audio", out, tmp_path / "tones-s1")
    longer = tmp_path / "longer-s0"
    shutil.copytree(runs / "glyphs-s0", longer)
    result = json.loads((longer / "result.json").read_text())
    result["config"]["train"]["steps"] = 9
    (longer / "result.json").write_text(json.dumps(result))
    with pytest.raises(SystemExit, match="longer-s0: of other data, length or batch than"):
        rows_of("verify", out, runs / "glyphs-s0", longer)
    assert not out.exists()


def test_a_run_whose_clips_are_others(runs, tmp_path):
    """A confusion that its clips do not give is not copied into a row."""
    changed = tmp_path / "tones-s0"
    shutil.copytree(runs / "tones-s0", changed)
    result = json.loads((changed / "result.json").read_text())
    result["test"]["accuracy"] = (result["test"]["accuracy"] + 0.5) % 1
    (changed / "result.json").write_text(json.dumps(result))
    with pytest.raises(SystemExit, match="other clips are wrong"):
        rows_of("audio", tmp_path / "rows.json", changed)


def test_rows_kept_from_before():
    kept, new = [{"run": "a"}, {"run": "b"}], [{"run": "c"}, {"run": "b", "steps": 2}]
    assert recognition_runs.merged(kept, new) == [{"run": "a"}, *new]


def test_losses_that_are_not_finite_are_null():
    rows = [
        {"preset": None, "val": {"loss": float("nan")}, "validation": {"val_loss": [1.5, 1e400]}}
    ]
    text = image_runs.as_json(rows)
    assert json.loads(text) == [
        {"preset": None, "val": {"loss": None}, "validation": {"val_loss": [1.5, None]}}
    ]
    (row,) = image_runs.from_json(text)
    assert row["preset"] is None
    assert np.isnan([row["val"]["loss"], row["validation"]["val_loss"][1]]).all()
