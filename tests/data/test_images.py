"""Image data sets: small files in the true formats, damaged in every way; the built-in digits."""

import gzip
import hashlib
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from polygraph.data import ImageDataConfig, make_glyphs, open_images, to_float, to_uint8
from polygraph.data.image_files import read_idx, read_idx_folder

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
