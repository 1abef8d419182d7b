"""Training mesh autoencoders: result, resume, selection, bad data, two processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from support.children import finish_together
from support.tiny import MODEL, tiny_run, with_train, write_meshes

from polygraph import metrics
from polygraph.cli import main
from polygraph.data import MeshDataConfig, open_dataset
from polygraph.mesh import build_hierarchy
from polygraph.models import MeshAutoencoder, MeshAutoencoderConfig
from polygraph.tasks.mesh.arguments import parse_train_mesh
from polygraph.tasks.mesh.run import (
    evaluate_run,
    load_run,
)
from polygraph.tasks.mesh.training import (
    MeshRunConfig,
    ReconstructionLoss,
    build_model,
    preset_run,
    train_mesh,
)
from polygraph.train.batches import NormalizedBatches
from polygraph.train.checkpoint import CheckpointError, load_checkpoint
from polygraph.train.config import TrainConfig, sample_indices
from polygraph.train.log import read_log
from polygraph.train.loop import TrainingStopped

REPOSITORY = Path(__file__).resolve().parents[3]


def weights(path):
    return load_checkpoint(path)[0]["modules"]["model"]


def assert_same_weights(one, two):
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_training_learns_and_writes_everything(tmp_path):
    config = tiny_run(tmp_path, steps=150, eval_every=50, learning_rate=0.01)
    result = train_mesh(config, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "run.json", "result.json", "hierarchy.npz", "last.safetensors", "best.safetensors",
        "log.jsonl", "curve.csv", "test_error_per_vertex_mm.npy", "test_error_per_mesh_mm.npy",
    }  # fmt: skip
    dataset = open_dataset(config.data)
    split = dataset.split("interpolation")
    mean = dataset.vertices[split.train].mean(axis=0)
    mean_error = np.linalg.norm(dataset.vertices[split.test] - mean, axis=-1).mean() * 1000
    # Three codes make these meshes: three latents must tell more than none (it reaches 0.64).
    assert result["test"]["mean"] < 0.75 * mean_error
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert np.load(tmp_path / "run" / "test_error_per_vertex_mm.npy").shape == (162,)
    meta = load_checkpoint(tmp_path / "run" / "best.safetensors")[1]
    assert meta["identity"]["split"] == {"name": "interpolation", "sha256": split.sha256}
    assert meta["identity"]["dataset_hash"] == dataset.content_hash
    assert meta["config"]["model"]["latent_channels"] == 3


def test_resume_ends_with_the_same_bits(tmp_path):
    config = tiny_run(tmp_path)
    whole = train_mesh(config, tmp_path / "whole")
    train_mesh(with_train(config, steps=4), tmp_path / "parts")
    parts = train_mesh(config, tmp_path / "parts", resume=True)
    assert_same_weights(*(tmp_path / n / "last.safetensors" for n in ("whole", "parts")))
    assert_same_weights(*(tmp_path / n / "best.safetensors" for n in ("whole", "parts")))
    assert (parts["test"], parts["val"]) == (whole["test"], whole["val"])


def test_other_optimizers_and_schedules_train_meshes(tmp_path):
    """Each setting counts: none of these runs ends where another does; on the command line, too."""
    ends = []
    for number, settings in enumerate(
        (
            {},
            {"optimizer": "adamw", "weight_decay": 0.1},
            {"optimizer": "sgd"},
            {"optimizer": "sgd", "decay_all": False, "weight_decay": 0.1},
            {"optimizer": "sgd", "clip_value": 1e-3},
            {"schedule": "multistep", "milestones": [0.25]},
        )
    ):
        folder = tmp_path / str(number)
        train_mesh(tiny_run(tmp_path, steps=6, **settings), folder)
        ends.append(torch.cat([w.flatten() for w in weights(folder / "last.safetensors").values()]))
    assert all(not torch.equal(a, b) for a, b in combinations(ends, 2))
    words = ["--optimizer", "sgd", "--schedule", "multistep", "--milestones", "[1,2.5]"]
    train = parse_train_mesh([*words, "--out", "x"])[0].train
    assert (train.optimizer, train.milestones) == ("sgd", (1.0, 2.5))


def test_the_weights_of_the_best_validation_are_measured(tmp_path):
    config = tiny_run(tmp_path, learning_rate=0.05, steps=40)
    result = train_mesh(config, tmp_path / "run")
    log = read_log(tmp_path / "run" / "log.jsonl")
    errors = {record["step"]: record["val_error_mm"] for record in log if "val_error_mm" in record}
    best = min(errors, key=errors.get)
    assert best != 40, "the last step won: choose a rate at which the error goes up again"
    assert result["best_step"] == best
    assert result["val"]["mean"] == errors[best]
    run = load_run(tmp_path / "run")
    assert evaluate_run(run).summary() == result["test"]
    assert evaluate_run(run, part="val").mean == errors[best]


def test_batches_from_memory_and_from_the_map_are_the_same(tmp_path):
    config = tiny_run(tmp_path)
    dataset = open_dataset(config.data)
    split = dataset.split("interpolation")
    hierarchy = build_hierarchy(dataset.template, dataset.faces, factors=(4, 4))
    model = MeshAutoencoder(MODEL, hierarchy)
    model.set_normalization(*dataset.mean_std(split.train))
    arguments = (dataset.vertices, split.train, model, config.train)
    held, mapped = NormalizedBatches(*arguments), NormalizedBatches(*arguments, memory_limit=0)
    shared = [NormalizedBatches(*arguments, rank=rank, world=2) for rank in range(2)]
    for step in range(9):
        rows = split.train[sample_indices(config.train.seed, len(split.train), 4, step)]
        expected = model.normalize(torch.from_numpy(dataset.gather(rows)))
        assert torch.equal(held(step), expected)
        assert torch.equal(mapped(step), expected)
        assert torch.equal(torch.stack([b(step) for b in shared], dim=1).flatten(0, 1), expected)


@pytest.mark.parametrize(("num", "message"), [(0, "0|empty|no mesh"), (1, "1 mesh")])
def test_zero_meshes_and_one_mesh_are_refused(tmp_path, num, message):
    with pytest.raises(ValueError, match=message):
        train_mesh(tiny_run(tmp_path, num=num), tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_a_split_without_validation_is_refused(tmp_path):
    config = tiny_run(tmp_path, num=2)
    with pytest.raises(ValueError, match=r"2 meshes leave 1 to train on .*four meshes or more"):
        train_mesh(config, tmp_path / "run")


def test_divergence_keeps_the_last_good_checkpoint(tmp_path):
    config = tiny_run(tmp_path, learning_rate=1e30)
    with pytest.raises(TrainingStopped, match=r"not finite|the loss is.*last\.safetensors"):
        train_mesh(config, tmp_path / "run")
    assert all(torch.isfinite(t).all() for t in weights(tmp_path / "run/last.safetensors").values())


def test_bad_configurations(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'full-2'"):
        preset_run("full2", MeshDataConfig(), TrainConfig())
    with pytest.raises(ValueError, match="latent_channels must be a positive integer, got 0"):
        preset_run("full-2", MeshDataConfig(), TrainConfig(), latent_channels=0)
    with pytest.raises(ValueError, match=r"one entry per encoder layer, 4 .*, got 2"):
        MeshRunConfig(model=MeshAutoencoderConfig(), factors=(4, 4))
    with pytest.raises(ValueError, match=r"unknown split 'interpolatoin'.*'interpolation'"):
        train_mesh(tiny_run(tmp_path, split="interpolatoin"), tmp_path / "run")


def test_the_distance_loss_is_the_reported_error(tmp_path):
    """In units of the deviation shared by all coordinates, whatever the model is normalised by."""
    config = tiny_run(tmp_path)
    dataset = open_dataset(config.data)
    split = dataset.split("interpolation")
    _, std = dataset.mean_std(split.train)
    unit = float(np.sqrt(np.mean(np.square(std, dtype=np.float64))))
    hierarchy = build_hierarchy(dataset.template, dataset.faces, factors=config.factors)
    x = torch.from_numpy(dataset.gather(split.test))
    losses = []
    for normalization in ("vertex", "shared"):
        model = build_model(replace(config, normalization=normalization), hierarchy, dataset, split)
        losses.append(float(ReconstructionLoss(model, "distance")(model.normalize(x))))
        error = metrics.vertex_distance(model(x), x, to_mm=1.0).mean()
        assert losses[-1] == pytest.approx(float(error) / unit, rel=1e-4)
        made = model.forward_normalized(model.normalize(x))
        l1 = (made - model.normalize(x)).abs().mean()
        assert float(ReconstructionLoss(model, "l1")(model.normalize(x))) == pytest.approx(
            float(l1)
        )
    assert losses[0] != losses[1]
    assert torch.allclose(model.std, torch.full_like(model.std, unit))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_refused_resume_leaves_the_run_as_it_was(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    result = train_mesh(config, tmp_path / "run")
    before = contents(tmp_path / "run")
    others = [
        replace(config, factors=(3, 3)),
        replace(config, upsampling="lstsq"),
        replace(config, spiral=replace(config.spiral, hops=(2,))),
        with_train(config, learning_rate=0.5),
        with_train(config, steps=1),
        replace(config, data=replace(config.data, path=str(write_meshes(tmp_path / "more", 30)))),
    ]
    for other in others:
        with pytest.raises(CheckpointError, match=r"last\.safetensors"):
            train_mesh(other, tmp_path / "run", resume=True)
        with pytest.raises(CheckpointError, match="already holds a run"):
            train_mesh(other, tmp_path / "run")
        assert contents(tmp_path / "run") == before
    assert evaluate_run(load_run(tmp_path / "run")).summary() == result["test"]


def test_a_run_with_another_loss_is_another_run(tmp_path):
    config = tiny_run(tmp_path)
    assert config.digest() != replace(config, loss="distance").digest()
    assert config.digest() != replace(config, normalization="shared").digest()
    assert config.digest() != replace(config, augmentation=0.1).digest()
    train_mesh(with_train(config, steps=2), tmp_path / "run")
    with pytest.raises(CheckpointError, match="loss"):
        train_mesh(replace(config, loss="distance"), tmp_path / "run", resume=True)
    for bad in ({"loss": "l3"}, {"normalization": "vertices"}, {"augmentation": -0.1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be "):
            replace(config, **bad)


def test_augmented_meshes_lie_on_differences_of_the_batch(tmp_path):
    """X + α (x' - x''): known from step and seed alone, however many processes share them."""
    config = tiny_run(tmp_path)
    dataset = open_dataset(config.data)
    split = dataset.split("interpolation")
    hierarchy = build_hierarchy(dataset.template, dataset.faces, factors=config.factors)
    model = build_model(config, hierarchy, dataset, split)
    arguments = dataset.vertices, split.train, model, config.train
    plain = NormalizedBatches(*arguments)
    wide = NormalizedBatches(*arguments, augmentation=0.5)
    mapped = NormalizedBatches(*arguments, augmentation=0.5, memory_limit=0)
    shared = [NormalizedBatches(*arguments, rank=r, world=2, augmentation=0.5) for r in range(2)]
    moves = []
    for step in range(20):
        x, moved = plain(step), wide(step)
        assert torch.equal(wide(step), moved)
        assert torch.equal(mapped(step), moved)
        assert torch.equal(torch.stack([shared[0](step), shared[1](step)], 1).flatten(0, 1), moved)
        differences = (x[:, None] - x[None]).flatten(2)
        for shift in (moved - x).flatten(1):
            scale = (differences * shift).sum(-1) / differences.square().sum(-1).clamp_min(1e-30)
            rest = (shift - scale[..., None] * differences).norm(dim=-1).min()
            assert rest <= 1e-4 * (1 + shift.norm())
            moves.append(float(shift.norm()))
    assert np.median(moves) > 0.1


def test_digest_is_about_the_result(tmp_path):
    config = tiny_run(tmp_path)
    assert config.digest() == with_train(config, log_every=3, progress=True).digest()
    assert config.digest() != with_train(config, seed=1).digest()
    assert config.digest() != with_train(config, steps=13).digest()


def words(tmp_path, out, settings=None):
    """The command line of a run in 64 bits."""
    settings = {
        "--data.path": tmp_path / "meshes", "--data.cache_dir": tmp_path / "cache",
        "--out": tmp_path / out, "--factors": "[4,4]", "--model.encoder_channels": "[4,6]",
        "--model.decoder_channels": "[6,4,3]", "--steps": 5, "--batch_size": 4,
        "--precision": "64-true", "--accelerator": "cpu", "--log_every": 1, **(settings or {}),
    }  # fmt: skip
    return ["train", "mesh", *(str(word) for pair in settings.items() for word in pair)]


def launch(tmp_path, out, port, settings=None):
    """Train by two processes of torchrun; what they say."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    command = [sys.executable, *launcher, "-m", "polygraph", *words(tmp_path, out, settings)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("vertex error on test") == 1
    return done.stderr


def test_two_processes_equal_one(tmp_path):
    write_meshes(tmp_path / "meshes", num=50)
    assert main(words(tmp_path, "one")) == 0
    said = [tmp_path / "first", tmp_path / "second"]
    port = 29500 + os.getpid() % 1000
    finish_together(main, words(tmp_path, "two"), processes=2, port=port, outputs=said)
    assert sum(out.read_text().count("vertex error on test") for out in said) == 1
    one, two = (weights(tmp_path / n / "last.safetensors") for n in ("one", "two"))
    assert one["to_latent.weight"].dtype == torch.float64
    for key, value in one.items():
        # Sums over the batch in another order, then five Adam steps.
        assert float((two[key] - value).abs().max()) < 1e-12, key
    logs = [read_log(tmp_path / n / "log.jsonl") for n in ("one", "two")]
    curves = [[record["loss"] for record in log if "loss" in record] for log in logs]
    assert [len(curve) for curve in curves] == [5, 5]
    np.testing.assert_allclose(curves[1], curves[0], rtol=0, atol=1e-12)
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("one", "two")]
    assert results[1]["processes"] == 2
    name = "test_error_per_mesh_mm.npy"  # the order of the meshes survives the sharing
    errors = [np.load(tmp_path / run / name) for run in ("one", "two")]
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-6)  # measured on float32 meshes
    assert len(errors[0]) == 5  # the two parts are not equally long
    assert results[1]["test"]["mean"] == pytest.approx(results[0]["test"]["mean"], rel=1e-9)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_runs_of_two_processes_end_cleanly(tmp_path):
    """Each ends with status 0 and says nothing of a process group that was left open."""
    write_meshes(tmp_path / "meshes", num=50)
    for number in range(50):
        port = 20000 + (50 * os.getpid() + number) % 20000
        said = launch(tmp_path, f"run{number}", port, {"--steps": 2})
        for word in ("destroy_process_group", "Traceback", "SIGSEGV", "SIGABRT", "terminate"):
            assert word not in said, said[-3000:]
