"""Adversarial runs from the command line: train, sample, score, demo-gan; wrong and bad input."""

import functools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_gan import kinds_of_networks, optimization, presets, random_images, tiny_gan

from polygraph.cli import main
from polygraph.tasks import gan
from polygraph.tasks.gan.arguments import parse_train_gan
from polygraph.tasks.gan.classifier import train_classifier
from polygraph.tasks.gan.presets import GAN_PRESETS
from polygraph.tasks.gan.run import load_generator, sample_run
from polygraph.tasks.gan.training import GanRunConfig, train_gan
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

TINY = [
    "--generator.channels", "[6,5,4,4]", "--generator.latent_channels", "5", "--generator.k", "3",
    "--critic.channels", "[3,4,5]", "--batch_size", "2", "--accelerator", "cpu",
    "--data.num_images", "140", "--steps", "2",
]  # fmt: skip


def fails(capsys, arguments, status=1):
    """Run, expect a failure, return its only line."""
    assert main(arguments) == status
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.fixture(scope="module", autouse=True)
def _quick_classifier():
    """Ten steps in place of 1,500: what is measured here need not be true."""
    quick = functools.partial(train_classifier, steps=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polygraph.tasks.gan.classifier.train_classifier", quick)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps from the command line; tests must not change it."""
    folder = tmp_path_factory.mktemp("gan") / "run"
    assert main(["train", "gan", *TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def classifier(trained):
    """A classifier of the run's digits, trained once for all tests."""
    folder = trained.parent / "classifier"
    words = ["score", "--run", str(trained), "--count", "90", "--no-ablations"]
    words += ["--picture", str(folder / "neighbours.png")]
    assert main([*words, "--classifier", str(folder)]) == 0
    return folder


def test_a_run_writes_everything(trained, capsys):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "run.json", "result.json", "last.safetensors", "log.jsonl", "curve.csv", "samples",
        "interpolations",
    }  # fmt: skip
    result = json.loads((trained / "result.json").read_text())
    assert result["config"]["preset"] == "digits"
    assert result["config"]["generator"]["channels"] == [6, 5, 4, 4]
    assert (result["steps"], result["families"]) == (2, ["graph", "graph"])
    generator, _ = load_generator(trained / "last.safetensors")
    assert result["parameters"] == sum(p.numel() for p in generator.parameters())
    assert not generator.training
    picture = np.asarray(Image.open(trained / "samples" / "0000002.png"))
    assert picture.shape == (2 * (8 * 33 + 1), 2 * (8 * 33 + 1))


def test_resume_from_the_command_line(trained, tmp_path, capsys):
    words = ["train", "gan", *TINY, "--out", str(trained)]
    assert "already holds a run" in fails(capsys, words)
    line = fails(capsys, [*words, "--resume", "--gan.critic_steps", "4"])
    assert "gan.critic_steps is 2 there and 4 here" in line
    line = fails(capsys, [*words, "--resume", "--data.seed", "4"])
    assert "dataset_hash is" in line
    assert main([*words, "--resume"]) == 0
    assert "2 generator steps" in capsys.readouterr().out


def test_sample(trained, tmp_path, capsys):
    """The same pictures for the same seed; rows of walks; the generator without its average."""
    words = ["sample", "--run", str(trained), "--count", "6", "--columns", "3", "--scale", "1"]
    paths = [tmp_path / name for name in ("a.png", "new/b.png", "c.png", "d.png")]
    for path, more in zip(
        paths, ([], [], ["--seed", "1"], ["--weights", "generator"]), strict=True
    ):
        assert main([*words, *more, "--out", str(path)]) == 0
        assert str(path.resolve()) in capsys.readouterr().out
    found = [np.asarray(Image.open(path)) for path in paths]
    assert found[0].shape == (2 * 33 + 1, 3 * 33 + 1)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[3])
    assert main([*words, "--interpolate", "--out", str(paths[0])]) == 0
    assert Image.open(paths[0]).size == (3 * 33 + 1, 3 * 33 + 1)
    walk = sample_run(trained, 2, interpolate=5)
    ends = sample_run(trained, 2)
    assert walk.shape == (5, 1, 32, 32)
    assert int((walk[[0, -1]].int() - ends.int()).abs().max()) <= 1


def test_score(trained, classifier, capsys):
    """Every value carries the extractor's name; the same numbers again."""
    words = ["score", "--run", str(trained), "--count", "90", "--classifier", str(classifier)]
    words += ["--no-ablations", "--picture", str(classifier / "neighbours.png")]
    rows = []
    for _ in range(2):
        assert main([*words, "--json"]) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[0] == rows[1]
    assert any(key.startswith("FID (LeNet") for key in rows[0])
    assert main(words) == 0
    assert "FID" in capsys.readouterr().out


def test_scores_select_the_best_weights(tmp_path, classifier):
    words = ["--score_images", "90", "--classifier", str(classifier), "--eval_every", "1"]
    assert main(["train", "gan", *TINY, *words, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    records = [
        json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    scores = {r["step"]: r["fid"] for r in records if "fid" in r}
    assert result["best_step"] == min(scores, key=lambda step: scores[step])
    assert result["fid"] == min(scores.values())
    assert load_checkpoint(tmp_path / "run" / "best.safetensors")[1]["progress"]["step"]


def test_bad_runs_and_files(trained, tmp_path, capsys):
    """A folder without a run, a damaged checkpoint, one of something else, other data."""
    for command in ("sample", "score"):
        assert "no run here" in fails(capsys, [command, "--run", str(tmp_path / "none")])
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    last = run / "last.safetensors"
    whole = last.read_bytes()
    for damaged in (b"", b"nothing", whole[: len(whole) // 2], whole[:-1]):
        last.write_bytes(damaged)
        assert "last.safetensors: " in fails(capsys, ["sample", "--run", str(run)])
    state, meta = load_checkpoint(trained / "last.safetensors")
    missing = {"modules": {"average": {"input.weight": torch.zeros(2)}}}
    wrong = {**meta, "families": ["graf", "graph"]}
    for values, described in (
        (state, {}),
        (missing, meta),
        ({"modules": {}}, meta),
        (state, wrong),
    ):
        save_checkpoint(last, values, described)
        with pytest.raises(CheckpointError, match="not a checkpoint of a GAN"):
            load_generator(last)
    last.write_bytes(whole)
    bad = tmp_path / "inception.pth"
    bad.write_bytes(b"no weights")
    line = fails(capsys, ["score", "--run", str(run), "--count", "10", "--inception", str(bad)])
    assert "inception.pth" in line
    line = fails(capsys, ["sample", "--run", str(run), "--out", str(tmp_path / "x.jpg")])
    assert "must end in .png" in line
    line = fails(capsys, ["sample", "--run", str(run), "--count", "3", "--interpolate"])
    assert "needs pairs" in line


@pytest.mark.filterwarnings("ignore:.*making it again:UserWarning")
def test_data_that_changed(tmp_path, capsys):
    """The scores of a run are measured on what it was trained on, or refused."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)

    def draw():
        for n in range(12):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(
                pictures / f"{n}.png"
            )

    draw()
    words = ["--data.kind", "folder", "--data.path", str(pictures)]
    words += ["--data.cache_dir", str(tmp_path / "cache")]
    assert main(["train", "gan", *TINY, *words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    generator, _ = load_generator(tmp_path / "run" / "last.safetensors")
    assert generator.config.out_channels == 3
    draw()
    line = fails(capsys, ["score", "--run", str(tmp_path / "run"), "--count", "10"])
    assert "its content is not what" in line
    line = fails(capsys, ["score", "--run", str(tmp_path / "run"), "--data", str(tmp_path / "no")])
    assert "no such" in line
    (pictures / "3.png").write_bytes(b"not a picture")
    line = fails(capsys, ["train", "gan", *TINY, *words, "--out", str(tmp_path / "other")])
    assert "3.png" in line
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["digits", "thesis/ecc-k8", "pi/sngan-ncp", "pi/dcgan"])
def test_help(capsys, name):
    """Settings of the preset's own networks, with what they mean."""
    try:
        status = main(["train", "gan", "--preset", name, "--help-all"])
    except SystemExit as done:
        status = done.code
    assert status == 0
    text = capsys.readouterr().out
    for word in ("--generator.channels", "--critic.", "--gan.critic-steps", "--data.kind"):
        assert word in text
    assert ("--generator.kind" in text) == (name == "pi/sngan-ncp")
    assert "steps of the critic before each of the generator" in " ".join(text.split())


def test_settings_from_preset_yaml_and_options(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("preset: thesis/light-k16\nsteps: 7\ngenerator: {rank: 3}\ngan: {ema: 0.5}\n")
    config, out, resume = parse_train_gan(["--config", str(path), "--out", "x", "--steps", "8"])
    assert (out, resume, config.preset) == ("x", False, "thesis/light-k16")
    assert (config.generator.graph, config.generator.k, config.generator.rank) == ("light", 16, 3)
    assert (config.gan.ema, config.gan.optimizer, config.train.steps) == (0.5, "rmsprop", 8)
    assert (config.train.learning_rate, config.train.batch_size) == (1e-4, 32)
    assert config.train.schedule == "linear"
    other, _, _ = parse_train_gan(["--out", "x", "--preset", "pi/sngan"])
    assert (other.gan.loss, other.gan.generator_batch, other.train.batch_size) == ("hinge", 128, 64)


@pytest.mark.parametrize("name", presets(kinds_of_networks, optimization))
def test_settings_of_every_preset(name):
    found, _, _ = parse_train_gan(["--out", "x", "--preset", name])
    preset = GAN_PRESETS[name]
    assert (found.generator, found.critic, found.gan) == (
        preset.generator,
        preset.critic,
        preset.gan,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "thesis/ec-k8"], "did you mean 'thesis/ecc-k8'"),
        (["--preset", "pi/sngann"], "did you mean 'pi/sngan'"),
        (["--generator.graph", "edgy"], "did you mean 'edge-"),
        (["--generator.chanels", "[1]"], "unknown setting --generator.chanels; did you mean"),
        (["--generator.channels", "[1]"], "channels must be 4 numbers, got [1]"),
        (["--gan.loss", "wgan-pg"], "gan.loss must be one of"),
        (["--gan.critic_steps", "0"], "critic_steps must be at least 1, got 0"),
        (["--size", "64", "--critic.size", "32"], "size must be one for the generator, the critic"),
        (["--size", "36"], "size must be 4, 5, 6 or 7 times a power of two"),
        (["--size", "8"], "size must be at least 16 for a graph layer, got 8"),
        (["--size", "64", "--generator.channels", "8,8,8,8"], "channels must be 5 numbers"),
        (["--data.kind", "cifar"], "unknown kind 'cifar'"),
        (["--data.kind", "mnist"], "path must be set for kind 'mnist'"),
        (["--score_images", "-1"], "score_images must be 0 or more, got -1"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--config", "nothing.yaml"], "nothing.yaml: no such file"),
        (["--optimizer", "sgd"], "optimizer is not for a pair, whose optimizers are set in gan"),
        (["--beta1", "0.5"], "beta1 is not for a pair, whose optimizers are set in gan, got 0.5"),
        (["--precision", "16-mixed"], "scales one loss, a pair has two"),
        (["--schedule", "onecycle"], "cycle_momentum must be false for a pair"),
    ],
)
def test_wrong_settings_are_usage_errors(tmp_path, capsys, words, message):
    out = tmp_path / "run"
    assert message in fails(capsys, ["train", "gan", "--out", str(out), *words], status=2)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample"], "--run"),
        (["sample", "--run", "x", "--count", "0"], "count must be at least 1, got 0"),
        (["sample", "--run", "x", "--columns", "1", "--interpolate"], "columns must be at least 2"),
        (["sample", "--run", "x", "--scale", "0"], "scale must be at least 1"),
        (["sample", "--run", "x", "--weights", "best"], "invalid choice"),
        (["score", "--run", "x", "--count", "0"], "count must be at least 10, got 0"),
        (["score"], "--run"),
        (["demo-gan", "--preset", "digit"], "did you mean 'digits'"),
        (["demo-gan", "--steps", "0"], "steps must be at least 1"),
    ],
)
def test_wrong_commands(capsys, words, message):
    assert message in fails(capsys, words, status=2)


def test_configs_of_something_else():
    with pytest.raises(TypeError, match="generator must be a config of a generator, got 3"):
        GanRunConfig(generator=3)
    with pytest.raises(TypeError, match="critic must be a config of a critic"):
        GanRunConfig(critic=GanRunConfig().generator)


def test_demo_end_to_end(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo-gan", "--out", str(out), "--steps", "1"]) == 0
    text = capsys.readouterr().out
    for name in ("samples.png", "interpolations.png"):
        assert name in text
        assert Image.open(out / name).size == (3 * 265, 3 * 265)
    assert "ms per generator step" in text


def test_scores_follow_a_run_nowhere(trained, tmp_path, capsys):
    """Neither to data, nor to a classifier's folder, that this user has not named."""
    run, chosen = tmp_path / "run", tmp_path / "chosen"
    run.mkdir()
    state, meta = load_checkpoint(trained / "last.safetensors")
    meta["config"]["classifier"] = str(chosen)
    meta["config"]["data"] |= {"kind": "folder", "path": "/", "cache_dir": str(chosen)}
    save_checkpoint(run / "last.safetensors", state, meta)
    words = ["score", "--run", str(run), "--count", "90", "--no-ablations"]
    assert "the run says that its data lie at '/'" in fails(capsys, words)
    meta["config"]["data"] |= {"kind": "glyphs", "path": None}
    save_checkpoint(run / "last.safetensors", state, meta)
    (run / "classifier").symlink_to(chosen)
    assert "leads out of the run" in fails(capsys, words)
    (run / "classifier").unlink()
    assert main(words) == 0
    assert (run / "classifier").is_dir()
    assert not chosen.exists()


def test_a_refused_resume_trains_no_classifier(tmp_path):
    """The folder is compared first: these images have no labels, so a classifier is an error."""
    config, images = tiny_gan(steps=1), random_images()
    train_gan(config, tmp_path, dataset=images)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = replace(config, score_images=4, gan=replace(config.gan, ema=0.5))
    with pytest.raises(CheckpointError, match=r"belongs to another run: gan\.ema is"):
        train_gan(other, tmp_path, resume=True, dataset=images)
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_gan(replace(config, score_images=4), tmp_path, dataset=images)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_size_of_the_data_is_that_of_the_networks(tmp_path, capsys):
    """From the command line, from Python, and of a run that is resumed; pictures have it."""
    words = [*TINY, "--preset", "pi/dcgan", "--size", "64", "--steps", "1"]
    words = [w for w in words if w != "--generator.k" and w != "3"]
    at = words.index("--generator.channels")
    words[at + 1] = "[6,5,4,4,3]"
    words[words.index("--critic.channels") + 1] = "[3,3,4,5]"
    assert main(["train", "gan", *words, "--out", str(tmp_path / "run")]) == 0
    assert main(["train", "gan", "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert sample_run(tmp_path / "run", 2).shape == (2, 1, 64, 64)
    for preset, size in (("pi/sngan", 28), ("pi/dcgan-64", 64), ("pi/dcgan-64", 16)):
        words = ["--out", "x", "--preset", preset, "--size", str(size)]
        config, _, _ = parse_train_gan(words)
        assert config.data.size == config.generator.size == config.critic.size == size
    config, _, _ = parse_train_gan(["--out", "x", "--preset", "pi/dcgan-64"])
    assert config.data.size == 64
    larger = np.zeros((20, 1, 60, 60), np.uint8)
    run = gan.train(
        larger, tmp_path / "arrays", preset="linear/ncp", size=64, steps=1, batch_size=2,
        say=lambda line: None, generator={"channels": (4, 4, 3, 3, 2)},
    )  # fmt: skip
    assert run.sample(1).shape == (1, 1, 64, 64)
    with pytest.raises(
        ValueError, match="size must be at least that of the images, 60 x 60, got 32"
    ):
        gan.train(larger, tmp_path / "other")


def test_runs_of_before_there_were_sizes(trained, tmp_path):
    """The same images, and what a run is compared with when it goes on, are as they were."""
    state, meta = load_checkpoint(trained / "last.safetensors")
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for network in ("generator", "critic"):
        del meta["config"][network]["size"]
        assert "size" not in meta["identity"][network]
    save_checkpoint(run / "last.safetensors", state, meta)
    assert torch.equal(sample_run(run, 3), sample_run(trained, 3))
    described = json.loads((run / "run.json").read_text())
    described["config"] = meta["config"]
    (run / "run.json").write_text(json.dumps(described))
    assert main(["train", "gan", "--out", str(run), "--resume"]) == 0
