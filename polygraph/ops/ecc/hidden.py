"""Hidden features of edges, φ, in the three forms in which they come."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from polygraph.ops import common
from polygraph.ops.ecc.chunks import Chunk
from polygraph.ops.edge_sum import activate


class Hidden(NamedTuple):
    """φ ``[E', H]``: stored, made of nodes, or made by a layer.

    Stored: ``phi`` itself. Of nodes: ``act(near_s + far_o)`` for a slot of segment s with the other
    node o. By a layer: ``act(phi layerᵀ + shift)``.
    """

    phi: Tensor | None  #: ``[E', H]``, with a layer ``[E', F]``; None: from the nodes
    near: Tensor | None = None  #: ``[S, H]``
    far: Tensor | None = None  #: ``[O, H]``
    slope: float = 1.0
    layer: Tensor | None = None  #: ``[H, F]``
    shift: Tensor | None = None  #: ``[H]``

    @classmethod
    def widened(cls, phi: Any, near: Any, far: Any, slope: float, layer: Any, shift: Any) -> Hidden:
        """Half types in float32."""
        phi, near, far, layer, shift = widened(phi, near, far, layer, shift)
        return cls(phi, near, far, slope, layer, shift)

    @property
    def stored(self) -> bool:
        """Whether ``phi`` is φ itself."""
        return self.phi is not None and self.layer is None

    @property
    def width(self) -> int:
        """H, of what does not come from a layer."""
        made: Any = self.far if self.phi is None else self.phi
        return int(made.shape[1])

    def turned(self) -> Hidden:
        """Seen from the other nodes."""
        return self._replace(near=self.far, far=self.near)

    def without_layer(self) -> Hidden:
        """What a layer makes, stored."""
        if self.layer is None or self.phi is None:
            return self
        made = torch.nn.functional.linear(self.phi, self.layer, self.shift)
        return Hidden(activate(made, self.slope))

    def packed(self) -> tuple[list[Tensor], float]:
        """The arguments ``phi`` and ``slope`` of the kernels: the form is told by the length."""
        parts = (self.near, self.far, self.phi, self.layer, self.shift)
        return [p for p in parts if p is not None], self.slope

    def columns(self, chunk: Chunk) -> tuple[list[Tensor], float]:
        """The same of some columns, without a layer; a last column of ones is the kernels'."""
        parts, slope = self.packed()
        return [p[:, chunk.h0 : min(chunk.h1, self.width)] for p in parts], slope


def widened(*tensors: Any) -> tuple[Any, ...]:
    """Half types in float32: so is all that lies between kernels and products.

    It would be rounded each time, and in float16 could overflow where the result does not. The
    copies, at most E x H elements, go when the operator returns.
    """
    return tuple(common.wide(t) for t in tensors)


def past_activation(hidden: Tensor, value: Tensor, slope: float) -> Tensor:
    """``value`` times the slope of the activation where ``hidden`` is in it or comes out of it."""
    return torch.where(hidden <= 0, slope * value if slope else 0, value)


def through_layer(
    grad: Tensor, made: Tensor, of: Hidden, *, to_phi: bool, to_layer: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """A gradient ``[E', H]`` to ``made``, what the layer makes, taken to phi, layer and shift."""
    assert of.phi is not None
    assert of.layer is not None
    inner = past_activation(made, grad, of.slope)
    back = inner @ of.layer if to_phi else None
    return (back, inner.t() @ of.phi, inner.sum(0)) if to_layer else (back, None, None)
