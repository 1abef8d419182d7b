"""Training classifiers of sounds: result, resume, identity, every family, bad settings."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from support.sounds import digits, tone, write_pcm
from support.tiny_audio import DATA, MODEL, tiny_audio

from polygraph.cli import main
from polygraph.data import AudioDataConfig, AudioDataset, open_audio
from polygraph.data.audio.mel import FeatureConfig
from polygraph.models import LeNetConfig, PixelClassifierConfig
from polygraph.models.images.families import CLASSIFIERS
from polygraph.tasks import audio
from polygraph.tasks.audio.arguments import parse_train_audio
from polygraph.tasks.audio.training import AudioRunConfig, audio_train_config, train_audio
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from polygraph.train.log import read_log
from polygraph.train.sound_augment import SoundAugmentConfig


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))


def with_train(config, **train):
    return replace(config, train=replace(config.train, **train))


def tensors(path):
    """All tensors of a checkpoint, by their places."""
    found = {}

    def walk(value, place):
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{place}/{key}")
        elif isinstance(value, torch.Tensor):
            found[place] = value

    walk(load_checkpoint(path)[0], "")
    return found


def test_a_run_writes_everything(tmp_path):
    result = train_audio(tiny_audio(), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "run.json", "result.json", "last.safetensors", "best.safetensors", "log.jsonl", "curve.csv",
    }  # fmt: skip
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written == json.loads(json.dumps(result))
    test, confusion = result["test"], np.array(result["test"]["confusion"])
    assert test["num_samples"] == confusion.sum() == 8
    assert test["accuracy"] == np.trace(confusion) / 8
    assert test["num_speakers"] == len(test["per_speaker"]) <= 3
    log = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "val_error" in r]
    assert [record["step"] for record in log] == [4, 8]
    statistics = json.loads((tmp_path / "run" / "run.json").read_text())["statistics"]
    assert statistics == result["statistics"]
    run = audio.load(tmp_path / "run")
    np.testing.assert_allclose(run.features.mean, statistics["mean"], rtol=1e-6)
    for part in ("test", "val"):
        again = run.evaluate(part=part)
        assert again["loss"] == pytest.approx(result[part]["loss"], rel=1e-5)
        assert again["per_speaker"] == result[part]["per_speaker"]
    assert run.evaluate(part="train")["num_samples"] == 48
    assert (run.result, result["split"], run.meta["rate"]) == (written, "random", 8000)


@pytest.mark.parametrize("balanced", [False, True])
def test_resume_ends_with_the_same_bits(tmp_path, balanced):
    """Sounds that are changed at random, the plateau and the statistics among them."""
    model = PixelClassifierConfig(width=4)
    more = {"balanced": balanced}
    plateau = {"schedule": "plateau", "patience": 0, "optimizer": "sgd", "learning_rate": 0.01}
    config = tiny_audio(model, settings=more, **plateau)
    whole = train_audio(config, tmp_path / "whole")
    train_audio(with_train(config, steps=4), tmp_path / "parts")
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_audio(config, tmp_path / "parts")
    parts = train_audio(config, tmp_path / "parts", resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        one, two = (tensors(tmp_path / run / name) for run in ("whole", "parts"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[place], two[place]) for place in one)
    assert (parts["test"], parts["val"]) == (whole["test"], whole["val"])
    other = train_audio(with_train(config, seed=1), tmp_path / "other")
    assert other["test"]["loss"] != whole["test"]["loss"]


def test_training_learns(tmp_path):
    data = replace(DATA, num_clips=240, split="speaker:eve")
    config = tiny_audio(LeNetConfig(), data, steps=60, eval_every=60, learning_rate=3e-3)
    result = train_audio(with_train(config, batch_size=32), tmp_path / "run")
    assert result["test"]["accuracy"] >= 0.6  # chance is 0.25
    assert [*result["test"]["per_speaker"]] == ["eve"]


def test_another_run_is_refused(tmp_path):
    config = tiny_audio(steps=1)
    train_audio(config, tmp_path / "run")
    for change, what in (
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"augment": SoundAugmentConfig(noise=0.2)}, "augment.noise"),
        ({"features": FeatureConfig("log")}, "features.scale"),
        ({"balanced": True}, "balanced"),
        ({"data": replace(DATA, seed=1)}, "dataset_hash"),
        ({"data": replace(DATA, split="speaker:bob")}, "split_hash"),
        ({"split_seed": 1}, "split_hash"),
        ({"model": PixelClassifierConfig(width=4)}, "model."),
    ):
        other = replace(config, **change)
        assert other.digest() != config.digest()
        with pytest.raises(CheckpointError, match=f"{what}.* is"):
            train_audio(other, tmp_path / "run", resume=True)
    assert config.digest() == with_train(config, log_every=3).digest()


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_every_family_hears(tmp_path, family):
    """Whatever it is made for by default: one channel of 32 x 32, and the classes of the data."""
    cls = CLASSIFIERS[family][0]
    names = {field.name for field in fields(cls)}
    model = cls(**({"width": 4} if "width" in names else {}))
    result = train_audio(tiny_audio(model, steps=1, batch_size=4), tmp_path / "run")
    assert result["steps"] == 1
    assert audio.load(tmp_path / "run").model.config.num_classes == 4


def test_data_that_cannot_be_trained_on(tmp_path):
    run, sounds = tmp_path / "run", np.zeros((20, 8000), np.int16)

    def made(labels):
        return AudioDataset.from_arrays(sounds, labels, 8000, test=[0])

    for data, message in (
        (made([0] * 20), "at least 2 classes, got 1: a folder has one subfolder for each class"),
        (made(range(20)), "no class has two training clips"),
    ):
        with pytest.raises(ValueError, match=message):
            train_audio(tiny_audio(), run, dataset=data)
    for name, value in (("in_channels", 3), ("num_classes", 7), ("size", 16)):
        with pytest.raises(ValueError, match=f"model: {name} must be"):
            train_audio(tiny_audio(replace(MODEL, **{name: value})), run)
    assert not run.exists()


def test_silence_alone_trains(tmp_path):
    """No band varies: statistics are usable all the same."""
    data = AudioDataset.from_arrays(np.zeros((20, 8000), np.int16), np.arange(20) % 2, 8000)
    result = train_audio(tiny_audio(steps=2), tmp_path / "run", dataset=data)
    assert result["statistics"]["std"] == [1.0] * 32
    assert result["test"]["num_samples"] == 2
    assert "per_speaker" not in result["test"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"val_fraction": float("nan")}, r"val_fraction must be in \(0, 1\), got nan"),
        ({"split_seed": -1}, "split_seed must be at least 0, got -1"),
        ({"balanced": 1}, "balanced must be true or false, got 1"),
    ],
)
def test_bad_configurations(settings, message):
    with pytest.raises(ValueError, match=message):
        AudioRunConfig(**settings)
    with pytest.raises(TypeError, match="model must be a config of a classifier, got 3"):
        AudioRunConfig(model=3)


def test_damaged_runs(tmp_path):
    config = tiny_audio(steps=1, schedule="constant")
    train_audio(config, tmp_path / "run")
    state, meta = load_checkpoint(tmp_path / "run" / "best.safetensors")
    for change in ({"statistics": {"mean": [0]}}, {"rate": "x"}, {"samples": 3}):
        save_checkpoint(tmp_path / "run" / "best.safetensors", state, {**meta, **change})
        with pytest.raises(CheckpointError, match="not of a classifier of sounds"):
            audio.load(tmp_path / "run")
    state, meta = load_checkpoint(tmp_path / "run" / "last.safetensors")
    meta["statistics"]["std"][3] = 0
    save_checkpoint(tmp_path / "run" / "last.safetensors", state, meta)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: .*std must be"):
        train_audio(with_train(config, steps=2), tmp_path / "run", resume=True)


def parsed(*words):
    return parse_train_audio([*words, "--out", "x"])[0]


def test_what_a_command_line_stands_for():
    plain = parsed()
    assert plain == AudioRunConfig(preset="bed/conv")
    assert parsed("tones") == plain
    assert parsed("DIR").data == AudioDataConfig("auto", "DIR")
    digits = parsed("DIR", "--kind", "spoken-digits", "--split", "speaker:theo")
    assert digits.data == AudioDataConfig("spoken-digits", "DIR", split="speaker:theo")
    assert parsed("--augment.amplitude", "0.5", "2").augment.amplitude == (0.5, 2)
    sgd = parsed("--config", "audio-sgd", "--preset", "lenet")
    assert sgd.train == audio_train_config(
        optimizer="sgd", learning_rate=0.01, momentum=0.9, weight_decay=0.01, batch_size=96,
        epochs=70, schedule="plateau", lr_factor=0.1, patience=1,
    )  # fmt: skip
    assert sgd.balanced
    assert isinstance(sgd.model, LeNetConfig)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "bed/con"], "did you mean 'bed/conv'"),
        (
            ["--split", "speakers:theo"],
            "unknown split 'speakers:theo'; did you mean 'speaker:NAME'",
        ),
        (["--kind", "speech", "--data", "x"], "did you mean 'speech-commands'"),
        (["--balanced", "maybe"], "balanced must be bool, got 'maybe'"),
        (["--augment.noise", "2"], "noise must be in [0, 1), got 2"),
        (["--features.scale", "mel"], "scale must be one of db, log"),
    ],
)
def test_wrong_settings_are_usage_errors(tmp_path, capsys, words, message):
    out = tmp_path / "run"
    assert main(["train", "audio", "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


QUICK = ["--preset", "lenet", "--batch-size", "8", "--accelerator", "cpu", "--schedule", "constant"]


def test_the_command_line(tmp_path, capsys):
    """Train, resume by the run's own settings, tell the words of files, evaluate."""
    root, out = digits(tmp_path / "digits"), str(tmp_path / "run")
    words = ["train", "audio", str(root), "--split", "speaker:bob", *QUICK]
    assert main([*words, "--steps", "9", "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "24 clips of 8,000 samples at 8,000 Hz, 3 classes, split speaker:bob" in printed
    assert "of 12 test clips right" in printed
    assert main(["train", "audio", "--out", out, "--resume", "--steps", "20"]) == 0
    assert "20 steps" in capsys.readouterr().out
    run = audio.load(out)
    assert run.evaluate()["per_speaker"] == run.result["test"]["per_speaker"]
    moved = digits(tmp_path / "elsewhere", takes=5)
    assert run.evaluate(moved)["num_samples"] == 15
    write_pcm(tmp_path / "long.wav", tone(300, 3, 16000), 16000)
    paths = [str(root / "0_ann_1.wav"), str(tmp_path / "long.wav")]
    assert main(["predict", *paths, "--run", out, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["sound"] for row in rows] == paths
    shares = run.predict_proba(run.read(paths[1]))
    assert [*rows[1]["probabilities"].values()] == shares[0].tolist()
    assert main(["predict", paths[0], "--run", out]) == 0
    assert capsys.readouterr().out.startswith(f"{paths[0]}: {rows[0]['class']} (")
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    for words, message, status in (
        ([str(tmp_path / "bad.wav")], "bad.wav: wrong magic number", 1),
        ([paths[0], "--unit-sphere"], "--unit-sphere is for point clouds", 2),
        ([paths[0], "--class", "x"], "--class is for segmenters", 2),
    ):
        assert main(["predict", *words, "--run", out]) == status
        assert message in capsys.readouterr().err
    assert main(["evaluate", "--run", out]) == 1
    assert "holds a classifier of sounds" in capsys.readouterr().err
    (root / "0_ann_7.wav").write_bytes((root / "0_ann_1.wav").read_bytes())
    with pytest.warns(UserWarning, match="has changed"), pytest.raises(ValueError, match="content"):
        run.evaluate()


def test_from_python(tmp_path):
    sounds = np.random.default_rng(0).normal(size=(40, 6000)).astype(np.float32)
    data = AudioDataset.from_arrays(sounds, np.arange(40) % 2, 8000)
    lines = []
    settings = {"preset": "lenet", "steps": 3, "batch_size": 8, "accelerator": "cpu"}
    run = audio.train(data, tmp_path / "a", say=lines.append, **settings)
    assert "2 classes, split random: 32 train, 4 validate, 4 test" in lines[0]
    assert run.evaluate()["loss"] == pytest.approx(run.result["test"]["loss"], rel=1e-5)
    shares = run.predict_proba(sounds[:3])
    assert np.array_equal(run.predict(torch.from_numpy(sounds[:3])), shares.argmax(1))
    with pytest.raises(ValueError, match="hand them over again"):
        audio.load(tmp_path / "a").evaluate()
    with pytest.raises(TypeError, match="a folder, 'tones' or an AudioDataset, got ndarray"):
        audio.train(sounds, tmp_path / "b")
    for wrong, message in (
        (sounds[:0], r"shape \[B, L\]"), (sounds * np.nan, "finite"),
        (np.zeros((2, 3), int), r"int16 or floats.*got torch.int64"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            run.predict(wrong)
    other = open_audio(replace(DATA, rate=16000))
    with pytest.raises(ValueError, match="has the classes falling"):
        run.evaluate(other)
    with pytest.raises(ValueError, match="16000 samples at 16000 Hz, those of the run 8000"):
        run.evaluate(replace(other, classes=run.classes))
    with pytest.raises(ValueError, match="part must be train, val or test, got 'all'"):
        run.evaluate(part="all")
