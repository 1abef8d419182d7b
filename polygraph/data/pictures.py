"""Pictures of any sizes, whole: what denoisers train on, and the reader of one picture.

Other than `polygraph.data.ImageDataset`, nothing is scaled or cut: noise is a matter of pixels.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polygraph._arrays import array_sha256, as_numpy
from polygraph._checks import check_choice, check_numbers
from polygraph._memory import check_room
from polygraph.data.image_files import (
    SUFFIXES,
    Images,
    list_pictures,
    opened_picture,
)
from polygraph.data.store import progress

ARRAYS = "arrays"  #: kind of pictures that were given in Python
KINDS = ("folder", "scikit-image", ARRAYS)
_PARTS = ("train", "val", "test")
#: photographs that scikit-image's wheel holds, and which of them validate and test
_PHOTOGRAPHS = {
    "train": "astronaut brick chelsea coffee grass gravel ihc motorcycle_left rocket".split(),
    "val": ["coins"],
    "test": ["camera", "moon"],
}


@dataclass(frozen=True)
class PictureDataConfig:
    """Which pictures train, validate and test.

    Attributes:
        kind: ``folder``; ``scikit-image``: photographs that its wheel holds; or ``arrays``, given
            in Python.
        path: of the folder: pictures of any sizes, in ``train/``, ``val/`` and ``test/`` or not.
        test_path: a folder whose pictures test, and none of ``path``.
        channels: 1 reads grey values (ITU-R 601), 3 colours.
        val_fraction: share of the training pictures that validates, at least one, where there is no
            ``val/``.
        test_fraction: share that tests, at least one, where there is neither ``test/`` nor
            ``test_path``.
        split_seed: draws them.
    """

    kind: Literal["folder", "scikit-image", "arrays"] = "scikit-image"
    path: str | None = None
    test_path: str | None = None
    channels: int = 1
    val_fraction: float = 0.05
    test_fraction: float = 0.1
    split_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        owner = "data"
        check_numbers(owner, self, ("split_seed",))
        check_choice(owner, "kind", self.kind, KINDS)
        if self.channels not in (1, 3):
            raise ValueError(f"{owner}: channels must be 1 or 3, got {self.channels}")
        for name in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{owner}: {name} must be in (0, 1), got {getattr(self, name)}")
        if self.split_seed < 0:
            raise ValueError(f"{owner}: split_seed must be at least 0, got {self.split_seed}")


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures of any sizes, and which of them train, validate and test.

    Attributes:
        name: for people.
        pictures: uint8 ``[C, H, W]``, of one C and any H and W.
        names: of the pictures.
        parts: ``train``, ``val``, ``test``: numbers of pictures, ascending.
        content_hash: SHA-256 of pixels and sizes.
    """

    name: str
    pictures: tuple[Images, ...]
    names: tuple[str, ...]
    parts: dict[str, tuple[int, ...]]
    content_hash: str

    def __repr__(self) -> str:
        """Name and counts."""
        counts = ", ".join(f"{len(self.parts[part])} {part}" for part in _PARTS)
        return f"PictureSet({self.name!r}, {counts})"

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.pictures[0].shape[0])


def open_pictures(config: PictureDataConfig) -> PictureSet:
    """Read all pictures of a configuration into memory.

    Raises:
        FileNotFoundError: there is no such folder.
        ImportError: scikit-image or Pillow is missing; the message names the extra.
        ValueError: a folder has no pictures, or a damaged one; or too few to validate and test.
    """
    if config.kind == "scikit-image":
        files = {part: _shipped(names) for part, names in _PHOTOGRAPHS.items()}
        return _read("scikit-image", files, config.channels)
    if config.kind == ARRAYS or config.path is None:
        raise ValueError("data: path must name a folder of pictures for kind 'folder'")
    root = Path(config.path).expanduser()
    found = _listed(root)
    given = {
        part: [file for file in found if file.relative_to(root).parts[0] == part] for part in _PARTS
    }
    if sum(map(len, given.values())) < len(found) or not given["train"]:
        given = {"train": found, "val": [], "test": []}
    if config.test_path is not None:
        given["test"] = _listed(Path(config.test_path).expanduser())
    files = _divided(given, config)
    return _read(root.name or str(root), files, config.channels)


def pictures_from_arrays(
    arrays: Sequence[Any], config: PictureDataConfig, test: Sequence[Any] | None = None
) -> PictureSet:
    """Pictures that are in memory.

    Args:
        arrays: uint8 ``[H, W]``, or ``[H, W, 3]`` for 3 channels, NumPy or PyTorch.
        config: channels, and how the pictures are divided.
        test: pictures that test; None: some of ``arrays``.

    Raises:
        ValueError: a picture has another shape or dtype, or there are too few.
    """
    given: dict[str, list[Any]] = {"train": [*arrays], "val": [], "test": [*(test or ())]}
    files = _divided(given, config)
    pictures: list[Images] = []
    names: list[str] = []
    parts: dict[str, tuple[int, ...]] = {}
    for part, items in files.items():
        parts[part] = tuple(range(len(pictures), len(pictures) + len(items)))
        for n, item in enumerate(items):
            pictures.append(_from_array(item, config.channels))
            names.append(f"{part} {n}")
    return _made("arrays", pictures, names, parts)


