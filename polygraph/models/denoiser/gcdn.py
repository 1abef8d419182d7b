"""GCDN, the graph-convolutional denoiser: each pixel also sees those that look alike.

Source: Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image Denoising", IEEE TIP 2020,
and the sizes, slopes and constants of the authors' code. The public code holds N x N masks of
distances; here nothing of that size exists, and in evaluation mode without gradients features of
whole pictures are made some rows at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph.models.denoiser.denoiser import (
    Denoiser,
    check_momentum,
    is_inference,
    start_glorot,
)
from polygraph.models.denoiser.rows import by_rows, graph_rows
from polygraph.nn.knn import pixel_knn

GRAPHS = ("light", "ecc", "edge-sum", "edge-max", "none")
INITS = ("scaled", "published")
_KERNELS = (3, 5, 7)  # of the branches
_SLOPE = 0.2  # of every leaky ReLU
_EPS = 1e-3  # of batch normalisation
_AROUND = 8  # pixels of the 3 x 3 window without its middle


@dataclass(frozen=True)
class GCDNConfig:
    """A `GCDN`. The defaults are the published network.

    Attributes:
        channels: of the pictures: 1 for grey ones, 3 for colours.
        width: features, a multiple of 3: each of the three branches has a third of them.
        blocks: of the regularising kind, behind the high-pass one.
        layers: graph convolutions of each block, which share one graph.
        k: neighbours of each pixel, outside of the 3 x 3 window.
        graph: kind of the graph convolutions: ``light`` (published), ``ecc``, ``edge-sum`` or
            ``edge-max``, as of `polygraph.nn.NonLocalGraphConv2d`; ``none``: 3 x 3 convolutions in
            their place, the twin that sees its neighbourhood alone.
        rank: of ``light``.
        replicas: of ``light``, in layers of the full width; the branches' matrices, and what
            becomes the picture, are full ones.
        delta: of the weights ``exp(-|x_j - x_i|² / delta)`` of neighbours, of ``light`` and
            ``ecc``; None weighs all alike.
        search_radius: how far away neighbours may be, in rows and columns, in evaluation mode; in
            training they are found in the whole patch. None: anywhere.
        norm_momentum: share of a batch in batch normalisation's running statistics. The published
            1e-3 needs thousands of steps before they are those of the data.
        init: ``scaled``: see `polygraph.nn.LightECConv`; ``published``: edge networks by Glorot,
            and weights of rank one a third as large, as in the authors' code.
        compat: ``gcdn``: as the public code computes, where it differs from the paper: matrices as
            of `polygraph.nn.LightECConv`; at the border of a picture the nearest 3 (in a corner 5)
            are no neighbours, in the place of the pixels beyond the border; and the local
            convolution of the 5 x 5 branch reads the graph convolution of the 3 x 3 one.
    """

    channels: int = 1
    width: int = 132
    blocks: int = 4
    layers: int = 3
    k: int = 16
    graph: str = "light"
    rank: int = 11
    replicas: int = 3
    delta: float | None = 10.0
    search_radius: int | None = 24
    norm_momentum: float = 1e-3
    init: str = "scaled"
    compat: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no network can be made of."""
        owner = "GCDNConfig"
        check_numbers(owner, self)
        names = ("channels", "width", "blocks", "layers", "k", "rank", "replicas")
        check_positive(owner, **{name: getattr(self, name) for name in names})
        check_choice(owner, "graph", self.graph, GRAPHS)
        check_choice(owner, "init", self.init, INITS)
        if self.compat not in (None, "gcdn"):
            raise ValueError(f"{owner}: compat must be None or 'gcdn', got {self.compat!r}")
        if self.compat is not None and self.graph != "light":
            raise ValueError(f"{owner}: compat is for graph light, not for {self.graph!r}")
        if self.width % len(_KERNELS):
            raise ValueError(f"{owner}: width must be a multiple of 3, got {self.width}")
        if self.graph == "light" and self.width % self.replicas:
            raise ValueError(
                f"{owner}: replicas must divide width = {self.width}, got {self.replicas}"
            )
        if self.delta is not None and not (self.delta > 0 and math.isfinite(self.delta)):
            raise ValueError(f"{owner}: delta must be positive and finite, got {self.delta}")
        if self.search_radius is not None:
            check_positive(owner, search_radius=self.search_radius)
            corner = (self.search_radius + 1) ** 2 - 4
            if corner < self.needed:
                raise ValueError(
                    f"{owner}: search_radius must leave {self.needed} candidates in a corner, got "
                    f"{self.search_radius}, which leaves {corner}"
                )
        check_momentum(owner, self.norm_momentum)

    @property
    def needed(self) -> int:
        """Candidates that every pixel must have outside of its 3 x 3 window."""
        if self.graph == "none":
            return 0
        return self.k + (_AROUND - 3 if self.compat else 0)


