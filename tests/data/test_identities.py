"""Sets for verification: archives, folders, parts without common identities."""

import io
import json
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from polygraph.data import ImageDataset
from polygraph.data.identities import IdentityDataConfig, divided, open_identities


def picture(shade, suffix="png"):
    stream = io.BytesIO()
    Image.new("L", (12, 10), shade).save(stream, {"pgm": "PPM"}.get(suffix, suffix))
    return stream.getvalue()


def names_of(data, part):
    return {data.classes[n] for n in data.labels[getattr(data, part)].tolist()}


def check_parts(data):
    parts = [set(data.labels[getattr(data, part)].tolist()) for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(set(data.labels.tolist()))
    rows = np.concatenate([data.train, data.val, data.test])
    assert sorted(rows.tolist()) == list(range(len(data.labels)))


def orl(path, suffix="pgm", count=8):
    """An archive like that of the ORL faces, compressed with xz."""
    with tarfile.open(path, "w:xz") as archive:
        for person in range(1, count + 1):
            for number in (1, 2, 10):
                content = picture(20 * person + number, suffix)
                member = tarfile.TarInfo(f"orl_faces/s{person}/{number}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        archive.addfile(tarfile.TarInfo("orl_faces/README"), io.BytesIO())


def omniglot(path, alphabets, top="images_background_small1"):
    with zipfile.ZipFile(path, "w") as archive:
        for alphabet in alphabets:
            for character in (1, 2, 3):
                for writer in (1, 2):
                    shade = 10 * len(alphabet) + 3 * character + writer
                    name = f"{top}/{alphabet}/character{character:02}/{writer:04}.png"
                    archive.writestr(name, picture(shade))
        archive.writestr(f"__MACOSX/{top}/._x.png", b"none")


@pytest.mark.parametrize("suffix", ["pgm", "ppm", "png"])
def test_faces_in_their_archive(tmp_path, suffix):
    orl(tmp_path / "orl_faces.tar.xz", suffix)
    config = IdentityDataConfig("orl", str(tmp_path), size=8)
    data = open_identities(config)
    assert data.images.shape == (24, 1, 8, 8)
    assert data.classes == tuple(f"s{n}" for n in range(1, 9))
    assert data.images[:3, 0, 0, 0].tolist() == [21, 22, 30]  # 10.pgm comes after 2.pgm
    check_parts(data)
    assert (len(names_of(data, "test")), len(names_of(data, "val"))) == (2, 2)
    unpacked = tmp_path / "unpacked"
    with tarfile.open(tmp_path / "orl_faces.tar.xz") as archive:
        archive.extractall(unpacked, filter="data")
    cache = str(tmp_path / "cache")
    folder = IdentityDataConfig("folder", str(unpacked / "orl_faces"), 8, 1, cache_dir=cache)
    assert open_identities(folder).classes == data.classes
    assert open_identities(folder).split_hash == open_identities(folder).split_hash
    assert open_identities(
        IdentityDataConfig("folder", str(unpacked / "orl_faces"), 8, 1, cache_dir=cache,
                           split_seed=1)
    ).split_hash != data.split_hash  # fmt: skip


def test_characters_in_two_archives(tmp_path):
    """One alphabet is in both, with the same pictures."""
    omniglot(tmp_path / "a.zip", ["Greek", "Korean"])
    omniglot(tmp_path / "b.zip", ["Greek", "Sanskrit_x"], "images_background_small2")
    data = open_identities(
        IdentityDataConfig("omniglot", str(tmp_path), size=8, test_names="Greek,Korean/character02")
    )
    assert len(data.images) == 18
    assert names_of(data, "test") == {
        *(f"Greek/character{n:02}" for n in (1, 2, 3)), "Korean/character02",
    }  # fmt: skip
    check_parts(data)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("top/Greek/character01/0001.png", picture(0))
        archive.writestr("top/Latin/character01/0001.png", picture(0))
    with pytest.raises(ValueError, match=r"c\.zip: top/Greek/.* differs from another archive's"):
        open_identities(IdentityDataConfig("omniglot", str(tmp_path), size=8))


def test_folders_that_say_their_parts(tmp_path):
    for part, people in (("train", "abcdef"), ("test", "gh"), ("val", "ij")):
        for person in people:
            (tmp_path / part / person).mkdir(parents=True)
            for n in range(2):
                (tmp_path / part / person / f"{n}.png").write_bytes(picture(n))
    config = IdentityDataConfig("folder", str(tmp_path), 8, cache_dir=str(tmp_path / ".cache"))
    data = open_identities(config)
    assert data.images.shape == (20, 3, 8, 8)
    assert [names_of(data, part) for part in ("train", "val", "test")] == [
        set("abcdef"), set("ij"), set("gh"),
    ]  # fmt: skip
    (tmp_path / "test" / "a").mkdir()
    (tmp_path / "test" / "a" / "0.png").write_bytes(picture(3))
    config = replace(config, cache_dir=str(tmp_path / ".other"))
    with pytest.raises(ValueError, match=r"train/ and test/ must differ, but 1 are in both.*'a'"):
        open_identities(config)


def test_bodies_as_clouds(tmp_path):
    draw = np.random.default_rng(0)
    np.save(tmp_path / "vertices.npy", draw.normal(size=(40, 30, 3)).astype(np.float32))
    np.save(tmp_path / "faces.npy", np.array([[0, 1, 2], [1, 2, 3]]))
    frames = [{"clip": f"c{n // 5}", "identity": n // 5} for n in range(40)]
    (tmp_path / "frames.json").write_text(json.dumps(frames))
    base = {"kind": "meshes", "path": str(tmp_path), "cache_dir": str(tmp_path / "cache")}
    data = open_identities(IdentityDataConfig(**base, num_points=20, every=2))
    assert data.points.shape == (20, 20, 3)
    assert data.classes == tuple("01234567")
    check_parts(data)
    again = open_identities(IdentityDataConfig(**base, num_points=20, every=2))
    assert again.content_hash == data.content_hash
    with pytest.raises(ValueError, match="num_points must be at most 30"):
        open_identities(IdentityDataConfig(**base, num_points=31))
    with pytest.raises(ValueError, match=r"frames\.json must say the 'person' of every mesh"):
        open_identities(IdentityDataConfig(**base, identity="person"))


def test_the_real_faces(data_root):
    """Forty people, ten pictures each, out of the archive as it lies; 25 to train, 15 to test."""
    path = str(data_root / "faces-orl")
    data = open_identities(IdentityDataConfig("orl", path, size=16, test_fraction=0.375))
    assert data.images.shape == (400, 1, 16, 16)
    assert np.bincount(data.labels).tolist() == [10] * 40
    assert [len(data.train), len(data.val), len(data.test)] == [200, 50, 150]
    check_parts(data)


def test_any_labelled_set():
    data = open_identities(IdentityDataConfig(num_samples=100))
    check_parts(data)
    pixels = np.zeros((20, 1, 8, 8), np.uint8)
    made = ImageDataset.from_arrays(pixels, np.arange(20) // 2, size=8)
    check_parts(divided(made, IdentityDataConfig("arrays")))


def test_sets_that_cannot_be_divided(tmp_path):
    pixels = np.zeros((20, 1, 8, 8), np.uint8)

    def parts(labels, **settings):
        made = ImageDataset.from_arrays(pixels, labels, size=8)
        return divided(made, IdentityDataConfig("arrays", **settings))

    for call, message in (
        (lambda: parts(None), "have no labels, which must name identities"),
        (lambda: parts([0] * 20), "at least 6 identities.*got 1"),
        (lambda: parts(np.arange(20) % 5), "at least 6 identities.*got 5"),
        (lambda: parts(np.arange(20) // 2, test_fraction=0.9), "must validate|must train, got"),
        (lambda: parts(np.arange(20) // 2, test_names="3"), "2 identities must test, got 1 of 10"),
        (lambda: parts(np.arange(20) // 2, test_names="3,x"), "no identity 'x'"),
        (lambda: open_identities(IdentityDataConfig("arrays")), "not kept"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_archives_and_folders_that_are_none(tmp_path):
    def opened(path, kind="orl"):
        return open_identities(
            IdentityDataConfig(kind, str(path), size=8, cache_dir=str(tmp_path / ".cache"))
        )

    with pytest.raises(FileNotFoundError, match="no such folder or archive"):
        opened(tmp_path / "absent")
    for name, content, message in (
        ("a.zip", b"PK\3\4 no archive", "not a readable archive"),
        ("a.tar.xz", b"\xfd7zXZ\0 none", "not a readable archive"),
        ("a.txt", b"", "must be a folder, or one of"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            opened(tmp_path / name)
    whole = tmp_path / "whole.tar.xz"
    orl(whole)
    (tmp_path / "cut.tar.xz").write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.tar\.xz: not a readable archive"):
        opened(tmp_path / "cut.tar.xz")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("a/b/1.png", b"no picture")
    with pytest.raises(ValueError, match=r"bad\.zip: a/b/1\.png: not a readable picture"):
        opened(tmp_path / "bad.zip")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b/1.png", bytes(1 << 24))
    with pytest.raises(ValueError, match=r"bomb\.zip: at most 100 times"):
        opened(tmp_path / "bomb.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="want at least one picture, got none"):
        opened(tmp_path / "empty", "folder")
    (tmp_path / "empty" / "loose.png").write_bytes(picture(1))
    with pytest.raises(ValueError, match=r"must lie in a folder.*loose\.png"):
        opened(tmp_path / "empty", "folder")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "orll", "path": "x"}, "did you mean 'orl'"),
        ({"kind": "orl"}, "path must be set for kind 'orl'"),
        ({"path": "x"}, "path must not be set for kind 'glyphs', got 'x'"),
        ({"test_fraction": 1.0}, r"test_fraction must be in \(0, 1\)"),
        ({"size": 4}, "size must be at least 8"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"every": 0}, "every must be at least 1"),
        ({"split_seed": -1}, "split_seed must be at least 0"),
    ],
)
def test_bad_configurations(settings, message):
    with pytest.raises(ValueError, match=message):
        IdentityDataConfig(**settings)
