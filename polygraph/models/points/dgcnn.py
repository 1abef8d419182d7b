"""DGCNN: networks on point clouds whose graph is found anew, in feature space, at every layer.

Source: Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", ACM TOG 2019, section 4, with
the widths, biases and slopes of the authors' code. We depart from it in one thing: the segmentation
network has no spatial transformer. Nothing of the size of the edges is stored where a layer's
network is one linear layer: see `polygraph.nn.edge_mlp.edge_network`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from polygraph import ops
from polygraph._checks import check_numbers, check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.nn.edge_mlp import edge_network, split, steps_of
from polygraph.nn.ordinary import is_linear
from polygraph.ops.graph import targets_of

SLOPE = 0.2  #: of every leaky ReLU


def _check_widths(config: Any, *names: str) -> None:
    """Lists (from JSON or YAML) become tuples of one or more positive integers."""
    owner = type(config).__name__
    for name in names:
        widths = tuple(getattr(config, name))
        if not widths:
            raise ValueError(f"{owner}: {name} must have at least one entry, got none")
        check_positive(owner, **{f"{name}[{i}]": width for i, width in enumerate(widths)})
        object.__setattr__(config, name, widths)


def _check_dropout(config: Any) -> None:
    if not (0 <= config.dropout < 1 and math.isfinite(config.dropout)):
        owner = type(config).__name__
        raise ValueError(f"{owner}: dropout must be in [0, 1), got {config.dropout}")


@dataclass(frozen=True)
class DGCNNClassifierConfig:
    """What a `DGCNNClassifier` is made of.

    Attributes:
        num_classes: numbers that come out for a cloud; None: as many as the data set has, which
            training fills in.
        in_channels: numbers per point.
        k: neighbours of a point, itself among them.
        edge_channels: of the edge convolutions, one linear layer each.
        embedding_channels: per point, before pooling.
        head_channels: of the hidden layers after pooling.
        dropout: share of numbers dropped after each of these.
    """

    num_classes: int | None = None
    in_channels: int = 3
    k: int = 20
    edge_channels: tuple[int, ...] = (64, 64, 128, 256)
    embedding_channels: int = 1024
    head_channels: tuple[int, ...] = (512, 256)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Check every field; a list of channels (from JSON or YAML) becomes a tuple."""
        check_numbers(type(self).__name__, self)
        name = type(self).__name__
        if self.num_classes is not None:
            check_positive(name, num_classes=self.num_classes)
        check_positive(
            name,
            in_channels=self.in_channels,
            k=self.k,
            embedding_channels=self.embedding_channels,
        )
        _check_widths(self, "edge_channels", "head_channels")
        _check_dropout(self)


