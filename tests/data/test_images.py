"""Image data sets: small files in the true formats, damaged in every way; the built-in digits."""

import gzip
import hashlib
import io
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch

from polygraph.data import ImageDataConfig, make_glyphs, open_images, to_float, to_uint8
from polygraph.data.image_files import (
    CIFAR10_FOLDER,
    CIFAR10_TEST,
    CIFAR10_TRAIN,
    read_cifar10,
    read_idx,
    read_idx_folder,
)

RNG = np.random.default_rng(0)


def idx(array):
    """The bytes of an IDX file."""
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    ) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A folder of four IDX files, two of them gzipped; and what is in them."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    arrays = {}
    for part, count in (("train", 7), ("t10k", 3)):
        images = RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
        arrays[part] = images, labels
    return folder, arrays


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


def pack(path, folder, mode="w:gz", **more):
    """An archive like the official one, and members of any kind."""
    with tarfile.open(path, mode) as archive:
        archive.add(folder, CIFAR10_FOLDER)
        for name, content in more.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
    return path


# ---- IDX ----


@pytest.mark.parametrize("place", [".", "raw"])
def test_idx_folder_padded(mnist, tmp_path, place):
    folder, arrays = mnist
    if place == "raw":
        (tmp_path / "outer").mkdir()
        folder = folder.rename(tmp_path / "outer" / "raw").parent
    dataset = open_images(ImageDataConfig(kind="mnist", path=str(folder)))
    assert dataset.images.shape == (10, 1, 32, 32)
    assert dataset.images.dtype == np.uint8
    assert np.array_equal(dataset.images[:7, 0, 2:30, 2:30], arrays["train"][0])
    assert np.array_equal(dataset.images[7:, 0, 2:30, 2:30], arrays["t10k"][0])
    border = dataset.images.copy()
    border[:, :, 2:30, 2:30] = 0
    assert not border.any()
    assert dataset.labels.tolist() == [*range(7), *range(3)]
    assert dataset.labels.dtype == np.int64
    assert dataset.train.tolist() == list(range(7))
    assert dataset.test.tolist() == [7, 8, 9]
    assert (dataset.name, dataset.num_classes, len(dataset)) == ("MNIST", 10, 10)
    assert (dataset.channels, dataset.size) == (1, 32)
    assert dataset.part("test").tolist() == [7, 8, 9]
    assert not dataset.images.flags.writeable
    with pytest.raises(ValueError, match="unknown part 'val'"):
        dataset.part("val")


def test_idx_other_sizes_and_channels(mnist):
    folder, arrays = mnist
    odd = open_images(ImageDataConfig(kind="fashion-mnist", path=str(folder), size=31, channels=3))
    assert odd.images.shape == (10, 3, 31, 31)
    for channel in range(3):
        assert np.array_equal(odd.images[:7, channel, 1:29, 1:29], arrays["train"][0])
    assert odd.classes[0] == "T-shirt/top"
    with pytest.raises(ValueError, match=r"size must be at least that of the images, 28 x 28, got"):
        open_images(ImageDataConfig(kind="mnist", path=str(folder), size=27))


def test_idx_hashes_tell_contents_apart(mnist):
    config = ImageDataConfig(kind="mnist", path=str(mnist[0]))
    first, again = open_images(config), open_images(config)
    assert (first.content_hash, first.split_hash) == (again.content_hash, again.split_hash)
    labels = mnist[1]["t10k"][1].copy()
    labels[0] = 9
    (mnist[0] / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    assert open_images(config).content_hash != first.content_hash
    assert open_images(config).split_hash == first.split_hash


def _whole():
    return idx(np.zeros((2, 4, 4), np.uint8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "wrong magic number: .* starts with 00 00 08 03, got an empty file"),
        (b"\x00\x00\x08\x01" + _whole()[4:], "wrong magic number: .*08 03, got 00 00 08 01"),
        (b"\x00\x00\x0d\x03" + _whole()[4:], "wrong magic number: .*08 03, got 00 00 0d 03"),
        (b"PK\x03\x04" + _whole(), "wrong magic number"),
        (_whole()[:9], "truncated: the header has 16 bytes, got 9"),
        (_whole()[:-1], r"truncated: shape \[2, 4, 4\] needs 32 bytes, got 31"),
        (_whole() + b"\x00", r"wrong size: shape \[2, 4, 4\] needs 32 bytes, got more"),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", 0, 4, 4), r"at least 1 .* shape \[0, 4, 4\]"),
        (bytes((0, 0, 8, 3)) + b"\xff" * 12, "all bytes together at most"),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", 65536, 65535, 1), "truncated: .* got 0"),
        (gzip.compress(_whole(), mtime=0)[:-9], "truncated or damaged gzip stream"),
        (gzip.compress(_whole(), mtime=0)[:-8] + b"\xff" * 8, "truncated or damaged gzip stream"),
    ],
)
def test_damaged_idx(tmp_path, data, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte: .*{message}"):
        read_idx(path, 3)


def test_idx_folder_faults(mnist, tmp_path):
    folder, arrays = mnist
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(arrays["train"][1][:-1]))
    with pytest.raises(ValueError, match=r"train-labels.*each of the 7 images of .*\.gz, got 6"):
        read_idx_folder(folder)
    labels.write_bytes(idx(np.full(7, 10, np.uint8)))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\), got 10 for image 0"):
        read_idx_folder(folder)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"no train-labels-idx1-ubyte \(or .*\.gz\)"):
        read_idx_folder(folder)
    with pytest.raises(FileNotFoundError, match="no such folder; want the one with the IDX files"):
        read_idx_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        read_idx(tmp_path / "nothing", 3)
    labels.write_bytes(idx(arrays["train"][1]))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((3, 4, 4), np.uint8)))
    with pytest.raises(ValueError, match=r"one size, got \[28, 28\] for train and \[4, 4\] for"):
        read_idx_folder(folder)


