"""A data set of two dozen small meshes and a model that trains on it in a second."""

from dataclasses import replace

import numpy as np
import trimesh

from polygraph.data import MeshDataConfig
from polygraph.models import MeshAutoencoderConfig
from polygraph.tasks.mesh.training import MeshRunConfig
from polygraph.train.config import TrainConfig

MODEL = MeshAutoencoderConfig(
    encoder_channels=(4, 6), decoder_channels=(6, 4, 3), latent_channels=3, block="full", order=2
)


def write_meshes(folder, num=24, seed=0, subdivisions=2):
    """Write ``num`` deformed spheres as vertices.npy and faces.npy; returns the folder."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    rng = np.random.default_rng(seed)
    base = np.asarray(sphere.vertices)
    codes = rng.normal(size=(num, 3, 1))
    waves = np.stack([np.sin(3 * base[:, i : i + 1]) * base for i in range(3)])
    vertices = base + 0.2 * np.einsum("nkx,kvc->nvc", codes, waves) + 0.1 * codes[:, :1] ** 2
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vertices.npy", vertices.astype(np.float32))
    np.save(folder / "faces.npy", np.asarray(sphere.faces, dtype=np.int32))
    return folder


def tiny_run(tmp_path, *, num=24, model=MODEL, split="interpolation", **train):
    """A run on freshly written meshes under ``tmp_path``."""
    path = tmp_path / "meshes"
    if not path.exists():
        write_meshes(path, num)
    data = MeshDataConfig("registered", str(path), split, cache_dir=str(tmp_path / "cache"))
    settings = {"steps": 12, "batch_size": 4, "eval_every": 4, "accelerator": "cpu", **train}
    return MeshRunConfig(
        preset="tiny", model=model, data=data, train=TrainConfig(**settings), factors=(4, 4)
    )


def with_train(config, **train):
    """The same run with other training settings."""
    return replace(config, train=replace(config.train, **train))
