"""Folders of registered meshes: both forms, statistics, and every way of being wrong."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from polygraph.data import mesh_dataset, open_registered, registered
from polygraph.mesh.io import Mesh, MeshError, write_mesh

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def file_folder(tmp_path, moving):
    """A folder in form (b): two clips of six files; natural order is not that of text."""
    folder = tmp_path / "files"
    for i, mesh in enumerate(moving[0]):
        path = folder / f"clip{i // 6}" / f"f{i % 6 + 7}.ply"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mesh(path, Mesh(mesh.astype(np.float64), moving[1]))
    return folder


def test_arrays_are_mapped_where_they_stand(array_folder, cache, moving):
    dataset = open_registered(array_folder, cache_dir=cache)
    assert isinstance(dataset.vertices, np.memmap)
    assert Path(dataset.vertices.filename) == array_folder / "vertices.npy"
    assert np.array_equal(dataset.vertices, moving[0])
    assert dataset.faces.dtype == np.int64
    assert np.array_equal(dataset.faces, moving[1])
    assert (len(dataset), dataset.num_vertices, dataset.to_mm) == (12, 6, 1000.0)
    assert np.array_equal(dataset.template, moving[0][0].astype(np.float64))
    (entry,) = (p for p in cache.iterdir() if p.is_dir())
    assert [p.name for p in entry.iterdir()] == ["manifest.json"]  # no copy


def test_arrays_are_validated_once(array_folder, cache, monkeypatch):
    first = open_registered(array_folder, cache_dir=cache)

    def never(*args):
        raise AssertionError("validated again")

    monkeypatch.setattr(registered, "_array_sha256", never)
    assert open_registered(array_folder, cache_dir=cache).content_hash == first.content_hash
    with pytest.raises(AssertionError, match="validated again"):
        open_registered(array_folder, cache_dir=cache, full_check=True)


def test_changed_arrays_are_validated_again(array_folder, cache, moving):
    first = open_registered(array_folder, cache_dir=cache)
    moving[0][7, 2, 1] = np.nan
    np.save(array_folder / "vertices.npy", moving[0])
    with (
        pytest.warns(UserWarning, match="its source, which has changed"),
        pytest.raises(MeshError, match="mesh 7: vertex 2 is not a finite float32"),
    ):
        open_registered(array_folder, cache_dir=cache)
    moving[0][7, 2, 1] = 0
    np.save(array_folder / "vertices.npy", moving[0])
    with pytest.warns(UserWarning, match="its source, which has changed"):
        second = open_registered(array_folder, cache_dir=cache)
    assert second.content_hash != first.content_hash


def test_full_check_finds_a_change_that_keeps_size_and_time(array_folder, cache):
    first = open_registered(array_folder, cache_dir=cache)
    path = array_folder / "vertices.npy"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_registered(array_folder, cache_dir=cache).content_hash == first.content_hash
    with pytest.warns(UserWarning, match="content has changed, though not its size and time"):
        second = open_registered(array_folder, cache_dir=cache, full_check=True)
    assert second.content_hash != first.content_hash


def test_unwritable_cache_does_not_matter_for_arrays_in_place(array_folder, tmp_path, moving):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="cannot be remembered"):
        dataset = open_registered(array_folder, cache_dir=tmp_path / "file" / "cache")
    assert np.array_equal(dataset.vertices, moving[0])


@pytest.mark.parametrize("form", ["float64", "float16", "big-endian", "fortran"])
def test_other_float_types_are_converted(array_folder, cache, moving, form, monkeypatch):
    wanted = open_registered(array_folder, cache_dir=cache).content_hash
    array = {
        "float64": moving[0].astype(np.float64),
        "float16": moving[0].astype(np.float16),
        "big-endian": moving[0].astype(">f4"),
        "fortran": np.asfortranarray(moving[0]),
    }[form]
    np.save(array_folder / "vertices.npy", array)
    monkeypatch.setattr(
        mesh_dataset, "_CHUNK_BYTES", 6 * 3 * 8 * 5
    )  # several chunks, the last short
    dataset = open_registered(array_folder, cache_dir=cache)
    assert dataset.vertices.dtype == np.dtype("<f4")
    assert np.array_equal(dataset.vertices, array.astype(np.float32))
    # The identity is that of the numbers, not of the form in which they lie.
    assert (dataset.content_hash == wanted) == (form != "float16")


def test_conversion_streams(tmp_path, cache, octahedron, monkeypatch):
    monkeypatch.setattr(mesh_dataset, "_CHUNK_BYTES", 100_000)
    shape = (2000, 600, 3)
    path = tmp_path / "big"
    path.mkdir()
    source = np.lib.format.open_memmap(path / "vertices.npy", "w+", np.float64, shape)
    source[:] = np.arange(2000)[:, None, None]
    del source
    np.save(path / "faces.npy", octahedron[1])
    tracemalloc.start()
    dataset = open_registered(path, cache_dir=cache)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000  # a few chunks of 100 kB and the split's lists; the whole is 29 MB
    assert dataset.vertices[1999, 599, 2] == 1999


def test_mesh_files(file_folder, cache, moving):
    dataset = open_registered(file_folder, cache_dir=cache, to_mm=1.0)
    assert np.array_equal(dataset.vertices, moving[0])  # natural order: f7 .. f12
    assert dataset.to_mm == 1.0
    assert dataset.frames[1] == {"clip": "clip0", "frame": 1, "file": "clip0/f8.ply"}
    assert dataset.frames[6]["frame"] == 0
    again = open_registered(file_folder, cache_dir=cache)
    assert again.content_hash == dataset.content_hash
    assert again.frames == dataset.frames


def test_mesh_files_and_arrays_have_the_same_identity(file_folder, array_folder, cache):
    one = open_registered(file_folder, cache_dir=cache)
    two = open_registered(array_folder, cache_dir=cache)
    assert one.content_hash == two.content_hash


@pytest.mark.parametrize("suffix", [".obj", ".off"])
def test_other_formats(tmp_path, cache, moving, suffix):
    for i, mesh in enumerate(moving[0][:3]):
        write_mesh(tmp_path / f"m{i}{suffix}", Mesh(mesh.astype(np.float64), moving[1]))
    assert np.array_equal(open_registered(tmp_path, cache_dir=cache).vertices, moving[0][:3])


def test_mixed_topology_names_the_file(file_folder, cache, octahedron):
    odd = file_folder / "clip1" / "f9.ply"
    write_mesh(odd, Mesh(octahedron[0], octahedron[1][:-1]))
    with pytest.raises(MeshError, match=r"f9\.ply: 7 faces, want 8 as in .*f7\.ply"):
        open_registered(file_folder, cache_dir=cache)


def test_nan_in_a_mesh_file_names_the_file(file_folder, cache):
    text = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    text += "property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (file_folder / "clip0" / "f7.ply").write_text(text + "0 0 0\n1 0 nan\n0 1 0\n3 0 1 2\n")
    with pytest.raises(MeshError, match=r"f7\.ply: 1 of 3 vertices are not finite"):
        open_registered(file_folder, cache_dir=cache)


def test_corrupt_mesh_file_names_the_file(file_folder, cache):
    path = file_folder / "clip1" / "f12.ply"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MeshError, match=r"f12\.ply"):
        open_registered(file_folder, cache_dir=cache)


def test_frames_and_splits_files(array_folder, cache):
    frames = [{"clip": f"c{i // 4}", "n": i} for i in range(12)]
    (array_folder / "frames.json").write_text(json.dumps(frames))
    lists = {"mine": {"train": list(range(8)), "test": [8, 9, 10, 11]}}
    (array_folder / "splits.json").write_text(json.dumps(lists))
    dataset = open_registered(array_folder, cache_dir=cache)
    assert dataset.frames == frames
    assert list(dataset.splits) == ["mine"]
    assert dataset.split("mine").test.tolist() == [8, 9, 10, 11]
    with pytest.raises(ValueError, match="unknown split 'mien'; did you mean 'mine'"):
        dataset.split("mien")


def test_default_split(array_folder, cache):
    split = open_registered(array_folder, cache_dir=cache).split("interpolation")
    assert split.test.tolist() == [5]
    assert len(split.train) + len(split.val) == 11


def _arrays(vertices=None, faces=None):
    def change(folder, moving):
        np.save(folder / "vertices.npy", moving[0] if vertices is None else vertices(moving[0]))
        np.save(folder / "faces.npy", moving[1] if faces is None else faces(moving[1]))

    return change


def _nan(v):
    v[0, 3, 2] = np.nan
    return v


def _huge(v):
    v = v.astype(np.float64)
    v[11, 5, 0] = 1e300
    return v


def _text(name, text):
    return lambda folder, moving: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            _arrays(lambda v: v[:, :, :2]),
            MeshError,
            r"must have shape \[N, V, 3\], got \[12, 6, 2\]",
        ),
        (_arrays(lambda v: v[0]), MeshError, r"must have shape \[N, V, 3\], got \[6, 3\]"),
        (_arrays(lambda v: v[:0]), MeshError, r"vertices.npy: no meshes: shape \[0, 6, 3\]"),
        (
            _arrays(lambda v: v.astype(int)),
            MeshError,
            "must hold floating-point numbers, got int64",
        ),
        (_arrays(lambda v: v.astype(complex)), MeshError, "floating-point numbers, got complex128"),
        (
            _arrays(_nan),
            MeshError,
            r"vertices.npy: mesh 0: vertex 3 is not a finite float32: .*nan",
        ),
        (_arrays(_huge), MeshError, "mesh 11: vertex 5 is not a finite float32"),
        (_arrays(faces=lambda f: f + 1), MeshError, r"faces.npy: face .* outside \[0, 6\)"),
        (_arrays(faces=lambda f: f - 1), MeshError, r"faces.npy: face .* outside \[0, 6\)"),
        (_arrays(faces=lambda f: f[:, :2]), MeshError, r"faces must have shape \[F, 3\]"),
        (_arrays(faces=lambda f: f[:0]), MeshError, "no faces"),
        (_arrays(faces=lambda f: f * 1.0), MeshError, "faces must be integers, got float64"),
        (_text("vertices.npy", "no array"), MeshError, "vertices.npy: not a whole .npy file"),
        (_text("vertices.npy", ""), MeshError, "vertices.npy: not a whole .npy file"),
        (_text("frames.json", "[{}]"), ValueError, "one entry per mesh, 12, got 1"),
        (_text("frames.json", "{}"), ValueError, "frames.json: must be a list of objects"),
        (_text("frames.json", "[1"), ValueError, "frames.json: not a readable JSON file"),
        (_text("splits.json", '{"a": {"train": [99], "test": [1]}}'), ValueError, "got 99"),
        (lambda f, m: (f / "faces.npy").unlink(), FileNotFoundError, "no such file: .*faces.npy"),
    ],
)
def test_bad_folder(array_folder, cache, moving, damage, error, message):
    damage(array_folder, moving)
    with pytest.raises(error, match=message):
        open_registered(array_folder, cache_dir=cache)


def test_truncated_array(array_folder, cache):
    path = array_folder / "vertices.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(MeshError, match=r"vertices.npy: not a whole .npy file"):
        open_registered(array_folder, cache_dir=cache)


def test_pickles_are_never_loaded(array_folder, cache):
    np.save(array_folder / "vertices.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(MeshError, match=r"not a whole .npy file"):
        open_registered(array_folder, cache_dir=cache)


def test_nothing_there(tmp_path, cache):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*missing"):
        open_registered(tmp_path / "missing", cache_dir=cache)
    with pytest.raises(MeshError, match=r"no meshes: want vertices.npy and faces.npy, or .ply"):
        open_registered(tmp_path, cache_dir=cache)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="want a folder, got the file"):
        open_registered(tmp_path / "file", cache_dir=cache)


@pytest.mark.parametrize("to_mm", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scale(array_folder, cache, to_mm):
    with pytest.raises(ValueError, match="to_mm must be a positive number"):
        open_registered(array_folder, cache_dir=cache, to_mm=to_mm)


def test_one_mesh_opens_but_does_not_train(array_folder, cache, moving):
    np.save(array_folder / "vertices.npy", moving[0][:1])
    dataset = open_registered(array_folder, cache_dir=cache)
    assert len(dataset) == 1
    with pytest.raises(ValueError, match="training is impossible with 1 mesh: a split needs"):
        dataset.split("interpolation")


@pytest.mark.parametrize("form", ["float64", "float32", "files"])
def test_meshes_far_from_zero_keep_their_digits(form, array_folder, tmp_path, cache, octahedron):
    """An origin is subtracted before float32 cuts digits off, and kept with the data."""
    noise = 0.1 * np.random.default_rng(0).normal(size=(12, 6, 3))
    place = np.array([691234.123, 5334567.891, 512.345])
    meshes = 0.013 * (octahedron[0] + noise) + place
    folder = array_folder
    if form == "float32":  # as good as they came
        meshes = meshes.astype(np.float32) + np.arange(6, dtype=np.float32)[:, None]
    if form == "files":
        folder = tmp_path / "files"
        folder.mkdir()
        for number, vertices in enumerate(meshes):
            write_mesh(folder / f"{number:02d}.ply", Mesh(vertices, octahedron[1]))
    else:
        np.save(folder / "vertices.npy", meshes)
    for _ in range(2):  # made, and found in the cache
        dataset = open_registered(folder, cache_dir=cache)
        assert np.abs(dataset.origin - place).max() < 6
        back = dataset.vertices.astype(np.float64) + dataset.origin
        assert np.abs(back - meshes).max() < 2e-9
        np.testing.assert_allclose(dataset.template + dataset.origin, meshes[0], atol=2e-9)
    # Another place is another content, though the rest is the same.
    if form == "float64":
        np.save(folder / "vertices.npy", meshes + 1024.0)
        with pytest.warns(UserWarning, match="has changed"):
            moved = open_registered(folder, cache_dir=cache)
        assert moved.content_hash != dataset.content_hash


def test_meshes_too_far_apart_are_refused(array_folder, cache, moving):
    moving[0][7] += 600.0
    np.save(array_folder / "vertices.npy", moving[0])
    with pytest.raises(MeshError, match=r"vertices.npy: mesh 7 is 2 large and up to 60\d"):
        open_registered(array_folder, cache_dir=cache)


def test_entries_without_an_origin_are_read(array_folder, cache, moving):
    """What earlier versions wrote."""
    np.save(array_folder / "vertices.npy", moving[0].astype(np.float64))
    before = open_registered(array_folder, cache_dir=cache)
    (path,) = cache.glob("*/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest.pop("origin") == [0, 0, 0]
    path.write_text(json.dumps(manifest))
    after = open_registered(array_folder, cache_dir=cache)
    assert (after.origin, after.content_hash) == ((0.0, 0.0, 0.0), before.content_hash)


@pytest.mark.parametrize("animal", ["fox"])
def test_real_animal(data_root, tmp_path, cache, animal):
    script = data_root / "animals" / "make.py"
    if not script.exists():
        pytest.skip("no animals in the real data")
    out = tmp_path / animal
    subprocess.run([sys.executable, script, animal, out], check=True, capture_output=True)
    dataset = open_registered(out, cache_dir=cache)
    assert 600 <= len(dataset) <= 900
    assert set(dataset.splits) == {"interpolation", "extrapolation"}
    lists = json.loads((out / "splits.json").read_text())
    for name, split in dataset.splits.items():
        assert split.test.tolist() == sorted(lists[name]["test"])
        assert sorted([*split.train, *split.val]) == sorted(lists[name]["train"])
    card = (REPOSITORY / "datasets" / "animals.md").read_text()
    assert all(split.sha256 in card for split in dataset.splits.values())
    clip = np.array([frame["clip"] for frame in dataset.frames])
    extra = dataset.split("extrapolation")
    parts = [set(clip[part]) for part in (extra.train, extra.val, extra.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_file_names_of_every_kind(tmp_path, cache, moving):
    """Numbers that are no decimals."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name, mesh in zip(("2", "10", "\u00b2"), moving[0], strict=False):
        write_mesh(folder / f"{name}.ply", Mesh(mesh.astype(np.float64), moving[1]))
    dataset = open_registered(folder, cache_dir=cache)
    assert np.array_equal(dataset.vertices, moving[0][:3])