@dataclass(frozen=True)
class DGCNNSegmenterConfig:
    """What a `DGCNNSegmenter` is made of.

    Attributes:
        num_parts: numbers that come out for a point.
        num_categories: kinds of objects, one of which is given with every cloud; 0: none is.
        in_channels: numbers per point.
        k: neighbours of a point, itself among them.
        edge_channels: widths of the linear layers of each edge convolution.
        embedding_channels: per point, before pooling.
        category_channels: what the category is embedded in.
        head_channels: of the hidden layers of each point.
        dropout: share of numbers dropped after each of these but the last.
    """

    num_parts: int = 50
    num_categories: int = 0
    in_channels: int = 3
    k: int = 40
    edge_channels: tuple[tuple[int, ...], ...] = ((64, 64), (64, 64), (64,))
    embedding_channels: int = 1024
    category_channels: int = 64
    head_channels: tuple[int, ...] = (256, 256, 128)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Check every field; a list of channels (from JSON or YAML) becomes a tuple."""
        check_numbers(type(self).__name__, self)
        name = type(self).__name__
        check_positive(
            name,
            num_parts=self.num_parts,
            in_channels=self.in_channels,
            k=self.k,
            embedding_channels=self.embedding_channels,
            category_channels=self.category_channels,
        )
        count = self.num_categories
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"{name}: num_categories must be an integer from 0 on, got {count!r}")
        blocks = []
        for i, block in enumerate(self.edge_channels):
            widths = tuple(block)
            if not widths:
                raise ValueError(f"{name}: edge_channels[{i}] must have at least one entry")
            check_positive(name, **{f"edge_channels[{i}][{j}]": w for j, w in enumerate(widths)})
            blocks.append(widths)
        if not blocks:
            raise ValueError(f"{name}: edge_channels must have at least one entry, got none")
        object.__setattr__(self, "edge_channels", tuple(blocks))
        _check_widths(self, "head_channels")
        _check_dropout(self)


def _layers(widths: Iterable[int], *, bias: bool = False) -> nn.Sequential:
    """Linear layers of these widths, each with BatchNorm and leaky ReLU behind it."""
    parts: list[nn.Module] = []
    for ins, outs in pairwise(widths):
        parts += [nn.Linear(ins, outs, bias=bias), nn.BatchNorm1d(outs), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*parts)


def _by_cloud(nodes: Tensor, B: int, N: int) -> Tensor:
    """``[B * N, C]`` as ``[B, N, C]``, also where B is 0."""
    return nodes.view(B, N, nodes.shape[1])


def dynamic_edge_layer(network: nn.Module, x: Tensor, k: int) -> Tensor:
    """``max_j network([x_i, x_j - x_i])`` over the k points of the same cloud nearest to ``x_i``.

    Args:
        network: maps ``[E, 2 C]`` to ``[E, D]``; it begins with a linear layer.
        x: ``[B, N, C]``.
        k: neighbours, the point itself among them; at most N.

    Returns:
        ``[B, N, D]``. Deterministic.
    """
    B, N, C = x.shape
    index, _ = ops.knn(x.detach(), k)
    graph = ops.graph_from_table(index, N)
    nodes = x.reshape(B * N, C)
    steps = steps_of(network)
    if steps and is_linear(steps[0]):
        return _by_cloud(edge_network(split(steps), nodes, nodes, graph, "max"), B, N)
    centre = nodes[targets_of(graph.ptr, graph.num_slots)]  # it must be called: somebody listens
    values = network(torch.cat([centre, nodes[graph.source] - centre], -1))
    return _by_cloud(ops.edge_aggregate(values, graph, "max"), B, N)


class _DGCNN(nn.Module):
    """What both networks share: edge convolutions, each on what the one before it made."""

    def __init__(self, k: int, in_channels: int, blocks: Iterable[tuple[int, ...]]) -> None:
        super().__init__()
        self.k, self.in_channels = k, in_channels
        self.edge = nn.ModuleList()
        width = in_channels
        for block in blocks:
            self.edge.append(_layers((2 * width, *block)))
            width = block[-1]

    def edge_layer(self, network: nn.Module, x: Tensor) -> Tensor:
        """One edge convolution of ``x [B, N, C]``."""
        return dynamic_edge_layer(network, x, self.k)

    def features(self, points: Tensor) -> Tensor:
        """What all edge convolutions make of ``points [B, N, C]``, side by side: ``[B, N, D]``."""
        owner = type(self).__name__
        check_tensors(owner, points=points)
        if points.dim() != 3 or points.shape[-1] != self.in_channels:
            raise ValueError(
                f"{owner}: points must have shape [B, N, {self.in_channels}], got "
                f"{list(points.shape)}"
            )
        if not points.is_floating_point():
            raise ValueError(f"{owner}: points must be floating point, got {points.dtype}")
        if points.shape[1] < self.k:
            raise ValueError(
                f"{owner}: points must have at least k = {self.k} points per cloud, got "
                f"{points.shape[1]}"
            )
        if self.training and points.shape[0] < 2:
            raise ValueError(
                f"{owner}: points must hold at least 2 clouds in training, whose statistics "
                f"BatchNorm takes, got {points.shape[0]}"
            )
        check_dtype(owner, "points", points, next(self.parameters()), of="model")
        found, x = [], points
        for network in self.edge:
            x = self.edge_layer(network, x)
            found.append(x)
        return torch.cat(found, -1)


class DGCNNClassifier(_DGCNN):
    """Classifies point clouds.

    Four edge convolutions, their results side by side in one linear layer, its maximum and mean
    over the points, two hidden layers with dropout. The order of the points changes nothing.

    Source: Wang et al., ACM TOG 2019, section 4.1 and figure 3; 1,809,576 parameters for 40
    classes, as there.

    Args:
        config: widths; ``num_classes`` is set.

    Call it with ``points [B, N, in_channels]``, N at least k, float32 or float64 as its weights; in
    training B is at least 2. It returns logits ``[B, num_classes]``. Deterministic but for dropout.

    Raises:
        ValueError: ``num_classes`` is None; ``points`` has another shape or too few points.
        RuntimeError: from `polygraph.ops.knn`: a value is NaN or inf.

    Example:
        >>> import torch
        >>> from polygraph.models import DGCNNClassifier, DGCNNClassifierConfig
        >>> model = DGCNNClassifier(DGCNNClassifierConfig(num_classes=5, k=4)).eval()
        >>> model(torch.randn(2, 32, 3)).shape
        torch.Size([2, 5])

    See Also:
        `DGCNNSegmenter`; `polygraph.nn.DynamicEdgeConv`, the layer; `polygraph.tasks.points`, which
        trains it.
    """

    def __init__(self, config: DGCNNClassifierConfig) -> None:
        if config.num_classes is None:
            raise ValueError("DGCNNClassifier: num_classes must be set, got None")
        super().__init__(config.k, config.in_channels, ((c,) for c in config.edge_channels))
        self.config = config
        width = config.embedding_channels
        self.embedding = _layers((sum(config.edge_channels), width))
        width *= 2
        head: list[nn.Module] = []
        for i, channels in enumerate(config.head_channels):
            # The authors' first hidden layer has no bias, their second has one.
            head += [*_layers((width, channels), bias=i > 0), nn.Dropout(config.dropout)]
            width = channels
        self.head = nn.Sequential(*head, nn.Linear(width, config.num_classes))

    def forward(self, points: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of ``points [B, N, in_channels]``."""
        x = self.features(points)
        B, N, C = x.shape
        x = _by_cloud(self.embedding(x.reshape(B * N, C)), B, N)
        logits: Tensor = self.head(torch.cat([x.amax(1), x.mean(1)], -1))
        return logits


