"""Image data sets: one type for all of them, one configuration, one function that opens them.

Images are bytes ``[N, C, H, W]``, as they lie in the files; smaller ones are padded with black to
the size wanted (28 to 32), grey ones repeated or coloured ones reduced to the channels wanted.
Networks see them as float32 in [-1, 1]: `to_float` and `to_uint8` are the way there and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from polygraph._arrays import array_sha256, as_numpy
from polygraph._checks import check_numbers
from polygraph._memory import check_room
from polygraph._names import unknown_name
from polygraph.data import glyphs
from polygraph.data.cifar import read_cifar10, read_cifar100
from polygraph.data.image_files import Images, IntArray, read_idx_folder
from polygraph.data.image_folders import read_folder
from polygraph.data.image_values import to_float as to_float
from polygraph.data.image_values import to_uint8 as to_uint8

Parts = dict[str, tuple[Images, IntArray]]

_FASHION = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_CIFAR100 = (
    *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle"),
    *("bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle"),
    *("caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch"),
    *("crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox"),
    *("girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion"),
    *("lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom"),
    *("oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree"),
    *("plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road"),
    *("rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake"),
    *("spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank"),
    *("telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle"),
    *("wardrobe", "whale", "willow_tree", "wolf", "woman", "worm"),
)
# kind -> (name for people, reader, names of the classes)
_FILES: dict[str, tuple[str, Callable[[str], Parts], tuple[str, ...]]] = {
    "mnist": ("MNIST", read_idx_folder, tuple("0123456789")),
    "fashion-mnist": ("Fashion-MNIST", read_idx_folder, _FASHION),
    "cifar10": ("CIFAR-10", read_cifar10, _CIFAR10),
    "cifar100": ("CIFAR-100", read_cifar100, _CIFAR100),
}
_MOST_SIZE = 1 << 13  # pixels
ARRAYS = "arrays"  #: kind of what was handed over in memory
IMAGE_KINDS = ("glyphs", *_FILES, "folder", ARRAYS)


@dataclass(frozen=True)
class ImageDataConfig:
    """Which images, and in which form.

    Attributes:
        kind: "glyphs" (digits that are built in), "mnist", "fashion-mnist", "cifar10", "cifar100",
            "folder" (pictures of any size, at any depth) or "arrays" (handed over in memory).
        path: the folder (or CIFAR's archive); not for "glyphs" and "arrays".
        size: height and width. Pictures of a folder are scaled and cut to it; the others are padded
            with black, and may not be larger.
        channels: 1 or 3; None: as the data set has them (3 for folders).
        test_fraction: of a folder without subfolders train/ and test/ (or val/): share of its
            pictures that is for testing, at least one.
        cache_dir: where the scaled pictures of a folder are kept; None for the user's cache.
        full_check: verify the SHA-256 of the cached arrays, and not only their sizes.
        num_images: number of built-in glyphs.
        seed: of the glyphs; draws the pictures for testing.
    """

    kind: str = "glyphs"
    path: str | None = None
    size: int = 32
    channels: int | None = None
    test_fraction: float = 0.1
    cache_dir: str | None = None
    full_check: bool = False
    num_images: int = 7000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no data set can be opened from."""
        check_numbers("data", self, ("seed",))
        if self.kind not in IMAGE_KINDS:
            raise ValueError(f"data: {unknown_name('kind', self.kind, IMAGE_KINDS)}")
        without_path = self.kind in ("glyphs", ARRAYS)
        if without_path and self.path is not None:
            raise ValueError(
                f"data: path must not be set for kind {self.kind!r}, got {self.path!r}"
            )
        if not without_path and self.path is None:
            raise ValueError(f"data: path must be set for kind {self.kind!r}, got none")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"data: channels must be 1 or 3, got {self.channels}")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"data: test_fraction must be in (0, 1), got {self.test_fraction}")
        if self.size > _MOST_SIZE:
            raise ValueError(f"data: size must be at most {_MOST_SIZE}, got {self.size}")
        for name, low in (("size", 8), ("num_images", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"data: {name} must be at least {low}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ImageDataset:
    """Images in memory (or memory-mapped), and what each of them is for.

    Attributes:
        name: for people and for the labels of metrics: "Fashion-MNIST".
        images: uint8 ``[N, C, H, W]``, read-only.
        labels: int64 ``[N]`` in ``[0, len(classes))``, read-only; or None.
        classes: their names; empty without labels.
        train: int64, ascending: images that train.
        test: int64, ascending: images that are held out.
        content_hash: SHA-256 of images and labels, as they are here (padded, with these channels).
        split_hash: SHA-256 of the parts.
        val: int64, ascending: images that validate, where the data set says which; or None.

    Example:
        >>> import numpy as np
        >>> from polygraph.data import ImageDataset
        >>> images = np.zeros((4, 1, 32, 32), np.uint8)
        >>> train, test = np.arange(3), np.arange(3, 4)
        >>> ImageDataset("mine", images, None, (), train, test, "hash", "hash")
        ImageDataset('mine', 4 images of 1 x 32 x 32, 0 classes, train=3, test=1)

    See Also:
        `open_images`.
    """

    name: str
    images: Images
    labels: IntArray | None
    classes: tuple[str, ...]
    train: IntArray
    test: IntArray
    content_hash: str
    split_hash: str
    val: IntArray | None = None

    def __repr__(self) -> str:
        """One line: the name, sizes, the parts."""
        shape = " x ".join(map(str, self.images.shape[1:]))
        return (
            f"ImageDataset({self.name!r}, {len(self)} images of {shape}, "
            f"{self.num_classes} classes, train={len(self.train)}, test={len(self.test)})"
        )

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any = None,
        *,
        name: str = "arrays",
        classes: Sequence[str] | None = None,
        test: ArrayLike | None = None,
        size: int = 32,
    ) -> ImageDataset:
        """Images that are in memory already.

        Args:
            images: uint8 ``[N, C, H, W]`` of numpy or torch, C 1 or 3; smaller ones than `size` are
                padded with black.
            labels: integers ``[N]`` from 0 on, or None.
            name: for people and for the labels of metrics.
            classes: names of the labels; None: their numbers.
            test: indices of the images that are held out; None: every tenth.
            size: height and width.

        Raises:
            ValueError: a shape, a dtype or a label is wrong, images are larger than `size`, or a
                part would be empty.

        Example:
            >>> import numpy as np
            >>> made = ImageDataset.from_arrays(np.zeros((50, 1, 28, 28), np.uint8))
            >>> len(made), made.channels, made.size, len(made.test)
            (50, 1, 32, 5)
        """
        pixels = as_numpy(images)
        square = pixels.ndim == 4 and pixels.shape[1] in (1, 3) and len(pixels)
        if not square or pixels.dtype != np.uint8:
            raise ValueError(
                f"{name}: images must be uint8 of shape [N, C, H, W] with C 1 or 3, got "
                f"{pixels.dtype} {list(pixels.shape)}"
            )
        is_test = np.zeros(len(pixels), np.bool_)
        is_test[slice(9, None, 10) if test is None else as_numpy(test)] = True
        label: NDArray[Any] | None = None
        names: tuple[str, ...] = ()
        if labels is not None:
            label, names = _checked_labels(name, as_numpy(labels), len(pixels), classes)
        return _dataset(name, pad_images(name, [pixels], size), label, names, is_test)

    def __len__(self) -> int:
        """Number of images, of both parts together."""
        return len(self.images)

    @property
    def channels(self) -> int:
        """C of the images."""
        return int(self.images.shape[1])

    @property
    def size(self) -> int:
        """H and W of the images."""
        return int(self.images.shape[2])

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.classes)

    def part(self, name: str) -> IntArray:
        """Indices of "train" or "test".

        Raises:
            ValueError: another name.
        """
        if name not in ("train", "test"):
            raise ValueError(f"{self.name}: {unknown_name('part', name, ('train', 'test'))}")
        return self.train if name == "train" else self.test

    def batch(self, indices: NDArray[np.integer[Any]] | Tensor) -> Tensor:
        """Images of these indices ``[B]`` as float32 ``[B, C, H, W]`` in [-1, 1], on the CPU."""
        rows = indices.cpu().numpy() if isinstance(indices, Tensor) else indices
        return to_float(torch.from_numpy(self.images[rows]))


