"""Which way is up: data sets say it, and runs, exported models, grids and pictures follow."""

import json

import numpy as np
import pytest
from support.grids import write_grid

from polygraph.data import MeshDataConfig, make_creature, open_dataset
from polygraph.mesh.up import checked_up, guess_up, known_up
from polygraph.models import MeshAutoencoder, MeshAutoencoderConfig
from polygraph.tasks.mesh.latent import LatentRun
from polygraph.tasks.mesh.run import export_run, load_model, load_run
from polygraph.tasks.mesh.training import MeshRunConfig, train_mesh
from polygraph.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from polygraph.train.config import TrainConfig

Z = [0.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the built-in animal, which stands on z = 0 and is longest along x."""
    folder = tmp_path_factory.mktemp("up")
    model = MeshAutoencoderConfig(
        encoder_channels=(4, 4), decoder_channels=(4, 4, 3), latent_channels=3
    )
    data = MeshDataConfig(num_frames=40, cache_dir=str(folder / "cache"))
    train = TrainConfig(steps=2, batch_size=4, eval_every=2, accelerator="cpu")
    config = MeshRunConfig(model=model, data=data, train=train, factors=(4, 4))
    train_mesh(config, folder / "run")
    return load_run(folder / "run")


def test_guesses():
    """A standing figure is found; the animal on four legs is not, which is why data say it."""
    box = np.array([[0.0, 0, 0], [1, 1, 1]])
    assert [guess_up(box * size) for size in ([1, 1, 1], [1, 1, 2], [1, 2, 1], [3, 1, 2])] == [
        "y", "z", "y", "y",
    ]  # fmt: skip
    assert guess_up(make_creature(1).vertices[0]) == "y"


def test_what_is_said():
    assert known_up("auto", "z", "y") == "z"
    assert known_up("auto", "auto") == "auto"
    for bad in ("w", None, 2, ["z"]):
        with pytest.raises(ValueError, match="up must be one of auto, x, y, z, got"):
            checked_up(bad)
    with pytest.raises(ValueError, match="up must be one of"):
        MeshDataConfig(up="up")


def test_the_command_line_says_it():
    pytest.importorskip("jsonargparse")
    from polygraph.tasks.mesh.arguments import parse_train_mesh

    assert parse_train_mesh(["--out", "run", "--up", "z"])[0].data.up == "z"


def test_data_sets_say_it(tmp_path):
    assert open_dataset(MeshDataConfig(num_frames=4)).up == "z"
    np.save(tmp_path / "vertices.npy", make_creature(4).vertices)
    np.save(tmp_path / "faces.npy", make_creature(4).faces)
    config = MeshDataConfig("registered", str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert open_dataset(config).up == "auto"
    said = MeshDataConfig(**{**vars(config), "up": "z"})
    assert open_dataset(said).up == "z"
    one, two = (MeshRunConfig(data=data).digest() for data in (config, said))
    assert one == two  # how pictures are turned makes no other run


def test_runs_and_exported_models_say_it(run, tmp_path):
    assert json.loads((run.folder / "run.json").read_text())["up"] == "z"
    assert run.model.up == "z"
    folder = export_run(run, tmp_path / "model")
    assert MeshAutoencoder.from_pretrained(folder).up == "z"


def test_older_runs_do_not(run, tmp_path):
    state, meta = load_checkpoint(run.folder / "best.safetensors")
    for up, wanted in ((None, "auto"), ("y", "y")):
        meta.pop("up", None)
        meta |= {} if up is None else {"up": up}
        save_checkpoint(tmp_path / "old.safetensors", state, meta)
        assert load_model(tmp_path / "old.safetensors", run.hierarchy)[0].up == wanted
    save_checkpoint(tmp_path / "old.safetensors", state, {**meta, "up": "sideways"})
    with pytest.raises(CheckpointError, match=r"old.safetensors: up must be one of .* 'sideways'"):
        load_model(tmp_path / "old.safetensors", run.hierarchy)


@pytest.mark.parametrize("words", [["interpolate", "test:0", "test:1"], ["sample"], ["axes"]])
def test_latent_pictures_stand(run, words, tmp_path, monkeypatch):
    """Every picture of the animal is seen with z up, unless somebody asks for another."""
    pytest.importorskip("matplotlib")
    from polygraph.report import figures

    made = getattr(LatentRun(run), words[0])(*words[1:])
    seen, make_view = [], figures.make_view
    monkeypatch.setattr(
        figures, "make_view", lambda *a, **k: seen.append(make_view(*a, **k)) or seen[-1]
    )
    monkeypatch.setattr(figures, "draw_mesh", lambda *a, **k: None)
    made.write(tmp_path / "made")
    made.write(tmp_path / "made", up="y")
    assert seen[0].rotation[1] @ Z > 0.9
    assert abs(seen[1].rotation[1] @ Z) < 0.3


def test_grids_say_it(tmp_path):
    """The report turns meshes as the samples of the grid say, or else as it guesses."""
    from polygraph.report.grid_rows import read_rows
    from polygraph.report.page_meshes import Stage, read_samples

    creature = make_creature(8)
    write_grid(
        tmp_path, models=["pca"], latents=(8,), odd=False,
        vertices=creature.vertices, faces=creature.faces,
    )  # fmt: skip
    (row,) = read_rows(tmp_path)
    path = tmp_path / "meshes" / "spheres" / "interpolation" / "samples.json"
    for up, stands in (("z", True), (None, False)):
        about = json.loads(path.read_text()) | {"up": up}
        path.write_text(json.dumps({k: v for k, v in about.items() if v is not None}))
        stage = Stage(read_samples(tmp_path, row), 2, 500, 1000.0)
        assert bool(stage.rotation[1] @ Z > 0.9) is stands
        turned = Stage(read_samples(tmp_path, row), 2, 500, 1000.0, "x")
        assert turned.rotation[1] @ [1.0, 0, 0] > 0.9
