"""Folders of pictures: which of them train, which classes they have, and a cache of them scaled."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polygraph.data.image_files import SUFFIXES, Images, IntArray, list_pictures, read_picture
from polygraph.data.store import MANIFEST, Entry, NpyWriter, progress, write_synced

_PARTS = ("train", "val", "test")


class Pictures(NamedTuple):
    """What a folder holds.

    Attributes:
        images: uint8 ``[N, channels, size, size]``, memory-mapped.
        labels: int64 ``[N]``, or None where folders are no classes.
        classes: names of the folders.
        is_val: bool ``[N]``, those of ``val/`` beside ``test/``; None without these.
        is_test: bool ``[N]``.
    """

    images: Images
    labels: IntArray | None
    classes: tuple[str, ...]
    is_val: NDArray[np.bool_] | None
    is_test: NDArray[np.bool_]


def read_folder(
    root: Path,
    size: int,
    channels: int,
    test_fraction: float,
    seed: int,
    *,
    cache_dir: str | None = None,
    full_check: bool = False,
) -> Pictures:
    """Read the pictures of a folder; arguments as of `polygraph.data.ImageDataConfig`.

    Below ``train/`` and ``test/`` (and ``val/``), or ``train/`` and ``val/``, which is what tests
    then; in other folders some are drawn for testing.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no pictures, or a damaged one.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; want one with pictures")
    files = list_pictures(root)
    if not files:
        raise ValueError(f"{root}: want at least one picture ({', '.join(SUFFIXES)}), got none")
    names = [path.relative_to(root).parts for path in files]
    parts = {name[0] for name in names if len(name) > 1}
    is_val = None
    if "train" in parts <= {*_PARTS} and len(parts) > 1 and all(len(n) > 1 for n in names):
        test = "test" if "test" in parts else "val"
        is_test = np.array([name[0] == test for name in names])
        if len(parts) == len(_PARTS):
            is_val = np.array([name[0] == "val" for name in names])
        names = [name[1:] for name in names]
    else:
        is_test = np.zeros(len(names), np.bool_)
        count = max(1, round(test_fraction * len(names)))
        is_test[np.random.default_rng(seed).permutation(len(names))[:count]] = True
    entry = pictures_entry(root, files, size, channels, cache_dir)
    images = cached_pictures(entry, files, size, channels, full_check)
    return Pictures(images, *_folder_classes(names), is_val, is_test)


def _folder_classes(names: Sequence[tuple[str, ...]]) -> tuple[IntArray | None, tuple[str, ...]]:
    """Folders are classes when every picture lies in one, and there are several."""
    classes = sorted({name[0] for name in names})
    if any(len(name) != 2 for name in names) or len(classes) < 2:
        return None, ()
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name[0]] for name in names], np.int64), tuple(classes)


def pictures_entry(
    root: Path, files: list[Path], size: int, channels: int, cache_dir: str | None
) -> Entry:
    """Where the scaled pictures of a folder are kept."""
    return Entry(f"pictures-{size}-{channels}", root, files, cache_dir)


def cached_pictures(
    entry: Entry, files: list[Path], size: int, channels: int, full_check: bool
) -> Images:
    """The scaled pictures of a folder, memory-mapped; made first where they are not in the cache.

    Args:
        entry: of the cache, for these files, size and channels.
        files: the pictures, in the order wanted.
        size: height and width.
        channels: 1 or 3.
        full_check: compare the cached array with its hash.

    Raises:
        ValueError: a picture is damaged.
    """
    if entry.load(full_check) is None:
        with entry.locked():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said already
                made = entry.load(full_check)  # by another process, meanwhile
            if made is None:
                with entry.replace() as folder:
                    _write_pictures(entry, folder, files, size, channels)
    images: Images = np.load(entry.folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return images


def _write_pictures(
    entry: Entry, folder: Path, files: list[Path], size: int, channels: int
) -> None:
    writer = NpyWriter(folder / "images.npy", (len(files), channels, size, size), "|u1")
    try:
        for path in progress(files, f"reading {entry.root.name}", len(files)):
            writer.write(read_picture(path, size, channels)[None])
        listing = [path.relative_to(entry.root).as_posix() for path in files]
        described = {
            "images.npy": writer.close(),
            "files.json": write_synced(folder / "files.json", json.dumps(listing)),
        }
    finally:
        writer.abandon()
    write_synced(folder / MANIFEST, entry.manifest(described))
