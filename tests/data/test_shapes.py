"""Labelled point clouds: the archive's reader, the built-in shapes, the validation part."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from polygraph.data import ShapeDataConfig, make_shapes, open_shapes


def arrays(S=24, N=10, classes=3):
    rng = np.random.default_rng(0)
    return {
        "xyz": rng.integers(-32767, 32768, (S, N, 3)).astype(np.int16),
        "label": (np.arange(S) % classes).astype(np.uint8),
        "is_test": np.arange(S) >= S - 2 * classes,
    }


def write(path, **changes):
    """An archive; a change to None leaves the array out."""
    content = {**arrays(), **changes}
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return ShapeDataConfig(str(path))


def test_reads_what_was_written(tmp_path):
    made = arrays()
    data = open_shapes(write(tmp_path / "a.npz"))
    np.testing.assert_array_equal(data.points, (made["xyz"] / 32767).astype(np.float32))
    assert (data.points.dtype, data.labels.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(data.labels, made["label"])
    np.testing.assert_array_equal(data.test, np.flatnonzero(made["is_test"]))
    assert data.classes == ("0", "1", "2")
    named = open_shapes(write(tmp_path / "b.npz", classes=np.array(["x", "y", "z"])))
    assert named.classes == ("x", "y", "z")
    floats = open_shapes(write(tmp_path / "c.npz", xyz=(made["xyz"] / 32767).astype(np.float32)))
    assert floats.content_hash == data.content_hash
    zeros = open_shapes(write(tmp_path / "d.npz", is_test=made["is_test"].astype(np.uint8)))
    assert zeros.split_hash == data.split_hash


def test_validation_takes_the_same_share_of_every_class(tmp_path):
    label = np.repeat([0, 1, 2], [20, 10, 2])
    is_test = np.zeros(32, bool)
    is_test[[0, 20]] = True
    xyz = np.zeros((32, 4, 3), np.float32)
    config = write(tmp_path / "a.npz", xyz=xyz, label=label, is_test=is_test)
    data = open_shapes(replace(config, val_fraction=0.2))
    assert np.bincount(data.labels[data.val]).tolist() == [4, 2, 1]
    together = np.concatenate([data.train, data.val, data.test])
    assert sorted(together.tolist()) == list(range(32))
    again = open_shapes(replace(config, val_fraction=0.2))
    assert again.split_hash == data.split_hash
    other = open_shapes(replace(config, val_fraction=0.2, val_seed=1))
    assert other.split_hash != data.split_hash
    assert other.content_hash == data.content_hash
    # A class of which one training shape is left keeps it.
    assert 2 in open_shapes(replace(config, val_fraction=0.99)).labels[data.train]


def not_finite(S=24, value=np.nan):
    xyz = np.zeros((S, 10, 3), np.float64)
    xyz[3, 1, 2] = value
    return xyz


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xyz": None}, "xyz is missing, got the arrays is_test, label"),
        ({"label": None}, "label is missing"),
        ({"is_test": None}, "is_test is missing"),
        ({"xyz": np.zeros((24, 10), np.int16)}, r"xyz must have shape \[S, N, 3\].*\[24, 10\]"),
        ({"xyz": np.zeros((24, 10, 2), np.int16)}, r"xyz must have shape.*got \[24, 10, 2\]"),
        ({"xyz": np.zeros((24, 0, 3), np.int16)}, r"xyz must have shape.*got \[24, 0, 3\]"),
        ({"xyz": np.zeros((24, 10, 3), np.int32)}, "xyz must be int16 or floating.*int32"),
        ({"xyz": not_finite()}, "xyz must be finite.*1 clouds.*first of them cloud 3"),
        ({"xyz": not_finite(value=1e39)}, "xyz must be finite"),
        ({"label": np.zeros(23, int)}, r"label must be integers of shape \[24\].*\[23\]"),
        ({"label": np.zeros(24)}, r"label must be integers of shape \[24\], got float64"),
        ({"label": np.arange(24) % 3 - 1}, r"label must lie in \[0, 24\), got -1 for cloud 0"),
        (
            {"label": np.arange(24) % 3, "classes": np.array(["x", "y"])},
            r"label must lie in \[0, 2\), got 2 for cloud 2",
        ),
        ({"label": np.full(24, 10**9)}, r"label must lie in \[0, 24\), got 1000000000"),
        ({"label": np.zeros(24, int)}, "label must name at least 2 classes, got 1"),
        ({"label": np.arange(24) % 3 * 2}, r"training shapes, got none of class 1 \('1'\)"),
        ({"is_test": np.zeros(24, bool)}, "is_test must name at least one test shape, got none"),
        ({"is_test": np.ones(24, bool)}, "every class must have training shapes"),
        ({"is_test": np.full(24, 2)}, r"is_test must be booleans \(or 0 and 1\)"),
        ({"is_test": np.zeros(23, bool)}, r"is_test must be.*\[24\], got bool \[23\]"),
        ({"classes": np.arange(3)}, "classes must be strings"),
        (
            {"label": np.arange(24) % 22, "is_test": np.arange(24) >= 22},
            "no class has two training shapes",
        ),
    ],
)
def test_bad_archives(tmp_path, changes, message):
    config = write(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=r"bad\.npz: .*" + message):
        open_shapes(config)


def test_files_that_are_no_archives(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file"):
        open_shapes(ShapeDataConfig(str(tmp_path / "none.npz")))
    text = tmp_path / "text.npz"
    text.write_text("hello")
    single = tmp_path / "single.npz"
    with open(single, "wb") as file:
        np.save(file, np.zeros(3))
    cut = tmp_path / "cut.npz"
    write(cut)
    cut.write_bytes(cut.read_bytes()[:300])
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **{**arrays(), "label": np.array([{}] * 24, dtype=object)})
    huge = tmp_path / "huge.npz"  # a header that promises more than any memory holds
    write(huge)
    header = b"{'descr': '<i2', 'fortran_order': False, 'shape': (1000000000000, 1024, 3), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(huge, "w") as archive:
        archive.writestr("xyz.npy", b"\x93NUMPY\x01\x00\x76\x00" + header)
    for path in (text, single, cut, pickled, huge):
        with pytest.raises(ValueError, match=rf"{path.name}: not a readable \.npz archive"):
            open_shapes(ShapeDataConfig(str(path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": 0.0}, r"val_fraction must be in \(0, 1\), got 0.0"),
        ({"val_fraction": float("nan")}, r"val_fraction must be in \(0, 1\)"),
        ({"num_shapes": 0}, "num_shapes must be at least 1, got 0"),
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"val_seed": -1}, "val_seed must be at least 0, got -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match="data: " + message):
        ShapeDataConfig(**settings)


def test_built_in_shapes():
    made = make_shapes(40, 50, seed=3)
    assert made["xyz"].shape == (40, 50, 3)
    assert made["xyz"].dtype == np.int16
    radius = np.linalg.norm(made["xyz"] / 32767, axis=-1).max(1)
    np.testing.assert_allclose(radius, 1, atol=1e-4)  # rounded to 1 / 32767 along each axis
    # A shape depends on the seed and its number alone.
    np.testing.assert_array_equal(make_shapes(20, 50, seed=3)["xyz"], made["xyz"][:20])
    assert (make_shapes(40, 50, seed=4)["xyz"] != made["xyz"]).any()
    data = open_shapes(ShapeDataConfig(num_shapes=40, num_points=50, seed=3))
    assert data.num_classes == 5
    assert np.bincount(data.labels[data.test]).tolist() == [2] * 5
    assert np.bincount(data.labels[data.val]).tolist() == [1] * 5
    with pytest.raises(ValueError, match="make_shapes: num_points must be at least 1, got 0"):
        make_shapes(num_points=0)
    with pytest.raises(ValueError, match="shapes-3-50-0: is_test must name at least one"):
        open_shapes(ShapeDataConfig(num_shapes=3, num_points=50))


def test_the_real_shapes(data_root):
    path = data_root / "shapes" / "points.npz"
    if not path.is_file():
        pytest.skip(f"no labelled shapes at {path}")
    data = open_shapes(ShapeDataConfig(str(path)))
    assert data.points.shape == (639, 1024, 3)
    assert data.num_classes == 17
    assert (len(data.train), len(data.val), len(data.test)) == (408, 71, 160)
    assert np.linalg.norm(data.points, axis=-1).max() <= 1.001


def test_clouds_far_from_zero_keep_their_digits(tmp_path):
    """float64 archives of a map: one origin for all, known to the data set."""
    arrays = make_shapes(40, 32)
    place = np.array([691234.123, 5334567.891, 512.345])
    near = arrays["xyz"].astype(np.float64) / (32767 if arrays["xyz"].dtype == np.int16 else 1)
    np.savez(tmp_path / "near.npz", **(arrays | {"xyz": near}))
    np.savez(tmp_path / "far.npz", **(arrays | {"xyz": near + place}))
    here, there = (
        open_shapes(ShapeDataConfig(str(tmp_path / f"{n}.npz"))) for n in ("near", "far")
    )
    assert here.origin == (0.0, 0.0, 0.0)
    back = there.points.astype(np.float64) + there.origin
    assert np.abs(back - (near + place)).max() < 1e-7
    assert here.content_hash != there.content_hash
    np.savez(tmp_path / "apart.npz", **(arrays | {"xyz": near + 1e3 * np.eye(40, 3)[:, None]}))
    with pytest.raises(ValueError, match=r"apart.npz: cloud 1 is 1\S* large and up to 100\d"):
        open_shapes(ShapeDataConfig(str(tmp_path / "apart.npz")))
