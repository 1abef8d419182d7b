"""The cache: whole or not there, found out when it is damaged, made by one process only."""

import errno
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import warnings

import numpy as np
import pytest

from polygraph._files import file_sha256
from polygraph.data import store
from polygraph.data.store import (
    MANIFEST,
    Conversion,
    Entry,
    NpyWriter,
    content_hash,
    default_cache_dir,
    open_converted,
)
from polygraph.mesh.io import MeshError


@pytest.fixture
def source(tmp_path):
    """A source of one file, and a conversion of it that counts its calls."""
    root = tmp_path / "source"
    root.mkdir()
    (root / "data").write_bytes(b"1234")
    return root


def _entry(source, tmp_path):
    return Entry("test", source, [source / "data"], tmp_path / "cache")


class Converter:
    """Counts how often it is asked; gives five meshes in two chunks."""

    def __init__(self, faces, pause=0.0):
        self.calls, self.faces, self.pause = 0, faces, pause
        self.meshes = np.random.default_rng(1).normal(size=(5, 6, 3)).astype(np.float32)

    def __call__(self):
        self.calls += 1
        time.sleep(self.pause)
        chunks = iter([self.meshes[:3], self.meshes[3:]])
        return Conversion((5, 6, 3), self.faces, [{"clip": "a"}] * 5, chunks)


def test_converted_once_and_memory_mapped(source, tmp_path, octahedron):
    convert = Converter(octahedron[1])
    first = open_converted(_entry(source, tmp_path), convert)
    second = open_converted(_entry(source, tmp_path), convert, full_check=True)
    assert convert.calls == 1
    for stored in (first, second):
        assert isinstance(stored.vertices, np.memmap)
        assert not stored.vertices.flags.writeable
        assert np.array_equal(stored.vertices, convert.meshes)
        assert np.array_equal(stored.faces, octahedron[1])
        assert stored.frames == [{"clip": "a"}] * 5
    assert first.content_hash == second.content_hash


def test_manifest_says_what_is_there(source, tmp_path, octahedron):
    entry = _entry(source, tmp_path)
    open_converted(entry, Converter(octahedron[1]))
    manifest = json.loads((entry.folder / MANIFEST).read_text())
    assert set(manifest["files"]) == {"vertices.npy", "faces.npy", "frames.json"}
    assert manifest["source"]["files"] == 1
    assert manifest["source"]["bytes"] == 4
    for name, described in manifest["files"].items():
        assert described["sha256"] == file_sha256(entry.folder / name)
        assert described["bytes"] == (entry.folder / name).stat().st_size
    assert sorted(p.name for p in entry.folder.iterdir()) == sorted([*manifest["files"], MANIFEST])
    assert not list((tmp_path / "cache").glob("*.tmp"))


def _shorten(folder):
    data = (folder / "vertices.npy").read_bytes()
    (folder / "vertices.npy").write_bytes(data[:-1])


def _flip_bit(folder):
    data = bytearray((folder / "vertices.npy").read_bytes())
    data[-5] ^= 1
    (folder / "vertices.npy").write_bytes(data)