def open_images(config: ImageDataConfig) -> ImageDataset:
    """Open the data set in the size and with the channels asked for.

    Deterministic: the same files and the same configuration give the same bytes and hashes.

    Raises:
        FileNotFoundError: the path, or a file that must lie there, does not exist.
        ImportError: Pillow is missing; the message names the extra.
        ValueError: a file is damaged, images are larger than `size`, or a part would be empty; the
            message names the file.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from polygraph.data import ImageDataConfig, open_images
        >>> folder = tempfile.mkdtemp()
        >>> for n in range(20):
        ...     pixels = np.full((32, 32, 3), 10 * n, np.uint8)
        ...     Image.fromarray(pixels).save(f"{folder}/{n}.png")
        >>> open_images(ImageDataConfig("folder", folder)).images.shape
        (20, 3, 32, 32)

    See Also:
        `to_float`, which makes numbers of them; `make_glyphs`.
    """
    if config.kind == "glyphs":
        images, labels, is_test = glyphs.make_glyphs(config.num_images, config.seed, config.size)
        return _dataset(
            f"glyphs-{config.num_images}-{config.seed}",
            _in_channels(images, config.channels),
            labels,
            glyphs.CLASSES,
            is_test,
        )
    if config.kind == ARRAYS:
        raise ValueError("data: arrays in memory are not kept: hand them over again, or a folder")
    assert config.path is not None
    if config.kind == "folder":
        root = Path(config.path)
        channels = 3 if config.channels is None else config.channels
        found = read_folder(
            root,
            config.size,
            channels,
            config.test_fraction,
            config.seed,
            cache_dir=config.cache_dir,
            full_check=config.full_check,
        )
        return _dataset(root.resolve().name, *found[:3], found.is_test, found.is_val)
    name, reader, classes = _FILES[config.kind]
    parts = reader(config.path)
    images = pad_images(name, [parts[part][0] for part in parts], config.size)
    labels = np.concatenate([parts[part][1] for part in parts])
    is_test = np.arange(len(labels)) >= len(parts["train"][1])
    return _dataset(name, _in_channels(images, config.channels), labels, classes, is_test)


