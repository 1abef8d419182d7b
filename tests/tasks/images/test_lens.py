"""`polygraph lens` on a trained classifier of images."""

import json

import numpy as np
import pytest
from PIL import Image
from support.tiny_images import tiny_images

from polygraph.cli import main
from polygraph.tasks.images.training import train_images


@pytest.fixture
def run(tmp_path):
    train_images(tiny_images(), tmp_path / "run")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_templates_and_biases(run, capsys):
    files = [str(run / "a.png"), str(run / "b.png")]
    words = ["lens", *files, "--run", str(run / "run"), "--out", str(run / "lens.png")]
    capsys.readouterr()
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == files
    assert "affine around each picture to" in lines[2]
    assert (run / "lens.png").stat().st_size > 5000
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert main(["predict", files[0], "--run", str(run / "run"), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    logits = np.add(rows[0]["inner"], rows[0]["bias"])
    shares = np.exp(logits - logits.max())
    np.testing.assert_allclose(
        shares / shares.sum(), list(told["probabilities"].values()), rtol=1e-4
    )


def test_a_page_of_regions(run, capsys):
    """As much of the plane as has few regions."""
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).save(run / "c.png")
    files = [str(run / f"{name}.png") for name in "abc"]
    words = ["lens", *files, "--run", str(run / "run"), "--out", str(run / "lens.png")]
    assert main([*words, "--page", str(run / "page.html"), "--regions", "40"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert int(line.split()[0]) <= 40
    assert "The plane through a, b and c" in (run / "page.html").read_text()


def test_bad_words(run, capsys):
    words = ["lens", str(run / "a.png"), "--run", str(run / "run")]
    for more, message in (
        (["--out", "lens.txt"], "--out must end in .png or .svg"),
        (["--templates", "0"], "templates must be at least 1"),
        (["--page", "a.html"], "--page takes three pictures and a name that ends in .html, got 1"),
        (["--regions", "0"], "regions must be at least 1"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