def test_poses_of_one_topology_are_cut_alike(tmp_path, cache):
    """A quad is convex in the first file and not in the second."""
    for name, x in (("a", 2.0), ("b", 0.1)):
        text = f"v 0 0 0\nv 1 -1 0\nv {x} 0 0\nv 1 1 0\nf 2 3 4 1\n"
        (tmp_path / f"{name}.obj").write_text(text)
    dataset = open_registered(tmp_path, cache_dir=cache)
    assert dataset.faces.tolist() == [[1, 2, 3], [1, 3, 0]]
    assert dataset.vertices[1, 2, 0] == np.float32(0.1)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["vertices.npy", "faces.npy", "frames.json", "more.ply"])
def test_pipes_are_refused(array_folder, file_folder, cache, name):
    folder = file_folder if name == "more.ply" else array_folder
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name}: not a file but a pipe"):
        open_registered(folder, cache_dir=cache)


@pytest.mark.parametrize("name", ["²", "n" * 250, "é" * 120, "\udcff", "a\udce9b"], ids=ascii)
def test_any_name_of_a_folder_and_a_file(name, tmp_path, octahedron):
    """Names as long as the file system allows, and such that are not in UTF-8."""
    folder = tmp_path / name
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("a name that this file system does not take")
    for number in range(2):
        path = folder / f"{name[:240]}{number}.ply"
        write_mesh(path, Mesh(octahedron[0] + number, octahedron[1]))
    for _ in range(2):
        dataset = open_registered(folder, cache_dir=tmp_path / "cache")
        assert np.array_equal(dataset.vertices[1] - dataset.vertices[0], np.ones((6, 3)))
