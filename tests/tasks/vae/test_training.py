"""Training of variational autoencoders: the objective, runs of both kinds, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import MODEL as MESH_MODEL
from support.tiny import tiny_run, write_meshes
from support.tiny_vae import DATA, MODEL, tiny_vae

from polygraph.cli.main import main
from polygraph.data import ImageDataset
from polygraph.models import ImageVAE, MeshAutoencoderConfig
from polygraph.tasks import mesh, vae
from polygraph.tasks.mesh.training import MeshRunConfig, train_mesh
from polygraph.tasks.vae.arguments import parse_train_vae
from polygraph.tasks.vae.training import VaeRunConfig, split_images, train_vae
from polygraph.train.checkpoint import CheckpointError, load_checkpoint
from polygraph.train.variational import (
    ObjectiveConfig,
    VariationalLoss,
    bound_rows,
    bound_summary,
)


def quiet(line):
    """Say nothing."""


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image") / "run"
    train_vae(tiny_vae(), folder)
    return folder


@pytest.fixture(scope="module")
def mesh_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("mesh")
    config = tiny_run(path, model=replace(MESH_MODEL, variational=True))
    config = replace(config, preset="vae-full-2")
    train_mesh(config, path / "run")
    return config, path


@pytest.mark.parametrize("likelihood", ["optimal", "learned", "fixed", "bernoulli"])
def test_the_loss_is_in_nats_with_the_weights_asked_for(likelihood):
    torch.manual_seed(0)
    model = ImageVAE(replace(MODEL, likelihood=likelihood, variance=0.3)).double()
    x = model.observe(torch.rand(5, 1, 12, 12, dtype=torch.float64) * 2 - 1)
    plain = VariationalLoss(model, ObjectiveConfig())
    torch.manual_seed(1)
    loss, nll, kl = plain(x, torch.tensor(0.25))
    torch.testing.assert_close(loss.detach(), nll + 0.25 * kl)
    posterior = model.infer(x)
    torch.testing.assert_close(kl, posterior.kl().sum() / 5)
    torch.manual_seed(1)
    expected = model.expect(posterior.sample())
    if likelihood == "bernoulli":
        found = torch.nn.functional.binary_cross_entropy_with_logits(expected, x, reduction="sum")
    else:
        error = (expected - x).square()
        variance = {
            "optimal": error.mean(),
            "learned": torch.tensor(0.3).double(),
            "fixed": torch.tensor(0.3).double(),
        }[likelihood]
        found = 0.5 * (error / variance + (2 * torch.pi * variance).log()).sum()
    torch.testing.assert_close(nll, found.detach() / 5, rtol=1e-6, atol=1e-6)
    # Free bits: each number costs at least so much, in the mean of the batch.
    torch.manual_seed(1)
    free = VariationalLoss(model, ObjectiveConfig(free_bits=0.05))(x, torch.tensor(1.0))
    costly = posterior.kl().mean(0).clamp(min=0.05).sum()
    if likelihood != "optimal":  # whose variance is the batch's, and the same
        torch.testing.assert_close(free[0], nll + costly)


def test_gradients_do_not_depend_on_whether_the_optimal_variance_has_one():
    """D/2 log MSE, of which the variance has a gradient, against ours, which holds it still."""
    torch.manual_seed(0)
    model = ImageVAE(MODEL).double()
    x = torch.rand(4, 1, 12, 12, dtype=torch.float64) * 2 - 1
    parameters = list(model.parameters())
    torch.manual_seed(1)
    ours = torch.autograd.grad(VariationalLoss(model, ObjectiveConfig())(x, torch.ones(()))[0],
                               parameters)  # fmt: skip
    torch.manual_seed(1)
    posterior = model.infer(x)
    error = (model.expect(posterior.sample()) - x).square().mean()
    loss = 72 * error.log() + posterior.kl().sum() / 4
    for one, other in zip(ours, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(one, other)


def test_warm_up_rises_to_beta():
    objective = ObjectiveConfig(beta=2.0, warmup_steps=4)
    assert [objective.weight(step) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert ObjectiveConfig().weight(0) == 1.0


def test_rows_are_bounds_of_each_sample():
    model = ImageVAE(MODEL).eval()
    x = torch.rand(6, 1, 12, 12) * 2 - 1
    rows = bound_rows(model, lambda chosen: x[chosen], np.arange(6), 4, samples=60)
    found = bound_summary(rows, 144, 0.0, beta=3.0)
    exact = model.elbo(x, samples=60)
    assert found["elbo"] == pytest.approx(float(exact.value.mean()), rel=1e-2)
    assert found["loss"] == pytest.approx(found["nll"] + 3 * found["kl"])
    assert found["bits_per_dim"] == pytest.approx(-found["elbo"] / 144 / np.log(2))
    np.testing.assert_allclose(rows[:, 4:], model.encode(x).detach(), rtol=1e-5, atol=1e-6)
    assert found["num_samples"] == 6
    again = bound_rows(model, lambda chosen: x[chosen], np.arange(6), 4, samples=60)
    assert np.array_equal(rows, again)


def test_an_image_run_has_its_bounds(image_run):
    run = vae.load(image_run)
    result = run.result
    assert result["kind"] == "vae"
    assert {"elbo", "kl", "bits_per_dim", "active_units", "sigma"} <= set(result["test"])
    assert run.evaluate()["elbo"] == pytest.approx(result["test"]["elbo"], rel=1e-6)
    assert run.evaluate(part="val")["elbo"] == pytest.approx(result["val"]["elbo"], rel=1e-6)
    bound = run.evaluate(count=10, importance=16)
    assert bound["num_samples"] == 10
    assert abs(bound["importance_bound"] - bound["elbo"]) < 20
    images = run.images_of().images[:3]
    assert run.reconstruct(images).dtype == torch.uint8
    assert torch.equal(run.decode(run.encode(images)), run.reconstruct(images))
    assert torch.equal(run.sample(2, seed=3), run.sample(2, seed=3))
    assert run.generator.walk(2, 3).shape == (6, 1, 12, 12)
    with pytest.raises(ValueError, match="part must be"):
        run.evaluate(part="all")
    with pytest.raises(ValueError, match="images must be uint8"):
        run.encode(np.zeros((2, 1, 12, 12), np.float32))


def test_a_resumed_run_ends_with_the_same_bits(image_run, tmp_path):
    """Warm-up and the running variance among them."""
    objective = ObjectiveConfig(beta=0.5, warmup_steps=6)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_vae(tiny_vae(objective=objective, schedule="constant"), whole)
    train_vae(tiny_vae(objective=objective, schedule="constant", steps=4), parts)
    train_vae(tiny_vae(objective=objective, schedule="constant"), parts, resume=True)
    one, other = (load_checkpoint(f / "last.safetensors")[0]["modules"]["model"]
                  for f in (whole, parts))  # fmt: skip
    assert int(one["likelihood.batches"]) == 8
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    with pytest.raises(CheckpointError, match="objective"):
        train_vae(tiny_vae(schedule="constant"), parts, resume=True)


def test_a_mesh_run_has_bounds_errors_and_scores(mesh_run):
    config, path = mesh_run
    run = mesh.load(path / "run")
    result = json.loads((path / "run" / "result.json").read_text())
    assert result["test"]["mean"] == pytest.approx(run.evaluate().mean)
    bounds = result["bounds"]["test"]
    assert bounds["num_samples"] == result["test"]["num_samples"]
    # Bits of a coordinate to a millimetre: the density in mm, of D independent coordinates.
    scale = np.log(run.model.std.numpy().astype(np.float64) * 1000).mean()
    size = 3 * run.model.num_vertices
    assert bounds["bits_per_dim"] == pytest.approx(
        (-bounds["elbo"] / size + scale) / np.log(2), rel=1e-6
    )
    assert result["sigma_mm"] > 0
    assert result["shapes"]["num_samples"] == 100
    assert len(bounds["kl_per_latent"]) == 3
    log = (path / "run" / "log.jsonl").read_text()
    assert '"val_elbo"' in log
    assert '"kl"' in log
    exported = mesh.load(run.export(path / "exported"))
    assert torch.equal(exported.model.sample(2), run.model.sample(2))
    digest = replace(config, objective=ObjectiveConfig(beta=2.0)).digest()
    assert digest != config.digest()


def test_runs_of_autoencoders_keep_their_identity(tmp_path):
    """What decides about an autoencoder that is not variational names none of the new settings."""
    config = tiny_run(tmp_path)
    semantics = config.semantics()
    assert set(semantics) == {"model", "loss", "augmentation"}
    assert not {"variational", "likelihood", "variance"} & set(semantics["model"])
    assert replace(config, model=replace(config.model, likelihood="fixed")).digest() == (
        config.digest()
    )
    with pytest.raises(ValueError, match=r"objective .* is of variational autoencoders"):
        replace(config, objective=ObjectiveConfig(beta=2.0))


@pytest.mark.parametrize(
    ("words", "of_meshes", "preset"),
    [
        ([], False, "vae/conv"),
        (["glyphs", "--preset", "vae/bernoulli"], False, "vae/bernoulli"),
        (["--data", "synthetic"], True, "vae-full-2"),
        (["--preset", "vae-first-order"], True, "vae-first-order"),
        (["MESHES"], True, "vae-full-2"),
        (["PICTURES"], False, "vae/conv"),
        (["PICTURES", "--kind", "mnist"], False, "vae/conv"),
    ],
)
def test_what_is_trained_is_told_by_preset_kind_or_folder(tmp_path, words, of_meshes, preset):
    write_meshes(tmp_path / "MESHES", 4)
    (tmp_path / "PICTURES").mkdir()
    words = [str(tmp_path / w) if w.isupper() else w for w in words]
    config, out, resume = parse_train_vae([*words, "--out", "RUN", "--beta", "0.5"])
    assert isinstance(config, MeshRunConfig if of_meshes else VaeRunConfig)
    assert config.preset == preset
    assert config.objective.beta == 0.5
    assert (out, resume) == ("RUN", False)
    if of_meshes:
        assert config.model.variational


def test_runs_go_on_by_their_folder_alone(image_run, mesh_run):
    """Whatever they are of."""
    config, _, resume = parse_train_vae(["--out", str(image_run), "--resume"])
    assert isinstance(config, VaeRunConfig)
    assert config.model == MODEL
    assert resume
    run = mesh_run[1] / "run"
    config, _, _ = parse_train_vae(["--out", str(run), "--resume", "--data", "MESHES",
                                    "--kind", "registered"])  # fmt: skip
    assert isinstance(config, MeshRunConfig)
    assert isinstance(config.model, MeshAutoencoderConfig)
    assert config.model.variational


def test_the_command_line_trains_and_samples(tmp_path, capsys):
    run = str(tmp_path / "run")
    words = ["--steps", "3", "--batch-size", "4", "--latent", "2", "--size", "12"]
    more = ["--data.num-images", "100", "--model.channels", "4,4", "--accelerator", "cpu"]
    assert main(["train", "vae", "glyphs", "--out", run, *words, *more]) == 0
    assert "ELBO" in capsys.readouterr().out
    picture = tmp_path / "samples.png"
    words = ["sample", "--run", run, "--out", str(picture), "--columns", "3"]
    for kind in (["--count", "6"], ["--count", "4", "--interpolate"], ["--walk", "2"]):
        assert main([*words, *kind]) == 0
        assert picture.is_file()
        picture.unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "vae-ful-2"], "vae-full-2"),
        (["--preset", "full-2"], "unknown preset"),
        (["--beta", "0"], "beta must be above 0"),
        (["--free-bits", "-1"], "free_bits must be in"),
        (["--warmup-steps", "-1"], "warmup_steps must be 0 or more"),
        (["--latent", "0"], "latent_channels must be"),
        (["--likelihood", "laplace"], "likelihood"),
        (["--preset", "vae-full-2", "--likelihood", "bernoulli"], "likelihood"),
        (["--preset", "vae-full-2", "--latent", "0"], "latent_channels must be"),
    ],
)
def test_bad_settings_are_refused_by_name(words, message, tmp_path, capsys):
    assert main(["train", "vae", "--out", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bad_data_are_refused(tmp_path):
    """One mesh, one image, one channel too many."""
    config = tiny_run(tmp_path, num=1, model=replace(MESH_MODEL, variational=True))
    with pytest.raises(ValueError, match="impossible with 1 mesh"):
        train_mesh(config, tmp_path / "run")
    with pytest.raises(ValueError, match="none to test on"):
        _images(1)
    with pytest.raises(ValueError, match="images leave 1 to train on"):
        split_images(tiny_vae(), replace(_images(20), train=np.arange(1)))
    with pytest.raises(ValueError, match="size must be 12"):
        train_vae(tiny_vae(model=replace(MODEL, size=16)), tmp_path / "run")
    meshes = np.zeros((4, 3, 3), np.float32)
    with pytest.raises(ValueError, match="preset 'vae-full-2' is of meshes"):
        vae.train(np.zeros((20, 1, 12, 12), np.uint8), tmp_path / "run", preset="vae-full-2")
    meshes[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"finite|NaN"):
        mesh.train((meshes, np.array([[0, 1, 2]])), tmp_path / "run", preset="vae-full-2")
    assert DATA.size == 12


def _images(count):
    return ImageDataset.from_arrays(np.zeros((count, 1, 12, 12), np.uint8), size=12)
