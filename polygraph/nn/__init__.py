"""Layers over the operators, and polynomial blocks over any linear operator."""

from polygraph.nn.block import ACTIVATIONS, PolynomialBlock, polynomial_step
from polygraph.nn.knn import knn, knn_graph, pixel_knn
from polygraph.nn.layout import LAYOUTS, Layout, layout_of
from polygraph.nn.norm import NORMS, SecondOrderNorm
from polygraph.nn.polynomial import CCP, NCP, FirstOrder, NCPSkip, ProdPoly, Simple
from polygraph.nn.resample import Resample, SelectVertices
from polygraph.nn.spiral_conv import SpiralConv

__all__ = [
    "ACTIVATIONS",
    "CCP",
    "LAYOUTS",
    "NCP",
    "NORMS",
    "FirstOrder",
    "Layout",
    "NCPSkip",
    "PolynomialBlock",
    "ProdPoly",
    "Resample",
    "SecondOrderNorm",
    "SelectVertices",
    "Simple",
    "SpiralConv",
    "knn",
    "knn_graph",
    "layout_of",
    "pixel_knn",
    "polynomial_step",
]
