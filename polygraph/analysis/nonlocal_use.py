"""Is the non-local part of a network used? How large it is, where it looks, what is lost without.

D'Amico ("Image generation using deep adversarial generative models on graphs", Politecnico di
Torino 2020, chapter 5) suspects that generators learn to ignore the graph convolution beside their
local one. Four things tell: the size of both parts where they meet (`measure_use`), the gradients
of their weights (`gradient_norms`), where neighbors lie (in `measure_use`), and what the network
makes when the non-local part is taken away or is given other pixels (`ablated`).

The layers are `polygraph.nn.NonLocalGraphConv2d` and
`polygraph.models.images.graph_gan.SelfAttention2d`, wherever they are in a module. Of attention
``x + γ V(...)`` the local part is ``x``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from polygraph._checks import check_choice
from polygraph.analysis.pixel_places import (
    Places,
    chance_places,
    offset_counts,
    places_of_counts,
    weighted_offset_counts,
)
from polygraph.models.images.graph_gan import SelfAttention2d
from polygraph.nn.nonlocal_conv import NonLocalGraphConv2d

#: what `ablated` does -> in words
ABLATIONS = {
    "zero": "non-local part 0",
    "local": "local part alone, not halved",
    "random": "neighbors at random",
    "mean": "neighbors all the mean pixel",
}


@dataclass(frozen=True)
class LayerUse:
    """What a layer with a non-local part does with it.

    Attributes:
        name: of the layer in its network.
        kind: ``edge-sum``, ..., or ``attention``.
        size: height and width of what it sees.
        ratio: norm of the non-local part over that of the local one, as they enter the merge; the
            norms are over all images, features and pixels.
        varying: the same without each feature's mean, which a normalisation of the batch that
            follows takes away.
        places: where neighbors lie, or the weights of attention.
        chance: where they would lie at random.

    Example:
        >>> import torch
        >>> from polygraph.analysis import measure_use
        >>> from polygraph.nn import NonLocalGraphConv2d
        >>> (use,) = measure_use(NonLocalGraphConv2d(3, 4, k=2), [torch.randn(2, 3, 8, 8)])
        >>> use.kind, use.size, use.ratio > 0
        ('edge-sum', (8, 8), True)

    See Also:
        `measure_use`, which makes it.
    """

    name: str
    kind: str
    size: tuple[int, int]
    ratio: float
    varying: float
    places: Places
    chance: Places


def nonlocal_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a network that join distant pixels, by name, in order.

    Example:
        >>> from polygraph.analysis import nonlocal_layers
        >>> from polygraph.models import create_model
        >>> list(nonlocal_layers(create_model("small/ecc-k8/generator")))
        ['stages.1.4', 'stages.2.4']

    See Also:
        `measure_use`, `ablated`, `gradient_norms`, which look at them.
    """
    kinds = (NonLocalGraphConv2d, SelfAttention2d)
    return {name: found for name, found in model.named_modules() if isinstance(found, kinds)}


# ---- the two parts of a layer, and where it looks ----


