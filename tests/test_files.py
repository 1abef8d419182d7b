"""What is opened where a user names a file, and what is refused before anything is read."""

import errno
import hashlib
import os

import numpy as np
import pytest

from polygraph._arrays import array_sha256
from polygraph._files import (
    atomic_path,
    open_regular,
    read_regular,
    temporary_beside,
    write_atomic,
)


class Fault(ValueError):
    pass


def refused(path, words, most=100):
    with pytest.raises(Fault, match=words) as caught:
        read_regular(path, most, Fault)
    assert os.fspath(path)[:200] in str(caught.value)


def test_reads_what_is_there(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    assert read_regular(str(path), 5, first=2) == b"12"
    assert read_regular(path, 5, first=9) == b"12345"
    (tmp_path / "link").symlink_to(path)
    file, size = open_regular(tmp_path / "link", 5)
    with file:
        assert (file.read(), size) == (b"12345", 5)
    (tmp_path / "empty").touch()
    assert read_regular(tmp_path / "empty", 0) == b""


@pytest.mark.timeout(20)
def test_refuses_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "pipe", "not a file but a pipe")
    refused("/dev/zero", "not a file but a device")
    refused(tmp_path, "not a file but a folder")
    refused(tmp_path / "loop", "cannot be opened: Too many levels")
    refused(tmp_path / "dangling", "no such file")
    refused(tmp_path / "absent", "no such file")
    refused(tmp_path / ("n" * 300), "cannot be opened: File name too long")
    with pytest.raises(Fault, match="not the name of a file"):
        read_regular("a\0b", 100, Fault)
    with pytest.raises(ValueError, match="not a file but a pipe"):
        read_regular(tmp_path / "pipe", 100)


def test_refuses_what_is_too_large(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(50 << 30)
    refused(tmp_path / "sparse", f"has {50 << 30} bytes, more than the 100 that are read")


def test_refuses_what_says_no_size():
    if not os.path.exists("/proc/self/status"):
        pytest.skip("no /proc")
    refused("/proc/self/status", "changes while it is read: its size was 0 bytes")


def test_temporary_names_fit(tmp_path):
    path = tmp_path / ("n" * 255)
    temporary = temporary_beside(path)
    temporary.write_bytes(b"")
    os.replace(temporary, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_hashes_of_arrays_are_those_that_files_hold():
    """Runs and caches compare them: type, shape and bytes of every array, in this order."""
    one, other = np.arange(6, dtype="<f4").reshape(2, 3), np.arange(0, dtype="<i8")
    wanted = hashlib.sha256(b"<f4(2, 3)" + one.tobytes() + b"<i8(0,)").hexdigest()
    assert array_sha256(one, other) == wanted
    assert array_sha256(one.T.copy().T, other) == wanted
    assert (
        array_sha256(np.int64(7)) == hashlib.sha256(b"<i8(1,)" + bytes([7] + 7 * [0])).hexdigest()
    )
    assert array_sha256(np.ones(3, np.bool_)) == hashlib.sha256(b"|b1(3,)\1\1\1").hexdigest()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    with pytest.raises(OSError, match="No space left"), atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"old"