class DGCNNSegmenter(_DGCNN):
    """Labels every point of point clouds.

    Three edge convolutions; the maximum over the points of what a linear layer makes of their
    results tells each point about the whole cloud, and its category if there are any. A permutation
    of the points permutes the labels alike.

    Source: Wang et al., ACM TOG 2019, section 4.4 and figure 3, without the spatial transformer.

    Args:
        config: widths.

    Call it with ``points [B, N, in_channels]``, N at least k, float32 or float64 as its weights,
    and, where the network has categories, ``category`` int64 ``[B]``; in training B is at least 2.
    It returns logits ``[B, N, num_parts]``. Deterministic but for dropout.

    Raises:
        ValueError: ``points`` has another shape or too few points; ``category`` is missing, not
            wanted, of another shape or dtype, or on the CPU out of range.
        RuntimeError: from `polygraph.ops.knn`: a value is NaN or inf.

    Example:
        >>> import torch
        >>> from polygraph.models import DGCNNSegmenter, DGCNNSegmenterConfig
        >>> model = DGCNNSegmenter(DGCNNSegmenterConfig(num_parts=6, k=4)).eval()
        >>> model(torch.randn(2, 32, 3)).shape
        torch.Size([2, 32, 6])

    See Also:
        `DGCNNClassifier`; `polygraph.nn.DynamicEdgeConv`, the layer.
    """

    def __init__(self, config: DGCNNSegmenterConfig) -> None:
        super().__init__(config.k, config.in_channels, config.edge_channels)
        self.config = config
        local = sum(block[-1] for block in config.edge_channels)
        width = config.embedding_channels
        self.embedding = _layers((local, width))
        self.category: nn.Module | None = None
        if config.num_categories:
            self.category = _layers((config.num_categories, config.category_channels))
            width += config.category_channels
        sizes = (width + local, *config.head_channels)
        head: list[nn.Module] = []
        for i, (ins, outs) in enumerate(pairwise(sizes)):
            head += _layers((ins, outs))
            if i < len(config.head_channels) - 1:
                head.append(nn.Dropout(config.dropout))
        self.head = nn.Sequential(*head, nn.Linear(sizes[-1], config.num_parts, bias=False))

    def _check_category(self, points: Tensor, category: Tensor | None) -> None:
        count = self.config.num_categories
        if (category is None) != (count == 0):
            wanted = "must not be given: there are no categories" if count == 0 else "must be given"
            raise ValueError(f"DGCNNSegmenter: category {wanted} (num_categories is {count})")
        if category is None:
            return
        if category.dtype != torch.int64 or category.shape != points.shape[:1]:
            raise ValueError(
                f"DGCNNSegmenter: category must be int64 of shape [{points.shape[0]}], got "
                f"{category.dtype} {list(category.shape)}"
            )
        if not category.is_cuda and category.numel():
            low, high = (int(bound) for bound in category.aminmax())
            if low < 0 or high >= count:
                raise ValueError(
                    f"DGCNNSegmenter: category must lie in [0, {count}), got "
                    f"{low if low < 0 else high}"
                )

    def forward(self, points: Tensor, category: Tensor | None = None) -> Tensor:
        """Logits ``[B, N, num_parts]`` of ``points [B, N, in_channels]``."""
        self._check_category(points, category)
        x = self.features(points)
        B, N, C = x.shape
        nodes = x.reshape(B * N, C)
        cloud = _by_cloud(self.embedding(nodes), B, N).amax(1)
        if self.category is not None and category is not None:
            kinds = nn.functional.one_hot(category, self.config.num_categories).to(x.dtype)
            cloud = torch.cat([cloud, self.category(kinds)], -1)
        # The linear layer of [cloud, category, point]: what concerns the whole cloud is computed
        # once for it, and not for each of its points.
        width = cloud.shape[1]
        steps = steps_of(self.head)
        if not (steps and is_linear(steps[0])):  # it must be called: somebody listens
            wide = torch.cat([cloud.repeat_interleave(N, 0), nodes], -1)
            return _by_cloud(self.head(wide), B, N)
        weight, bias = split(steps[:1])[:2]
        of_cloud = nn.functional.linear(cloud, weight[:, :width], bias)
        of_point = nn.functional.linear(nodes, weight[:, width:])
        hidden = (_by_cloud(of_point, B, N) + of_cloud[:, None]).flatten(0, 1)
        for step in steps[1:]:
            hidden = step(hidden)
        return _by_cloud(hidden, B, N)
