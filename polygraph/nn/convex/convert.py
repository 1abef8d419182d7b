"""Layers of an existing network that become convex."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from polygraph._checks import check_choice
from polygraph.nn.convex.initial import free_, principled_
from polygraph.nn.convex.positive import KINDS, make_non_negative
from polygraph.nn.convex.structure import NORMS, Layer, walk

T = TypeVar("T", bound="nn.Module | Sequence[nn.Module]")
INITIAL = ("principled", "keep")


def convex_(model: T, *, kind: str = "softplus", initial: str = "principled") -> T:
    """Make the outputs of a network convex functions of its input, in place.

    The weights of all layers after the first activation or maximum get a parametrisation that keeps
    them at 0 or above; layers before stay free. Classes, biases and all the rest stay as they are.

    A ``state_dict`` of such a network is loaded as ever; so is one of the network as it was
    before, if the later weights are 0 or more.

    Args:
        model: as of `is_input_convex`.
        kind: ``softplus``, ``exp`` or ``clip``: see `ConvexLinear`.
        initial: ``principled``: all weights are drawn anew, those of later layers by `principled_`,
            with negative biases, and those of the first with variance 1 / fan-in; ``keep``: weights
            stay as they are, and negative ones become 0 (for softplus and exp 1e-8).

    Returns:
        ``model``.

    Raises:
        ValueError: a layer is in the way that no weights make convex and non-decreasing, such as
            tanh; a weight has a parametrisation already, or belongs to two layers; ``kind`` or
            ``initial`` is none of these. Nothing is changed then.

    Example:
        >>> import torch
        >>> from polygraph.nn.convex import convex_, is_input_convex
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        ...     torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 1)
        ... )
        >>> bool(is_input_convex(model)), bool(is_input_convex(convex_(model)))
        (False, True)

    See Also:
        `InputSkips`; `polygraph.analysis.check_convex`.
    """
    check_choice("convex_", "kind", kind, KINDS)
    check_choice("convex_", "initial", initial, INITIAL)
    found = walk(model)
    if found.learned:
        raise ValueError(f"convex_: {found.learned[0]} learns its slope, which may leave [0, 1]")
    _check(found.layers)
    for layer in found.layers:
        norm = isinstance(layer.module, NORMS)
        if not layer.free and layer.module.weight is not None:
            make_non_negative(layer.module, kind, layer.edges)
        if initial == "principled" and not norm:
            _begin(layer)
    return model


def _check(layers: list[Layer]) -> None:
    """Refuse before anything is changed."""
    seen: set[int] = set()
    for layer in layers:
        module = layer.module
        if "parametrizations" in module._modules:
            raise ValueError(f"convex_: the weight of {layer.place} has a parametrisation already")
        if id(module) in seen:
            raise ValueError(f"convex_: {layer.place} is applied twice: copy it first")
        seen.add(id(module))


@torch.no_grad()
def _begin(layer: Layer) -> None:
    """Draw the weights of a layer; skips from the input, which are free, keep theirs."""
    module = layer.module
    if layer.free:
        if ".skips." not in f".{layer.place}":
            free_(module.weight, module.bias)
        return
    weight = principled_(module.weight.clone(), module.bias, slope=layer.slope)
    if layer.edges:  # drawn for both ends
        ends, differences = weight.chunk(2, 1)
        weight = torch.cat((ends + differences, differences), 1)
    module.weight = weight
