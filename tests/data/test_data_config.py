"""One configuration for every data set, also through the command line's parser."""

import numpy as np
import pytest

from polygraph.data import MeshDataConfig, open_dataset
from polygraph.data.known import recall, remember


def test_synthetic_is_the_default():
    config = MeshDataConfig()
    assert (config.kind, config.split) == ("synthetic", "interpolation")
    dataset = open_dataset(MeshDataConfig(num_frames=20, seed=2))
    assert dataset.vertices.shape == (20, 1922, 3)
    assert dataset.name == "creature-20-2"


def test_registered(array_folder, tmp_path, moving):
    config = MeshDataConfig(
        kind="registered", path=str(array_folder), to_mm=10.0, cache_dir=str(tmp_path / "cache")
    )
    dataset = open_dataset(config)
    assert np.array_equal(dataset.vertices, moving[0])
    assert dataset.to_mm == 10.0
    assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize("kind", ["registered", "coma", "dfaust"])
def test_missing_path(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*nowhere"):
        open_dataset(MeshDataConfig(kind=kind, path=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "registred", "path": "x"}, "unknown kind 'registred'; did you mean 'registered'"),
        ({"kind": "coma"}, "path must be set for kind 'coma', got none"),
        ({"path": "x"}, "path must not be set for kind 'synthetic', got 'x'"),
        ({"to_mm": 1.0}, "to_mm must not be set for kind 'synthetic'"),
    ],
)
def test_bad_config(arguments, message):
    with pytest.raises(ValueError, match=message):
        MeshDataConfig(**arguments)


def test_unknown_split_is_found_when_opening():
    with pytest.raises(ValueError, match=r"unknown split 'interp.*did you mean 'interpolation'"):
        open_dataset(MeshDataConfig(num_frames=20, split="interpol"))


def test_one_mesh_is_found_when_opening():
    with pytest.raises(ValueError, match="training is impossible with 1 mesh"):
        open_dataset(MeshDataConfig(num_frames=1))


def test_command_line_parser():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=MeshDataConfig, default=MeshDataConfig())
    arguments = ["--data.kind=coma", "--data.path=faces", "--data.to_mm=1", "--data.split=x"]
    parsed = parser.instantiate(parser.parse_args(arguments)).data
    assert parsed == MeshDataConfig(kind="coma", path="faces", to_mm=1.0, split="x")
    with pytest.raises(jsonargparse.ArgumentError):
        parser.parse_args(["--data.num_frames=many"])


def test_every_takes_one_of_so_many_of_each_part():
    whole, thin = (open_dataset(MeshDataConfig(num_frames=60, every=n)) for n in (1, 3))
    assert thin.content_hash == whole.content_hash
    for name, split in thin.splits.items():
        before = whole.split(name)
        for part in ("train", "val", "test"):
            assert getattr(split, part).tolist() == getattr(before, part).tolist()[::3]
        assert split.sha256 != before.sha256
    with pytest.raises(ValueError, match="every must be a positive integer, got 0"):
        MeshDataConfig(every=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, True, "1000"])
def test_to_mm_is_a_positive_number(value):
    with pytest.raises(ValueError, match="to_mm must be a positive number"):
        MeshDataConfig(kind="registered", path="x", to_mm=value)


@pytest.mark.parametrize("changes", [{"seed": -1}, {"num_frames": 0}, {"every": True}])
def test_other_numbers(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        MeshDataConfig(**changes)


@pytest.mark.parametrize("name", ["²", "é" * 120, "\udcff", "a\udce9b"], ids=ascii)
def test_places_of_any_name_are_known_again(name, tmp_path, monkeypatch):
    """Training notes them; names of files need not be in UTF-8."""
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "cache"))
    assert recall("folder", tmp_path / name) is None
    remember("folder", tmp_path / name, tmp_path / f"{name}2")
    assert recall("folder", tmp_path / name).cache_dir == str(tmp_path / f"{name}2")
