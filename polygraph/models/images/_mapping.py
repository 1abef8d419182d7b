"""The mapping network of polynomial generators: polynomials of z in succession, themselves a z."""

from __future__ import annotations

import math

from torch import nn

from polygraph.nn.nested import NCP
from polygraph.nn.polynomial import ProdPoly

PRODUCT_NORMS = ("rms", "instance", "batch_channel", "none")
AFFINE_NORMS = ("batch_channel", "none")  #: in evaluation mode
Orders = int | tuple[int, ...]


def mapping_orders(orders: Orders) -> tuple[int, ...]:
    """The order of each polynomial; 0 is none at all.

    Raises:
        ValueError: an order is negative.
    """
    listed = (orders,) if isinstance(orders, int) else tuple(orders)
    for order in listed:
        if order < 0:
            raise ValueError(f"generator: mapping_order must be 0 or more, got {order}")
    return tuple(order for order in listed if order)


def mapping_degree(orders: Orders) -> int:
    """The degree of the mapping without normalisation: the orders multiply."""
    return math.prod(mapping_orders(orders))


def make_mapping(channels: int, orders: Orders, norm: str) -> nn.Module | None:
    """NCPs of vectors ``[B, channels]`` to the same; None for order 0.

    Args:
        channels: size of z.
        orders: of the NCP, or of several in succession.
        norm: of their products, a kind of `polygraph.nn.SecondOrderNorm`.
    """
    blocks = [
        NCP(nn.Linear, channels, channels, order, rank=channels, norm=norm)
        for order in mapping_orders(orders)
    ]
    if not blocks:
        return None
    return blocks[0] if len(blocks) == 1 else ProdPoly(*blocks)