def _contributions(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The non-local and the local part as they enter the merge, and counts of offsets."""
    height, width = x.shape[2:]
    if isinstance(layer, SelfAttention2d):
        weight = layer.attention(x)
        counts = weighted_offset_counts(weight, height, width)
        return layer.attended(x, weight), x, counts
    assert isinstance(layer, NonLocalGraphConv2d)
    near, dist2 = layer.neighbors(x)
    found, local = layer.parts_with(x, near, dist2)
    if layer.merge != "max":  # the others are linear in the two
        nothing = torch.zeros_like(local)
        found, local = layer.merged(found, nothing), layer.merged(nothing, local)
    return found, local, offset_counts(near, height, width)


class _Sums:
    """Sums over batches of what a layer does: called with its inputs."""

    def __init__(self) -> None:
        self.size = (0, 0)
        self._counts: Any = 0
        self._moments: list[list[Any]] = [[0, 0], [0, 0]]  # of each part: values, squares
        self._pixels = 0

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x: Tensor = inputs[0]
        *parts, counts = _contributions(layer, x)
        self.size = (x.shape[2], x.shape[3])
        self._counts = self._counts + counts
        self._pixels += len(x) * x.shape[2] * x.shape[3]
        for moments, part in zip(self._moments, parts, strict=True):
            wide = part.double()
            moments[0] = moments[0] + wide.sum((0, 2, 3))
            moments[1] = moments[1] + wide.square().sum((0, 2, 3))

    def use(self, name: str, layer: Any) -> LayerUse:
        """What was seen."""
        if not self._pixels:
            raise ValueError(f"measure_use: {name} was never called, there is nothing to measure")
        whole = [squares.sum() for _, squares in self._moments]
        varying = [
            (squares - values.square() / self._pixels).clamp(min=0).sum()
            for values, squares in self._moments
        ]
        graph = isinstance(layer, NonLocalGraphConv2d)
        radii = (layer.graph.exclude_radius, layer.graph.search_radius) if graph else (None, None)
        return LayerUse(
            name,
            str(layer.kind) if graph else "attention",
            self.size,
            _root_of_ratio(*whole),
            _root_of_ratio(*varying),
            places_of_counts(self._counts),
            chance_places(*self.size, *radii),
        )


def _root_of_ratio(found: Tensor, local: Tensor) -> float:
    return float((found / local).sqrt()) if float(found) else 0.0


@torch.no_grad()
def measure_use(model: nn.Module, batches: Iterable[Tensor], *, seed: int = 0) -> list[LayerUse]:
    """How large the non-local parts of a network are, and where their neighbors lie.

    Args:
        model: any module; it is called with each batch as it is (set its mode before), and left as
            it was.
        batches: its inputs, such as latent vectors ``[B, Z]`` or images ``[B, C, H, W]``.
        seed: of graphs that are drawn; torch's global generators are left as they were.

    Returns:
        One entry for each layer, in order; none for a network without such layers.

    Raises:
        ValueError: a layer was never called.

    Example:
        >>> import torch
        >>> from polygraph.analysis import measure_use
        >>> from polygraph.nn import NonLocalGraphConv2d
        >>> layer = NonLocalGraphConv2d(3, 4, k=2)
        >>> _ = torch.nn.init.zeros_(layer.lin.weight)  # a layer that ignores its neighbors
        >>> [use.ratio for use in measure_use(layer, [torch.randn(2, 3, 8, 8)])]
        [0.0]

    See Also:
        `ablated`, `gradient_norms`; `polygraph.tasks.gan.run.Run.diagnose`, of a trained
        generator.
    """
    layers = nonlocal_layers(model)
    sums = {name: _Sums() for name in layers}
    handles = [layer.register_forward_pre_hook(sums[name]) for name, layer in layers.items()]
    try:
        with seeded(model, seed):
            for batch in batches if layers else ():
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return [sums[name].use(name, layer) for name, layer in layers.items()]


@torch.no_grad()
def neighbor_tables(
    model: nn.Module, inputs: Tensor, *, seed: int = 0, positions: int = 8
) -> list[tuple[Tensor, tuple[int, int]]]:
    """The neighbors of every pixel in every non-local layer, for a picture.

    Args:
        model: any module; called once, and left as it was.
        inputs: its inputs.
        seed: of graphs that are drawn.
        positions: of attention: so many of those that have most weight.

    Returns:
        For each layer, in order: int64 ``[B, H W, k]`` on the CPU, -1 for none, and (H, W).

    Example:
        >>> import torch
        >>> from polygraph.analysis import neighbor_tables
        >>> from polygraph.nn import NonLocalGraphConv2d
        >>> layer = NonLocalGraphConv2d(3, 4, k=2)
        >>> ((table, size),) = neighbor_tables(layer, torch.randn(1, 3, 8, 9))
        >>> table.shape, size
        (torch.Size([1, 72, 2]), (8, 9))

    See Also:
        `places_of_table`.
    """
    found: list[tuple[Tensor, tuple[int, int]]] = []

    def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
        x: Tensor = given[0]
        if isinstance(layer, NonLocalGraphConv2d):
            near = layer.neighbors(x)[0]
        else:
            assert isinstance(layer, SelfAttention2d)
            near = layer.attention(x).topk(positions, 2).indices
            if layer.pooled_keys:  # the upper left pixel of each block
                half = x.shape[3] // 2
                near = near // half * 2 * x.shape[3] + near % half * 2
        found.append((near.cpu(), (x.shape[2], x.shape[3])))

    handles = [each.register_forward_pre_hook(look) for each in nonlocal_layers(model).values()]
    try:
        with seeded(model, seed):
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Have torch's generators begin at a seed, the model's device's too; they are put back."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


# ---- gradients ----


def gradient_norms(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, tuple[float, float]]:
    """Norms of the gradients of each layer's non-local and local weights.

    Args:
        model: holds the layers, whose weights require gradients; those that they have are left as
            they were.
        loss: called without arguments, gives a scalar of the model's output.

    Returns:
        By the layer's name: the norm over all weights of the non-local part, and over those of the
        local one; biases and what merges the two count for neither. The local part of attention is
        the layer before it in its Sequential; NaN where there is none.

    Example:
        >>> import torch
        >>> from polygraph.analysis import gradient_norms
        >>> from polygraph.nn import NonLocalGraphConv2d
        >>> layer, x = NonLocalGraphConv2d(3, 4, k=2, merge="sum"), torch.randn(2, 3, 8, 8)
        >>> norms = gradient_norms(layer, lambda: layer.parts(x)[1].square().mean())
        >>> norms[""][0], norms[""][1] > 0  # of a loss of the local part alone
        (0.0, True)

    See Also:
        `measure_use`.
    """
    groups = {
        name: (_nonlocal_weights(layer), _local_weights(model, name, layer))
        for name, layer in nonlocal_layers(model).items()
    }
    weights = [w for pair in groups.values() for group in pair for w in group]
    if not weights:
        return {}
    found = torch.autograd.grad(loss(), weights, allow_unused=True)
    norm2 = {
        id(weight): 0.0 if grad is None else float(grad.double().square().sum())
        for weight, grad in zip(weights, found, strict=True)
    }

    def norm(group: list[nn.Parameter]) -> float:
        return sum(norm2[id(w)] for w in group) ** 0.5 if group else float("nan")

    return {name: (norm(nonlocal_), norm(local)) for name, (nonlocal_, local) in groups.items()}


def _nonlocal_weights(layer: nn.Module) -> list[nn.Parameter]:
    apart = ("local.", "bias", "gate", "joint.") if isinstance(layer, NonLocalGraphConv2d) else ()
    return [w for name, w in layer.named_parameters() if not name.startswith(apart)]


def _local_weights(model: nn.Module, name: str, layer: nn.Module) -> list[nn.Parameter]:
    if isinstance(layer, NonLocalGraphConv2d):
        weight: Any = layer.local.weight
        return [weight]
    home, _, place = name.rpartition(".")
    sequence = model.get_submodule(home)
    if not isinstance(sequence, nn.Sequential) or int(place) == 0:
        return []
    return [w for n, w in sequence[int(place) - 1].named_parameters() if n != "bias"]


# ---- other neighbors, or none ----


def ablations_of(model: nn.Module) -> list[str]:
    """Those of `ABLATIONS` that are defined for all non-local layers of a network.

    Example:
        >>> from polygraph.analysis import ablations_of
        >>> from polygraph.nn import NonLocalGraphConv2d
        >>> ablations_of(NonLocalGraphConv2d(3, 4)), ablations_of(NonLocalGraphConv2d(3, 4).local)
        (['zero', 'local', 'random', 'mean'], [])

    See Also:
        `ablated`.
    """
    layers = nonlocal_layers(model).values()
    return [kind for kind in ABLATIONS if layers and all(_defined(kind, each) for each in layers)]


def _defined(kind: str, layer: nn.Module) -> bool:
    if isinstance(layer, SelfAttention2d):
        return kind != "local"  # what is left without the non-local part is not halved
    assert isinstance(layer, NonLocalGraphConv2d)
    if kind == "random":
        return layer.graph.search_radius is None
    return kind != "local" or layer.merge != "concat"


@contextmanager
def ablated(model: nn.Module, kind: str, *, seed: int = 0) -> Iterator[None]:
    """Within it, the non-local layers of a network have another non-local part.

    Args:
        model: any module.
        kind: ``"zero"``: the non-local part is 0: ``h_L / 2 + b`` of a layer that takes the mean of
            both. ``"local"``: ``h_L + b``, the local part at its full size. ``"random"``: every
            pixel's neighbors are drawn at random, outside of the window that the graph leaves out,
            each alike likely; of attention, the positions of each image are shuffled under its
            weights. ``"mean"``: all neighbors are the mean of the image's pixels, row and column
            too; attention to all positions alike.
        seed: of what is drawn; torch's global generators are left as they were.

    Raises:
        ValueError: an unknown kind, one that a layer cannot have (see `ablations_of`), or a network
            without such layers.

    Example:
        >>> import torch
        >>> from polygraph.analysis import ablated
        >>> from polygraph.nn import NonLocalGraphConv2d
        >>> layer, x = NonLocalGraphConv2d(3, 4, k=2), torch.randn(1, 3, 8, 8)
        >>> with ablated(layer, "local"):
        ...     alone = layer(x)
        >>> torch.equal(alone, layer.parts(x)[1] + layer.bias[:, None, None])
        True

    See Also:
        `measure_use`, which takes nothing away.
    """
    check_choice("ablated", "kind", kind, ABLATIONS)
    layers: dict[str, Any] = {**nonlocal_layers(model)}
    wrong = next((name for name, layer in layers.items() if not _defined(kind, layer)), None)
    if not layers or wrong is not None:
        reason = "no layer is non-local" if wrong is None else f"layer {wrong!r} has no such form"
        raise ValueError(f"ablated: {kind!r} is not for this network: {reason}")
    calls = count(seed)
    replaced = {name: layer.__dict__.get("forward") for name, layer in layers.items()}
    try:
        for layer in layers.values():
            form = _of_attention if isinstance(layer, SelfAttention2d) else _of_graph
            layer.forward = partial(form, layer, kind, calls)
        yield
    finally:
        for name, layer in layers.items():
            layer.__dict__.pop("forward")
            if replaced[name] is not None:
                layer.forward = replaced[name]


def _of_graph(layer: NonLocalGraphConv2d, kind: str, calls: Iterator[int], x: Tensor) -> Tensor:
    """What a graph convolution gives instead."""
    if kind in ("zero", "local"):
        local: Tensor = layer.local(layer.located(x))
        if kind == "zero":
            return layer.joined(torch.zeros_like(local), local)
        return local if layer.bias is None else local + layer.bias[:, None, None]
    if kind == "mean":
        found = _with_mean_neighbors(layer, x)
        return layer.joined(found, layer.local(layer.located(x)))
    graph = replace(layer.graph, graph="random", radius=None)
    with seeded(layer, next(calls)):
        near, dist2 = graph.find(layer.compared(x), layer.delta is not None)
    return layer.joined(*layer.parts_with(x, near, dist2))


def _with_mean_neighbors(layer: NonLocalGraphConv2d, x: Tensor) -> Tensor:
    """The non-local part where each neighbor is the mean pixel: one more pixel, nobody's place."""
    batch, _, height, width = x.shape
    pixels = layer.located(x).flatten(2).mT
    nodes = torch.cat([pixels, pixels.mean(1, keepdim=True)], 1)
    near = torch.full((batch, height * width + 1, layer.k), height * width, device=x.device)
    row = torch.cat([x.flatten(2), x.flatten(2).mean(2, keepdim=True)], 2)[:, :, None]
    dist2 = None if layer.delta is None else layer.graph.distances(layer.compared(row), near)
    found = layer.aggregated(nodes, near, dist2).to(x.dtype).view(batch, height * width + 1, -1)
    return found[:, :-1].mT.reshape(batch, -1, height, width)


def _of_attention(layer: SelfAttention2d, kind: str, calls: Iterator[int], x: Tensor) -> Tensor:
    """What self-attention gives instead."""
    if kind == "zero":
        return x
    weight = layer.attention(x)
    if kind == "mean":
        weight = torch.full_like(weight, 1 / weight.shape[-1])
    else:
        with seeded(layer, next(calls)):
            order = torch.rand(len(x), 1, weight.shape[-1], device=x.device).argsort(2)
        weight = weight.gather(2, order.expand_as(weight))
    return x + layer.attended(x, weight)
