"""CIFAR-10 and CIFAR-100: small files in the true layouts, damaged in every way."""

import gzip
import io
import tarfile

import numpy as np
import pytest

from polygraph.data import ImageDataConfig, open_images
from polygraph.data.cifar import (
    CIFAR10_FOLDER,
    CIFAR10_TEST,
    CIFAR10_TRAIN,
    CIFAR100_FOLDER,
    read_cifar10,
    read_cifar100,
)

RNG = np.random.default_rng(0)


@pytest.fixture
def cifar(tmp_path):
    """A folder in CIFAR-10's binary layout, four images a file; labels and images in order."""
    folder = tmp_path / "cifar" / CIFAR10_FOLDER
    folder.mkdir(parents=True)
    images = RNG.integers(0, 256, (24, 3, 32, 32)).astype(np.uint8)
    labels = (np.arange(24) % 10).astype(np.uint8)
    for i, name in enumerate((*CIFAR10_TRAIN, CIFAR10_TEST)):
        rows = slice(4 * i, 4 * i + 4)
        records = np.concatenate([labels[rows, None], images[rows].reshape(4, -1)], 1)
        (folder / name).write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("airplane\n")
    return folder, images, labels


def pack(path, folder, mode="w:gz", inside=CIFAR10_FOLDER, **more):
    """An archive like the official one, and members of any kind."""
    with tarfile.open(path, mode) as archive:
        archive.add(folder, inside)
        for name, content in more.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
    return path


def test_cifar_folder_and_archive_agree(cifar, tmp_path):
    folder, images, labels = cifar
    places = [folder, folder.parent, pack(tmp_path / "cifar-10-binary.tar.gz", folder)]
    places.append(pack(tmp_path / "plain.tar", folder, "w"))
    for place in places:
        dataset = open_images(ImageDataConfig(kind="cifar10", path=str(place)))
        assert np.array_equal(dataset.images, images)
        assert np.array_equal(dataset.labels, labels)
        assert dataset.test.tolist() == [20, 21, 22, 23]
        assert dataset.classes[9] == "truck"
    grey = open_images(ImageDataConfig(kind="cifar10", path=str(folder), channels=1, size=36))
    wanted = np.tensordot([0.299, 0.587, 0.114], images.astype(float), (0, 1))
    # Half a grey value of rounding, and what float64 leaves of it.
    assert np.abs(grey.images[:, 0, 2:34, 2:34] - wanted).max() <= 0.5 + 1e-9


