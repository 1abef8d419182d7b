"""From the official files of CoMA and DFAUST to a trained model, odd things and all."""

import os
from pathlib import Path

import numpy as np
import pytest
import trimesh

from polygraph.data import MeshDataConfig, open_dataset
from polygraph.mesh.io import Mesh, write_mesh
from polygraph.tasks.mesh.training import preset_run, train_mesh
from polygraph.train.config import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[3]
SUBJECTS = ("FaceTalk_170725_00137_TA", "FaceTalk_170809_00138_TA")
EXPRESSIONS = ("bareteeth", "mouth_up")


@pytest.fixture(scope="module")
def face():
    """The CoMA template where it is at hand, else a sphere."""
    root = Path(os.environ.get("POLYGRAPH_DATA", REPOSITORY / "../shared/data"))
    path = root / "coma-template" / "template.npz"
    if path.exists():
        with np.load(path) as template:
            return template["v"].astype(np.float64), template["f"].astype(np.int64)
    sphere = trimesh.creation.icosphere(subdivisions=4)
    return 0.1 * np.asarray(sphere.vertices), np.asarray(sphere.faces)


def moved(vertices, count, seed):
    """Float32 ``[count, V, 3]``: smooth deformations."""
    codes = np.random.default_rng(seed).normal(size=(count, 3))
    size = np.abs(vertices).max()
    waves = np.stack([np.sin(3 * vertices[:, [i]] / size) * vertices for i in range(3)])
    return (vertices + 0.1 * np.einsum("nk,kvc->nvc", codes, waves)).astype(np.float32)


def write_coma(root, face):
    """Two subjects, two expressions; frames are missing, one expression of one subject, too."""
    expected = []
    for place, subject in enumerate(SUBJECTS):
        for number, expression in enumerate(EXPRESSIONS[: 2 - place]):
            folder = root / subject / expression
            folder.mkdir(parents=True)
            frames = [n for n in range(1, 17) if n not in (2, 3, 9)]
            meshes = moved(face[0], len(frames), 10 * place + number)
            for frame, vertices in zip(frames, meshes, strict=True):
                path = folder / f"{expression}.{frame:06d}.ply"
                write_mesh(path, Mesh(vertices.astype(np.float64), face[1]))
            expected += list(meshes)
            (folder / "Thumbs.db").write_bytes(b"x")
            write_mesh(folder / "notes.ply", Mesh(face[0], face[1]))
    (root / "readme.txt").write_text("x")
    (root / SUBJECTS[0] / "._bareteeth").mkdir()
    return np.stack(expected)


def write_dfaust(root, face):
    """Both files; a sequence that only one person did; data sets that are no sequence."""
    h5py = pytest.importorskip("h5py")
    root.mkdir()
    lengths = {"m": {"50002_hips": 11, "50009_jumping_jacks": 17}, "f": {"50004_hips": 14}}
    expected = {}
    for gender, sequences in lengths.items():
        with h5py.File(root / f"registrations_{gender}.hdf5", "w") as file:
            file["faces"] = face[1].astype(np.uint32)
            for name, length in sequences.items():
                meshes = moved(face[0], length, int(name[:5]))
                file.create_dataset(name, data=meshes.transpose(1, 2, 0), chunks=True)
                expected[name] = meshes
            file["sids"] = np.arange(3)
            file.create_group("info")["text"] = "x"
    (root / "write_sequence_to_obj.py").write_text("x")
    (root / "registrations_old.txt").write_text("x")
    return np.concatenate([expected[name] for name in sorted(expected)])


@pytest.mark.filterwarnings("ignore:.*left out 3 .ply files that are not frames.*:UserWarning")
@pytest.mark.parametrize(("kind", "write"), [("coma", write_coma), ("dfaust", write_dfaust)])
def test_official_files_train(tmp_path, face, kind, write):
    expected = write(tmp_path / kind, face)
    cache = str(tmp_path / "cache")
    data = MeshDataConfig(kind, str(tmp_path / kind), cache_dir=cache)
    dataset = open_dataset(data)
    assert np.array_equal(dataset.vertices, expected)
    for name in ("interpolation", "extrapolation-mouth_up", "extrapolation-jumping_jacks"):
        if name in dataset.splits:
            parts = dataset.splits[name]
            assert sorted([*parts.train, *parts.val, *parts.test]) == list(range(len(dataset)))
    train = TrainConfig(steps=2, batch_size=4, accelerator="cpu")
    result = train_mesh(preset_run("full-2", data, train, latent_channels=4), tmp_path / "run")
    assert 0 < result["test"]["mean"] < 1000
    assert result["test"]["num_samples"] == len(dataset.split("interpolation").test)
