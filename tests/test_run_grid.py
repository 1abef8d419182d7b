"""Grids of trainings: the command line reads them; runs are skipped, stopped and resumed."""

import json
import sys
from pathlib import Path

import pytest
from support.paths import REPOSITORY

from polygraph.tasks.audio.arguments import parse_train_audio
from polygraph.tasks.gan.arguments import parse_train_gan
from polygraph.tasks.images.arguments import parse_train_images
from polygraph.tasks.verify.arguments import parse_train_verify

run_grid = pytest.importorskip("run_grid", reason="Python 3.10 has no tomllib")
GRIDS = sorted((REPOSITORY / "benchmarks/grids").glob("*.toml"))
PARSERS = {
    "audio": parse_train_audio,
    "gan": parse_train_gan,
    "images": parse_train_images,
    "verify": parse_train_verify,
}

# Writes what a training writes. With 'fail' it fails; with 'long' it is scored, and goes on.
TRAINING = """
import json, sys, time
from pathlib import Path
words = sys.argv[1:]
out = Path(words[words.index("--out") + 1])
out.mkdir(exist_ok=True)
if "fail" in words:
    sys.exit(3)
if "long" in words:
    (out / "log.jsonl").write_text('{"step": 4}\\n{"step": 5, "fid": 1.0}\\n{"ste')
    time.sleep(60)
if "slow" in words:
    time.sleep(2)
(out / "result.json").write_text(json.dumps(words))
"""


def grid(folder, text):
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["run_grid.py", *map(str, words)])
    monkeypatch.setattr(run_grid, "POLL", 0.05)
    run_grid.main([sys.executable, "-c", TRAINING])


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_commands_are_read(path):
    runs = run_grid.read_grid(path, Path("/data"), Path("/runs"))
    assert len({run.name for run in runs}) == len(runs) > 3
    for run in {run.name.rsplit("-s", 1)[0]: run for run in runs}.values():
        verb, task, *words = run.words
        config, out, _ = PARSERS[task](words)
        assert (verb, out) == ("train", f"/runs/{run.name}")
        assert run.name.endswith(f"-s{config.train.seed}")
        assert run.stop is None or run.stop % config.train.eval_every == 0


def test_order_seeds_and_what_is_done(tmp_path, monkeypatch, capsys):
    text = (
        'command = "train {data}"\nseeds = [0, 1]\n[variants]\na = "--x 1"\nb = ""\n[only]\nb = [1]'
    )
    words = [grid(tmp_path, text), "--data", tmp_path, "--out", tmp_path / "runs"]
    run(monkeypatch, *words, "--workers", "2")
    results = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.rglob("result.json")}
    assert sorted(results) == ["a-s0", "a-s1", "b-s1"]
    assert results["a-s1"][:6] == ["train", str(tmp_path), "--x", "1", "--seed", "1"]
    (tmp_path / "runs/b-s1/result.json").unlink()
    (tmp_path / "runs/b-s1/last.safetensors").touch()
    capsys.readouterr()
    run(monkeypatch, *words)
    assert capsys.readouterr().out.split()[1:] == ["b-s1"]
    assert json.loads((tmp_path / "runs/b-s1/result.json").read_text())[-1] == "--resume"


def test_a_run_is_stopped_once_scored(tmp_path, monkeypatch):
    path = grid(tmp_path, 'command = "t"\nstop = 5\n[variants]\na = "long"')
    run(monkeypatch, path, "--data", tmp_path, "--out", tmp_path)
    assert not (tmp_path / "a-s0/result.json").exists()
    assert run_grid.is_done(run_grid.read_grid(path, tmp_path, tmp_path)[0], tmp_path)


def test_runs_beside_one_that_fails_end(tmp_path, monkeypatch):
    path = grid(tmp_path, 'command = "t"\n[variants]\na = "slow"\nb = "fail"\nc = ""')
    with pytest.raises(SystemExit):
        run(monkeypatch, path, "--data", tmp_path, "--out", tmp_path, "--workers", "2")
    assert sorted(p.parent.name for p in tmp_path.rglob("result.json")) == ["a-s0"]


def test_a_failure_ends_the_grid(tmp_path, monkeypatch, capsys):
    path = grid(tmp_path, 'command = "t"\n[variants]\na = "fail"\nb = ""')
    with pytest.raises(SystemExit):
        run(monkeypatch, path, "--data", tmp_path, "--out", tmp_path)
    assert "a-s0: failed with status 3" in capsys.readouterr().out
    assert not (tmp_path / "b-s0").exists()


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ('command = "t"\nseed = 1\n[variants]\na = ""', [], r"unknown keys \['seed'\]"),
        ('command = "t"', [], r"missing keys \['variants'\]"),
        ('command = "t"\n[variants]\na = ""\n[only]\nb = [0]', [], r"not there: \['b'\]"),
        ('command = "t"\n[variants]\na = ""', ["--only", "b*"], "no run is named so"),
    ],
)
def test_bad_grids(tmp_path, monkeypatch, text, words, message):
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, grid(tmp_path, text), "--data", "d", "--out", tmp_path, *words)
