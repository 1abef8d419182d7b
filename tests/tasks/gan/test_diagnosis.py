"""`polygraph score` and `neighbours` of runs: planted answers, pictures, bad input."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import tiny_run
from support.tiny_gan import random_images, tiny_gan

from polygraph.cli import main
from polygraph.data import ImageDataset
from polygraph.data.glyphs import make_glyphs
from polygraph.metrics import image_scores
from polygraph.tasks.gan.classifier import train_classifier
from polygraph.tasks.gan.diagnosis import diagnose_run, write_neighbors
from polygraph.tasks.gan.nearest import nearest_of_run
from polygraph.tasks.gan.run import Run, load_run, sample_run
from polygraph.tasks.gan.scores import open_run
from polygraph.tasks.gan.training import train_gan
from polygraph.tasks.mesh.training import train_mesh
from polygraph.train.checkpoint import load_checkpoint, save_checkpoint

COUNT = 90  # more images than features


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """What is measured need not be exact: few steps of the classifier, few subsets of KID."""
    quick = functools.partial(train_classifier, steps=10)
    with pytest.MonkeyPatch.context() as patch:
        few = functools.partial(image_scores.score, subsets=2, subset_size=50)
        patch.setattr(image_scores, "score", few)
        patch.setattr("polygraph.tasks.gan.classifier.train_classifier", quick)
        yield


@pytest.fixture(scope="module")
def digits():
    images, labels, is_test = make_glyphs(140, 0, 32)
    return ImageDataset.from_arrays(images, labels, test=np.flatnonzero(is_test))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits):
    """Three runs of a step: with graph layers in both networks, without, and with noise."""
    folder = tmp_path_factory.mktemp("runs")
    for name, preset, data in (
        ("graph", "small/both-edge-k8", digits),
        ("plain", "small/baseline", digits),
        ("noise", "digits", random_images()),
    ):
        train_gan(tiny_gan(preset, steps=1), folder / name, dataset=data)
    return folder


@pytest.fixture(scope="module")
def classifier(runs):
    """Folder of the classifier's weights: trained once."""
    return runs / "classifier"


def planted(run, folder, change):
    """A copy of a run, whose state and description `change` has changed."""
    state, meta = load_checkpoint(run / "last.safetensors")
    change(state["modules"], meta)
    folder.mkdir()
    save_checkpoint(folder / "last.safetensors", state, meta)
    return folder


def fails(capsys, arguments, status=1):
    assert main(arguments) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_diagnosis(runs, digits, classifier):
    """Each layer of both networks, each ablation, as text and as JSON; the same numbers again."""
    settings = {"dataset": digits, "classifier": classifier}
    found = diagnose_run(runs / "graph", COUNT, **settings)
    assert [use.label for use in found.layers] == [
        "generator 16x16", "generator 32x32", "critic 16x16",
    ]  # fmt: skip
    assert list(found.ablations) == ["zero", "local", "random", "mean"]
    assert len({scores.fid for scores in found.ablations.values()} | {found.scores.fid}) == 5
    summary = found.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert [layer["network"] for layer in summary["layers"]] == ["generator"] * 2 + ["critic"]
    assert set(summary["ablations"]["mean"]) == set(found.scores.summary())
    text = str(found)
    for words in ("generator 32x32  edge-sum", "neighbors at random", "ablations", "test images"):
        assert words in text
    run = replace(load_run(runs / "graph"), dataset=digits)
    again = run.diagnose(COUNT, classifier=settings["classifier"], ablations=False)
    assert again.layers == found.layers
    assert again.scores == found.scores
    assert again.ablations == {}


def test_a_run_that_ignores_its_neighbors(runs, digits, classifier, tmp_path):
    """Weights 0: the ratio is 0, and scores do not change but for the layer that is not halved."""

    def ignore(modules, meta):
        for weights in (modules["average"], modules["generator"]):
            for name in weights:
                if name.endswith(".lin.weight"):
                    weights[name].zero_()

    folder = planted(runs / "graph", tmp_path / "run", ignore)
    found = diagnose_run(folder, COUNT, dataset=digits, classifier=classifier)
    assert [use.layer.ratio for use in found.layers[:2]] == [0.0, 0.0]
    for kind in ("zero", "random", "mean"):
        assert found.ablations[kind].fid == pytest.approx(found.scores.fid, rel=1e-3)


def test_a_critic_that_cannot_be_read(runs, digits, classifier, tmp_path):
    """Scores, places and norms are there; what is not is said."""
    folder = planted(
        runs / "graph", tmp_path / "run", lambda modules, meta: modules["critic"].popitem()
    )
    settings = {"dataset": digits, "classifier": classifier, "ablations": False}
    found = diagnose_run(folder, COUNT, **settings)
    assert [use.nonlocal_gradient for use in found.layers] == [None, None]
    assert "no gradients, the critic cannot be read" in str(found)


