"""Pictures, and folders of them."""

import io

import numpy as np
import pytest
from PIL import Image

from polygraph.data import ImageDataConfig, open_images
from polygraph.data.image_files import (
    read_picture,
)

RNG = np.random.default_rng(0)


def test_picture_shapes_and_transparency(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = (200, 100, 50)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    # The middle third is cut out; Lanczos at the same size is the identity.
    cut = read_picture(tmp_path / "wide.png", 8, 3)
    assert cut.shape == (3, 8, 8)
    assert (cut == np.array([200, 100, 50])[:, None, None]).all()
    assert (read_picture(tmp_path / "wide.png", 8, 1) == 124).all()  # 124.2
    Image.new("RGBA", (9, 9), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png", 4, 3) == 255).all()
    Image.new("L", (30, 20), 77).save(tmp_path / "grey.jpg", quality=100)
    assert np.abs(read_picture(tmp_path / "grey.jpg", 10, 3).astype(int) - 77).max() <= 1
    picture = Image.new("RGB", (4, 8), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 4, 4))  # blue above red
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = read_picture(tmp_path / "turned.png", 4, 3)
    assert turned[0, 0].mean() > turned[2, 0].mean()


@pytest.mark.parametrize("name", ["text", "cut", "empty", "deep", "svg"])
def test_no_picture(tmp_path, name):
    path = tmp_path / f"{name}.png"
    whole = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (20, 20), dtype=np.uint8)).save(whole, "png")
    contents = {"text": b"hello", "cut": whole.getvalue()[:-60], "empty": b"", "svg": b"<svg/>"}
    if name == "deep":
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    else:
        path.write_bytes(contents[name])
    with pytest.raises(ValueError, match=rf"{name}\.png: not a readable picture: ."):
        read_picture(path, 8, 3)


def test_large_picture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("polygraph.data.image_files._MAX_PIXELS", 99)
    Image.new("L", (10, 10)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"large\.png: .*at most 99 pixels are read, got 10 x 10"):
        read_picture(tmp_path / "large.png", 8, 3)


def _pictures(root, names):
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12 + i, 9), (i, 2 * i, 3 * i)).save(path)


def _folder(root, **more):
    cache = str(root.parent / "cache")
    return open_images(ImageDataConfig("folder", str(root), size=8, cache_dir=cache, **more))


def test_folder_with_parts_and_classes(tmp_path):
    root = tmp_path / "pictures"
    _pictures(root, ["train/b/1.png", "train/a/2.png", "test/a/3.bmp", "train/b/.hidden.png"])
    dataset = _folder(root)
    assert dataset.name == "pictures"
    assert dataset.images.shape == (3, 3, 8, 8)
    assert dataset.images[:, 1, 0, 0].tolist() == [4, 2, 0]  # test/a/3, train/a/2, train/b/1
    assert dataset.classes == ("a", "b")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert (dataset.train.tolist(), dataset.test.tolist()) == ([1, 2], [0])
    assert dataset.batch(dataset.train).shape == (2, 3, 8, 8)


def test_folder_with_validation(tmp_path):
    """With test/ beside it val/ validates; without, as in ImageNet's layout, it tests."""
    root = tmp_path / "pictures"
    _pictures(root, [f"{part}/{name}/1.png" for part in ("train", "val") for name in "ab"])
    dataset = _folder(root)
    assert dataset.classes == ("a", "b")
    assert (dataset.train.tolist(), dataset.test.tolist()) == ([0, 1], [2, 3])
    assert dataset.val is None
    other = tmp_path / "other"
    _pictures(other, [f"{part}/a/1.ppm" for part in ("train", "val", "test")])
    three = _folder(other)
    assert [part.tolist() for part in (three.train, three.val, three.test)] == [[1], [2], [0]]
    (other / "val" / "a" / "1.ppm").rename(other / "val" / "a" / "2.txt")
    with pytest.warns(UserWarning, match="has changed"):
        assert _folder(other).split_hash != three.split_hash
    unknown = tmp_path / "unknown"
    _pictures(unknown, ["train/a/1.png", "val/a/1.png", "more/a/1.png"])
    assert _folder(unknown).labels is None  # folders of folders without a meaning


def test_small_pictures_are_padded_or_scaled(tmp_path):
    Image.new("L", (4, 6), 200).save(tmp_path / "small.pgm")
    scaled = read_picture(tmp_path / "small.pgm", 8, 1)
    assert (scaled == 200).all()
    padded = read_picture(tmp_path / "small.pgm", 8, 1, pad_small=True)
    assert (padded[0, 1:7, 2:6] == 200).all()
    assert padded.sum(dtype=int) == 24 * 200
    Image.new("L", (16, 10), 50).save(tmp_path / "large.png")
    assert (read_picture(tmp_path / "large.png", 8, 1, pad_small=True) == 50).all()


def test_folder_without_parts(tmp_path):
    root = tmp_path / "pictures"
    _pictures(root, [f"x{i}/y/{i}.png" for i in range(20)])
    first = _folder(root, seed=1)
    assert first.labels is None
    assert (first.num_classes, len(first.train), len(first.test)) == (0, 18, 2)
    assert _folder(root, seed=1).split_hash == first.split_hash
    assert _folder(root, seed=2).split_hash != first.split_hash
    grey = _folder(root, channels=1, test_fraction=0.5)
    assert grey.images.shape == (20, 1, 8, 8)
    assert len(grey.test) == 10


def test_folder_cache(tmp_path, monkeypatch):
    root = tmp_path / "pictures"
    _pictures(root, [f"{i}.png" for i in range(4)])
    first = _folder(root)
    with monkeypatch.context() as patch:
        patch.setattr(
            "polygraph.data.image_folders.read_picture", None
        )  # would fail if it were called
        assert _folder(root, full_check=True).content_hash == first.content_hash
    Image.new("RGB", (8, 8), (9, 9, 9)).save(root / "4.png")
    with pytest.warns(UserWarning, match="its source, which has changed"):
        assert len(_folder(root)) == 5
    (root / "0.png").write_bytes(b"no picture")
    with (
        pytest.warns(UserWarning, match="has changed"),
        pytest.raises(ValueError, match=r"0\.png: not a readable picture"),
    ):
        _folder(root)
    assert not list((tmp_path / "cache").glob("*.tmp"))
    with pytest.raises(FileNotFoundError, match="no such folder; want one with pictures"):
        _folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"want at least one picture .*, got none"):
        _folder(tmp_path / "empty")
    _pictures(tmp_path / "one", ["1.png"])
    with pytest.raises(ValueError, match=r"one: want images to train on .* got none to train on"):
        _folder(tmp_path / "one")