# ---- CIFAR-10 ----


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
    monkeypatch.setattr("polygraph.data.image_files._MAX_BYTES", 20000)
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


def test_gzipped_images_are_counted_before_they_are_expanded(tmp_path):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb") as file:
        file.write(bytes((0, 0, 8, 3)) + struct.pack(">3I", 1 << 10, 1 << 10, 1 << 8))
        file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"bomb\.gz: at most 100 times .* got 268435456"):
        read_idx(path, 3)


# ---- pictures ----


# ---- built in ----


def test_glyphs():
    images, labels, is_test = make_glyphs(140, seed=3)
    assert images.shape == (140, 1, 32, 32)
    assert images.dtype == np.uint8
    assert labels.tolist() == list(range(10)) * 14
    assert np.bincount(labels[is_test]).tolist() == [2] * 10
    shorter = make_glyphs(70, seed=3)[0]
    assert np.array_equal(images[:70], shorter)
    assert not np.array_equal(make_glyphs(70, seed=4)[0], shorter)
    assert len(np.unique(images.reshape(140, -1), axis=0)) == 140
    # Ink on a black border of one pixel, and never an empty image.
    assert images.reshape(140, -1).max(1).min() == 255
    edge = np.concatenate([images[..., 0, :], images[..., -1, :]], -1)
    assert edge.max() == 0
    assert make_glyphs(20, size=16)[0].shape == (20, 1, 16, 16)


def test_glyphs_can_be_told_apart():
    images, labels, is_test = make_glyphs(1400)
    flat = images.reshape(len(images), -1).astype(np.float32)
    train, test = flat[~is_test], flat[is_test]
    nearest = (-2 * test @ train.T + (train**2).sum(1)).argmin(1)
    # One nearest neighbour gets nearly all right; drawings that do not show their digit would not.
    assert (labels[~is_test][nearest] == labels[is_test]).mean() > 0.95


def test_glyphs_are_the_same_everywhere():
    digest = hashlib.sha256(make_glyphs(140)[0].tobytes()).hexdigest()
    # A literal: runs are compared by this data set, so its drawings must never change.
    assert digest == "87ade9057d11e74e9b8b383c451e2023dc3f34e5a8ca771d140e9571fa4e4a9c"


def test_open_glyphs_is_the_default():
    dataset = open_images(ImageDataConfig(num_images=140))
    assert dataset.name == "glyphs-140-0"
    assert (len(dataset.train), len(dataset.test)) == (120, 20)
    assert open_images(ImageDataConfig(num_images=70, channels=3)).images.shape[1] == 3
    with pytest.raises(ValueError, match="got none to test on"):
        open_images(ImageDataConfig(num_images=60))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "cifar", "path": "x"}, "unknown kind 'cifar'; did you mean 'cifar10'"),
        ({"kind": "mnist"}, "path must be set for kind 'mnist', got none"),
        ({"path": "x"}, "path must not be set for kind 'glyphs', got 'x'"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"size": 7}, "size must be at least 8, got 7"),
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"test_fraction": 1.0}, r"test_fraction must be in \(0, 1\), got 1.0"),
    ],
)
def test_bad_config(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageDataConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "name"), [((0,), "num"), ((1, -1), "seed"), ((1, 0, 7), "s")]
)
def test_bad_glyphs(arguments, name):
    with pytest.raises(ValueError, match=rf"make_glyphs: {name}.* must be at least"):
        make_glyphs(*arguments)


def test_bytes_and_floats():
    every = torch.arange(256).to(torch.uint8)
    x = to_float(every)
    assert (x.dtype, x.min().item(), x.max().item()) == (torch.float32, -1.0, 1.0)
    assert torch.equal(to_uint8(x), every)
    assert torch.equal(to_uint8(x.double()), every)
    assert to_uint8(torch.tensor([-7.0, 7.0, -torch.inf, torch.inf])).tolist() == [0, 255, 0, 255]
    with pytest.raises(ValueError, match="must not hold NaN, got 1"):
        to_uint8(torch.tensor([0.0, torch.nan]))
    with pytest.raises(ValueError, match=r"must be floating point, got torch\.uint8"):
        to_uint8(every)
    with pytest.raises(ValueError, match=r"must be uint8, got torch\.float32"):
        to_float(x)


# ---- the real thing ----


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("mnist", "144e528c5abc0fc5687ee1fff1bb120bed11edf65b77990fac4995183ee1a669"),
        ("fashion-mnist", "cb296d63143c8b985e488e950f7fd90cde9e3a31fea26a563f1285d7d119c857"),
    ],
)
def test_real_idx(data_root, kind, digest):
    dataset = open_images(ImageDataConfig(kind=kind, path=str(data_root / kind)))
    assert dataset.images.shape == (70000, 1, 32, 32)
    assert (len(dataset.train), len(dataset.test)) == (60000, 10000)
    assert np.bincount(dataset.labels[dataset.test]).sum() == 10000
    assert dataset.content_hash == digest  # as in datasets/


def test_real_cifar10(data_root, tmp_path):
    script = data_root / "cifar10" / "make.py"
    if not script.exists():
        pytest.skip("no CIFAR-10 here")
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    dataset = open_images(ImageDataConfig(kind="cifar10", path=str(tmp_path)))
    assert dataset.images.shape == (60000, 3, 32, 32)
    assert np.bincount(dataset.labels[dataset.train]).tolist() == [5000] * 10
    mean = dataset.images[dataset.train].mean((0, 2, 3)) / 255
    np.testing.assert_allclose(mean, [0.49140, 0.48216, 0.44653], atol=5e-6)  # five digits known
