"""Pretrained folders: the same model to the bit, and every fault named."""

import copy
import json
import os
import pickle
import re
import resource

import numpy as np
import pytest
import torch
import trimesh
from safetensors.torch import load_file, save_file

from polygraph.mesh import build_hierarchy
from polygraph.models import MeshAutoencoder, MeshAutoencoderConfig
from polygraph.models.mesh.pretrained import PretrainedError, read_config

CONFIG = MeshAutoencoderConfig(
    encoder_channels=(4, 6), decoder_channels=(6, 4, 3), latent_channels=3
)


@pytest.fixture(scope="module")
def hierarchy():
    sphere = trimesh.creation.icosphere(subdivisions=2)
    return build_hierarchy(np.asarray(sphere.vertices), np.asarray(sphere.faces), factors=(4, 4))


def make_model(hierarchy, config=CONFIG, dtype=torch.float32):
    torch.manual_seed(3)
    model = MeshAutoencoder(config, hierarchy).to(dtype)
    template = torch.as_tensor(hierarchy.vertices[0])
    model.set_normalization(template, 0.1 + template.abs())
    return model


@pytest.fixture
def folder(hierarchy, tmp_path):
    return make_model(hierarchy).save_pretrained(
        tmp_path / "model", to_mm=1000.0, metadata={"data": "spheres", "test": {"mean": 1.25}}
    )