def _dataset(
    name: str,
    images: Images,
    labels: IntArray | None,
    classes: tuple[str, ...],
    is_test: NDArray[np.bool_],
    is_val: NDArray[np.bool_] | None = None,
) -> ImageDataset:
    val = None if is_val is None else np.flatnonzero(is_val)
    test = np.flatnonzero(is_test)
    train = np.flatnonzero(~is_test if is_val is None else ~(is_test | is_val))
    for part, rows in (("train on", train), ("test on", test)):
        if not len(rows):
            raise ValueError(
                f"{name}: want images to train on and images to test on, got none to {part}"
            )
    content = [images] if labels is None else [images, labels.astype("<i8")]
    images.setflags(write=False)
    if labels is not None:
        labels.setflags(write=False)
    return ImageDataset(
        name=name,
        images=images,
        labels=labels,
        classes=classes,
        train=train,
        test=test,
        content_hash=array_sha256(*content),
        split_hash=array_sha256(
            *(part.astype("<i8") for part in (train, test, val) if part is not None)
        ),
        val=val,
    )


def _checked_labels(
    name: str, labels: NDArray[Any], count: int, classes: Sequence[str] | None
) -> tuple[IntArray, tuple[str, ...]]:
    """Labels of so many images as int64, and the names of the classes."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: labels must be integers of shape [{count}], got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    names = tuple(map(str, range(int(labels.max()) + 1) if classes is None else classes))
    if labels.min() < 0 or labels.max() >= len(names):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"{name}: labels must lie in [0, {len(names)}), got {wrong}")
    return labels.astype(np.int64), names


def pad_images(name: str, parts: list[Images], size: int) -> Images:
    """All parts ``[N, C, H, W]`` in one, with black around them to ``size``.

    An odd row or column of it is below or to the right.

    Raises:
        ValueError: they are larger; ``name`` begins the message.
    """
    channels, height, width = parts[0].shape[1:]
    if height > size or width > size:
        raise ValueError(
            f"{name}: size must be at least that of the images, {height} x {width}, got {size}"
        )
    shape = (sum(map(len, parts)), channels, size, size)
    check_room(math.prod(shape), f"{name}: images of shape {list(shape)}")
    padded = np.zeros(shape, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    inner = padded[:, :, top : top + height, left : left + width]
    start = 0
    for images in parts:
        inner[start : start + len(images)] = images
        start += len(images)
    return padded


def _in_channels(images: Images, channels: int | None) -> Images:
    if channels is None or channels == images.shape[1]:
        return images
    shape = (len(images), channels, *images.shape[2:])
    check_room(math.prod(shape), f"images of shape {list(shape)}")
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    grey = np.empty(shape, np.uint8)
    weights = np.array([299, 587, 114], np.uint32)[:, None, None]  # ITU-R 601, in thousandths
    for start in range(0, len(images), 1024):
        block = images[start : start + 1024].astype(np.uint32) * weights
        grey[start : start + 1024, 0] = (block.sum(1, dtype=np.uint32) + 500) // 1000
    return grey
