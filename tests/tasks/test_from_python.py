"""Training, evaluating and using models from Python: `train`, `load` and what a run does."""

import json

import numpy as np
import pytest
import torch
import trimesh
from support.tiny import write_meshes

import polygraph.tasks
from polygraph.cli import main
from polygraph.data import ImageDataset, MeshDataset, ShapeDataset, make_creature
from polygraph.mesh import MeshError
from polygraph.train.checkpoint import CheckpointError

QUICK = {"accelerator": "cpu", "batch_size": 4, "steps": 3}


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Lines for people; the cache lies under tmp_path."""
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    return []


def arrays(folder):
    """Meshes of a folder in memory."""
    return np.load(folder / "vertices.npy"), np.load(folder / "faces.npy")


def test_meshes(tmp_path, said):
    from polygraph.tasks import mesh

    folder = write_meshes(tmp_path / "meshes")
    vertices, faces = arrays(folder)
    settings = {"latent": 3, "to_mm": 10.0, **QUICK}
    one = mesh.train(folder, tmp_path / "a", say=said.append, **settings)
    assert "24 meshes of 162 vertices" in said[0]
    assert "21 train, 1 validate, 2 test" in said[0]
    assert "1 unit is 10 mm" in said[1]
    assert "--factors 4,4, chosen for this mesh" in said[2]
    two = mesh.train(
        (torch.tensor(vertices), torch.tensor(faces)), tmp_path / "b", say=said.append, **settings
    )
    assert one.result["test"] == two.result["test"], "a folder and arrays are the same meshes"
    assert one.evaluate().summary() == two.evaluate().summary() == one.result["test"]
    assert two.evaluate(folder, to_mm=10.0).summary() == one.result["test"]
    made = one.reconstruct(vertices[:2])
    np.testing.assert_allclose(one.decode(one.encode(vertices[:2])), made, atol=1e-6)
    alone = one.reconstruct(torch.tensor(vertices[0]))  # of another batch: float32's rounding
    np.testing.assert_allclose(alone, made[0], atol=1e-6)
    with pytest.raises(MeshError, match=r"must have shape \[B, 162, 3\].*got \[1, 5, 3\]"):
        one.reconstruct(np.zeros((5, 3)))
    exported = mesh.load(one.export(tmp_path / "model"))
    np.testing.assert_array_equal(exported.reconstruct(vertices[:2]), made)
    assert exported.evaluate((vertices, faces), to_mm=10.0).mean == one.result["test"]["mean"]
    with pytest.raises(CheckpointError, match=r"exported model does not say.*--data PATH"):
        exported.evaluate()
    with pytest.raises(ValueError, match="hand them over again"):
        mesh.load(tmp_path / "b").evaluate()
    with pytest.raises(ValueError, match="unknown setting --stepps; did you mean --steps"):
        mesh.train(folder, tmp_path / "c", stepps=3)
    with pytest.raises(TypeError, match="data must be a folder, 'synthetic'"):
        mesh.train(3, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_points(tmp_path, said):
    from polygraph.tasks import points

    rng = np.random.default_rng(0)
    clouds, labels = rng.normal(size=(40, 24, 3)), np.arange(40) % 2
    small = {"edge_channels": [4, 4], "head_channels": [8], "embedding_channels": 8}
    run = points.train((clouds, labels), tmp_path / "a", k=4, model=small, **QUICK, say=said.append)
    assert "40 clouds of 24 points, 2 classes: 26 train, 4 validate, 10 test" in said[0]
    assert run.evaluate() == run.result["test"]
    shares = run.predict_proba(torch.tensor(clouds[:3]))
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_array_equal(run.predict(clouds[:3]), shares.argmax(1))
    again = points.load(tmp_path / "a")
    np.testing.assert_array_equal(again.predict_proba(clouds[:3]), shares)
    with pytest.raises(ValueError, match="hand them over again"):
        again.evaluate()
    with pytest.raises(ValueError, match=r"clouds must have shape \[B, N, 3\]"):
        run.predict(clouds[..., :2])


def test_images(tmp_path, said):
    from polygraph.tasks import images

    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 12, 12)).astype(np.uint8)
    labels = np.arange(60) // 7 % 2
    settings = {"preset": "bed/conv", "width": 4, **QUICK}
    run = images.train((pixels, labels), tmp_path / "a", say=said.append, **settings)
    assert "3 x 32 x 32, 2 classes: 49 train, 5 validate, 6 test" in said[0]
    assert run.evaluate() == run.result["test"]
    assert "top5_accuracy" not in run.result["test"], "of two classes"
    shares = run.predict_proba(torch.tensor(pixels[:3]))
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_array_equal(run.predict(pixels[:3]), shares.argmax(1))
    alone = run.predict_proba(pixels[0])  # of another batch: float32's rounding
    np.testing.assert_allclose(alone, shares[:1], atol=1e-5)
    again = images.load(tmp_path / "a")
    np.testing.assert_array_equal(again.predict_proba(pixels[:3]), shares)
    assert again.evaluate((pixels, labels)) == run.result["test"]
    with pytest.raises(ValueError, match="hand them over again"):
        again.evaluate()
    with pytest.raises(ValueError, match=r"has the classes 0, 1, 2, the run 0, 1"):
        run.evaluate((pixels, np.arange(60) % 3))
    for wrong in (pixels[:, :1], pixels.astype(float), pixels[:0]):
        with pytest.raises(ValueError, match=r"uint8 of shape \[B, 3, H, W\]"):
            run.predict(wrong)
    with pytest.raises(ValueError, match="size must be at least that of the images, 40 x 40"):
        run.predict(np.zeros((1, 3, 40, 40), np.uint8))


def test_gan(tmp_path, said):
    from polygraph.tasks import gan

    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16)).astype(np.uint8)
    pair = {"critic_steps": 1}
    run = gan.train(pixels, tmp_path / "a", gan=pair, **QUICK, say=said.append)
    assert "20 images of 3 x 32 x 32: 18 train, 2 are held out" in said[0]
    assert run.result["steps"] == 3
    assert run.sample(2).shape == (2, 3, 32, 32)
    assert run.interpolate(2, 3).shape == (6, 3, 32, 32)
    assert torch.equal(gan.load(tmp_path / "a").sample(2, seed=1), run.sample(2, seed=1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeshDataset.from_arrays(np.zeros((3, 4)), [[0, 1, 2]]), r"shape \[N, V, 3\]"),
        (lambda: MeshDataset.from_arrays(np.zeros((2, 4, 3)), [[0, 1, 9]]), "faces"),
        (lambda: ShapeDataset.from_arrays(np.zeros((3, 4)), [0, 1, 2]), r"shape \[S, N, 3\]"),
        (lambda: ShapeDataset.from_arrays(np.zeros((2, 4, 3)), [0.5, 1]), "label must be integers"),
        (lambda: ImageDataset.from_arrays(np.zeros((9, 1, 8, 8))), "must be uint8"),
        (lambda: ImageDataset.from_arrays(np.zeros((20, 1, 40, 8), np.uint8)), "size must be"),
        (
            lambda: ImageDataset.from_arrays(np.zeros((20, 1, 8, 8), np.uint8), [0] * 3),
            r"integers of shape \[20\]",
        ),
    ],
)
def test_bad_arrays_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_run_of_another_kind_says_what_takes_it(tmp_path, said, capsys):
    polygraph.tasks.mesh.train(
        write_meshes(tmp_path / "meshes"), tmp_path / "run", **QUICK, say=said.append
    )
    for command in (["sample"], ["score"], ["predict", "a.ply"]):
        assert main([*command, "--run", str(tmp_path / "run")]) == 1
        assert "holds a mesh autoencoder, not a " in (line := capsys.readouterr().err)
        assert "evaluate, reconstruct, latent, export and view take it" in line


def test_resume_needs_no_other_word(tmp_path, said, capsys):
    folder, out = write_meshes(tmp_path / "meshes"), str(tmp_path / "run")
    words = ["--steps", "3", "--batch-size", "4", "--latent", "5", "--schedule", "constant"]
    words += ["--eval-every", "1"]
    assert main(["train", "mesh", str(folder), "--out", out, *words]) == 0
    assert main(["train", "mesh", "--out", out, "--resume", "--steps", "5"]) == 0
    assert "5 steps" in capsys.readouterr().out
    again = ["--config", f"{out}/run.json", "--out", str(tmp_path / "again"), "--steps", "5"]
    assert main(["train", "mesh", *again]) == 0
    results = [polygraph.tasks.mesh.load(tmp_path / name).result for name in ("run", "again")]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["config_hash"] == results[1]["config_hash"]


def test_a_resumed_run_leads_nowhere(tmp_path, said, monkeypatch, capsys):
    """Of what a run says of places only what this user named is followed."""
    folder, out = write_meshes(tmp_path / "meshes"), str(tmp_path / "run")
    polygraph.tasks.mesh.train(folder, out, **QUICK, say=said.append)
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "another user"))
    for words in (["--resume", "--out", out], ["--config", f"{out}/run.json", "--out", "x"]):
        assert main(["train", "mesh", *words]) == 1
        assert "say where it is, --data PATH" in capsys.readouterr().err
    assert main(["train", "mesh", "--resume", "--out", out, "--data", str(folder)]) == 0


@pytest.mark.parametrize(("sides", "levels"), [((7, 8), 1), ((10, 11), 2), ((17, 19), 3)])
def test_depth_follows_the_mesh(sides, levels, tmp_path, said):
    from polygraph.data import MeshDataConfig
    from polygraph.tasks.mesh.config import preset_run
    from polygraph.tasks.mesh.depth import fit_to_mesh
    from polygraph.train.config import TrainConfig

    ball = trimesh.creation.uv_sphere(count=list(sides))
    made = np.random.default_rng(0).uniform(0.8, 1.2, (6, 1, 1)) * ball.vertices
    dataset = MeshDataset.from_arrays(made, ball.faces)
    for preset in ("full-2", "neural3dmm"):
        wanted = preset_run(preset, MeshDataConfig(), TrainConfig(), factors=None)
        config = fit_to_mesh(wanted, dataset)
        assert config.factors == (4,) * levels
        assert len(config.model.encoder_channels) == levels
        assert config.model.encoder_channels == wanted.model.encoder_channels[-levels:]
        assert len(config.spiral.hops) <= levels + 1


def test_a_walk_leaves_nothing_of_an_older_one(tmp_path, said):
    folder, out = write_meshes(tmp_path / "meshes"), tmp_path / "walk"
    run = polygraph.tasks.mesh.train(folder, tmp_path / "run", **QUICK, say=said.append)
    model = str(run.export(tmp_path / "model"))
    words = ["latent", "interpolate", "test:0", "train:1", "--run", model, "--data", str(folder)]
    words += ["--kind", "registered", "--out", str(out), "--no-picture"]
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for steps in (5, 3):
        assert main([*words, "--steps", str(steps)]) == 0
        for row in ("codes", "vertices"):
            found = sorted(path.name for path in (out / row).iterdir())
            assert found == [f"{number:04d}.ply" for number in range(steps)]
    assert (out / "notes.txt").read_text() == "mine"


def test_predict_tells_the_class_of_files(tmp_path, said, capsys):
    small = {"edge_channels": [4, 4], "head_channels": [8], "embedding_channels": 8}
    polygraph.tasks.points.train(
        "shapes", tmp_path / "run", k=4, model=small, **QUICK, say=said.append
    )
    cloud = tmp_path / "a.xyz"
    np.savetxt(cloud, np.random.default_rng(0).normal(size=(30, 3)))
    words = ["predict", str(cloud), "--run", str(tmp_path / "run"), "--unit-sphere"]
    assert main(words) == 0
    assert f"{cloud}: " in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["probability"] == max(row["probabilities"].values())
    assert row["class"] in row["probabilities"]


def test_another_unit_than_the_data_set_has(tmp_path):
    """What is here already knows its unit: another one is not taken in silence."""
    with pytest.raises(ValueError, match="to_mm must be 1000, which is the data set's, got 1"):
        polygraph.tasks.mesh.train(make_creature(num_frames=16), tmp_path / "run", to_mm=1.0)


def test_centred_clouds_for_a_network_of_clouds_far_away(tmp_path, capsys):
    """The run's origin would be taken from clouds that are around 0 already."""
    cloud = tmp_path / "cloud.xyz"
    np.savetxt(cloud, np.random.default_rng(0).normal(size=(40, 3)))
    clouds = np.random.default_rng(1).normal((7e6, 0.0, 0.0), size=(24, 32, 3))
    run = polygraph.tasks.points.train(
        (clouds, np.arange(24) % 2), tmp_path / "run", steps=1, batch_size=4, k=4
    )
    assert run.meta["origin"][0] > 6e6
    words = ["predict", str(cloud), "--run", str(tmp_path / "run"), "--unit-sphere"]
    assert main(words) != 0
    assert "--unit-sphere is for networks of centred clouds" in capsys.readouterr().err