class _SharedGraph(nn.Module):
    """Graph convolutions on one graph, each with what follows it.

    Args:
        config: of the network.
        sizes: features before, between and behind the layers.
        replicas: of each layer's matrices; see `NonLocalGraphConv2d`.
        norm: whether batch normalisation follows each layer.
        activate: whether leaky ReLU does.
    """

    def __init__(
        self,
        config: GCDNConfig,
        sizes: list[int],
        replicas: tuple[int, int],
        *,
        norm: bool = False,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.activate = config, activate
        pairs = list(pairwise(sizes))
        self.layers = nn.ModuleList(_graph_layer(config, *pair, replicas) for pair in pairs)
        self.norms = nn.ModuleList(
            _norm(config, size) if norm else nn.Identity() for _, size in pairs
        )

    def neighbours(self, x: Tensor, radius: int | None) -> Tensor | None:
        """int64 ``[B, H W, k]``, of the features ``x``; None where there is no graph."""
        config = self.config
        if config.graph == "none":
            return None
        more = config.needed - config.k
        near, _ = pixel_knn(x.detach(), config.k + more, 1, radius)
        if more == 0:
            return near
        inside = x.new_ones(1, 1, *x.shape[2:], dtype=torch.float32)
        window = functional.avg_pool2d(inside, 3, 1, 1, count_include_pad=True)
        missing = _AROUND + 1 - (window * (_AROUND + 1)).round().long()
        chosen = missing.view(-1, 1) + torch.arange(config.k, device=x.device)
        return near.gather(2, chosen.expand(len(near), -1, -1))

    def forward(self, x: Tensor, radius: int | None, local: Tensor | None = None) -> Tensor:
        """See `through`."""
        return self.through(x, radius, local)

    def through(self, x: Tensor, radius: int | None, local: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` to the last layer's features.

        A module's call holds its arguments until it is over. Called directly with features that
        nobody else holds, this lets go of them after the first layer, which read them.

        Args:
            x: features.
            radius: of the search.
            local: what the first layer's local convolution reads; None: ``x``.
        """
        near = self.neighbours(x, radius)
        halo = (radius if near is not None else 1) if is_inference(self) else None
        for layer, norm in zip(self.layers, self.norms, strict=True):
            call = partial(_behind, layer, norm, self.activate)
            read = (x,) if local is None else (x, local)
            x = (
                call(*read, near=near)
                if halo is None
                else by_rows(call, *read, near=near, halo=halo)
            )
            local = None
        return x


def _graph_layer(
    config: GCDNConfig, inputs: int, outputs: int, replicas: tuple[int, int]
) -> nn.Module:
    if config.graph == "none":
        return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
    options: dict[str, Any] = {}
    if config.graph == "light":
        options = {"rank": config.rank, "replicas": replicas, "compat": config.compat}
    if config.graph in ("light", "ecc"):
        options["delta"] = config.delta
    from polygraph.nn.nonlocal_conv import NonLocalGraphConv2d  # slow to import

    return NonLocalGraphConv2d(
        inputs,
        outputs,
        config.k,
        config.graph,
        coordinates=False,
        padding_mode="reflect",
        **options,
    )


def _norm(config: GCDNConfig, width: int) -> nn.Module:
    return nn.BatchNorm2d(width, _EPS, config.norm_momentum)


def _leaky(x: Tensor) -> Tensor:
    """Leaky ReLU; without gradients in the place of ``x``, which the caller has just made."""
    return functional.leaky_relu(x, _SLOPE, inplace=not torch.is_grad_enabled())


def _behind(
    layer: Any,
    norm: nn.Module,
    activate: bool,
    x: Tensor,
    local: Tensor | None = None,
    *,
    near: Tensor | None = None,
    first: int | None = None,
) -> Tensor:
    """A graph convolution and what follows it; of the rows from ``first`` on, or of all."""
    if near is None:
        found = layer(x if local is None else local)
    elif first is not None:
        found = graph_rows(layer, x, x if local is None else local, near, first)
    elif local is None:
        found = layer(x, near)
    else:
        dist2 = None if layer.delta is None else layer.graph.distances(x, near)
        aggregated, _ = layer.parts_with(x, near, dist2)
        found = layer.joined(aggregated, layer.local(local))
    found = norm(found)
    return _leaky(found) if activate else found


class _Block(nn.Module):
    """A convolution with batch normalisation, then graph convolutions on one graph.

    Args:
        config: of the network.
        norm: whether the graph convolutions have batch normalisation as well.
    """

    def __init__(self, config: GCDNConfig, *, norm: bool) -> None:
        super().__init__()
        width = config.width
        self.conv = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect")
        self.norm = _norm(config, width)
        both = (config.replicas, config.replicas)
        sizes = [width] * (config.layers + 1)
        self.graph = _SharedGraph(config, sizes, both, norm=norm, activate=True)

    def forward(self, x: Tensor, radius: int | None) -> Tensor:
        """``[B, width, H, W]`` to the same shape."""
        return self.graph.through(_rows(self, self._start, x, halo=1), radius)

    def _start(self, x: Tensor) -> Tensor:
        return _leaky(self.norm(self.conv(x)))


def _rows(module: nn.Module, call: Any, x: Tensor, halo: int) -> Tensor:
    """What ``call`` makes of ``x``, some rows at a time where nobody wants gradients."""
    found: Tensor = by_rows(call, x, halo=halo) if is_inference(module) else call(x)
    return found


class GCDN(Denoiser):
    """A denoiser of convolutions and of graph convolutions over pixels that look alike.

    Three branches of three 3 x 3, 5 x 5 and 7 x 7 convolutions and a graph convolution give a third
    of the features each; a high-pass block (convolution, batch normalisation, graph convolutions on
    one graph) gives g; each of the blocks behind computes ``h = β g + (1 - α) h``, with its own α
    and β, and adds a convolution and graph convolutions, with batch normalisation, of it to h; a
    last graph convolution makes the noise. Every graph convolution is the mean of a 3 x 3
    convolution and of a lightweight edge-conditioned one (`polygraph.nn.LightECConv`) over the k
    pixels nearest in feature space, found anew by each block.

    Source: Valsesia, Fracastoro and Magli, "Deep Graph-Convolutional Image Denoising", IEEE TIP
    2020. At the published size it has 5,991,489 parameters.

    Args:
        config: what to build.

    Call it with noisy pictures ``[B, channels, H, W]``, black 0 and white 1; it returns them
    without their noise. In evaluation mode neighbours lie at most ``search_radius`` rows and
    columns away, in training anywhere. For pictures of any size see `denoise_tiles`.

    Raises:
        ValueError: the pictures have another shape or dtype, or are so small that a pixel has fewer
            than k candidates.

    Example:
        >>> import torch
        >>> from polygraph.models import GCDN, GCDNConfig
        >>> model = GCDN(GCDNConfig(width=6, blocks=1, layers=1, k=4, rank=2)).eval()
        >>> model(torch.rand(2, 1, 12, 16)).shape
        torch.Size([2, 1, 12, 16])

    See Also:
        `DnCNN`, of convolutions alone; `polygraph.tasks.denoise`, which trains both;
        `polygraph.nn.NonLocalGraphConv2d`, the layer.
    """

    def __init__(self, config: GCDNConfig) -> None:
        super().__init__()
        self.config = config
        third = config.width // len(_KERNELS)
        self.branches = nn.ModuleList()
        self.branch_graphs = nn.ModuleList()
        for kernel in _KERNELS:
            layers: list[nn.Module] = []
            for inputs in (config.channels, third, third):
                conv = nn.Conv2d(
                    *(inputs, third, kernel),
                    padding=kernel // 2,
                    bias=False,
                    padding_mode="reflect",
                )
                layers += [conv, nn.LeakyReLU(_SLOPE)]
            self.branches.append(nn.Sequential(*layers))
            self.branch_graphs.append(_SharedGraph(config, [third, third], (1, 1)))
        self.high_pass = _Block(config, norm=False)
        self.blocks = nn.ModuleList(_Block(config, norm=True) for _ in range(config.blocks))
        self.alpha = nn.Parameter(torch.full((config.blocks,), 0.5))
        self.beta = nn.Parameter(torch.full((config.blocks,), 0.5))
        last = (1, config.replicas)
        self.last = _SharedGraph(config, [config.width, config.channels], last)
        self._start()

    def _start(self) -> None:
        start_glorot(self)
        if self.config.graph == "none":
            return
        from polygraph.nn.nonlocal_conv import NonLocalGraphConv2d

        for part in self.modules():
            if not isinstance(part, NonLocalGraphConv2d):
                continue
            light = part.kind == "light"
            if self.config.init == "scaled" or not light:
                part.reset_parameters()
                nn.init.xavier_uniform_(part.local.weight)
            else:
                part.filter.reset_parameters()
                nn.init.normal_(part.filter.kappa_weight, std=1 / math.sqrt(self.config.rank))

    @property
    def reach(self) -> int | None:
        """See `Denoiser`."""
        config: GCDNConfig = self.config
        radius = 1 if config.graph == "none" else config.search_radius
        if radius is None:
            return None
        branches = len(_KERNELS) * (_KERNELS[-1] // 2) + (radius if config.compat is None else 0)
        if config.compat is not None:  # one branch reads another's graph convolution
            branches += radius + 1
        return branches + (config.blocks + 1) * (1 + config.layers * radius) + radius

    @property
    def smallest(self) -> int:
        """See `Denoiser`: pixels have k candidates beyond 3 x 3, and padding what it reflects."""
        side = math.isqrt(self.config.needed + _AROUND) + 1  # of a square with as many and 9 more
        return max(side, _KERNELS[-1] // 2 + 1)

    def noise(self, y: Tensor) -> Tensor:
        """What of ``y [B, channels, H, W]`` is noise, of the same shape."""
        radius = None if self.training else self.config.search_radius
        x = torch.cat(self._branches(y, radius), 1)
        x = _leaky(x)
        high: Tensor = self.high_pass(x, radius)
        for n, block in enumerate(self.blocks):
            if torch.is_grad_enabled():
                x = self.beta[n] * high + (1 - self.alpha[n]) * x
                x = x + block(x, radius)
            else:  # in the place of x, which is as large as a hundred pictures
                x = x.mul_(1 - self.alpha[n]).addcmul_(self.beta[n], high)
                x = x.add_(block(x, radius))
        noise: Tensor = self.last(x, radius)
        return noise

    def _branches(self, y: Tensor, radius: int | None) -> list[Tensor]:
        found: list[Tensor] = []
        for n, kernel in enumerate(_KERNELS):
            features = _rows(self, self.branches[n], y, halo=len(_KERNELS) * (kernel // 2))
            other = found[0] if n == 1 and self.config.compat else None
            found.append(self.branch_graphs[n](features, radius, other))
        return found