def test_score_writes_a_picture(runs, digits, classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("polygraph.tasks.gan.scores.open_images", lambda _: digits)
    words = ["score", "--count", str(COUNT), "--classifier", str(classifier), "--no-ablations"]
    picture = tmp_path / "new" / "a.png"
    assert main([*words, "--run", str(runs / "graph"), "--picture", str(picture)]) == 0
    assert f"wrote {picture}" in capsys.readouterr().out
    assert Image.open(picture).size == (3 * (8 * 32 + 6), 4 * (8 * 32 + 6))
    assert main([*words, "--run", str(runs / "graph"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["layers"]) == 3
    assert Image.open(runs / "graph" / "neighbours.png").size == Image.open(picture).size
    assert main([*words, "--run", str(runs / "plain"), "--json"]) == 0
    assert "layers" not in json.loads(capsys.readouterr().out)
    assert not (runs / "plain" / "neighbours.png").exists()
    line = fails(capsys, [*words, "--run", str(runs / "plain"), "--picture", str(picture)])
    assert "has no graph layers" in line
    line = fails(capsys, [*words, "--run", "x", "--picture", "a.jpg"], status=2)
    assert "--picture must end in .png, got 'a.jpg'" in line


def test_the_picture_marks_chosen_pixels(runs, tmp_path):
    """The middle is red in each layer's tile, as large as a pixel there."""
    pixels = np.asarray(Image.open(write_neighbors(runs / "graph", tmp_path / "a.png")))
    for tile, size in ((1, 16), (2, 8)):
        left = tile * 262 + 6
        middle = pixels[6 + 128 : 6 + 128 + size, left + 128 : left + 128 + size]
        assert (middle == (230, 60, 50)).all()


def test_neighbours(runs, digits, classifier, tmp_path, monkeypatch, capsys):
    """Numbers, the picture's rows, from the command line and from Python."""
    monkeypatch.setattr("polygraph.tasks.gan.scores.open_images", lambda _: digits)
    words = ["neighbours", "--run", str(runs / "graph"), "--classifier", str(classifier)]
    words += ["--count", "20", "--rows", "3", "--neighbours", "2", "--scale", "1"]
    words += ["--out", str(tmp_path / "new" / "a.png")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "generated images  " in text
    assert "of 20" in text
    assert main([*words, "--closest", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["num_fake"] == 20
    assert summary["num_train"] == len(digits.train)
    run = Run(runs / "graph", *load_parts(runs / "graph"), digits)
    found = run.nearest(20, 2, classifier=classifier)
    assert found.summary() == summary
    assert np.array_equal(found.images, sample_run(runs / "graph", 20).numpy())
    picture = found.picture(3, scale=1)
    assert picture.shape == (3 * 33 + 1, 34 + 3 + 2 * 33 + 1, 1)
    assert np.array_equal(picture[34:66, 1:33, 0], found.images[1, 0])
    near = digits.images[digits.train[found.found.index[1, 1]], 0]
    assert np.array_equal(picture[34:66, 38 + 33 : 38 + 65, 0], near)
    closest = found.order(closest=True)
    assert found.found.distance[closest, 0].diff().min() >= 0
    shown = np.asarray(Image.open(tmp_path / "new" / "a.png"))
    assert np.array_equal(shown, found.picture(3, scale=1, closest=True)[..., 0])
    with pytest.raises(ValueError, match="from 1 to the number of images, 20, got 21"):
        found.picture(21)


def load_parts(folder):
    run = load_run(folder)
    return run.model, run.meta


def test_bad_input_of_neighbours(runs, digits, tmp_path, monkeypatch, capsys):
    """One sentence each."""
    opened = [digits]
    monkeypatch.setattr("polygraph.tasks.gan.scores.open_images", lambda _: opened[0])
    words = ["neighbours", "--out", str(tmp_path / "a.png"), "--count", "9"]
    line = fails(capsys, [*words, "--run", str(runs / "graph"), "--neighbours", "1000"])
    assert f"from 1 to {len(digits.train)} neighbours, the training images of arrays" in line
    config = tiny_run(tmp_path / "mesh", steps=1)
    train_mesh(config, tmp_path / "mesh" / "run")
    line = fails(capsys, [*words, "--run", str(tmp_path / "mesh" / "run")])
    assert "holds a mesh autoencoder, not a generator of images" in line
    assert "no run here" in fails(capsys, [*words, "--run", str(tmp_path)])
    opened[0] = random_images()
    line = fails(capsys, [*words, "--run", str(runs / "noise")])
    assert "noise-1 has no labels" in line
    assert "--inception FILE" in line
    for more, message in (
        (["--rows", "10"], "rows must be at most count, 9, got 10"),
        (["--count", "0"], "count must be at least 1"),
        (["--neighbours", "0"], "neighbours must be at least 1, got 0"),
        (["--out", "a.jpg"], "--out must end in .png, got 'a.jpg'"),
    ):
        assert message in fails(capsys, [*words, "--run", "x", *more], status=2)
    assert not (tmp_path / "a.png").exists()


def test_images_that_are_not_finite(runs, digits, classifier, monkeypatch):
    run = open_run(runs / "plain", dataset=digits)
    nan = torch.tensor(torch.nan)
    run.generator.register_forward_hook(
        lambda _, __, out: out.index_fill(0, torch.tensor([1]), nan)
    )
    monkeypatch.setattr("polygraph.tasks.gan.nearest.open_run", lambda *_, **__: run)
    with pytest.raises(ValueError, match="neighbours: 1 of 9 images are not finite"):
        nearest_of_run(runs / "plain", 9, classifier=classifier)
