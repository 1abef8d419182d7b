"""CoMA: the official tree, its irregularities, and the splits that public code uses."""

import numpy as np
import pytest

from polygraph.data import open_coma
from polygraph.data.coma import INTERPOLATION, coma_splits, find_frames
from polygraph.mesh.io import Mesh, MeshError, write_mesh

SUBJECTS = ("FaceTalk_170725_00137_TA", "FaceTalk_170728_03272_TA", "FaceTalk_170809_00138_TA")


def _frames(lengths):
    """Frames as `find_frames` lists them, for {(subject, expression): number of frames}."""
    return [
        {
            "clip": f"{subject}/{expression}",
            "subject": subject,
            "expression": expression,
            "number": number + 1,
            "frame": number,
            "file": f"{subject}/{expression}/{expression}.{number + 1:06d}.ply",
        }
        for (subject, expression), length in sorted(lengths.items())
        for number in range(length)
    ]


@pytest.fixture
def lists():
    """Two sequences that are no multiple of a hundred: the conventions all differ."""
    return _frames({("s1", "bareteeth"): 130, ("s1", "mouth_up"): 105, ("s2", "bareteeth"): 115})


@pytest.fixture
def face(octahedron, data_root_or_none):
    """The CoMA template where it is at hand, else an octahedron."""
    path = None if data_root_or_none is None else data_root_or_none / "coma-template/template.npz"
    if path is not None and path.exists():
        with np.load(path) as template:
            return template["v"].astype(np.float64), template["f"].astype(np.int64)
    return octahedron


@pytest.fixture
def tree(tmp_path, octahedron):
    """Three subjects, two expressions, four frames each with a gap: number 2 is missing."""
    root = tmp_path / "coma"
    shift = 0
    for subject in reversed(SUBJECTS):
        for expression in ("mouth_up", "bareteeth"):
            folder = root / subject / expression
            folder.mkdir(parents=True)
            for number in (20, 1, 3, 10):
                mesh = Mesh(octahedron[0] + shift, octahedron[1])
                write_mesh(folder / f"{expression}.{number:06d}.ply", mesh)
                shift += 1
    return root


def test_order_frames_and_content(tree, tmp_path, octahedron):
    dataset = open_coma(tree, cache_dir=tmp_path / "cache")
    assert dataset.vertices.shape == (24, 6, 3)
    assert np.array_equal(dataset.faces, octahedron[1])
    assert [f["number"] for f in dataset.frames[:4]] == [1, 3, 10, 20]
    assert [f["frame"] for f in dataset.frames[:4]] == [0, 1, 2, 3]
    assert [f["subject"] for f in dataset.frames[::8]] == list(SUBJECTS)
    assert [f["expression"] for f in dataset.frames[:8:4]] == ["bareteeth", "mouth_up"]
    # The last subject was written first; its bareteeth has the shifts 4 .. 7 for 20, 1, 3, 10.
    shift = dataset.vertices[16:20].mean((1, 2))
    np.testing.assert_allclose(shift, [5, 6, 7, 4], atol=1e-5)  # float32 means of 18 numbers
    again = open_coma(tree, cache_dir=tmp_path / "cache", full_check=True)
    assert again.content_hash == dataset.content_hash


def test_real_template(tmp_path, face):
    for number in range(3):
        path = tmp_path / "tree" / SUBJECTS[0] / "eyebrow" / f"eyebrow.{number:06d}.ply"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mesh(path, Mesh(face[0] * (1 + number / 100), face[1]))
    dataset = open_coma(tmp_path / "tree", cache_dir=tmp_path / "cache")
    assert np.array_equal(dataset.faces, face[1])
    for number in range(3):
        wanted = (face[0] * (1 + number / 100)).astype(np.float32)
        assert np.array_equal(dataset.vertices[number], wanted)


def test_top_folder_of_the_archive_may_be_there(tree, tmp_path):
    inner = tmp_path / "outer" / "COMA_data"
    inner.parent.mkdir()
    tree.rename(inner)
    assert len(open_coma(inner.parent, cache_dir=tmp_path / "cache")) == 24


def test_extra_files_are_left_out_and_counted(tree, octahedron):
    mesh = Mesh(*octahedron)
    write_mesh(tree / SUBJECTS[0] / "mouth_up" / "template.ply", mesh)
    write_mesh(tree / SUBJECTS[0] / "mouth_up" / "bareteeth.000001.ply", mesh)
    (tree / SUBJECTS[0] / "mouth_up" / "._mouth_up.000001.ply").write_text("of another system")
    (tree / SUBJECTS[0] / "mouth_up" / "readme.txt").write_text("")
    with pytest.warns(UserWarning, match=r"left out 2 \.ply files that are not frames, first .*"):
        paths, frames = find_frames(tree)
    assert len(paths) == len(frames) == 24


def test_new_frame_is_converted(tree, tmp_path, octahedron):
    open_coma(tree, cache_dir=tmp_path / "cache")
    write_mesh(tree / SUBJECTS[0] / "mouth_up" / "mouth_up.000002.ply", Mesh(*octahedron))
    with pytest.warns(UserWarning, match="its source, which has changed"):
        dataset = open_coma(tree, cache_dir=tmp_path / "cache")
    assert len(dataset) == 25
    assert [f["number"] for f in dataset.frames[4:9]] == [1, 2, 3, 10, 20]


