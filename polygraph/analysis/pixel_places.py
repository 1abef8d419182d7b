"""Where the pixels lie that pixels are joined with, and where they would lie by chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polygraph._checks import check_positive

_NEAR = 2  # rows and columns: a window of 5 x 5


@dataclass(frozen=True)
class Places:
    """Where neighbors lie.

    Attributes:
        distance: mean Euclidean distance to a neighbor, in pixels.
        near: share of the neighbors within the 5 x 5 pixels around.
        entropy: of the offsets (rows down, columns right), in bits: 0 when all neighbors lie in one
            direction at one distance; the logarithm of the number of offsets when all are alike
            frequent.

    Example:
        >>> import torch
        >>> from polygraph.analysis import places_of_table
        >>> right = torch.tensor([[[1], [2], [3], [-1]]])  # of four pixels in a row; the last: none
        >>> places_of_table(right, 1, 4)
        Places(distance=1.0, near=1.0, entropy=0.0)

    See Also:
        `places_of_table`, `chance_places`.
    """

    distance: float
    near: float
    entropy: float


def offset_counts(table: Tensor, height: int, width: int) -> Tensor:
    """How often each offset occurs.

    Args:
        table: int64 ``[B, H W, k]``: neighbors as ``row * W + column``, -1 for none.
        height: H.
        width: W.

    Returns:
        float64 ``[2 H - 1, 2 W - 1]`` on the CPU; the middle is the pixel itself.

    Raises:
        ValueError: the table is not of such images.

    Example:
        >>> import torch
        >>> from polygraph.analysis import offset_counts
        >>> offset_counts(torch.tensor([[[1], [0]]]), 1, 2)  # two pixels, each the other's
        tensor([[1., 0., 1.]], dtype=torch.float64)

    See Also:
        `places_of_counts`.
    """
    _check_table(table, height, width)
    near = table.cpu()
    return _counts(near, torch.ones(near.shape, dtype=torch.float64), height, width)


def weighted_offset_counts(weight: Tensor, height: int, width: int) -> Tensor:
    """`offset_counts` of attention: how much of the weights lies at each offset.

    Args:
        weight: ``[B, H W, H W]``, or ``[B, H W, H W / 4]`` of blocks of 2 x 2 pixels, each of whose
            pixels has a quarter.
        height: H.
        width: W.

    Returns:
        float64 ``[2 H - 1, 2 W - 1]`` on the CPU.

    Raises:
        ValueError: another shape.

    Example:
        >>> import torch
        >>> from polygraph.analysis import weighted_offset_counts
        >>> weighted_offset_counts(torch.tensor([[[1.0, 0.0], [0.25, 0.75]]]), 1, 2)
        tensor([[0.2500, 1.7500, 0.0000]], dtype=torch.float64)

    See Also:
        `places_of_counts`.
    """
    pixels, positions = height * width, weight.shape[-1]
    if weight.dim() != 3 or weight.shape[1] != pixels or positions not in (pixels, pixels // 4):
        raise ValueError(
            f"weighted_offset_counts: weight must have shape [B, {pixels}, {pixels}] or [B, "
            f"{pixels}, {pixels // 4}], got {list(weight.shape)}"
        )
    shared = weight.detach().sum(0, dtype=torch.float64).cpu()
    if positions < pixels:
        blocks = shared.view(pixels, height // 2, 1, width // 2, 1).expand(-1, -1, 2, -1, 2)
        shared = blocks.reshape(pixels, pixels) / 4
    every = torch.arange(pixels).expand(1, pixels, pixels)
    return _counts(every, shared[None], height, width)


def _counts(table: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    pixel = torch.arange(height * width)[None, :, None]
    down = table // width - pixel // width + height - 1
    right = table % width - pixel % width + width - 1
    there = table >= 0
    shape = (2 * height - 1, 2 * width - 1)
    bins = (down * shape[1] + right)[there]
    return torch.bincount(bins, weight[there], shape[0] * shape[1]).view(shape)


def places_of_counts(counts: Tensor) -> Places:
    """What counts of offsets ``[2 H - 1, 2 W - 1]`` say; NaN where there is nothing to count.

    Example:
        >>> import torch
        >>> from polygraph.analysis import places_of_counts
        >>> places_of_counts(torch.tensor([[1.0, 0.0, 1.0]]))  # left as often as right
        Places(distance=1.0, near=1.0, entropy=1.0)

    See Also:
        `offset_counts`, `weighted_offset_counts`.
    """
    height, width = (size // 2 + 1 for size in counts.shape)
    down = torch.arange(1 - height, height, dtype=torch.float64)[:, None]
    right = torch.arange(1 - width, width, dtype=torch.float64)[None, :]
    share = counts.double() / counts.double().sum()
    near = (down.abs() <= _NEAR) & (right.abs() <= _NEAR)
    entropy = -torch.special.xlogy(share, share).sum() / torch.log(torch.tensor(2.0).double())
    distance = (share * (down.square() + right.square()).sqrt()).sum()
    return Places(float(distance), float(share[near].sum()), max(0.0, float(entropy)))


def places_of_table(table: Tensor, height: int, width: int) -> Places:
    """Where the neighbors of a table lie.

    Args:
        table: int64 ``[B, H W, k]``: neighbors as ``row * W + column``, -1 for none, such as
            `polygraph.nn.pixel_knn` finds.
        height: H.
        width: W.

    Raises:
        ValueError: the table is not of such images.

    Example:
        >>> import torch
        >>> from polygraph.analysis import chance_places, places_of_table
        >>> from polygraph.nn import pixel_knn
        >>> smooth = torch.arange(16.0).expand(16, 16)[None, None]  # columns look alike
        >>> found = places_of_table(pixel_knn(smooth, 8)[0], 16, 16)
        >>> found.entropy < chance_places(16, 16, exclude_radius=1).entropy
        True

    See Also:
        `chance_places`, what it is to be compared with.
    """
    return places_of_counts(offset_counts(table, height, width))


def chance_places(
    height: int, width: int, exclude_radius: int | None = None, search_radius: int | None = None
) -> Places:
    """Where neighbors lie that are drawn at random, each candidate of a pixel being alike likely.

    Exactly, not by drawing. The yardstick of `places_of_table`: at the border of an image distances
    are other than in its middle, and no image of 32 x 32 has neighbors 40 pixels away.

    Args:
        height: H.
        width: W.
        exclude_radius: as of `polygraph.nn.pixel_knn`: pixels at most this many rows and columns
            away are no candidates; None: all are, the pixel itself too.
        search_radius: as there: how far away candidates may be; None: anywhere.

    Raises:
        ValueError: a size is not positive, or some pixel has no candidate.

    Example:
        >>> from polygraph.analysis import chance_places
        >>> chance_places(1, 2, exclude_radius=0)  # the other one, left or right
        Places(distance=1.0, near=1.0, entropy=1.0)

    See Also:
        `places_of_table`.
    """
    check_positive("chance_places", height=height, width=width)
    inner = -1 if exclude_radius is None else exclude_radius
    outer = max(height, width) if search_radius is None else search_radius
    candidates = _window(height, width, outer) - _window(height, width, min(inner, outer))
    if not bool((candidates > 0).all()):
        raise ValueError("chance_places: some pixel has no candidate: the excluded window has all")
    # Sums over rectangles of what each pixel gives to each of its candidates.
    total = torch.zeros(height + 1, width + 1, dtype=torch.float64)
    total[1:, 1:] = (1 / candidates).cumsum(0).cumsum(1)
    down, right = torch.arange(1 - height, height)[:, None], torch.arange(1 - width, width)[None]
    top, bottom = (-down).clamp(min=0), height - down.clamp(min=0)
    left, end = (-right).clamp(min=0), width - right.clamp(min=0)
    counts = total[bottom, end] - total[top, end] - total[bottom, left] + total[top, left]
    away = torch.maximum(down.abs(), right.abs())
    return places_of_counts(torch.where((away > inner) & (away <= outer), counts, 0.0))


def _window(height: int, width: int, radius: int) -> Tensor:
    """How many pixels of the image lie within a radius of each: float64 ``[H, W]``."""
    sides = []
    for size in (height, width):
        at = torch.arange(size, dtype=torch.float64)
        low, high = (at - radius).clamp(min=0), (at + radius).clamp(max=size - 1)
        sides.append(high - low + 1 if radius >= 0 else torch.zeros_like(at))
    return torch.outer(*sides)


def _check_table(table: Tensor, height: int, width: int) -> None:
    pixels = height * width
    if table.dim() != 3 or table.shape[1] != pixels or table.dtype != torch.int64:
        raise ValueError(
            f"offset_counts: table must be int64 of shape [B, {pixels}, k], the pixels of {height} "
            f"x {width}, got {table.dtype} {list(table.shape)}"
        )
    if table.numel() and not -1 <= int(table.min()) <= int(table.max()) < pixels:
        raise ValueError(f"offset_counts: entries of table must lie in [-1, {pixels})")
