"""Layers over the operators, and polynomial blocks over any linear operator."""

from __future__ import annotations

import importlib
from typing import Any

from polygraph.nn.block import ACTIVATIONS, PolynomialBlock, polynomial_step
from polygraph.nn.knn import knn, knn_graph, pixel_knn
from polygraph.nn.layout import LAYOUTS, Layout, layout_of
from polygraph.nn.norm import NORMS, SecondOrderNorm
from polygraph.nn.pixel_graph import PixelGraph
from polygraph.nn.polynomial import CCP, NCP, FirstOrder, NCPSkip, ProdPoly, Simple
from polygraph.nn.resample import Resample, SelectVertices
from polygraph.nn.spiral_conv import SpiralConv

# Descendants of PyG's layers: importing PyG takes seconds, so they are imported when asked for.
_LAZY = {
    "DynamicEdgeConv": "edge_conv",
    "ECConv": "ecc",
    "EdgeConv": "edge_conv",
    "LightECConv": "light_ecc",
    "NNConv": "ecc",
    "NonLocalGraphConv2d": "nonlocal_conv",
    "OnGraph": "nonlocal_conv",
}


def __getattr__(name: str) -> Any:
    """Import a layer of `_LAZY`."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


__all__ = [
    "ACTIVATIONS",
    "CCP",
    "LAYOUTS",
    "NCP",
    "NORMS",
    "DynamicEdgeConv",
    "ECConv",
    "EdgeConv",
    "FirstOrder",
    "Layout",
    "LightECConv",
    "NCPSkip",
    "NNConv",
    "NonLocalGraphConv2d",
    "OnGraph",
    "PixelGraph",
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
