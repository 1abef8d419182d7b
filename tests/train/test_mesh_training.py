"""Training mesh autoencoders: result, resume, selection, bad data, two processes."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train.tiny import MODEL, tiny_run, with_train, write_meshes

from polygraph import metrics
from polygraph.data import MeshDataConfig, open_dataset
from polygraph.mesh import MeshError, build_hierarchy, read_mesh, write_mesh
from polygraph.mesh.io import Mesh
from polygraph.models import MeshAutoencoder, MeshAutoencoderConfig
from polygraph.models.pretrained import read_config
from polygraph.train.batches import NormalizedBatches
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from polygraph.train.config import TrainConfig, sample_indices
from polygraph.train.latent import LatentRun
from polygraph.train.log import read_log
from polygraph.train.loop import TrainingStopped
from polygraph.train.mesh import (
    MeshRunConfig,
    ReconstructionLoss,
    build_model,
    preset_run,
    train_mesh,
)
from polygraph.train.run import evaluate_run, export_run, load_model, load_run, reconstruct_file

REPOSITORY = Path(__file__).resolve().parents[2]


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


def test_models_of_other_templates_are_refused(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    train_mesh(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    template = run.hierarchy.vertices[0]
    other = build_hierarchy(template * 1.01, run.hierarchy.faces[0], factors=(4, 4))
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "run" / "best.safetensors", other)
    assert other.hash in str(caught.value)
    assert run.hierarchy.hash in str(caught.value)
    other.save(tmp_path / "run" / "hierarchy.npz")
    with pytest.raises(CheckpointError, match="trained on another template"):
        load_run(tmp_path / "run")
    bigger = MeshDataConfig(
        "registered", str(write_meshes(tmp_path / "bigger", subdivisions=3)),
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"not a mesh of the template.*642 vertices.*has 162"):
        evaluate_run(run, data=bigger)
    with pytest.raises(CheckpointError, match="no run here"):
        load_run(tmp_path / "nothing")


@pytest.mark.filterwarnings("ignore:.*older than its source.*:UserWarning")
def test_changed_data_is_noticed(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    train_mesh(config, tmp_path / "run")
    then = open_dataset(config.data).content_hash
    write_meshes(tmp_path / "meshes", seed=1)
    now = open_dataset(config.data).content_hash
    with pytest.raises(ValueError, match=rf"content is not.*{now} now, {then} then"):
        evaluate_run(load_run(tmp_path / "run"))
    with pytest.raises(CheckpointError, match="dataset_hash is"):
        train_mesh(config, tmp_path / "run", resume=True)


def test_meshes_far_from_zero(tmp_path):
    """Data, results, files read and written, exports: where a map puts them, to the last digit."""
    config = tiny_run(tmp_path)
    near = train_mesh(config, tmp_path / "near")
    vertices = np.load(tmp_path / "meshes" / "vertices.npy")
    place = np.array([2.0**22, -(2.0**23), 2.0**10])
    np.save(tmp_path / "meshes" / "vertices.npy", vertices.astype(np.float64) + place)
    far = train_mesh(config, tmp_path / "far")
    assert np.abs(np.subtract(far["origin"], place)).max() < 2
    np.testing.assert_allclose(far["test"]["mean"], near["test"]["mean"], rtol=1e-3)
    run = load_run(tmp_path / "far")
    assert list(run.model.origin) == far["origin"]
    assert evaluate_run(run).summary() == far["test"]

    dataset = open_dataset(config.data)
    number = dataset.split("interpolation").test[0]
    source, target = tmp_path / "in.ply", tmp_path / "out.ply"
    write_mesh(source, Mesh(vertices[number] + place, dataset.faces))
    reported = reconstruct_file(run, source, target)
    written, given = read_mesh(target).vertices, read_mesh(source).vertices
    np.testing.assert_allclose(np.linalg.norm(written - given, axis=1) * 1000, reported, atol=1e-3)
    latent = LatentRun(run)
    np.testing.assert_allclose(latent.mesh(str(source)), latent.mesh("test:0"), atol=1e-6)
    made = latent.interpolate(str(source), "test:1", steps=2)
    np.testing.assert_allclose(made.meshes[0][0], written, atol=1e-5)
    np.testing.assert_allclose(made.meshes[1][0], given, atol=1e-8)

    export_run(run, tmp_path / "exported")
    model = MeshAutoencoder.from_pretrained(tmp_path / "exported")
    assert model.origin == run.model.origin
    card = (tmp_path / "exported" / "README.md").read_text()
    assert f"{model.origin[2]!r}: to be subtracted" in card
    # The card's own lines give what the run gives.
    code = card.split("```python")[1].split("```")[0].replace("FOLDER", "folder")
    shown = {"folder": tmp_path / "exported", "x": torch.from_numpy(given[None])}
    exec(code, shown)
    np.testing.assert_allclose(shown["meshes"][0].detach(), written, atol=1e-5)


def test_another_data_set_with_another_origin(tmp_path):
    """It is measured where it lies, not where its own origin would put it."""
    config = tiny_run(tmp_path)
    vertices = np.load(tmp_path / "meshes" / "vertices.npy").astype(np.float64) + 2.0**20
    np.save(tmp_path / "meshes" / "vertices.npy", vertices)
    train_mesh(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "faces.npy", np.load(tmp_path / "meshes" / "faces.npy"))
    np.save(other / "vertices.npy", vertices[::-1])
    data = replace(config.data, path=str(other))
    dataset = open_dataset(data)
    assert dataset.origin != run.model.origin
    rows = dataset.split("interpolation").test
    with torch.no_grad():
        x = torch.from_numpy(vertices[::-1][rows] - run.model.origin).float()
        expected = metrics.vertex_distance(run.model(x), x).mean().item()
    assert evaluate_run(run, data=data).mean == pytest.approx(expected, rel=1e-4)
    chosen = LatentRun(run, data).mesh("test:0") + run.model.origin
    np.testing.assert_allclose(chosen, vertices[::-1][rows[0]], atol=1e-6)


def test_reconstruct_a_file(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    train_mesh(config, tmp_path / "run")
    run, dataset = load_run(tmp_path / "run"), open_dataset(config.data)
    source, target = tmp_path / "in.ply", tmp_path / "out.ply"
    write_mesh(source, Mesh(dataset.vertices[3].astype(np.float64), dataset.faces))
    errors = reconstruct_file(run, source, target)
    with torch.no_grad():
        expected = run.model(torch.from_numpy(dataset.gather([3])))[0].numpy()
    made = read_mesh(target)
    np.testing.assert_allclose(made.vertices, expected, atol=1e-6)  # float32 in the file
    np.testing.assert_array_equal(made.faces, dataset.faces)
    distance = np.linalg.norm(expected - dataset.vertices[3], axis=1) * 1000
    np.testing.assert_allclose(errors, distance, rtol=1e-4)  # float32 differences
    write_mesh(source, Mesh(dataset.vertices[3].astype(np.float64), dataset.faces[:, ::-1].copy()))
    with pytest.raises(ValueError, match="is not a mesh of the template"):
        reconstruct_file(run, source, target)
    with pytest.raises(MeshError, match=r"none\.ply"):
        reconstruct_file(run, tmp_path / "none.ply", target)


@pytest.mark.parametrize(("num", "message"), [(0, "0|empty|no mesh"), (1, "1 mesh")])
def test_zero_meshes_and_one_mesh_are_refused(tmp_path, num, message):
    with pytest.raises(ValueError, match=message):
        train_mesh(tiny_run(tmp_path, num=num), tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_a_split_without_validation_is_refused(tmp_path):
    config = tiny_run(tmp_path, num=2)
    with pytest.raises(ValueError, match="no val meshes"):
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
    with pytest.raises(ValueError, match="factors must have one entry per encoder layer, 4, got 2"):
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


def test_a_changed_bit_in_a_run_is_noticed(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    train_mesh(config, tmp_path / "run")
    for name, use in (
        ("best.safetensors", lambda: load_run(tmp_path / "run")),
        ("last.safetensors", lambda: train_mesh(config, tmp_path / "run", resume=True)),
    ):
        path = tmp_path / "run" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(CheckpointError, match=rf"{name}: changed or not whole"):
            use()
        path.write_bytes(whole)


def change_meta(folder, change):
    """Change the description of a run's weights, as whoever made the run could have done."""
    for name in ("best.safetensors", "last.safetensors"):
        state, meta = load_checkpoint(folder / name)
        change(meta)
        save_checkpoint(folder / name, state, meta)