def rewrite(folder, **changes):
    """Change sections of config.json, as if they had been written so, without their hash."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    config["sha256"].pop("config.json", None)
    path.write_text(json.dumps(config))


def replace_weights(folder, change):
    """Write changed weights with the hash that belongs to them, to reach the later checks."""
    import hashlib

    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    hashes = {**read_config(folder)["sha256"]}
    hashes["model.safetensors"] = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(folder, sha256=hashes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "changes",
    [
        {"block": "first_order", "order": 1},
        {"block": "full", "norm": "batch"},
        {"block": "skip", "order": 3, "activation": "none", "fuse_downsampling": False},
        {"block": "simple", "dummy_vertex": True},
        {"operator": "chebyshev", "block": "first_order", "order": 1},
        {"operator": "gat", "block": "first_order", "order": 1},
        {"operator": "ecc", "block": "full"},
    ],
)
def test_round_trip_is_the_same_to_the_bit(hierarchy, tmp_path, changes, dtype):
    config = MeshAutoencoderConfig(**{**vars(CONFIG), **changes})
    model = make_model(hierarchy, config, dtype)
    x = torch.randn(4, model.num_vertices, 3, dtype=dtype)
    model(x)  # BatchNorm counts
    model.eval()
    model.save_pretrained(tmp_path)
    back = MeshAutoencoder.from_pretrained(tmp_path)
    assert not back.training
    assert back.config == config
    assert back.hierarchy_hash == model.hierarchy_hash
    ours, theirs = model.state_dict(), back.state_dict()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert theirs[name].dtype == value.dtype
        assert torch.equal(theirs[name], value), name
    assert torch.equal(back(x), model(x))
    again = tmp_path / "again"
    back.save_pretrained(again)
    for name in ("config.json", "model.safetensors", "hierarchy.safetensors", "README.md"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_the_folder(folder, hierarchy):
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "hierarchy.safetensors", "README.md"}
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: polygraph\n")
    assert "| test.mean | 1.25 |" in card
    assert "162, 41, 11" in card
    model, config = MeshAutoencoder.load_pretrained(folder)
    assert (config["to_mm"], config["metadata"]["data"]) == (1000.0, "spheres")
    np.testing.assert_array_equal(model.hierarchy.faces[0], hierarchy.faces[0])
    np.testing.assert_array_equal(model.hierarchy.vertices[0], hierarchy.vertices[0])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model.save_pretrained(folder, to_mm=1000.0, metadata=config["metadata"])
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_with_its_hierarchy_can_be_copied(hierarchy):
    model = make_model(hierarchy).eval()
    x = torch.randn(2, model.num_vertices, 3)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "hierarchy.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(PretrainedError, match=rf"{name}: no such file"):
        MeshAutoencoder.from_pretrained(folder)


def test_no_folder(tmp_path):
    with pytest.raises(PretrainedError, match=r"no such folder.*hf download"):
        MeshAutoencoder.from_pretrained(tmp_path / "none")


@pytest.mark.parametrize("name", ["model.safetensors", "hierarchy.safetensors"])
@pytest.mark.parametrize("fault", ["bit", "cut", "pickle"])
def test_a_changed_file_is_refused(folder, name, fault):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if fault != "bit":
        data = data[: len(data) // 2] if fault == "cut" else pickle.dumps({"a": 1})
    path.write_bytes(data)
    with pytest.raises(PretrainedError, match=rf"{name}: changed or not whole: SHA-256"):
        MeshAutoencoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type must be 'polygraph-mesh-autoencoder', got 'bert'"),
        ({"version": 2}, "reads version 1, got 2"),
        ({"model": None}, "model is missing or of the wrong type"),
        ({"sha256": {}}, "sha256 must name model.safetensors and hierarchy.safetensors"),
        ({"model": {"latent_chanels": 3}}, "unknown settings latent_chanels"),
        ({"model": {"latent_channels": 0}}, "latent_channels must be a positive integer, got 0"),
        ({"model": {}}, "one entry for each of the 2 down-samplings"),
        ({"hierarchy": {"hash": "0" * 64, "settings": {}}}, "config.json wants 000000000000"),
        ({"hierarchy": {}}, "hierarchy must have the object settings"),
        ({"to_mm": -1}, "to_mm must be null or a positive number, got -1"),
        ({"to_mm": True}, "to_mm must be null or a positive number, got True"),
        ({"to_mm": float("nan")}, "to_mm must be null or a positive number, got nan"),
    ],
)
def test_a_bad_configuration_is_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(PretrainedError, match=message):
        MeshAutoencoder.from_pretrained(folder)


def test_changed_settings_are_refused_and_metadata_may_be_edited(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "metadata": {"by": "me"}}))
    assert MeshAutoencoder.from_pretrained(folder).config == CONFIG
    config["model"]["activation"] = "relu"  # the same weights fit, and give other meshes
    path.write_text(json.dumps(config))
    with pytest.raises(PretrainedError, match=r"config\.json: changed or not whole"):
        MeshAutoencoder.from_pretrained(folder)


@pytest.mark.parametrize(("name", "value"), [("latent_channels", 5_000_000), ("order", 10_000_000)])
def test_sizes_are_compared_before_memory_is_taken(folder, name, value):
    model = json.loads((folder / "config.json").read_text())["model"]
    rewrite(folder, model={**model, name: value})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PretrainedError, match=r"model\.safetensors: does not fit the model"):
        MeshAutoencoder.from_pretrained(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "hierarchy.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "loop", "folder"])
def test_regular_files_of_a_bounded_size_alone_are_read(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 50 << 30)
    with pytest.raises(PretrainedError, match=re.escape(name)):
        MeshAutoencoder.from_pretrained(folder)


def test_a_configuration_in_too_many_lists(folder):
    for depth in (100, 100_000):
        (folder / "config.json").write_text("[" * depth + "]" * depth)
        with pytest.raises(PretrainedError, match=r"config\.json: .*more than 64 lists"):
            MeshAutoencoder.from_pretrained(folder)


def test_a_configuration_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(PretrainedError, match=r"config\.json: not a readable JSON file"):
        MeshAutoencoder.from_pretrained(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(PretrainedError, match="got 'list'"):
        MeshAutoencoder.from_pretrained(folder)


def drop(state):
    del state["mean"]


def add(state):
    state["more"] = torch.zeros(1)


def reshape(state):
    state["to_latent.weight"] = state["to_latent.weight"].T.contiguous()


def narrow(state):
    state["std"] = state["std"].double()


def spoil(state):
    state["from_latent.bias"][0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "lacks mean"),
        (add, "has no place for more"),
        (reshape, r"to_latent.weight must have shape \[3, 66\], got \[66, 3\]"),
        (narrow, "std must have dtype torch.float32, got torch.float64"),
        (spoil, "from_latent.bias holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, change, message):
    replace_weights(folder, change)
    with pytest.raises(PretrainedError, match=message):
        MeshAutoencoder.from_pretrained(folder)


def test_what_cannot_be_saved(hierarchy, tiny, tmp_path):
    with pytest.raises(ValueError, match=r"must be a polygraph\.mesh\.MeshHierarchy, got Simple"):
        MeshAutoencoder(CONFIG, tiny).save_pretrained(tmp_path / "m")
    model = make_model(hierarchy)
    with pytest.raises(ValueError, match="metadata must be JSON values"):
        model.save_pretrained(tmp_path / "m", metadata={"a": object()})
    with torch.no_grad():
        model.to_latent.bias[1] = torch.inf
    with pytest.raises(ValueError, match=r"to_latent\.bias holds NaN or infinity"):
        model.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
