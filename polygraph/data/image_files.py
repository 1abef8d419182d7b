"""Readers of image files: IDX (MNIST, Fashion-MNIST), single pictures.

What a header promises is checked against what is there before anything of that size
is kept. Every fault is a `ValueError` that names the file, what was wanted and what was found.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import checked_expansion
from polygraph._files import open_regular
from polygraph._memory import check_room

Images = NDArray[np.uint8]
IntArray = NDArray[np.int64]

SUFFIXES = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png"),
    *(".ppm", ".tif", ".tiff", ".webp"),
)

_IDX_UINT8 = 0x08
_BLOCK = 1 << 22
_MAX_BYTES = 1 << 32  # of one IDX file; ImageNet at 32 x 32 is 3.9e9
_MAX_FILE = 1 << 33
_MAX_PIXELS = 1 << 26  # of one picture: 8192 x 8192
_OF_A_PIXEL = 8  # bytes of memory, at most, while a picture is read
_STRIP = 64  # rows
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_GREY = ("1", "L", "LA", "La")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def unpacked(raw: BinaryIO) -> BinaryIO | gzip.GzipFile:
    """The file itself, or what is gzipped in it: told apart by content, not by name."""
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if packed else raw


def read_up_to(file: BinaryIO | gzip.GzipFile, size: int) -> bytes:
    """At most `size` bytes, in blocks: a damaged header must not make memory for what it claims."""
    blocks, missing = [], size
    while missing > 0 and (block := file.read(min(missing, _BLOCK))):
        blocks.append(block)
        missing -= len(block)
    return b"".join(blocks)


# ---- IDX ----


def read_idx(path: str | Path, dims: int) -> Images:
    """Read an IDX file of bytes, plain or gzipped (told apart by content, not by name).

    Format: http://yann.lecun.com/exdb/mnist: two zero bytes, 0x08 for bytes, the number of
    dimensions, each of them as a big-endian 32-bit number, the bytes.

    Args:
        path: the file.
        dims: dimensions wanted: 3 for images ``[N, H, W]``, 1 for labels ``[N]``.

    Returns:
        uint8 with `dims` dimensions, in C order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: wrong magic number, an empty dimension, too few bytes or too many; a damaged
            gzip stream; more than a hundred times the size of the file, or more than there is
            memory for.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    raw, size = open_regular(path, _MAX_FILE)
    try:
        with raw, unpacked(raw) as file:
            return _read_idx(path, file, dims, size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: truncated or damaged gzip stream: {error}") from error


def _read_idx(path: Path, file: BinaryIO | gzip.GzipFile, dims: int, packed: int) -> Images:
    header = 4 + 4 * dims
    head = read_up_to(file, header)
    want = bytes((0, 0, _IDX_UINT8, dims))
    if head[:4] != want:
        raise ValueError(
            f"{path}: wrong magic number: an IDX file of bytes with {dims} dimensions starts with "
            f"{want.hex(' ')}, got {head[:4].hex(' ') or 'an empty file'}"
        )
    if len(head) < header:
        raise ValueError(f"{path}: truncated: the header has {header} bytes, got {len(head)}")
    shape = tuple(int(size) for size in np.frombuffer(head, ">u4", dims, 4))
    size = int(np.prod([float(n) for n in shape]))  # as floats: 2^96 bytes may be claimed
    if not 0 < size <= _MAX_BYTES:
        raise ValueError(
            f"{path}: every dimension must be at least 1 and all bytes together at most "
            f"{_MAX_BYTES}, got the shape {list(shape)}"
        )
    if isinstance(file, gzip.GzipFile):  # as it is, a file cannot have more than it has
        checked_expansion(size, packed, str(path), ValueError)
    check_room(2 * size, f"{path}: images of shape {list(shape)}")  # blocks, and all of them
    data = read_up_to(file, size + 1)
    if len(data) != size:
        got = f"{len(data)}" if len(data) < size else "more"
        fault = "truncated" if len(data) < size else "wrong size"
        raise ValueError(f"{path}: {fault}: shape {list(shape)} needs {size} bytes, got {got}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _idx_file(folder: Path, part: str, what: str, dims: int) -> Path:
    """The file of one part, by any of the names in use; the tree of torchvision has it in raw/."""
    names = [f"{part}-{what}{dot}idx{dims}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    for place in (folder, folder / "raw"):
        for name in names:
            if (place / name).is_file():
                return place / name
    raise FileNotFoundError(f"{folder}: no {names[0]} (or {names[1]})")


def read_idx_folder(path: str | Path) -> dict[str, tuple[Images, IntArray]]:
    """Read the four files of MNIST or Fashion-MNIST, gzipped or plain.

    Args:
        path: the folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same
            with ``t10k``, each with or without ``.gz``.

    Returns:
        "train" and "test": images uint8 ``[N, 1, H, W]``, labels int64 ``[N]`` from 0 to 9.

    Raises:
        FileNotFoundError: the folder or one of the files is not there.
        ValueError: a file is damaged, labels and images differ in number, a label exceeds 9, or the
            two parts have images of different size.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; want the one with the IDX files")
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        image_file = _idx_file(folder, prefix, "images", 3)
        label_file = _idx_file(folder, prefix, "labels", 1)
        images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if len(images) != len(labels):
            raise ValueError(
                f"{label_file}: one label is wanted for each of the {len(images)} images of "
                f"{image_file.name}, got {len(labels)}"
            )
        check_labels(label_file, labels, 10)
        parts[part] = images[:, None], labels.astype(np.int64)
    train, test = (parts[part][0].shape[2:] for part in ("train", "test"))
    if train != test:
        raise ValueError(
            f"{folder}: images of both parts must have one size, got {list(train)} for train and "
            f"{list(test)} for test"
        )
    return parts


def check_labels(name: object, labels: Images, count: int) -> None:
    """Refuse labels that are not below ``count``; ``name`` begins the message."""
    if labels.max() >= count:
        at = int((labels >= count).argmax())
        raise ValueError(
            f"{name}: labels must lie in [0, {count}), got {labels[at]} for image {at}"
        )


# ---- single pictures ----


def list_pictures(root: Path) -> list[Path]:
    """Files below `root` with the suffix of a picture, hidden ones left out, sorted by path."""
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def read_picture(
    path: str | os.PathLike[str],
    size: int,
    channels: int,
    *,
    pad_small: bool = False,
    content: bytes | None = None,
) -> Images:
    """Read one picture, scale its shorter side to `size` and cut out the middle.

    The camera's orientation is obeyed; transparent pixels are laid over white; of an animation the
    first picture is taken. Scaling is Pillow's Lanczos filter, which does not alias.

    Args:
        path: a BMP, GIF, JPEG, PGM, PNG, PPM, TIFF or WebP file of at most 2^26 pixels.
        size: height and width of the result.
        channels: 3 for RGB, 1 for its luminance (ITU-R 601).
        pad_small: leave a picture that is no larger as it is, in the middle of black.
        content: of the file, where it has been read already; ``path`` is its name then.

    Returns:
        uint8 ``[channels, size, size]``.

    Raises:
        ImportError: Pillow is missing; the message names the extra.
        ValueError: the file is no such picture, truncated, too large, or not of 8 bits a channel.
    """
    if channels not in (1, 3):
        raise ValueError(f"read_picture: channels must be 1 or 3, got {channels}")
    if size < 1:
        raise ValueError(f"read_picture: size must be at least 1, got {size}")

    def fitted(picture: Any) -> Any:
        from PIL import Image, ImageOps

        if pad_small and max(picture.size) <= size:
            whole = Image.new(picture.mode, (size, size))
            left, top = ((size - side) // 2 for side in picture.size)
            whole.paste(picture, (left, top))
            picture = whole
        # `fit` scales and cuts at once, about the middle.
        return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)

    source = path if content is None else io.BytesIO(content)
    picture = opened_picture(path, source, channels, then=fitted)
    pixels = np.asarray(picture, np.uint8)
    return np.ascontiguousarray(pixels.reshape(size, size, channels).transpose(2, 0, 1))


def opened_picture(
    path: str | os.PathLike[str],
    source: Any,
    channels: int | None,
    *,
    opaque: bool = False,
    then: Callable[[Any], Any] | None = None,
) -> Any:
    """A picture file as Pillow's image of 8 bits a channel, grey or RGB.

    Args:
        path: names the file in messages.
        source: what Pillow opens.
        channels: 3 for RGB, 1 for its luminance; None: grey as it is, and all others as RGB.
        opaque: refuse transparent pixels, which are laid over white otherwise.
        then: done with the image; an error in it is one of the file.

    Raises:
        ImportError, ValueError: as of `read_picture`.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("pictures need pillow: pip install 'polygraph-nn[train]'") from error
    try:
        with Image.open(source, formats=_FORMATS) as file:
            if file.width * file.height > _MAX_PIXELS:
                raise ValueError(
                    f"at most {_MAX_PIXELS} pixels are read, got {file.width} x {file.height}"
                )
            pixels = file.width * file.height
            check_room(_OF_A_PIXEL * pixels, f"{file.width} x {file.height} pixels")
            _refuse_wide(file)
            if opaque and _is_transparent(file):
                raise ValueError("it has transparent pixels: lay them over a colour first")
            if channels is None:
                channels = 1 if file.mode in _GREY else 3
            ImageOps.exif_transpose(file, in_place=True)
            picture = _opaque(file, "RGB" if channels == 3 else "L")
            picture.load()
            return picture if then is None else then(picture)
    except Exception as error:  # Pillow fails with anything, SyntaxError included
        detail = f"{error}".splitlines()[0][:200] if f"{error}" else type(error).__name__
        raise ValueError(f"{path}: not a readable picture: {detail}") from error


def _refuse_wide(file: Any) -> None:
    """Refuse more than 8 bits a channel, of which Pillow would keep 8 without a word."""
    if file.mode.startswith(("I", "F")):
        raise ValueError(f"want 8 bits a channel, got Pillow's mode {file.mode!r}")
    for part in file.tile:
        how = part[3] if isinstance(part[3], tuple | list) else (part[3],)
        if any(isinstance(word, str) and ";16" in word for word in how):
            raise ValueError("want 8 bits a channel, got 16")


def _is_transparent(picture: Any) -> bool:
    return picture.mode in _TRANSPARENT or "transparency" in picture.info


def _opaque(picture: Any, mode: str) -> Any:
    """The picture in that mode, over white where it is transparent: strip by strip."""
    from PIL import Image

    if not _is_transparent(picture):
        return picture if picture.mode == mode else picture.convert(mode)
    made = Image.new(mode, picture.size)
    for top in range(0, picture.height, _STRIP):
        strip = picture.crop((0, top, picture.width, min(top + _STRIP, picture.height)))
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        made.paste(Image.alpha_composite(white, strip).convert(mode), (0, top))
    return made
