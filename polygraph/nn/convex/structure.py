"""Which layers of a network keep its outputs convex in its input, and which must be changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polygraph.nn.convex.positive import ends_of_edges
from polygraph.nn.convex.skips import InputSkips
from polygraph.nn.edge_mlp import AGGREGATION_NAMES, steps_of
from polygraph.nn.ordinary import has_hooks, is_lazy, is_linear, is_sequence
from polygraph.nn.resample import Resample, SelectVertices
from polygraph.nn.spiral_conv import SpiralConv

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, SpiralConv)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MEANS = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout2d, nn.PixelShuffle),
    *(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, SelectVertices),
)  # linear, with entries >= 0
_MAXIMA = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
_EDGE_CONVS = {
    ("polygraph.nn.edge_conv", "EdgeConv"),
    ("torch_geometric.nn.conv.edge_conv", "EdgeConv"),
}


class NotConvex(ValueError):
    """A layer that no choice of weights makes convex and non-decreasing."""


@dataclass(frozen=True)
class InputConvexity:
    """What `is_input_convex` found; true if the structure and the weights are convex.

    Attributes:
        holds: whether they are.
        reason: which layer is in the way, and why; empty where none is.

    Example:
        >>> import torch
        >>> from polygraph.nn.convex import is_input_convex
        >>> is_input_convex(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())).reason
        '1 (Tanh) is not known to be convex and non-decreasing'

    See Also:
        `is_input_convex`, which makes it.
    """

    holds: bool
    reason: str = ""

    def __bool__(self) -> bool:
        """Whether every output is a convex function of the input."""
        return self.holds


@dataclass(frozen=True)
class Layer:
    """A layer with a weight, on the way from the input to the output.

    Attributes:
        place: its name within the network.
        module: has the attribute ``weight``.
        free: whether what it reads is an affine function of the input: any weight will do.
        edges: whether its weight acts on ``[x_i, x_j - x_i]``.
        slope: of the activation before it.
    """

    place: str
    module: Any
    free: bool
    edges: bool = False
    slope: float = 0.0

    def fault(self) -> str:
        """What is wrong with the weight, which must be 0 or more unless it is free."""
        if self.module.weight is None:
            return ""
        weight: Tensor = self.module.weight.detach()
        if not weight.isfinite().all():
            return "weights that are not finite"
        least = 0.0 if self.free else (ends_of_edges(weight) if self.edges else weight).min().item()
        form = " in the form U x_i + V x_j" if self.edges else ""
        return f"negative weights{form} (the least is {least:.3g})" if least < 0 else ""


class Walk:
    """A way through a network.

    Attributes:
        layers: those with weights, in order.
        batch_norms: those BatchNorms that are in training mode.
        learned: activations whose slope is learned.
    """

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.batch_norms: list[str] = []
        self.learned: list[str] = []
        self._slope = 0.0

    def through(self, module: Any, place: str, affine: bool) -> bool:
        """Pass a module.

        Args:
            module: what is applied.
            place: its name; empty for the network itself.
            affine: whether it reads an affine function of the input, else a convex one.

        Returns:
            Whether what it gives is still affine.

        Raises:
            NotConvex: it is not known to keep convexity, whatever its weights are.
        """
        name = f"{place or 'the network'} ({_name(module)})"
        if isinstance(module, nn.Module) and has_hooks(module):
            raise NotConvex(f"{name} has hooks, which may do anything")
        if is_lazy(module):
            raise NotConvex(f"{name} has not seen an input yet, and has no weights")
        if isinstance(module, list | tuple) or is_sequence(module):
            return self._sequence(module, place, affine)
        if isinstance(module, InputSkips):
            return self._skips(module, place, affine)
        if _acts_as(module, _LAYERS) or is_linear(module):
            return self._layer(module, place, affine)
        if _acts_as(module, NORMS):
            return self._norm(module, place, name, affine)
        if _acts_as(module, _MEANS):
            return affine
        if _acts_as(module, _MAXIMA):
            return False
        if _acts_as(module, (Resample,)):
            return _resampled(module, name, affine)
        if _kind(module) in _EDGE_CONVS:
            return self._edge_conv(module, place, name, affine)
        if _kind(module) == ("polygraph.nn.mesh_conv", "EdgeMeshConv"):
            self._layer(module.layer, _join(place, "layer"), affine, edges=True)
            return False
        if _kind(module)[1] == "DynamicEdgeConv":
            raise NotConvex(f"{name} finds its graph anew from what it reads: fix the graph")
        return self._activation(module, name, affine)

    def _sequence(self, parts: Iterable[Any], place: str, affine: bool) -> bool:
        for number, part in enumerate(parts):
            affine = self.through(part, _join(place, str(number)), affine)
        return affine

    def _skips(self, module: InputSkips, place: str, affine: bool) -> bool:
        before = affine
        for number, step in enumerate(module.steps):
            affine = self.through(step, _join(place, f"steps.{number}"), affine)
            if str(number) in module.skips:
                slope = self._slope
                skip = module.skips[str(number)]
                affine &= self.through(skip, _join(place, f"skips.{number}"), before)
                self._slope = slope
        return affine

    def _layer(self, module: Any, place: str, affine: bool, edges: bool = False) -> bool:
        self.layers.append(Layer(place, module, affine, edges, self._slope))
        return affine

    def _norm(self, module: Any, place: str, name: str, affine: bool) -> bool:
        if module.running_mean is None:
            raise NotConvex(f"{name} divides by the spread of a batch, always")
        if module.training:
            self.batch_norms.append(name)
        return self._layer(module, place, affine)

    def _edge_conv(self, module: Any, place: str, name: str, affine: bool) -> bool:
        aggr = AGGREGATION_NAMES.get(module.aggr) if isinstance(module.aggr, str) else None
        if aggr not in ("max", "sum", "mean"):
            raise NotConvex(f"{name} aggregates by {module.aggr!r}, not by max, sum or mean")
        steps = steps_of(module.nn)
        if not steps or not (_acts_as(steps[0], (nn.Linear,)) or is_linear(steps[0])):
            raise NotConvex(f"{name} has a network that does not begin with a linear layer")
        affine = self._layer(steps[0], _join(place, "nn.0"), affine, edges=True)
        for number, step in enumerate(steps[1:], 1):
            affine = self.through(step, _join(place, f"nn.{number}"), affine)
        return affine and aggr != "max"

    def _activation(self, module: Any, name: str, affine: bool) -> bool:
        slope = _slope(module)
        if slope is None:
            raise NotConvex(f"{name} is not known to be convex and non-decreasing")
        low, high = slope
        if isinstance(module, nn.PReLU):
            self.learned.append(name)
        if high > 1:
            raise NotConvex(f"{name} has a slope of {high:.3g}, above 1: it is concave")
        if low < 0 and not affine:
            raise NotConvex(f"{name} has a slope of {low:.3g}, below 0: it is decreasing there")
        self._slope = max(low, 0.0)
        return False


def _slope(module: Any) -> tuple[float, float] | None:
    """Least and largest slope below 0 of a convex activation with slope 1 above; None: it is not.

    Of smooth ones, 0.
    """
    if _acts_as(module, (nn.ReLU, nn.Softplus, nn.CELU)):
        return 0.0, 0.0
    if _acts_as(module, (nn.ELU,)):
        return (0.0, module.alpha) if module.alpha >= 0 else None
    if _acts_as(module, (nn.LeakyReLU,)):
        return module.negative_slope, module.negative_slope
    if _acts_as(module, (nn.PReLU,)):
        return module.weight.min().item(), module.weight.max().item()
    return None


def _resampled(module: Resample, name: str, affine: bool) -> bool:
    if not affine and bool(((module.weight < 0) & (module.index >= 0)).any()):
        raise NotConvex(
            f"{name} has negative entries (the least is {module.weight.min().item():.3g}), as "
            "least-squares up-sampling has: barycentric rows are 0 or more"
        )
    return affine


def _acts_as(module: Any, kinds: tuple[type, ...]) -> bool:
    """Whether it is of a class, or a parametrised one, that computes as one of ``kinds``."""
    return any(
        isinstance(module, kind)
        and type(module).forward is kind.forward  # type: ignore[attr-defined]
        and "forward" not in module.__dict__
        for kind in kinds
    )


def _kind(module: Any) -> tuple[str, str]:
    """Module and name of the class: PyG is not imported to ask."""
    return type(module).__module__, type(module).__name__


def _name(module: Any) -> str:
    """Of the class, as it was before a parametrisation."""
    kind = type(module)
    if isinstance(module, nn.Module) and "parametrizations" in module._modules:
        kind = kind.__bases__[0]
    return kind.__name__


def _join(place: str, part: str) -> str:
    return f"{place}.{part}" if place else part


def walk(model: nn.Module | Sequence[nn.Module]) -> Walk:
    """The way through a network.

    Raises:
        NotConvex: some layer is not known to keep convexity, whatever its weights are.
    """
    found = Walk()
    found.through(model, "", True)
    return found


def is_input_convex(model: nn.Module | Sequence[nn.Module]) -> InputConvexity:
    """Whether every output of a network is a convex function of its input, by its structure.

    The way through it is followed layer by layer. As long as values are affine in the input,
    weights are free. After that weights must be 0 or more, as they are now (ask again after
    training, or use `convex_`), activations convex and non-decreasing, and pooling by maxima or
    means. EdgeConv keeps convexity on a fixed graph where both matrices of its edges ``U x_i + V
    x_j`` are 0 or more, and edges are aggregated by max, sum or mean. False means that the
    structure does not show it: the function may be convex all the same.

    Args:
        model: a `torch.nn.Sequential` of layers, activations, pooling, `EdgeConv`, `EdgeMeshConv`,
            `SpiralConv`, `Resample`; an `InputSkips`; or a list of such, in the order in which they
            are applied. BatchNorm must be in eval mode.

    Returns:
        A report that is true if it is, and else says which layer is in the way.

    Example:
        >>> import torch
        >>> from polygraph.nn.convex import ConvexLinear, is_input_convex
        >>> first, last = torch.nn.Linear(2, 8), torch.nn.Linear(8, 1)
        >>> torch.nn.init.constant_(last.weight, -1.0).shape
        torch.Size([1, 8])
        >>> is_input_convex([first, torch.nn.ReLU(), last]).reason
        '2 (Linear) has negative weights (the least is -1)'
        >>> bool(is_input_convex([first, torch.nn.ReLU(), ConvexLinear(8, 1)]))
        True

    See Also:
        `polygraph.analysis.check_convex`, which looks at values; `convex_`.
    """
    try:
        found = walk(model)
    except NotConvex as error:
        return InputConvexity(False, str(error))
    if found.batch_norms:
        reason = f"{found.batch_norms[0]} is in training mode: call eval() first"
        return InputConvexity(False, reason)
    for layer in found.layers:
        if fault := layer.fault():
            name = f"{layer.place or 'the network'} ({_name(layer.module)})"
            return InputConvexity(False, f"{name} has {fault}")
    return InputConvexity(True)