def test_a_run_leads_nowhere(tmp_path, monkeypatch):
    """What a run says of places is followed only to those that this user named in training."""
    config = tiny_run(tmp_path, steps=2)
    result = train_mesh(config, tmp_path / "run")
    private, chosen = write_meshes(tmp_path / "private"), tmp_path / "chosen"

    def evil(meta):
        meta["config"]["data"] |= {"path": str(private), "cache_dir": str(chosen)}

    change_meta(tmp_path / "run", evil)
    for use in (evaluate_run, lambda run: LatentRun(run).gaussian()):
        with pytest.raises(CheckpointError, match=r"run: the run says .*private.*--data PATH"):
            use(load_run(tmp_path / "run"))
    assert not chosen.exists()

    def half(meta):  # a place that is known, another cache
        meta["config"]["data"] |= {"path": config.data.path}

    change_meta(tmp_path / "run", half)
    assert evaluate_run(load_run(tmp_path / "run")).summary() == result["test"]
    assert not chosen.exists()
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "another user"))
    with pytest.raises(CheckpointError, match="--data PATH"):
        evaluate_run(load_run(tmp_path / "run"))
    assert not chosen.exists()


@pytest.mark.parametrize("value", [float("nan"), -1, True, None, "1000", [1000.0]])
def test_numbers_of_a_run_are_checked(tmp_path, value):
    config = tiny_run(tmp_path, steps=2)
    train_mesh(config, tmp_path / "run")
    change_meta(tmp_path / "run", lambda meta: meta.update(to_mm=value))
    with pytest.raises(CheckpointError, match=r"best\.safetensors: to_mm must be a positive"):
        load_run(tmp_path / "run")


