"""Patches of images and of graphs, and what is pooled over them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from polygraph._checks import check_positive
from polygraph.models.convexified.config import ConvexifiedLayerConfig


class ImagePatches(nn.Module):
    """Square patches of an image at every pixel, and means over square windows of them.

    Args:
        height: of the image, without padding.
        width: of the image.
        config: has patch_size, padding, pool_size, pool_stride.

    Raises:
        ValueError: the patch is larger than the padded image, or the pooling window larger than the
            grid of patches.
    """

    def __init__(self, height: int, width: int, config: ConvexifiedLayerConfig) -> None:
        super().__init__()
        check_positive("ImagePatches", height=height, width=width)
        self.config, self.image = config, (height, width)
        self.grid = tuple(n + 2 * config.padding - config.patch_size + 1 for n in self.image)
        if min(self.grid) < 1:
            raise ValueError(
                f"ConvexifiedCNN: patch_size must be at most the image with its padding, "
                f"{height + 2 * config.padding} x {width + 2 * config.padding}, got "
                f"{config.patch_size}"
            )
        if min(self.grid) < config.pool_size:
            raise ValueError(
                f"ConvexifiedCNN: pool_size must be at most the grid of patches, {self.grid[0]} x "
                f"{self.grid[1]}, got {config.pool_size}"
            )
        self.slots = config.patch_size**2
        self.pooled = self._pool(torch.zeros(1, 1, *self.grid)).shape[2:]
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_pooled = self.pooled[0] * self.pooled[1]
        self.cropped = tuple(max(1, int(n * config.crop + 1e-9)) for n in self.pooled)

    def check(self, x: Tensor) -> None:
        """Refuse what are no images ``[B, C, H, W]`` of this size."""
        if x.dim() != 4 or tuple(x.shape[2:]) != self.image:
            raise ValueError(
                f"ConvexifiedCNN: images must have shape [B, C, {self.image[0]}, {self.image[1]}], "
                f"got {list(x.shape)}"
            )

    def extract(self, x: Tensor, channels: int) -> Tensor:
        """Patches ``[B, P, C·S]`` of the first channels of ``x [B, C, H, W]``."""
        size, padding = self.config.patch_size, self.config.padding
        return nn.functional.unfold(x[:, :channels], size, padding=padding).transpose(1, 2)

    def pool(self, features: Tensor) -> Tensor:
        """Means ``[B, Q, m]`` of features ``[B, P, m]``."""
        grid = features.view(len(features), *self.grid, -1).permute(0, 3, 1, 2)
        return self._pool(grid).flatten(2).transpose(1, 2)

    def _pool(self, grid: Tensor) -> Tensor:
        """Windows at the border are cut, and the mean is of what is left."""
        config = self.config
        return nn.functional.avg_pool2d(
            grid,
            config.pool_size,
            config.pool_stride,
            ceil_mode=True,
            count_include_pad=False,
        )

    def arrange(self, maps: Tensor) -> Tensor:
        """Maps ``[B, Q, r]`` as an image ``[B, r, h, w]``."""
        return maps.transpose(1, 2).reshape(len(maps), -1, *self.pooled)

    def crops(self) -> Tensor:
        """Every crop of the pooled positions: int64 ``[T, Q']``."""
        (height, width), (h, w) = self.pooled, self.cropped
        place = torch.arange(self.num_pooled).view(height, width)
        views = place.unfold(0, h, 1).unfold(1, w, 1)
        return views.reshape(-1, h * w)

    def center(self) -> Tensor:
        """The crop in the middle: int64 ``[Q']``."""
        (height, width), (h, w) = self.pooled, self.cropped
        top, left = (height - h) // 2, (width - w) // 2
        return self.crops()[top * (width - w + 1) + left]

    def __repr__(self) -> str:
        """One line: sizes."""
        return (
            f"ImagePatches({self.image[0]} x {self.image[1]} -> {self.grid[0]} x {self.grid[1]} -> "
            f"{self.pooled[0]} x {self.pooled[1]})"
        )


class GraphPatches(nn.Module):
    """Patches of a graph or a mesh: the nodes that a table names, and means over rows of another.

    Spirals of a mesh (`polygraph.mesh.spiral_table`) and the k nearest neighbours of a graph
    (`polygraph.ops.knn`) are such tables. What is convex in the filters of a convolution of pixels
    is convex in those of any linear map of such patches.

    Args:
        table: int64 ``[P, S]``, a patch a row; entries in ``[-1, num_sources)``, where -1 reads
            zeros. A tensor or a NumPy array.
        pool: int64 ``[Q, W]``, the patches whose mean is taken; entries in ``[-1, P)``, where -1
            does not count, but at least one in a row. None: each patch for itself.
        num_sources: V, nodes of the graph; None: P.

    Raises:
        ValueError: a table has another dtype, rank or range.

    Example:
        >>> import torch
        >>> from polygraph.models.convexified import GraphPatches
        >>> from polygraph.ops import knn
        >>> neighbors, _ = knn(torch.rand(50, 3), 6)
        >>> GraphPatches(neighbors, pool=torch.arange(50).view(10, 5))
        GraphPatches(50 nodes, patches=[50, 6], pool=[10, 5])

    See Also:
        `polygraph.models.ConvexifiedCNN`, whose argument ``graphs`` takes one for each layer.
    """

    table: Tensor
    windows: Tensor | None

    def __init__(
        self,
        table: Tensor | np.ndarray,
        pool: Tensor | np.ndarray | None = None,
        *,
        num_sources: int | None = None,
    ) -> None:
        super().__init__()
        found = _table("table", table, num_sources)
        self.num_patches, self.slots = found.shape
        self.num_sources = self.num_patches if num_sources is None else num_sources
        windows = None if pool is None else _table("pool", pool, self.num_patches)
        if windows is not None and not bool((windows >= 0).any(1).all()):
            row = int((windows < 0).all(1).nonzero()[0])
            raise ValueError(f"GraphPatches: row {row} of pool must name a patch, got -1 alone")
        self.num_pooled = self.num_patches if windows is None else len(windows)
        self.register_buffer("table", found, persistent=False)
        self.register_buffer("windows", windows, persistent=False)

    def check(self, x: Tensor) -> None:
        """Refuse what are no features ``[B, V, C]`` of these nodes."""
        if x.dim() != 3 or x.shape[1] != self.num_sources:
            raise ValueError(
                f"ConvexifiedCNN: features must have shape [B, {self.num_sources}, C], got "
                f"{list(x.shape)}"
            )

    def extract(self, x: Tensor, channels: int) -> Tensor:
        """Patches ``[B, P, C·S]`` of the first channels of ``x [B, V, C]``, channel by channel."""
        found = x[..., :channels][:, self.table.clamp(min=0)]  # [B, P, S, C]
        found = found.masked_fill((self.table < 0)[..., None], 0)
        return found.transpose(2, 3).flatten(2)

    def pool(self, features: Tensor) -> Tensor:
        """Means ``[B, Q, m]`` of features ``[B, P, m]``."""
        if self.windows is None:
            return features
        hole = (self.windows < 0)[..., None]
        found = features[:, self.windows.clamp(min=0)].masked_fill(hole, 0)
        return found.sum(2) / (~hole).sum(1).to(features.dtype)

    def arrange(self, maps: Tensor) -> Tensor:
        """Maps ``[B, Q, r]`` are the next layer's features of nodes."""
        return maps

    def crops(self) -> Tensor:
        """All positions, once: int64 ``[1, Q]``."""
        return torch.arange(self.num_pooled)[None]

    def center(self) -> Tensor:
        """All positions: int64 ``[Q]``."""
        return torch.arange(self.num_pooled)

    def __repr__(self) -> str:
        """One line: sizes."""
        pool = "" if self.windows is None else f", pool={list(self.windows.shape)}"
        table = list(self.table.shape)
        return f"GraphPatches({self.num_sources} nodes, patches={table}{pool})"


Patches = ImagePatches | GraphPatches


def _table(name: str, given: Tensor | np.ndarray, entries: int | None) -> Tensor:
    """An int64 table ``[rows, slots]`` with entries in [-1, entries); None: its number of rows."""
    table = torch.as_tensor(given)
    if table.dim() != 2 or table.dtype != torch.int64 or not table.numel():
        raise ValueError(
            f"GraphPatches: {name} must be int64 of shape [rows, slots], got "
            f"{str(table.dtype).removeprefix('torch.')} {list(table.shape)}"
        )
    end = len(table) if entries is None else entries
    if int(table.min()) < -1 or int(table.max()) >= end:
        wrong = int(table.min()) if int(table.min()) < -1 else int(table.max())
        raise ValueError(f"GraphPatches: {name} must have entries in [-1, {end}), got {wrong}")
    return table.clone()