def _edit_manifest(**changes):
    def edit(folder):
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "full_check", "message"),
    [
        (_shorten, False, "vertices.npy should have .* bytes, got"),
        (_flip_bit, True, "vertices.npy does not have the SHA-256"),
        (lambda f: (f / "faces.npy").unlink(), False, "lacks faces.npy"),
        (lambda f: (f / MANIFEST).unlink(), False, "has no manifest.json"),
        (lambda f: (f / MANIFEST).write_text("{"), False, "unreadable manifest.json"),
        (lambda f: (f / MANIFEST).write_text("[]"), False, "unreadable manifest.json"),
        (_edit_manifest(format=0), False, "has format 0, this version writes 1"),
        (_edit_manifest(files=3), False, "unreadable manifest.json"),
    ],
)
def test_damage_is_found_said_and_repaired(
    source, tmp_path, octahedron, damage, full_check, message
):
    convert, entry = Converter(octahedron[1]), _entry(source, tmp_path)
    open_converted(entry, convert)
    damage(entry.folder)
    with pytest.warns(UserWarning, match=message):
        stored = open_converted(entry, convert, full_check)
    assert convert.calls == 2
    assert np.array_equal(stored.vertices, convert.meshes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_converted(entry, convert, full_check=True)
    assert convert.calls == 2


def test_quick_check_does_not_read_the_data(source, tmp_path, octahedron):
    """The price of the quick check: a flipped bit is only found by the full one."""
    convert, entry = Converter(octahedron[1]), _entry(source, tmp_path)
    open_converted(entry, convert)
    _flip_bit(entry.folder)
    open_converted(entry, convert)
    assert convert.calls == 1


def test_changed_source_is_converted_again(source, tmp_path, octahedron):
    convert = Converter(octahedron[1])
    open_converted(_entry(source, tmp_path), convert)
    (source / "data").write_bytes(b"12345")
    with pytest.warns(UserWarning, match="its source, which has changed"):
        open_converted(_entry(source, tmp_path), convert)
    assert convert.calls == 2


def test_failed_conversion_leaves_nothing(source, tmp_path, octahedron):
    def convert():
        def chunks():
            yield np.zeros((3, 6, 3), np.float32)
            raise MeshError("mesh 3 is bad")

        return Conversion((5, 6, 3), octahedron[1], None, chunks())

    with pytest.raises(MeshError, match="mesh 3 is bad"):
        open_converted(_entry(source, tmp_path), convert)
    left = [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")]
    assert left == []


def test_failed_conversion_keeps_the_old_entry(source, tmp_path, octahedron, monkeypatch):
    convert, entry = Converter(octahedron[1]), _entry(source, tmp_path)
    open_converted(entry, convert)
    before = {p.name: p.read_bytes() for p in entry.folder.iterdir()}
    (source / "data").write_bytes(b"12345")

    def full(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(NpyWriter, "write", full)
    with (
        pytest.warns(UserWarning, match="has changed"),
        pytest.raises(OSError, match=r"No space left on device: .*cache"),
    ):
        open_converted(_entry(source, tmp_path), convert)
    assert {p.name: p.read_bytes() for p in entry.folder.iterdir()} == before
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def test_wrong_number_of_meshes_is_refused(source, tmp_path, octahedron):
    def convert():
        chunks = iter([np.zeros((4, 6, 3), np.float32)])
        return Conversion((5, 6, 3), octahedron[1], None, chunks)

    with pytest.raises(ValueError, match="announced 5 rows, got 4"):
        open_converted(_entry(source, tmp_path), convert)


def test_wrong_number_of_vertices_is_refused(source, tmp_path, octahedron):
    def convert():
        chunks = iter([np.zeros((5, 7, 3), np.float32)])
        return Conversion((5, 6, 3), octahedron[1], None, chunks)

    with pytest.raises(ValueError, match=r"rows must have shape \[6, 3\], got \[7, 3\]"):
        open_converted(_entry(source, tmp_path), convert)


KILLED = """
    import os, signal, sys
    import numpy as np
    from pathlib import Path
    from polygraph.data.store import Conversion, Entry, open_converted

    def chunks():
        yield np.zeros((3, 6, 3), np.float32)
        os.kill(os.getpid(), signal.SIGKILL)

    source, cache = Path(sys.argv[1]), sys.argv[2]
    faces = np.array([[0, 1, 2]])
    convert = lambda: Conversion((5, 6, 3), faces, None, chunks())
    open_converted(Entry("test", source, [source / "data"], cache), convert)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_while_writing(source, tmp_path, octahedron):
    """What a killed process wrote is never taken for an entry; its lock is free."""
    code = textwrap.dedent(KILLED)
    killed = subprocess.run([sys.executable, "-c", code, source, tmp_path / "cache"], check=False)
    assert killed.returncode == -signal.SIGKILL
    entry, convert = _entry(source, tmp_path), Converter(octahedron[1])
    assert not entry.folder.exists()
    leftovers = list((tmp_path / "cache").glob(".*.tmp"))
    assert len(leftovers) == 1
    stored = open_converted(entry, convert)
    assert np.array_equal(stored.vertices, convert.meshes)
    assert not leftovers[0].exists()


def test_simultaneous_openings_convert_once(source, tmp_path, octahedron):
    convert, results = Converter(octahedron[1], pause=0.2), []

    def work():
        results.append(open_converted(_entry(source, tmp_path), convert).content_hash)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert convert.calls == 1
    assert len(results) == 3
    assert len(set(results)) == 1


def test_memory_stays_bounded(source, tmp_path, octahedron):
    def convert():
        chunks = (np.full((1000, 6, 3), i, np.float32) for i in range(400))
        return Conversion((400_000, 6, 3), octahedron[1], None, chunks)

    tracemalloc.start()
    stored = open_converted(_entry(source, tmp_path), convert)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stored.vertices.nbytes == 400_000 * 72
    assert peak < 2_000_000  # a few chunks of 72 kB; the whole is 29 MB
    assert (stored.vertices[[0, 399_999], 0, 0] == [0, 399]).all()


def test_same_folder_read_as_another_kind_has_another_place(source, tmp_path):
    one = Entry("one", source, [source / "data"], tmp_path)
    two = Entry("two", source, [source / "data"], tmp_path)
    assert one.folder != two.folder


def test_content_hash_is_of_content(octahedron):
    faces = octahedron[1]
    assert content_hash("a", faces) == content_hash("a", faces.astype(np.int32))
    assert content_hash("a", faces) != content_hash("b", faces)
    assert content_hash("a", faces) != content_hash("a", faces[::-1])


def test_default_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("POLYGRAPH_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("POLYGRAPH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "polygraph"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "polygraph"


def test_progress_needs_no_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(store.progress([1, 2], "x", 2)) == [1, 2]
