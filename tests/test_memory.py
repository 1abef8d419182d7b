"""What memory there is, by files as Linux has them; archives that would take too much of it."""

import resource
import zipfile

import numpy as np
import pytest
from PIL import Image

from polygraph import metrics
from polygraph._arrays import read_npz
from polygraph._json import read_json
from polygraph._memory import available_bytes, check_room
from polygraph.data import (
    ImageDataConfig,
    MeshDataConfig,
    ShapeDataConfig,
    open_dataset,
    open_images,
    open_shapes,
)
from polygraph.data.cifar import CIFAR10_TEST, CIFAR10_TRAIN
from polygraph.data.image_files import read_picture

GIB = 1 << 30


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def machine(tmp_path):
    """A machine of which 8 GiB are available."""
    write(tmp_path, proc__meminfo=f"MemTotal: 99 kB\nMemAvailable: {8 << 20} kB\n")
    return tmp_path


def test_the_machine_and_no_limit(machine, tmp_path):
    assert available_bytes(machine) == 8 * GIB
    assert available_bytes(tmp_path / "none") > 1 << 60
    write(machine, proc__self__cgroup="0::/a/b\n")
    write(machine, sys__fs__cgroup__a__memory_dot_max="max\n")
    assert available_bytes(machine) == 8 * GIB


def test_a_limit_of_version_2_counts_at_every_level(machine):
    write(machine, proc__self__cgroup="0::/a/b\n")
    place = "sys__fs__cgroup__a__memory_dot_"
    write(machine, **{place + "max": str(2 * GIB), place + "current": str(GIB)})
    write(machine, **{place + "stat": f"anon 5\ninactive_file {GIB // 2}\n"})
    assert available_bytes(machine) == 3 * GIB // 2


def test_a_limit_of_version_1_and_of_a_container(machine):
    write(machine, proc__self__cgroup="4:memory:/not/visible/here\n0::/\n")
    place = "sys__fs__cgroup__memory__memory_dot_"
    write(machine, **{place + "limit_in_bytes": str(GIB), place + "usage_in_bytes": str(2 * GIB)})
    write(machine, **{place + "stat": "cache 7\n"})
    assert available_bytes(machine) == 0


def test_archives_are_counted_before_they_are_expanded(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(1 << 23))
    with pytest.raises(ValueError, match=r"bomb\.npz: at most 100 times .* got 67108992"):
        read_npz(path)
    np.savez(path, x=np.arange(3), y=np.ones((2, 2)))
    found = read_npz(path)
    assert found["x"].tolist() == [0, 1, 2]
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x.npy", b"")
    with pytest.raises(ValueError, match=r"bomb\.npz: must have at most 1000 arrays"):
        read_npz(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"bomb\.npz: not a readable \.npz archive"):
        read_npz(path)
    with pytest.raises(ValueError, match="not a file but a folder"):
        read_npz(tmp_path)


def test_a_limit_of_addresses(machine, monkeypatch):
    write(machine, proc__self__statm="1024 9 9 9 0 9 0\n")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (GIB, GIB))
    assert available_bytes(machine) == GIB - 1024 * resource.getpagesize()
    infinite = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (infinite, infinite))
    assert available_bytes(machine) == 8 * GIB


@pytest.fixture
def little(monkeypatch):
    """A machine on which, beside the reserve, so many MiB are left as the test says."""

    def leave(mib):
        monkeypatch.setattr("polygraph._memory.available_bytes", lambda: (64 + mib) << 20)

    leave(1)
    return leave


def test_what_does_not_fit_is_refused_with_both_numbers(little):
    check_room(1 << 20, "a thing")
    message = "a thing: needs 1048577 bytes of memory, more than the 1048576 there are"
    with pytest.raises(ValueError, match=message):
        check_room((1 << 20) + 1, "a thing")


@pytest.mark.parametrize(
    ("open_it", "config", "name"),
    [
        (open_dataset, MeshDataConfig(num_frames=10**9), "num_frames 1000000000"),
        (open_shapes, ShapeDataConfig(num_shapes=10**9), "num_shapes 1000000000"),
        (open_shapes, ShapeDataConfig(num_points=10**9), "num_points 1000000000"),
        (open_images, ImageDataConfig(num_images=10**9), "num_images 1000000000"),
        (open_images, ImageDataConfig(num_images=700, size=8192), "size 8192"),
    ],
    ids=["frames", "shapes", "points", "images", "size"],
)
def test_counts_of_data_that_are_made_are_looked_at_before(little, open_it, config, name):
    """They may come from a run folder of somebody else."""
    with pytest.raises(ValueError, match=rf"make_\w+: .*{name}.*: needs \d+ bytes of memory"):
        open_it(config)


def test_clouds_that_do_not_fit(tmp_path, little):
    path = tmp_path / "clouds.npz"
    arrays = {"label": np.arange(8) % 2, "is_test": np.arange(8) > 5}
    np.savez(path, xyz=np.zeros((8, 12_000, 3), np.int16), **arrays)
    with pytest.raises(ValueError, match=r"npz: 8 clouds of 12000 points: needs 1152000 bytes"):
        open_shapes(ShapeDataConfig(str(path)))
    little(2)
    assert open_shapes(ShapeDataConfig(str(path))).points.dtype == np.float32


def test_images_that_do_not_fit(tmp_path, little):
    for name in (*CIFAR10_TRAIN, CIFAR10_TEST):
        rows = np.zeros((60, 3073), np.uint8)
        (tmp_path / name).write_bytes(rows.tobytes())
    config = ImageDataConfig("cifar10", str(tmp_path), size=64)
    with pytest.raises(ValueError, match=r"CIFAR-10: images of shape \[360, 3, 64, 64\]: needs"):
        open_images(config)
    little(0)
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: needs 184380 bytes of memory"):
        open_images(config)
    little(5)
    assert open_images(config).size == 64


def test_a_picture_that_does_not_fit(tmp_path, little):
    """A small file may be a large picture: its header is looked at first."""
    Image.new("L", (2000, 1000)).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"a\.png: not a readable picture: 2000 x 1000 pixels: needs"
    ):
        read_picture(tmp_path / "a.png", 32, 3)
    little(16)
    assert read_picture(tmp_path / "a.png", 32, 3).shape == (3, 32, 32)


def test_errors_and_lists_that_do_not_fit(tmp_path, little):
    with pytest.raises(ValueError, match="the errors of 50 meshes of 1000 vertices: needs 1200000"):
        metrics.evaluate(lambda x: x, np.zeros((50, 1000, 3), np.float32), np.arange(50))
    path = tmp_path / "frames.json"
    path.write_bytes(b"[" + b"{}," * (6 << 20) + b"{}]")
    with pytest.raises(ValueError, match=r"frames\.json: a list of .* bytes of memory"):
        read_json(path, most_bytes=1 << 28)