def test_other_topology_is_named(tree, tmp_path, octahedron):
    odd = tree / SUBJECTS[1] / "mouth_up" / "mouth_up.000003.ply"
    write_mesh(odd, Mesh(octahedron[0], octahedron[1][::-1]))
    with pytest.raises(MeshError, match=rf"{SUBJECTS[1]}.*mouth_up\.000003\.ply: face 0 is"):
        open_coma(tree, cache_dir=tmp_path / "cache")


def test_same_number_twice(tree, octahedron):
    write_mesh(tree / SUBJECTS[1] / "mouth_up" / "mouth_up.3.ply", Mesh(*octahedron))
    with pytest.raises(MeshError, match="the same frame number as"):
        find_frames(tree)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="CoMA: no such file or folder"):
        open_coma(tmp_path / "missing")
    with pytest.raises(MeshError, match="no meshes: want <subject>/<expression>/"):
        open_coma(tmp_path)
    (tmp_path / "archive.zip").touch()
    with pytest.raises(NotADirectoryError, match="want the folder of the extracted archive"):
        open_coma(tmp_path / "archive.zip")


def test_conventions_differ_and_have_stable_hashes(lists):
    splits = coma_splits(lists)
    hashes = {name: splits[name].sha256[:16] for name in INTERPOLATION}
    # Literals: these lists are what results are quoted for, so they must never change.
    assert hashes == {
        "interpolation-sorted": "aedb1cb3491d279a",
        "interpolation-natural": "aedb1cb3491d279a",  # six digits everywhere: the same order
        "interpolation-sequence": "30c4e3605ccb1049",
        "interpolation-pyg": "073b150ae6484994",
        "interpolation-port": "9bb43f3896a015f4",
    }
    assert splits["interpolation"].sha256 == splits["interpolation-sorted"].sha256


def test_rules(lists):
    splits = coma_splits(lists)
    position = np.array([frame["frame"] for frame in lists])
    along = np.arange(350) % 100
    expected = {
        "interpolation-sorted": along < 10,
        "interpolation-natural": along < 10,
        "interpolation-sequence": position % 100 < 10,
        "interpolation-pyg": position % 100 >= 90,
        "interpolation-port": along <= 10,
    }
    for name, test in expected.items():
        assert splits[name].test.tolist() == np.flatnonzero(test).tolist(), name
    port = splits["interpolation-port"]
    assert port.val.tolist() == np.flatnonzero((along > 10) & (along <= 20)).tolist()
    for name in INTERPOLATION:
        parts = np.concatenate([splits[name].train, splits[name].val, splits[name].test])
        assert sorted(parts.tolist()) == list(range(350)), name


def test_natural_order_matters_without_leading_zeros():
    frames = _frames({("s", "eyebrow"): 130})
    for frame in frames:
        frame["file"] = f"s/eyebrow/eyebrow.{frame['number']}.ply"
    splits = coma_splits(frames)
    assert splits["interpolation-natural"].test.tolist() == [*range(10), *range(100, 110)]
    by_text = sorted(range(130), key=lambda i: str(i + 1))  # 1, 10, 100, 101, ...
    wanted = sorted(by_text[:10] + by_text[100:110])
    assert splits["interpolation-sorted"].test.tolist() == wanted


def test_extrapolation(lists):
    splits = coma_splits(lists)
    expression = np.array([frame["expression"] for frame in lists])
    subject = np.array([frame["subject"] for frame in lists])
    extra = splits["extrapolation-mouth_up"]
    assert extra.test.tolist() == np.flatnonzero(expression == "mouth_up").tolist()
    assert "mouth_up" not in set(expression[extra.train]) | set(expression[extra.val])
    assert splits["identity-s2"].test.tolist() == np.flatnonzero(subject == "s2").tolist()
    assert {name for name in splits if name.startswith(("extra", "identity"))} == {
        "extrapolation-bareteeth",
        "extrapolation-mouth_up",
        "identity-s1",
        "identity-s2",
    }


def test_impossible_splits_are_left_out():
    frames = _frames({("s", "eyebrow"): 50})
    splits = coma_splits(frames)
    assert "interpolation-pyg" not in splits  # no sequence has 90 frames
    assert not [name for name in splits if name.startswith("extrapolation")]
    assert coma_splits(frames[:1]) == {}


def test_unknown_split_suggests(tree, tmp_path):
    dataset = open_coma(tree, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="did you mean 'extrapolation-mouth_up'"):
        dataset.split("extrapolation-mouthup")


def test_splits_file_comes_on_top(tree, tmp_path):
    (tree / "splits.json").write_text('{"theirs": {"train": [0, 1], "test": [2]}}')
    dataset = open_coma(tree, cache_dir=tmp_path / "cache")
    assert dataset.split("theirs").test.tolist() == [2]
    assert "extrapolation-bareteeth" in dataset.splits


def test_every_convention_says_what_it_is():
    for convention in INTERPOLATION.values():
        assert convention.text.startswith("Test: i % 100")
