"""DFAUST: the official hdf5 layout, streaming conversion, and every way of being wrong."""

import sys

import numpy as np
import pytest

from polygraph.data import dfaust, open_dfaust
from polygraph.mesh.io import MeshError

h5py = pytest.importorskip("h5py")

LENGTHS = {"m": {"50002_hips": 7, "50009_knees": 5}, "f": {"50004_hips": 6, "50020_knees": 25}}


@pytest.fixture
def meshes(octahedron):
    rng = np.random.default_rng(0)
    return {
        name: (octahedron[0] + 0.1 * rng.normal(size=(length, 6, 3))).astype(np.float32)
        for lengths in LENGTHS.values()
        for name, length in lengths.items()
    }


@pytest.fixture
def folder(tmp_path, meshes, octahedron):
    """registrations_f.hdf5 and registrations_m.hdf5 in the official layout [V, 3, T]."""
    root = tmp_path / "dfaust"
    root.mkdir()
    for gender, lengths in LENGTHS.items():
        with h5py.File(root / f"registrations_{gender}.hdf5", "w") as file:
            file["faces"] = octahedron[1].astype(np.uint32)
            for name in lengths:
                file[name] = meshes[name].transpose(1, 2, 0)
    return root


def _change(path, name, data):
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if data is not None:
            file[name] = data


@pytest.mark.parametrize("budget", [1, 6 * 3 * 4 * 4, 1 << 27])
def test_conversion(folder, tmp_path, meshes, octahedron, monkeypatch, budget):
    """The same array, whether sequences are read whole, in pieces or frame by frame."""
    monkeypatch.setattr(dfaust, "_READ_BYTES", budget)
    dataset = open_dfaust(folder, cache_dir=tmp_path / "cache")
    wanted = np.concatenate([meshes[name] for name in sorted(meshes)])
    assert np.array_equal(dataset.vertices, wanted)
    assert isinstance(dataset.vertices, np.memmap)
    assert np.array_equal(dataset.faces, octahedron[1])
    assert dataset.frames[7] == {
        "clip": "50004_hips",
        "subject": "50004",
        "motion": "hips",
        "file": "registrations_f.hdf5",
        "frame": 0,
    }
    again = open_dfaust(folder, cache_dir=tmp_path / "cache", full_check=True)
    assert again.content_hash == dataset.content_hash


def test_one_file_alone(folder, tmp_path):
    dataset = open_dfaust(folder / "registrations_m.hdf5", cache_dir=tmp_path / "cache")
    assert {frame["subject"] for frame in dataset.frames} == {"50002", "50009"}


def test_splits(folder, tmp_path):
    dataset = open_dfaust(folder, cache_dir=tmp_path / "cache")
    assert set(dataset.splits) == {
        "interpolation",
        "extrapolation-hips",
        "extrapolation-knees",
        "subject-50002",
        "subject-50004",
        "subject-50009",
        "subject-50020",
    }
    inter = dataset.split("interpolation")
    assert {dataset.frames[i]["frame"] % 10 for i in inter.test} == {5}
    assert len(inter.test) == 4
    extra = dataset.split("extrapolation-hips")
    assert {dataset.frames[i]["motion"] for i in extra.test} == {"hips"}
    # A literal: the list must never change between versions.
    assert inter.sha256[:16] == "6fed37aba6a976cf"


def test_splits_file(folder, tmp_path):
    (folder / "splits.json").write_text('{"theirs": {"train": [0, 1], "test": [2]}}')
    dataset = open_dfaust(folder, cache_dir=tmp_path / "cache")
    assert dataset.split("theirs").test.tolist() == [2]


def _nan(name):
    data = np.ones((6, 3, 25), np.float32)
    data[2, 1, 17] = np.nan
    return data


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("50020_knees", _nan("x"), "50020_knees: mesh 17: vertex 2 is not a finite float32"),
        ("50020_knees", np.ones((5, 3, 2)), r"50020_knees must have shape \[6, 3, T\], got \[5, 3"),
        ("50020_knees", np.ones((6, 3)), r"50020_knees must have shape \[6, 3, T\], got \[6, 3\]"),
        ("50020_knees", np.ones((25, 6, 3)), r"must have shape \[6, 3, T\], got \[25, 6, 3\]"),
        ("50002_hips", np.ones((6, 3, 2)), "sequence 50002_hips is also in"),
        ("faces", np.array([[0, 1, 9]]), r"faces: face 0 = .* outside \[0, 6\)"),
        ("faces", np.array([[0, 1, 2]]), "faces differ from those of"),
        ("faces", None, "must have a data set 'faces', got"),
    ],
)
def test_bad_content(folder, tmp_path, name, data, message):
    # The second file of the two, so that it is compared with the first.
    target = "registrations_m.hdf5" if name == "faces" else "registrations_f.hdf5"
    _change(folder / target, name, data)
    with pytest.raises(MeshError, match=message) as error:
        open_dfaust(folder, cache_dir=tmp_path / "cache")
    assert "hdf5" in str(error.value)


def test_corrupt_file(folder, tmp_path):
    (folder / "registrations_f.hdf5").write_bytes(b"not hdf5")
    with pytest.raises(MeshError, match=r"registrations_f\.hdf5: not a whole hdf5 file"):
        open_dfaust(folder, cache_dir=tmp_path / "cache")


def test_empty(tmp_path, octahedron):
    with pytest.raises(FileNotFoundError, match="DFAUST: no such file or folder"):
        open_dfaust(tmp_path / "missing")
    with pytest.raises(MeshError, match=r"no meshes: want registrations_f\.hdf5"):
        open_dfaust(tmp_path)
    path = tmp_path / "registrations_f.hdf5"
    with h5py.File(path, "w") as file:
        file["faces"] = octahedron[1]
        file.create_group("50004_group")
    with pytest.raises(MeshError, match="no meshes: want data sets <sid>_<sequence>"):
        open_dfaust(tmp_path, cache_dir=tmp_path / "cache")
    _change(path, "50004_hips", np.ones((6, 3, 0)))
    with pytest.raises(MeshError, match="no meshes: every sequence is empty"):
        open_dfaust(tmp_path, cache_dir=tmp_path / "cache")


def test_missing_h5py_names_the_extra(folder, tmp_path, monkeypatch):
    cached = open_dfaust(folder, cache_dir=tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'polygraph-nn\[mesh\]'"):
        open_dfaust(folder, cache_dir=tmp_path / "another cache")
    again = open_dfaust(folder, cache_dir=tmp_path / "cache")  # needs no h5py any more
    assert again.content_hash == cached.content_hash