def test_damaged_cifar(cifar):
    folder = cifar[0]
    path = folder / "data_batch_3.bin"
    whole = path.read_bytes()
    for data, message in [
        (whole[:-1], "data_batch_3.bin: truncated .* multiple of 3073 bytes, got 12291"),
        (b"", "data_batch_3.bin: truncated .* got 0"),
        (
            b"\x0a" + whole[1:],
            r"data_batch_3.bin: labels must lie in \[0, 10\), got 10 for image 0",
        ),
        (
            whole[:3073],
            "data_batch_3.bin: every file must have as many .*data_batch_1.bin, 4, got 1",
        ),
    ]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_cifar10(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no data_batch_3.bin$"):
        read_cifar10(folder)
    (folder / "data_batch_1").touch()
    with pytest.raises(FileNotFoundError, match="this is the Python version; want the binary"):
        read_cifar10(folder)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_cifar10(folder / "nowhere")


@pytest.fixture
def cifar100(tmp_path):
    """A folder in CIFAR-100's binary layout, ten and two images; labels and images in order."""
    folder = tmp_path / "cifar" / CIFAR100_FOLDER
    folder.mkdir(parents=True)
    images = RNG.integers(0, 256, (12, 3, 32, 32)).astype(np.uint8)
    labels = (99 - np.arange(12)).astype(np.uint8)
    groups = np.arange(12, dtype=np.uint8)
    records = np.concatenate([groups[:, None], labels[:, None], images.reshape(12, -1)], 1)
    (folder / "train.bin").write_bytes(records[:10].tobytes())
    (folder / "test.bin").write_bytes(records[10:].tobytes())
    return folder, images, labels


def test_cifar100_has_the_labels_of_its_classes(cifar100, tmp_path):
    folder, images, labels = cifar100
    archive = pack(tmp_path / "cifar-100-binary.tar.gz", folder, inside=CIFAR100_FOLDER)
    for place in (folder, folder.parent, archive):
        dataset = open_images(ImageDataConfig(kind="cifar100", path=str(place)))
        assert dataset.name == "CIFAR-100"
        assert np.array_equal(dataset.images, images)
        assert np.array_equal(dataset.labels, labels)
        assert dataset.test.tolist() == [10, 11]
    assert len(set(dataset.classes)) == 100
    assert list(dataset.classes) == sorted(dataset.classes)
    assert (dataset.classes[0], dataset.classes[99]) == ("apple", "worm")


def test_damaged_cifar100(cifar100):
    folder = cifar100[0]
    path = folder / "train.bin"
    whole = path.read_bytes()
    for data, message in [
        (whole[:-1], "train.bin: truncated .* multiple of 3074 bytes"),
        (b"\x14" + whole[1:], r"train.bin: labels must lie in \[0, 20\), got 20 for image 0"),
        (b"\x00\x64" + whole[2:], r"labels must lie in \[0, 100\), got 100 for image 0"),
        (whole[:-3074], "train.bin: every file must have 5 times as many .* test.bin, 2, got 9"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_cifar100(folder)
    path.unlink()
    (folder / "train").touch()
    with pytest.raises(FileNotFoundError, match=r"no train.bin \(this is the Python version"):
        read_cifar100(folder)


def test_hostile_archives(cifar, tmp_path, monkeypatch):
    folder = cifar[0]
    inside = f"{CIFAR10_FOLDER}/{CIFAR10_TEST}"
    for name, content, message in [
        ("../evil.bin", b"x", r"must stay inside the archive, got '\.\./evil\.bin'"),
        ("/etc/evil", b"x", "must stay inside the archive, got '/etc/evil'"),
        (inside, b"x", "test_batch.bin: want it once, got it twice"),
        (f"./{CIFAR10_TEST}", "/etc/passwd", "want a file, got a link or a device"),
    ]:
        path = pack(tmp_path / "hostile.tar.gz", folder, **{name: content})
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=message):
            read_cifar10(path)
        assert sorted(tmp_path.rglob("*")) == before
    whole = pack(tmp_path / "whole.tar.gz", folder).read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for size in (0, 100, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.tar\.gz: not a readable tar archive"):
            read_cifar10(cut)
    cut.write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(ValueError, match="not a readable tar archive"):
        read_cifar10(cut)
    monkeypatch.setattr("polygraph.data.cifar._MAX_BYTES", 20000)
    with pytest.raises(ValueError, match="and 20000 bytes is wanted, got more"):
        read_cifar10(tmp_path / "whole.tar.gz")


def test_a_tar_that_is_short_of_a_byte_is_refused(cifar, tmp_path):
    """The last member would be read shifted: its padding has a byte to spare."""
    packed = gzip.decompress(pack(tmp_path / "whole.tar.gz", cifar[0]).read_bytes())
    place = packed.rindex(b"ustar") + 300  # within the data of the last file
    (tmp_path / "short.tar").write_bytes(packed[:place] + packed[place + 1 :])
    with pytest.raises(
        ValueError, match=r"short\.tar: not a readable tar archive.*multiple of 512"
    ):
        read_cifar10(tmp_path / "short.tar")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_headers_are_counted_before_they_are_kept(tmp_path, kind):
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, 1 << 31
    path = tmp_path / "long.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(16):
            file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"long\.tar\.gz: the headers of a member exceed"):
        read_cifar10(path)
