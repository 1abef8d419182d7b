"""The network that comes out: ordinary modules, with weights and no optimisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polygraph._checks import check_positive
from polygraph._inputs import check_dtype, check_tensors
from polygraph.models.convexified.config import ConvexifiedLayerConfig
from polygraph.models.convexified.features import make_features
from polygraph.models.convexified.patches import GraphPatches, ImagePatches, Patches


class ConvexifiedLayer(nn.Module):
    """Patches, normalised and whitened; features of a kernel; means over windows; two linear maps.

    ``filters`` maps pooled features to the channels of the next layer, ``weight`` to logits.

    Args:
        config: of the layer.
        patches: where patches lie.
        channels: of the input; the first ``config.channels`` are used.
        num_classes: K.

    Attributes:
        weight: ``[Q', m, K - 1]``; the last class has the logit 0. Q' positions are left of a crop.
        filters: ``[m, r]``, orthonormal columns: the first singular vectors of `weight` as a matrix
            ``[m, Q'·(K - 1)]``, largest first.
    """

    mean: Tensor
    whitening: Tensor
    center: Tensor
    scale: Tensor
    middle: Tensor

    def __init__(
        self, config: ConvexifiedLayerConfig, patches: Patches, channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.config, self.patches = config, patches
        self.channels, self.num_classes = min(channels, config.channels), num_classes
        size = self.channels * patches.slots
        self.features = make_features(config, size)
        m = self.features.num_features
        middle = patches.center()
        most = min(m, len(middle) * (num_classes - 1))
        self.num_filters = min(config.filters, most)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.eye(size))
        self.register_buffer("center", torch.zeros(m))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("middle", middle, persistent=False)
        self.weight = nn.Parameter(torch.zeros(len(middle), m, num_classes - 1))
        self.filters = nn.Parameter(torch.zeros(m, self.num_filters))

    def normalized(self, x: Tensor) -> Tensor:
        """Patches ``[B, P, d]`` of ``x``, each without its mean and by its norm."""
        patches = self.patches.extract(x, self.channels)
        contrast = self.config.contrast
        if contrast is None:
            return patches
        patches = patches - patches.mean(-1, keepdim=True)
        norms: Tensor = torch.linalg.vector_norm(patches, dim=-1, keepdim=True)
        return patches / (norms + contrast)

    def whitened(self, x: Tensor) -> Tensor:
        """What the kernel sees: patches ``[B, P, d]``, whitened, by the root of their channels."""
        patches = self.normalized(x)
        if self.config.zca is not None:
            patches = (patches - self.mean) @ self.whitening
        return patches / math.sqrt(self.channels)

    def raw(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, Q, m]`` as they are."""
        return self.patches.pool(self.features(self.whitened(x)))

    def pooled(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, Q, m]``; over the training set of mean 0, mean squared norm 1."""
        return (self.raw(x) - self.center) * self.scale

    def logits(self, pooled: Tensor) -> Tensor:
        """Logits ``[B, K]`` of pooled features ``[B, Q, m]``, of their middle where it is cut."""
        if self.middle.shape[0] != pooled.shape[1]:
            pooled = pooled[:, self.middle]
        scores = pooled.flatten(1) @ self.weight.flatten(0, 1)
        return nn.functional.pad(scores, (0, 1))

    def maps(self, pooled: Tensor) -> Tensor:
        """The next layer's input, ``[B, r, h, w]`` or ``[B, Q, r]``, of pooled features."""
        return self.patches.arrange(pooled @ self.filters)

    def forward(self, x: Tensor) -> Tensor:
        """The next layer's input of ``x``."""
        return self.maps(self.pooled(x))

    def extra_repr(self) -> str:
        """Sizes."""
        m = self.features.num_features
        return f"{self.channels} -> {m} features -> {self.num_filters}, radius={self.config.radius}"


class ConvexifiedNetwork(nn.Module):
    """A convexified convolutional network with given weights: what `ConvexifiedCNN.fit` leaves.

    Source: Zhang, Liang and Wainwright, "Convexified Convolutional Neural Networks", ICML 2017,
    algorithms 1 and 2.

    Args:
        layers: a configuration for each layer.
        shape: of one input without the batch: ``[C, H, W]``, or ``[V, C]`` with graphs.
        num_classes: K, at least 2.
        graphs: patches of each layer, on graphs or meshes; None: images.

    Call it with ``[B, *shape]`` of its weights' dtype; it returns logits ``[B, K]``, the last of
    them 0. Weights are zeros until they are fitted or loaded (``load_state_dict``).

    Raises:
        ValueError: patches or windows do not fit, fewer than two classes, no layer, or a graph with
            other nodes than the layer before has.

    Example:
        >>> import torch
        >>> from polygraph.models import ConvexifiedLayerConfig, ConvexifiedNetwork
        >>> layer = ConvexifiedLayerConfig(patch_size=3, num_features=20)
        >>> network = ConvexifiedNetwork([layer, layer], (1, 12, 12), num_classes=3)
        >>> network(torch.rand(2, 1, 12, 12)).shape
        torch.Size([2, 3])

    See Also:
        `ConvexifiedCNN`, which trains it.
    """

    def __init__(
        self,
        layers: Sequence[ConvexifiedLayerConfig],
        shape: Sequence[int],
        num_classes: int,
        graphs: Sequence[GraphPatches] | None = None,
    ) -> None:
        super().__init__()
        check_layers(layers, graphs)
        check_positive("ConvexifiedNetwork", num_classes=num_classes)
        if num_classes < 2:
            raise ValueError(
                f"ConvexifiedNetwork: num_classes must be at least 2, got {num_classes}"
            )
        self.shape, self.num_classes = tuple(shape), num_classes
        wanted = 3 if graphs is None else 2
        if len(self.shape) != wanted:
            names = "[C, H, W]" if graphs is None else "[V, C]"
            raise ValueError(f"ConvexifiedNetwork: shape must be {names}, got {list(self.shape)}")
        made: list[ConvexifiedLayer] = []
        if graphs is None:
            channels, height, width = self.shape
            for config in layers:
                patches = ImagePatches(height, width, config)
                made.append(ConvexifiedLayer(config, patches, channels, num_classes))
                channels, (height, width) = made[-1].num_filters, patches.pooled
        else:
            nodes, channels = self.shape
            for number, (config, graph) in enumerate(zip(layers, graphs, strict=True)):
                if graph.num_sources != nodes:
                    raise ValueError(
                        f"ConvexifiedNetwork: graphs[{number}] must have the {nodes} nodes that "
                        f"come in, got {graph.num_sources}"
                    )
                made.append(ConvexifiedLayer(config, graph, channels, num_classes))
                channels, nodes = made[-1].num_filters, graph.num_pooled
        self.layers = nn.ModuleList(made)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def layer(self, number: int) -> ConvexifiedLayer:
        """The layer of this number, from 0 on."""
        found = self.layers[number]
        assert isinstance(found, ConvexifiedLayer)
        return found

    def forward(self, x: Tensor, depth: int | None = None) -> Tensor:
        """Logits ``[B, K]`` of ``x``, of the classifier after ``depth`` layers; None: after all."""
        last = self.depth if depth is None else depth
        if not 1 <= last <= self.depth:
            raise ValueError(f"ConvexifiedNetwork: depth must be in [1, {self.depth}], got {depth}")
        check_tensors("ConvexifiedNetwork", x=x)
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"ConvexifiedNetwork: x must have shape [B, {', '.join(map(str, self.shape))}], "
                f"got {list(x.shape)}"
            )
        check_dtype("ConvexifiedNetwork", "x", x, self.layer(0).weight, of="model")
        for number in range(last - 1):
            x = self.layers[number](x)
        layer = self.layer(last - 1)
        return layer.logits(layer.pooled(x))


def check_layers(
    layers: Sequence[ConvexifiedLayerConfig], graphs: Sequence[GraphPatches] | None
) -> None:
    """Refuse no layer, something else than configurations, or graphs of another number."""
    if not layers:
        raise ValueError("ConvexifiedCNN: layers must have at least one configuration, got none")
    for number, layer in enumerate(layers):
        if not isinstance(layer, ConvexifiedLayerConfig):
            raise TypeError(
                f"ConvexifiedCNN: layers[{number}] must be a ConvexifiedLayerConfig, got "
                f"{type(layer).__name__}"
            )
    if graphs is not None:
        if len(graphs) != len(layers):
            raise ValueError(
                f"ConvexifiedCNN: graphs must have one for each of {len(layers)} layers, got "
                f"{len(graphs)}"
            )
        if any(layer.crop != 1 for layer in layers):
            raise ValueError("ConvexifiedCNN: crop must be 1 on graphs")
