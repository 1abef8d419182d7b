"""`polygraph predict` with classifiers of images, trained on a folder of folders."""

import json

import numpy as np
import pytest
from PIL import Image

from polygraph.cli import main
from polygraph.tasks import images

QUICK = ["--preset", "bed/conv", "--width", "4", "--data.size", "12", "--accelerator", "cpu"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve red and twelve blue pictures; a run that tells them apart."""
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    root, rng = tmp_path / "pictures", np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (root / name).mkdir(parents=True)
        for n in range(12):
            pixels = np.zeros((16, 20, 3), np.uint8)
            pixels[..., channel] = rng.integers(128, 256, (16, 20))
            Image.fromarray(pixels).save(root / name / f"{n}.png")
    words = [str(root), *QUICK, "--steps", "15", "--batch-size", "8", "--learning-rate", "0.02"]
    assert main(["train", "images", *words, "--out", str(tmp_path / "run")]) == 0
    return root


def test_pictures_are_told_apart(folder, tmp_path, capsys):
    capsys.readouterr()
    paths = [str(folder / name / "0.png") for name in ("red", "blue")]
    assert main(["predict", *paths, "--run", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit("(")[0] for line in lines] == [f"{paths[0]}: red ", f"{paths[1]}: blue "]
    assert main(["predict", paths[0], "--run", str(tmp_path / "run"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["image"], row["class"]) == (paths[0], "red")
    assert row["probability"] == row["probabilities"]["red"] > 0.5
    run = images.load(tmp_path / "run")
    assert run.predict_proba(run.read(paths[0])).tolist() == [[*row["probabilities"].values()]]
    assert run.evaluate() == run.result["test"]
    assert run.evaluate(folder, part="val") == run.result["val"]


def test_what_cannot_be_told(folder, tmp_path, capsys):
    run = ["--run", str(tmp_path / "run")]
    (tmp_path / "text.png").write_text("no picture")
    for words, message, status in (
        ([str(tmp_path / "text.png")], "text.png: not a readable picture", 1),
        ([str(tmp_path / "none.png")], "none.png: not a readable picture", 1),
        (["a.png", "--class", "red"], "--class is for segmenters", 2),
        (["a.png", "--unit-sphere"], "--unit-sphere is for point clouds", 2),
    ):
        assert main(["predict", *words, *run]) == status
        assert message in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(folder / "red" / "more.png")
    with pytest.warns(UserWarning, match="has changed"), pytest.raises(ValueError, match="content"):
        images.load(tmp_path / "run").evaluate()


def test_a_picture_of_other_data_is_padded_as_in_training(tmp_path):
    words = [*QUICK, "--data.num-images", "100", "--steps", "1", "--batch-size", "8"]
    assert main(["train", "images", *words, "--out", str(tmp_path / "run")]) == 0
    run = images.load(tmp_path / "run")
    Image.new("L", (8, 8), 255).save(tmp_path / "small.png")
    read = run.read(tmp_path / "small.png")
    assert read.shape == (1, 12, 12)
    assert read.sum(dtype=int) == 64 * 255
