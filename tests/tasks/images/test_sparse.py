"""Classifiers by sparse codes, from MNIST's files to predictions and pictures of atoms."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_images import tiny_images

from polygraph.cli import main
from polygraph.models import SparseCodingClassifierConfig
from polygraph.tasks import images
from polygraph.tasks.images.arguments import parse_train_images
from polygraph.tasks.images.training import ImagesRunConfig, train_images
from polygraph.train.checkpoint import CheckpointError, load_weights
from polygraph.train.log import read_log

SMALL = SparseCodingClassifierConfig(
    in_channels=1, size=12, channels=(6, 8), kernels=(5, 4), strides=(2, 1), unfoldings=1
)


@pytest.fixture
def mnist(tmp_path):
    """Bars that stand and bars that lie, in the four files of MNIST."""
    rng, folder = np.random.default_rng(0), tmp_path / "mnist"
    folder.mkdir()
    for part, count in (("train", 40), ("t10k", 10)):
        pixels, labels = np.zeros((count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 2
        for image, label in zip(pixels, labels, strict=True):
            (image if label else image.T)[rng.integers(8, 20)] = 255
        head = struct.pack(">HBB3I", 0, 8, 3, *pixels.shape)
        file = gzip.compress(head + pixels.tobytes())
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(file)
        head = struct.pack(">HBBI", 0, 8, 1, count)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return folder


def test_from_files_to_atoms(mnist, tmp_path, capsys):
    """Training with a reconstruction, resume, predict, evaluate, the picture."""
    run, picture = tmp_path / "run", tmp_path / "bar.png"
    words = ["train", "images", str(mnist), "--kind", "mnist", "--data.size", "28"]
    words += ["--preset", "sparse/fista", "--model.channels", "6,8", "--model.kernels", "6,6"]
    words += ["--model.strides", "2,2", "--model.unfoldings", "1", "--reconstruction", "0.01"]
    words += ["--accelerator", "cpu", "--batch-size", "8", "--learning-rate", "0.003"]
    words += ["--schedule", "constant", "--log-every", "1", "--out", str(run)]
    assert main([*words, "--steps", "20"]) == 0
    assert main(["train", "images", "--out", str(run), "--resume", "--steps", "30"]) == 0
    assert "30 steps" in capsys.readouterr().out
    found = images.load(run)
    assert found.model.config.method == "fista"
    assert found.evaluate() == found.result["test"]
    far = [row["reconstruction"] for row in read_log(run / "log.jsonl") if "reconstruction" in row]
    assert min(far[-3:]) < far[0]
    bar = np.zeros((28, 28), np.uint8)
    bar[12] = 255
    Image.fromarray(bar).save(picture)
    assert main(["predict", str(picture), "--run", str(run), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert set(told["probabilities"]) == set(found.classes)
    assert main(["atoms", "--run", str(run), "--out", str(tmp_path / "a.png")]) == 0
    assert "method='fista'" in capsys.readouterr().out
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_resume_ends_with_the_same_bits(tmp_path):
    """The step sizes of power iteration, which follow the weights, among them."""
    config = tiny_images(SMALL, schedule="constant", steps=4, eval_every=2)
    half = tiny_images(SMALL, schedule="constant", steps=2, eval_every=2)
    whole = train_images(config, tmp_path / "whole")
    train_images(half, tmp_path / "parts")
    assert train_images(config, tmp_path / "parts", resume=True)["test"] == whole["test"]
    models = [images.load(tmp_path / name).model for name in ("whole", "parts")]
    for model, name in zip(models, ("whole", "parts"), strict=True):
        load_weights(model, tmp_path / name / "last.safetensors")
    states = [model.state_dict() for model in models]
    assert "coder.vector_0" in states[0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = ImagesRunConfig(**{**vars(config), "reconstruction": 0.5})
    assert other.digest() != config.digest()
    with pytest.raises(CheckpointError, match="reconstruction is"):
        train_images(other, tmp_path / "parts", resume=True)


def test_presets_have_the_same_parameters_but_for_lista():
    """What the comparison of unfoldings needs."""
    for name in ("layered", "ista", "fista", "basis-pursuit", "lista"):
        words = ["DIR", "--preset", f"sparse/{name}", "--out", "R"]
        model = parse_train_images(words)[0].model
        assert (model.method, model.unfoldings) == (name, 0 if name == "layered" else 6)
        assert model.step_sizes == "power"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "sparse/istta"], "did you mean 'sparse/ista'"),
        (
            ["--preset", "sparse/layered", "--model.unfoldings", "2"],
            "must be 0 with the method lay",
        ),
        (["--reconstruction", "0.1"], "reconstruction is for the presets sparse/*"),
        (["--preset", "sparse/ista", "--reconstruction", "-1"], "reconstruction must be finite"),
    ],
)
def test_wrong_settings_are_usage_errors(tmp_path, capsys, words, message):
    assert main(["train", "images", "--out", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_atoms_of_something_else(tmp_path, capsys):
    train_images(tiny_images(steps=1), tmp_path / "run")
    words = ["atoms", "--run", str(tmp_path / "run")]
    for more, message, status in (
        ([], "holds a PixelClassifier, which has no dictionaries", 1),
        (["--out", "a.txt"], "--out must end in .png or .svg", 2),
        (["--shown", "0"], "shown must be at least 1, got 0", 2),
    ):
        assert main([*words, *more]) == status
        assert message in capsys.readouterr().err
