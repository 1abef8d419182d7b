"""Variations of MNIST, made by a recipe with a name and a seed: noise, angles, pictures behind.

After Larochelle et al., "An Empirical Evaluation of Deep Architectures on Problems with Many
Factors of Variation", ICML 2007: the same kinds of change, the same sizes of the parts; other draws
than in the files that they published, and other pictures behind the digits. Errors on them are not
those of the published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import array_sha256, as_numpy
from polygraph._checks import check_choice, check_positive
from polygraph.data.image_files import Images
from polygraph.data.images import ImageDataset

VARIATIONS = ("basic", "rand", "rot", "img", "img+rot")
PARTS = (10_000, 2_000, 50_000)  #: images that train, validate and test
_BLOCK = 1024  # images that are turned at a time
_CUT = 14  # pixels of a picture that become 28, by doubling
_DRAWS = {"order": 0, "noise": 1, "angle": 2, "picture": 3}  # each with random numbers of its own


def make_mnist_variation(
    name: str,
    images: Any,
    labels: Any,
    *,
    pictures: Any = None,
    seed: int = 0,
    parts: Sequence[int] = PARTS,
) -> ImageDataset:
    """Digits in an order of chance, changed as the name says, and cut into three parts.

    ========== =============================================================================
    "basic"    as they are
    "rand"     the maximum of the digit and of bytes that are uniform in 0 to 255
    "rot"      turned about the middle by an angle that is uniform in 0 to 2π, bilinear
    "img"      the maximum of the digit and of a piece of a picture: 14 x 14 pixels of it, grey,
               each doubled in both directions by bilinear interpolation to 28 x 28
    "img+rot"  turned, then as "img"
    ========== =============================================================================

    Deterministic in everything given: the hashes of the result tell it. The order of a seed is the
    same for all names, so the parts are of the same digits.

    Args:
        name: of the variation.
        images: uint8 ``[N, 1, H, W]`` (or ``[N, H, W]``), as MNIST's files have them.
        labels: integers ``[N]`` from 0 on.
        pictures: uint8 ``[M, C, H', W']``, C 1 or 3, of at least 14 x 14, for "img" and "img+rot".
        seed: of all that is drawn.
        parts: how many images train, validate and test.

    Returns:
        A data set called ``mnist-NAME-SEED`` of as many images as the parts have together.

    Raises:
        ValueError: an unknown name, too few images, a wrong shape or dtype, pictures that are
            missing or not wanted.

    Example:
        >>> import numpy as np
        >>> from polygraph.data import make_mnist_variation
        >>> digits = np.zeros((50, 1, 28, 28), np.uint8)
        >>> made = make_mnist_variation("rand", digits, np.arange(50) % 10, parts=(20, 10, 20))
        >>> made, len(made.val)
        (ImageDataset('mnist-rand-0', 50 images of 1 x 28 x 28, 10 classes, train=20, test=20), 10)

    See Also:
        `open_images`, which reads MNIST itself.
    """
    owner = "make_mnist_variation"
    check_choice(owner, "name", name, VARIATIONS)
    digits, label = _checked(owner, images, labels)
    if len(parts) != 3:
        raise ValueError(f"{owner}: parts must be three numbers, got {list(parts)}")
    check_positive(owner, **{f"parts[{n}]": part for n, part in enumerate(parts)})
    if sum(parts) > len(digits):
        raise ValueError(
            f"{owner}: parts must have at most the {len(digits)} images together, got {sum(parts)}"
        )
    wants_pictures = name.startswith("img")
    if wants_pictures != (pictures is not None):
        word = "must be given" if wants_pictures else "must not be given"
        raise ValueError(f"{owner}: pictures {word} for {name!r}")

    def draw(what: str) -> np.random.Generator:
        return np.random.default_rng([seed, _DRAWS[what]])

    order = draw("order").permutation(len(digits))[: sum(parts)]
    made, label = digits[order], label[order]
    if name.endswith("rot"):
        made = rotate(made, draw("angle").uniform(0, 2 * np.pi, len(made)))
    if name == "rand":
        noise = draw("noise").integers(0, 256, made.shape, np.uint8)
        made = np.maximum(made, noise)
    if wants_pictures:
        made = np.maximum(made, _pieces(owner, pictures, made.shape, draw("picture")))
    made = np.ascontiguousarray(made[:, None])
    made.setflags(write=False)
    label.setflags(write=False)
    bounds = np.cumsum([0, *parts])
    train, val, test = (np.arange(a, b) for a, b in pairwise(bounds))
    return ImageDataset(
        name=f"mnist-{name}-{seed}",
        images=made,
        labels=label,
        classes=tuple(map(str, range(int(label.max()) + 1))),
        train=train,
        test=test,
        content_hash=array_sha256(made, label.astype("<i8")),
        split_hash=array_sha256(*(part.astype("<i8") for part in (train, test, val))),
        val=val,
    )


def rotate(images: Images, angles: NDArray[np.float64]) -> Images:
    """Images turned about their middle, bilinear, with 0 from outside; bytes, rounded.

    Args:
        images: uint8 ``[N, H, W]``.
        angles: ``[N]`` in radians, counter-clockwise as seen with y down the page.

    Returns:
        uint8 ``[N, H, W]``.
    """
    count, height, width = images.shape
    y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1])[:, None, None] / 2
    turned = np.empty_like(images)
    for start in range(0, count, _BLOCK):
        block = np.pad(images[start : start + _BLOCK].astype(np.float64), [(0,), (1,), (1,)])
        angle = angles[start : start + _BLOCK, None, None]
        cos, sin = np.cos(angle), np.sin(angle)
        # Where each pixel comes from, in the padded image; far outside is the padding.
        from_x = np.clip(cos * x - sin * y + (width - 1) / 2 + 1, 0, width + 1)
        from_y = np.clip(sin * x + cos * y + (height - 1) / 2 + 1, 0, height + 1)
        left = np.minimum(from_x.astype(np.int64), width)
        top = np.minimum(from_y.astype(np.int64), height)
        right_share, low_share = from_x - left, from_y - top
        n = np.arange(len(block))[:, None, None]
        upper = block[n, top, left] * (1 - right_share) + block[n, top, left + 1] * right_share
        lower = (
            block[n, top + 1, left] * (1 - right_share) + block[n, top + 1, left + 1] * right_share
        )
        mixed = upper * (1 - low_share) + lower * low_share
        turned[start : start + _BLOCK] = np.floor(mixed + 0.5).astype(np.uint8)
    return turned


def _checked(owner: str, images: Any, labels: Any) -> tuple[Images, NDArray[np.int64]]:
    digits, label = as_numpy(images), as_numpy(labels)
    if digits.ndim == 4 and digits.shape[1] == 1:
        digits = digits[:, 0]
    if digits.ndim != 3 or digits.dtype != np.uint8:
        raise ValueError(
            f"{owner}: images must be uint8 of shape [N, 1, H, W], got {digits.dtype} "
            f"{list(digits.shape)}"
        )
    if label.shape != (len(digits),) or label.dtype.kind not in "iu" or label.min() < 0:
        raise ValueError(
            f"{owner}: labels must be integers from 0 on of shape [{len(digits)}], got "
            f"{label.dtype} {list(label.shape)}"
        )
    return digits, label.astype(np.int64)


def _pieces(owner: str, pictures: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Images:
    """Random pieces of random pictures, grey, enlarged to the shape ``[N, H, W]``."""
    given = as_numpy(pictures)
    count, height, width = shape
    if (
        given.ndim != 4
        or given.dtype != np.uint8
        or given.shape[1] not in (1, 3)
        or min(given.shape[2:]) < _CUT
    ):
        raise ValueError(
            f"{owner}: pictures must be uint8 of shape [M, C, H, W] with C 1 or 3 and at least "
            f"{_CUT} x {_CUT} pixels, got {given.dtype} {list(given.shape)}"
        )
    which = rng.integers(0, len(given), count)
    top = rng.integers(0, given.shape[2] - _CUT + 1, count)
    left = rng.integers(0, given.shape[3] - _CUT + 1, count)
    rows, columns = _enlarging(height), _enlarging(width)
    made = np.empty(shape, np.uint8)
    for n in range(count):
        piece = given[which[n], :, top[n] : top[n] + _CUT, left[n] : left[n] + _CUT]
        grey = piece.astype(np.float64).mean(0)
        made[n] = np.floor(rows @ grey @ columns.T + 0.5).astype(np.uint8)
    return made


def _enlarging(size: int) -> NDArray[np.float64]:
    """Weights ``[size, 14]`` of bilinear interpolation between centres of pixels."""
    place = np.clip((np.arange(size) + 0.5) * _CUT / size - 0.5, 0, _CUT - 1)
    first = np.minimum(place.astype(np.int64), _CUT - 2)
    weights = np.zeros((size, _CUT))
    weights[np.arange(size), first] = 1 - (place - first)
    weights[np.arange(size), first + 1] = place - first
    return weights