def test_a_run_that_went_on_is_exported_without_earlier_errors(tmp_path):
    config = tiny_run(tmp_path, steps=4)
    train_mesh(config, tmp_path / "run")
    folder = export_run(load_run(tmp_path / "run"), tmp_path / "model")
    assert "test" in read_config(folder)["metadata"]
    result = tmp_path / "run" / "result.json"
    whole = result.read_text()
    result.write_text(re.sub(r'("mean": \d*)\d', r"\g<1>0", whole.replace("1", "2", 1)))
    with pytest.raises(CheckpointError, match=r"result\.json: changed since it was written"):
        export_run(load_run(tmp_path / "run"), tmp_path / "model")
    older = {key: value for key, value in json.loads(whole).items() if key != "sha256"}
    result.write_text(json.dumps(older))  # of a version that wrote no hash
    export_run(load_run(tmp_path / "run"), tmp_path / "model")
    state, meta = load_checkpoint(tmp_path / "run" / "best.safetensors")
    meta["progress"]["step"] = 8  # better weights, and stopped before they were measured
    save_checkpoint(tmp_path / "run" / "best.safetensors", state, meta)
    folder = export_run(load_run(tmp_path / "run"), tmp_path / "model")
    assert "test" not in read_config(folder)["metadata"]


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


def launch(tmp_path, processes, out, port, settings=None):
    """Train through torchrun, with the command line's settings for a 64-bit run."""
    settings = settings or {}
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--master-port", str(port)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "polygraph"]
    settings = {
        "--data.path": tmp_path / "meshes", "--data.cache_dir": tmp_path / "cache",
        "--out": tmp_path / out, "--factors": "[4,4]", "--model.encoder_channels": "[4,6]",
        "--model.decoder_channels": "[6,4,3]", "--steps": 5, "--batch_size": 4,
        "--precision": "64-true", "--accelerator": "cpu", "--log_every": 1, **settings,
    }  # fmt: skip
    words = [str(word) for pair in settings.items() for word in pair]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*command, "train", "mesh", *words], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("vertex error on test") == 1
    return done.stderr


def test_two_processes_equal_one(tmp_path):
    write_meshes(tmp_path / "meshes", num=50)
    launch(tmp_path, 1, "one", 0)
    launch(tmp_path, 2, "two", 29500 + os.getpid() % 1000)
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
        said = launch(tmp_path, 2, f"run{number}", port, {"--steps": 2})
        for word in ("destroy_process_group", "Traceback", "SIGSEGV", "SIGABRT", "terminate"):
            assert word not in said, said[-3000:]
