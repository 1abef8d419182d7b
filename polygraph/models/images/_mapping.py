"""The mapping network of polynomial generators: a polynomial of z, itself a z."""

from __future__ import annotations

from torch import nn

from polygraph.nn.nested import NCP

PRODUCT_NORMS = ("rms", "instance", "batch_channel", "none")


def check_mapping(order: int) -> None:
    """Refuse a negative order."""
    if order < 0:
        raise ValueError(f"generator: mapping_order must be 0 or more, got {order}")


def make_mapping(channels: int, order: int, norm: str) -> nn.Module | None:
    """An NCP of vectors ``[B, channels]`` to the same; None for order 0.

    Args:
        channels: size of z.
        order: of the NCP.
        norm: of its products, a kind of `polygraph.nn.SecondOrderNorm`.
    """
    if not order:
        return None
    return NCP(nn.Linear, channels, channels, order, rank=channels, norm=norm)
