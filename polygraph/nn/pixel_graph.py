"""Which pixels of an image are joined: those that look alike, or what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from polygraph._checks import check_choice, check_positive
from polygraph.nn.knn import pixel_knn
from polygraph.ops import edge_dist2, graph_from_table

KINDS = ("edge-sum", "edge-max", "edge-mean", "ecc", "light")  #: of `NonLocalGraphConv2d`
MERGES = ("mean", "sum", "gate", "concat", "max")  #: of `NonLocalGraphConv2d`
PADDINGS = ("zeros", "reflect", "replicate", "circular")  #: of `NonLocalGraphConv2d`
METRICS = ("euclidean", "cosine", "projected")
GRAPHS = ("knn", "mutual", "radius", "random", "dilated")


@dataclass(frozen=True)
class PixelGraph:
    """What joins pixels: for every pixel a row of others, and how far they are in feature space.

    Source: Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image Denoising", IEEE TIP
    2020, section III (the nearest in feature space); D'Amico, "Image generation using deep
    adversarial generative models on graphs", Politecnico di Torino 2020, chapter 5, which asks what
    other distances and graphs would do.

    Attributes:
        k: neighbors of each pixel.
        graph: ``"knn"``: the k nearest in feature space. ``"mutual"``: of these, those that have
            the pixel among their own k nearest. ``"radius"``: those at most ``radius`` away.
            ``"random"``: any pixels, drawn anew in every call from torch's generator, each alike
            likely and so perhaps twice. ``"dilated"``: fixed places: eight directions, two, four,
            eight ... pixels away.
        metric: what near means: ``"euclidean"``, ``"cosine"``: features of length 1; or
            ``"projected"``: what a layer makes of its features by a learned linear map.
        radius: of ``"radius"``: a distance, not squared.
        exclude_radius: see `polygraph.nn.pixel_knn`; ``"dilated"`` has its own places.
        search_radius: see `polygraph.nn.pixel_knn`; ``"random"`` and ``"dilated"`` take None.

    Raises:
        ValueError: an argument is none of those above.

    Example:
        >>> import torch
        >>> from polygraph.nn import PixelGraph
        >>> table, dist2 = PixelGraph(4, "mutual").find(torch.randn(2, 3, 8, 8), True)
        >>> table.shape, dist2.shape
        (torch.Size([2, 64, 4]), torch.Size([2, 64, 4]))

    See Also:
        `pixel_knn`, which it calls; `NonLocalGraphConv2d`, which takes its options.
    """

    k: int
    graph: str = "knn"
    metric: str = "euclidean"
    radius: float | None = None
    exclude_radius: int | None = 1
    search_radius: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_positive("PixelGraph", k=self.k)
        check_choice("PixelGraph", "graph", self.graph, GRAPHS)
        check_choice("PixelGraph", "metric", self.metric, METRICS)
        radius, wanted = self.radius, self.graph == "radius"
        if wanted != (radius is not None) or (radius is not None and not radius > 0):
            raise ValueError(
                f"PixelGraph: radius must be positive with graph 'radius', None otherwise, got "
                f"{radius} with {self.graph!r}"
            )
        if self.graph in ("random", "dilated") and self.search_radius is not None:
            raise ValueError(f"PixelGraph: search_radius is not for graph {self.graph!r}")

    def find(self, x: Tensor, with_distances: bool = False) -> tuple[Tensor, Tensor | None]:
        """The table and squared distances of an image's pixels.

        Args:
            x: features ``[B, C, H, W]``; projected ones where the metric asks for them.
            with_distances: whether anybody reads the distances.

        Returns:
            ``[B, H W, k]``: pixels as ``row * W + column``, -1 for none; and squared distances of
            the features, differentiable, or None. Entries of no pixel mean nothing.
        """
        features = self._features(x if with_distances else x.detach())
        if self.graph in ("random", "dilated"):
            table = self._places(x)
            return table, _dist2(features, table) if with_distances else None
        near, dist2 = pixel_knn(features, self.k, self.exclude_radius, self.search_radius)
        if self.graph == "mutual":
            near = _mutual(near)
        elif self.radius is not None:
            near = near.masked_fill(dist2.detach() > self.radius**2, -1)
        return near, dist2 if with_distances else None

    def distances(self, x: Tensor, table: Tensor) -> Tensor:
        """Squared distances of the features of each pixel and of the pixels of its row.

        Args:
            x: as of `find`.
            table: int64 ``[B, H W, k]``.

        Returns:
            ``[B, H W, k]``, differentiable. Entries of no pixel mean nothing.
        """
        features = self._features(x).flatten(2).mT
        graph = graph_from_table(table, features.shape[1])
        return edge_dist2(features.flatten(0, 1), graph).view(table.shape)

    def _features(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1) if self.metric == "cosine" else x

    def _places(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        if self.graph == "dilated":
            return _dilated(height, width, self.k, x.device).expand(batch, -1, -1)
        excluded = -1 if self.exclude_radius is None else self.exclude_radius
        return _random(batch, height, width, self.k, excluded, x.device)


def check_kind(owner: str, argument: str, kind: str, kinds: Sequence[str] = KINDS) -> None:
    """Refuse a kind of graph convolution that there is not; say what became of ``edge``.

    Raises:
        ValueError: it is none of ``kinds``; names the nearest.
    """
    if kind == "edge":
        raise ValueError(
            f"{owner}: {argument} 'edge' was the mean without ReLU, which is 'edge-mean' now; the "
            "thesis's are 'edge-sum' and 'edge-max'"
        )
    check_choice(owner, argument, kind, kinds)


def _dist2(features: Tensor, table: Tensor) -> Tensor:
    """Squared distances to the pixels of a table; of none, to pixel 0."""
    pixels = features.flatten(2).mT  # [B, N, C]
    batch = torch.arange(len(pixels), device=pixels.device)[:, None]
    columns = [pixels - pixels[batch, near] for near in table.clamp(min=0).unbind(2)]
    return torch.stack([column.square().sum(2) for column in columns], 2)


def _mutual(table: Tensor) -> Tensor:
    """Of ``[B, N, k]`` the entries whose own row has the pixel; the others are -1."""
    batch = torch.arange(len(table), device=table.device)[:, None]
    pixel = torch.arange(table.shape[1], device=table.device)[:, None]
    kept = [(table[batch, near] == pixel).any(2) for near in table.unbind(2)]
    return table.masked_fill(~torch.stack(kept, 2), -1)


def _random(
    batch: int, height: int, width: int, k: int, excluded: int, device: torch.device
) -> Tensor:
    """``[B, N, k]`` pixels outside of each pixel's window, whose radius -1 is none at all."""
    row = torch.arange(height, device=device)[:, None]
    column = torch.arange(width, device=device)[None, :]
    top, left = (row - excluded).clamp(min=0), (column - excluded).clamp(min=0)
    rows = ((row + excluded).clamp(max=height - 1) - top + 1).expand(height, width).flatten()
    columns = ((column + excluded).clamp(max=width - 1) - left + 1).expand(height, width).flatten()
    if excluded < 0:
        rows, columns = torch.zeros_like(rows), torch.zeros_like(columns)
    free = height * width - rows * columns
    if int(free.min()) < 1:
        raise RuntimeError("PixelGraph: no pixel lies outside of the excluded window")
    shape = (batch, height * width, k)
    n = (torch.rand(shape, device=device, dtype=torch.float64) * free[:, None]).long()
    # The n-th pixel that is free: before the window's rows, beside it, or after them.
    above = (top.expand(height, width).flatten() * width)[:, None]
    rows, columns = rows[:, None], columns[:, None]
    left = left.expand(height, width).flatten()[:, None]
    beside = n - above
    place = beside % (width - columns).clamp(min=1)
    place = place + torch.where(place >= left, columns, 0)
    inside = above + beside // (width - columns).clamp(min=1) * width + place
    after = n + rows * columns
    is_above, is_beside = n < above, beside < rows * (width - columns)
    return torch.where(is_above, n, torch.where(is_beside, inside, after))


def _dilated(height: int, width: int, k: int, device: torch.device) -> Tensor:
    """``[1, N, k]``: eight directions, then the same twice as far; -1 outside of the image."""
    around = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    row = torch.arange(height, device=device)[:, None].expand(height, width).flatten()
    column = torch.arange(width, device=device)[None, :].expand(height, width).flatten()
    found = []
    for n in range(k):
        far, (down, right) = 2 ** (1 + n // 8), around[n % 8]
        r, c = row + far * down, column + far * right
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        found.append(torch.where(inside, r * width + c, -1))
    return torch.stack(found, 1)[None]
