"""`polygraph degree` on runs of every kind: verdicts, JSON, the matrix of an affine network."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import MODEL, tiny_run
from support.tiny_audio import tiny_audio
from support.tiny_gan import random_images, tiny_gan
from support.tiny_images import tiny_images
from support.tiny_points import tiny_points
from support.tiny_vae import tiny_vae

from polygraph.cli import main
from polygraph.models.resnet import RESNETS
from polygraph.tasks.audio.training import train_audio
from polygraph.tasks.gan.training import train_gan
from polygraph.tasks.images.run import load_run
from polygraph.tasks.images.training import train_images
from polygraph.tasks.mesh.run import load_run as load_mesh
from polygraph.tasks.mesh.training import train_mesh
from polygraph.tasks.points.training import train_points
from polygraph.tasks.vae.training import train_vae


def train_resnet(name, folder):
    model = replace(RESNETS[name], in_channels=1, size=12, width=4, depths=(1, 1))
    train_images(tiny_images(model, steps=3), folder)
    return str(folder)


def test_a_polynomial_classifier(tmp_path, capsys):
    run = train_resnet("pinet18-noact", tmp_path / "run")
    assert main(["degree", "--run", run]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"blocks.{n} (PolyResidual): degree 2" for n in range(2)]
    assert lines[2].startswith("ResNet of [1, 12, 12]: a polynomial of degree 4 (finite")
    assert main(["degree", "--run", run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["degree"], found["seen"]) == ("polynomial", 4, True)
    assert [block["degree"] for block in found["blocks"]] == [2, 2]
    assert main(["degree", "--run", run, "--export", str(tmp_path / "a.npz")]) == 1
    assert "no affine map, it is a polynomial of degree 4" in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()


def test_a_linear_classifier_is_a_matrix(tmp_path, capsys):
    run = train_resnet("linear-resnet18", tmp_path / "run")
    path = tmp_path / "affine.npz"
    assert main(["degree", "--run", run, "--export", str(path)]) == 0
    said = capsys.readouterr()
    assert "a polynomial of degree 1" in said.out
    assert f"wrote {path}" in said.err
    trained = load_run(run)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 12, 12)).astype(np.uint8)
    with np.load(path, allow_pickle=False) as saved:
        assert tuple(saved["classes"]) == trained.classes
        x = pixels.reshape(20, -1) / 127.5 - 1
        logits = x @ saved["matrix"].T + saved["bias"]
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(np.exp(logits), trained.predict_proba(pixels), rtol=2e-3)


def test_other_runs(tmp_path, capsys):
    train_images(tiny_images(steps=1), tmp_path / "images")
    train_audio(tiny_audio(steps=1), tmp_path / "audio")
    train_points(tiny_points(steps=1), tmp_path / "points")
    exact = replace(MODEL, norm="none", activation="none")
    train_mesh(tiny_run(tmp_path, steps=1), tmp_path / "mesh")
    train_mesh(tiny_run(tmp_path, steps=1, model=exact), tmp_path / "exact")
    for preset in ("small/ncp", "small/baseline"):
        folder = tmp_path / preset.replace("/", "-")
        train_gan(tiny_gan(preset), folder, dataset=random_images(3))
    for name, wanted in {
        "images": r"piecewise affine: not a polynomial because of layers.2 (LeakyReLU)",
        "audio": "piecewise affine: not a polynomial because of convolutions.1 (ReLU)",
        "points": "piecewise affine: not a polynomial because of",
        "mesh": "not a polynomial because of",
        "exact": "a polynomial of degree",
        "small-ncp": "not a polynomial because of",
        "small-baseline": "not a polynomial because of",
    }.items():
        assert main(["degree", "--run", str(tmp_path / name)]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert wanted in last, name
        assert "NOT" not in last, name


@pytest.mark.parametrize(("order", "degree"), [(1, 1), (2, 8), (3, 27)])
def test_the_decoder_of_a_variational_autoencoder(order, degree, tmp_path, capsys):
    """Of meshes: orders of the blocks behind the code multiply, and the encoder is not looked at.

    27 is beyond finite differences, and follows from the blocks.
    """
    model = replace(MODEL, variational=True, norm="none", activation="none", order=order)
    model = replace(model, decoder_channels=(6, 4, 4, 3))
    train_mesh(tiny_run(tmp_path, steps=1, model=model), tmp_path / "run")
    assert main(["degree", "--run", str(tmp_path / "run")]) == 0
    *blocks, last = capsys.readouterr().out.splitlines()
    sure = "by the degrees of its blocks" if degree > 24 else "finite differences of the whole"
    wanted = f"decoder of MeshAutoencoder of [3]: a polynomial of degree {degree} ({sure}"
    assert last.startswith(wanted), last
    assert "NOT" not in last
    assert len(blocks) == 3
    assert not any("encoder" in block.replace("decoder", "") for block in blocks)
    if order == 1:
        path = tmp_path / "affine.npz"
        assert main(["degree", "--run", str(tmp_path / "run"), "--export", str(path)]) == 0
        trained = load_mesh(tmp_path / "run").model
        z = torch.randn(4, 3)
        with np.load(path) as saved:
            found = z.double().numpy() @ saved["matrix"].T + saved["bias"]
        with torch.no_grad():
            made = trained.decode(z).flatten(1)
        np.testing.assert_allclose(found, made, rtol=1e-4, atol=1e-5)


def test_decoders_with_activations_say_so(tmp_path, capsys):
    model = replace(MODEL, variational=True)
    train_mesh(tiny_run(tmp_path, steps=1, model=model), tmp_path / "mesh")
    train_vae(tiny_vae(steps=1), tmp_path / "image")
    for name, verdict, kinds in (
        ("mesh", "decoder of MeshAutoencoder of [3]: not a polynomial", "its elu"),
        ("image", "decoder of ImageVAE of [3]: piecewise affine: not a polynomial", "ReLU"),
    ):
        assert main(["degree", "--run", str(tmp_path / name)]) == 0
        verdict_line, why = capsys.readouterr().out.splitlines()[-2:]
        assert verdict_line.startswith(verdict), name
        assert why.startswith("This decoder has activations or norms ("), name
        assert kinds in why
        assert "no degree in z" in why
        assert main(["degree", "--run", str(tmp_path / name), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["degree"] is None


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["--run", "RUN", "--export", "a.txt"], "--export must end in .npz, got 'a.txt'", 2),
        ([], "--run", 2),
        (["--run", "nowhere"], "no run here", 1),
    ],
)
def test_wrong_words(words, message, status, capsys):
    assert main(["degree", *words]) == status
    assert message in capsys.readouterr().err