def picture_set(arrays: Sequence[Any], channels: int) -> PictureSet:
    """Pictures that test, and none that train; see `pictures_from_arrays`."""
    pictures = [_from_array(array, channels) for array in arrays]
    if not pictures:
        raise ValueError("pictures must be at least one, got none")
    parts = {"train": (), "val": (), "test": tuple(range(len(pictures)))}
    return _made("arrays", pictures, [f"test {n}" for n in range(len(pictures))], parts)


def _from_array(array: Any, channels: int) -> Images:
    pixels = as_numpy(array)
    good = pixels.ndim == (2 if channels == 1 else 3) and pixels.size
    if not good or pixels.dtype != np.uint8 or (channels == 3 and pixels.shape[2] != 3):
        wanted = "[H, W]" if channels == 1 else "[H, W, 3]"
        raise ValueError(
            f"pictures must be uint8 of shape {wanted}, got {pixels.dtype} {list(pixels.shape)}"
        )
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _listed(root: Path) -> list[Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; want one with pictures")
    found = list_pictures(root)
    if not found:
        raise ValueError(f"{root}: want at least one picture ({', '.join(SUFFIXES)}), got none")
    return found


def _shipped(names: Sequence[str]) -> list[Path]:
    """Files of scikit-image's wheel, which is not imported for them."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ImportError(
            "the built-in pictures are scikit-image's: pip install 'polygraph-nn[images]'; or name "
            "a folder of pictures"
        )
    folder = Path(spec.origin).parent / "data"
    found = [path for name in names for path in sorted(folder.glob(f"{name}.*"))[:1]]
    if len(found) != len(names):
        raise ValueError(
            f"{folder}: lacks some of {', '.join(names)}; this scikit-image is another"
        )
    return found


def _divided(given: dict[str, list[Any]], config: PictureDataConfig) -> dict[str, list[Any]]:
    """The parts, those that are empty drawn from the training pictures."""
    train = list(given["train"])
    rng = np.random.default_rng(config.split_seed)
    parts = dict(given)
    for part, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if given[part]:
            continue
        count = max(1, round(fraction * len(given["train"])))
        if count >= len(train):
            raise ValueError(
                f"data: want pictures to train, to validate and to test, got {len(given['train'])}"
            )
        chosen = sorted(rng.permutation(len(train))[:count].tolist())
        parts[part] = [train[n] for n in chosen]
        train = [item for n, item in enumerate(train) if n not in set(chosen)]
    parts["train"] = train
    return parts


def _read(name: str, files: dict[str, list[Path]], channels: int) -> PictureSet:
    pictures: list[Images] = []
    names: list[str] = []
    parts: dict[str, tuple[int, ...]] = {}
    for part in _PARTS:
        parts[part] = tuple(range(len(pictures), len(pictures) + len(files[part])))
        for file in progress(files[part], f"pictures of {name} ({part})", len(files[part])):
            pictures.append(read_pixels(file, channels))
            names.append(file.name)
    return _made(name, pictures, names, parts)


def _made(
    name: str, pictures: list[Images], names: list[str], parts: dict[str, tuple[int, ...]]
) -> PictureSet:
    sizes = np.array([p.shape for p in pictures], "<i8")
    return PictureSet(name, tuple(pictures), tuple(names), parts, array_sha256(sizes, *pictures))


# ---- one picture ----


def read_pixels(
    path: str | os.PathLike[str],
    channels: int | None = None,
    *,
    opaque: bool = False,
    content: bytes | None = None,
) -> Images:
    """A picture as it is, neither scaled nor cut.

    The camera's orientation is obeyed; of an animation the first picture is taken.

    Args:
        path: a BMP, GIF, JPEG, PGM, PNG, PPM, TIFF or WebP file of at most 2^26 pixels.
        channels: 1 for grey values (ITU-R 601), 3 for RGB; None: as the file has it.
        opaque: refuse a picture with transparent pixels, which are laid over white otherwise.
        content: of the file, where it has been read already; ``path`` is its name then.

    Returns:
        uint8 ``[channels, H, W]``.

    Raises:
        ImportError: Pillow is missing; the message names the extra.
        ValueError: the file is no such picture, truncated, too large, transparent where that is
            refused, or not of 8 bits a channel.
    """
    source = path if content is None else io.BytesIO(content)
    picture = opened_picture(path, source, channels, opaque=opaque)
    pixels = np.array(picture, np.uint8)  # a copy, which may be written to
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    check_room(pixels.nbytes, f"{path}: pixels")
    return np.ascontiguousarray(pixels)
