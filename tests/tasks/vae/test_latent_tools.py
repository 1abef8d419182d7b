"""Samples, interpolations and walks on variational autoencoders of images and meshes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import MODEL as MESH_MODEL
from support.tiny import tiny_run
from support.tiny_vae import tiny_vae

from polygraph.cli.main import main
from polygraph.tasks import mesh, vae
from polygraph.tasks.mesh.training import train_mesh
from polygraph.tasks.vae.training import train_vae


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a run of images, of one of meshes, and of meshes without a prior."""
    path = tmp_path_factory.mktemp("runs")
    train_vae(tiny_vae(), path / "image")
    config = tiny_run(path, model=replace(MESH_MODEL, variational=True), steps=4)
    train_mesh(config, path / "mesh")
    train_mesh(replace(config, model=MESH_MODEL), path / "plain")
    return path


def latent(runs, kind, out, *words):
    words = ["latent", *words, "--run", str(runs / kind), "--out", str(out), "--no-picture"]
    assert main(words) == 0
    return json.loads((out / "codes.json").read_text())


@pytest.mark.parametrize(("kind", "suffix"), [("image", "png"), ("mesh", "ply")])
def test_the_same_tools_walk_in_both(runs, kind, suffix, tmp_path):
    about = latent(runs, kind, tmp_path, "interpolate", "test:0", "val:0", "--steps", "3")
    codes = torch.tensor(about["codes"])
    torch.testing.assert_close(codes[1], (codes[0] + codes[2]) / 2)
    raw = "pixels" if kind == "image" else "vertices"
    for row in ("codes", raw):
        assert len(list((tmp_path / row).glob(f"*.{suffix}"))) == 3
    about = latent(runs, kind, tmp_path, "sample", "--count", "2", "--seed", "5")
    assert about["fitted"] == 0  # of the prior
    assert about["codes"][0] == [0.0, 0.0, 0.0]
    assert not (tmp_path / raw).exists()  # what lies there is one walk
    about = latent(runs, kind, tmp_path, "sample", "--count", "2", "--source", "codes")
    assert about["fitted"] > 10
    about = latent(runs, kind, tmp_path, "axes", "--count", "1", "--steps", "2")
    assert len(about["codes"]) == 2
    about = latent(runs, kind, tmp_path, "analogy", "train:0", "train:1", "test:0")
    a, b, c, d = torch.tensor(about["codes"])
    torch.testing.assert_close(d, c + b - a)


def test_pictures_are_what_the_decoder_makes(runs, tmp_path):
    run = vae.load(runs / "image")
    about = latent(runs, "image", tmp_path, "interpolate", "test:0", "test:1", "--steps", "2")
    shown = np.asarray(Image.open(tmp_path / "codes" / "0001.png"))[1:-1, 1:-1]
    assert np.array_equal(shown, run.decode(about["codes"])[1, 0].numpy())
    shown = np.asarray(Image.open(tmp_path / "pixels" / "0001.png"))[1:-1, 1:-1]
    images = run.images_of()
    assert np.array_equal(shown, images.images[images.test[1], 0])
    picture = tmp_path / "one.png"
    Image.fromarray(images.images[0, 0]).save(picture)
    assert latent(runs, "image", tmp_path / "own", "interpolate", str(picture), "test:1")


def test_sample_draws_meshes_of_the_prior(runs, tmp_path, capsys):
    out = tmp_path / "drawn"
    assert main(["sample", "--run", str(runs / "mesh"), "--out", str(out), "--count", "2"]) == 0
    assert len(list((out / "samples").glob("*.ply"))) == 3
    assert (out / "picture.png").is_file()
    run = mesh.load(runs / "mesh")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    codes = json.loads((out / "codes.json").read_text())["codes"]
    torch.testing.assert_close(torch.tensor(codes[1:], dtype=torch.float64), z)
    assert run.model.likelihood is not None


@pytest.mark.parametrize("kind", ["image", "mesh"])
def test_the_page_of_a_run_has_its_numbers_and_pictures(runs, kind, tmp_path):
    out = tmp_path / "page.html"
    assert main(["report", str(runs / kind), "--out", str(out)]) == 0
    text = out.read_text()
    result = json.loads((runs / kind / "result.json").read_text())
    bounds = result["test"] if kind == "image" else result["bounds"]["test"]
    assert f"{bounds['elbo']:.1f}" in text
    assert text.count("<rect") == 3
    assert text.count("data:image/png;base64,") == (3 if kind == "image" else 2)
    assert "<script" not in text
    if kind == "mesh":
        assert f"{result['test']['mean']:.3f}" in text


@pytest.mark.parametrize("kind", ["image", "mesh"])
def test_geodesics_are_no_longer_than_straight_ways(runs, kind, tmp_path):
    about = latent(runs, kind, tmp_path, "geodesic", "test:0", "val:0", "--steps", "3")
    assert 0 < about["length"] <= about["straight_length"] * (1 + 1e-9)
    assert not about["exact"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "plain"], "report of a run is of variational"),
        (["sample", "--run", "plain"], "not a generator of images"),
        (["sample", "--run", "mesh", "--walk", "2"], "polygraph latent"),
        (["latent", "sample", "--run", "plain", "--source", "prior"], "not variational"),
        (["latent", "sample", "--run", "image", "--to-mm", "1"], "--to-mm is of meshes"),
        (["latent", "axes", "--run", "image", "--count", "9"], "axis must lie in"),
        (["latent", "interpolate", "test:99", "test:0", "--run", "image"], "test has 10 images"),
        (["evaluate", "--run", "image"], "not a mesh autoencoder"),
    ],
)
def test_what_cannot_be_is_refused(runs, tmp_path, words, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(runs / w) if w in ("plain", "mesh", "image") else w for w in words]
    assert main(words) in (1, 2)
    assert message in capsys.readouterr().err
