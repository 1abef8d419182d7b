"""Networks whose outputs are convex functions of their inputs, by their weights' signs.

A composition of convex functions is convex where every map after the first activation is
non-decreasing: the first layer is free, the weights of the later ones are 0 or more, activations
are convex and non-decreasing, pooling takes maxima or means (Amos et al., ICML 2017; Balestriero
and Baraniuk, ICML 2018, theorem 2).
"""

from polygraph.nn.convex.convert import convex_
from polygraph.nn.convex.initial import principled_
from polygraph.nn.convex.layers import ConvexConv2d, ConvexLinear
from polygraph.nn.convex.positive import KINDS
from polygraph.nn.convex.skips import InputSkips
from polygraph.nn.convex.structure import InputConvexity, is_input_convex

__all__ = [
    "KINDS",
    "ConvexConv2d",
    "ConvexLinear",
    "InputConvexity",
    "InputSkips",
    "convex_",
    "is_input_convex",
    "principled_",
]
