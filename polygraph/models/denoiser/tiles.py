"""Pictures of any size through a denoiser, a tile at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from polygraph._checks import check_positive
from polygraph._inputs import check_tensors

TILE, OVERLAP = 512, 48  #: side of a tile, and how much of it on each side is seen and not kept


def denoise_tiles(
    model: Any,
    y: Tensor,
    *,
    tile: int = TILE,
    overlap: int = OVERLAP,
    progress: Callable[[list[Any]], Iterable[Any]] | None = None,
) -> Tensor:
    """A picture of any size without its noise, in the memory that a tile takes.

    Each tile sees ``overlap`` pixels more on every side that is not the picture's border, and
    keeps what lies within. A picture that is no larger than a tile goes through whole. The result
    is that of the whole picture, to rounding, where ``overlap`` is at least the model's ``reach``;
    that of the published network is 422 pixels, and published figures are of tiles of 147 with
    windows of 49, so the default is a compromise as theirs is.

    Args:
        model: `GCDN`, `DnCNN`, or any module that maps ``[1, C, h, w]`` to that shape; it is put
            into evaluation mode, and back into the mode it was in.
        y: the noisy picture ``[C, H, W]``.
        tile: height and width, in pixels, of what the network sees at a time.
        overlap: pixels.
        progress: shows how far it is: called with the list of tiles, gives them back one by one.

    Returns:
        ``[C, H, W]``, not clipped.

    Raises:
        ValueError: a shape is wrong, a value is not finite, or overlaps leave nothing of a tile.

    Example:
        >>> import torch
        >>> from polygraph.models import DnCNN, DnCNNConfig, denoise_tiles
        >>> model, y = DnCNN(DnCNNConfig(width=4, depth=3)).eval(), torch.rand(1, 50, 70)
        >>> with torch.no_grad():
        ...     whole = model(y[None])[0]
        >>> torch.allclose(denoise_tiles(model, y, tile=24, overlap=model.reach), whole, atol=1e-6)
        True

    See Also:
        `GCDN`; `polygraph.tasks.denoise`, whose runs denoise pictures by it.
    """
    check_tensors("denoise_tiles", y=y)
    check_positive("denoise_tiles", tile=tile)
    if y.dim() != 3:
        raise ValueError(f"denoise_tiles: y must have shape [C, H, W], got {list(y.shape)}")
    if overlap < 0 or 2 * overlap >= tile:
        raise ValueError(
            f"denoise_tiles: overlap must be at least 0 and below half of tile = {tile}, got "
            f"{overlap}"
        )
    if not bool(torch.isfinite(y).all()):
        raise ValueError(
            f"denoise_tiles: y must be finite, got {int((~torch.isfinite(y)).sum())} values that "
            "are not"
        )
    pieces = [
        (rows, columns)
        for rows in _spans(y.shape[1], tile, overlap)
        for columns in _spans(y.shape[2], tile, overlap)
    ]
    out = torch.empty_like(y)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for (top, bottom, above, below), (left, right, before, behind) in (
                pieces if progress is None else progress(pieces)
            ):
                made = model(y[None, :, above:below, before:behind])[0]
                kept = made[:, top - above : bottom - above, left - before : right - before]
                out[:, top:bottom, left:right] = kept
    finally:
        model.train(training)
    return out


def _spans(size: int, tile: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """First and last of what is kept of each tile, and of what it sees; of one length or nearly."""
    if size <= tile:
        yield 0, size, 0, size
        return
    count = -(-size // (tile - 2 * overlap))
    for n in range(count):
        first, last = n * size // count, (n + 1) * size // count
        yield first, last, max(first - overlap, 0), min(last + overlap, size)
