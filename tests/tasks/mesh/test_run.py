"""Finished runs of mesh autoencoders: loaded, measured again, applied to files, checked."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from train.tiny import tiny_run, write_meshes

from polygraph import metrics
from polygraph.data import MeshDataConfig, open_dataset
from polygraph.mesh import MeshError, build_hierarchy, read_mesh, write_mesh
from polygraph.mesh.io import Mesh
from polygraph.models import MeshAutoencoder
from polygraph.models.mesh.pretrained import read_config
from polygraph.tasks.mesh.latent import LatentRun
from polygraph.tasks.mesh.run import (
    evaluate_run,
    export_run,
    load_model,
    load_run,
    reconstruct_file,
)
from polygraph.tasks.mesh.training import (
    train_mesh,
)
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


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
    state, meta = load_checkpoint(tmp_path / "run" / "best.safetensors")
    meta["progress"]["step"] = 8  # better weights, and stopped before they were measured
    save_checkpoint(tmp_path / "run" / "best.safetensors", state, meta)
    folder = export_run(load_run(tmp_path / "run"), tmp_path / "model")
    assert "test" not in read_config(folder)["metadata"]
