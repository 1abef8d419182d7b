"""Layers over the operators, and polynomial blocks over any linear operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polygraph._lazy import lazy
from polygraph.nn.block import ACTIVATIONS, PolynomialBlock, polynomial_step
from polygraph.nn.knn import knn, knn_graph, pixel_knn
from polygraph.nn.layout import LAYOUTS, Layout, layout_of
from polygraph.nn.maso import MASO, to_maso
from polygraph.nn.mesh_graph import MeshGraph
from polygraph.nn.nested import NCP, NCPSkip
from polygraph.nn.norm import NORMS, SecondOrderNorm
from polygraph.nn.pixel_graph import PixelGraph
from polygraph.nn.poly_residual import PolyResidual
from polygraph.nn.polynomial import CCP, FirstOrder, ProdPoly, Simple
from polygraph.nn.products import DensePolynomial, PiSigma, RidgePolynomial
from polygraph.nn.resample import Resample, SelectVertices
from polygraph.nn.spiral_conv import SpiralConv

# What descends from PyG's layers is imported when asked for: importing PyG takes seconds.
if TYPE_CHECKING:
    from polygraph.nn.ecc import ECConv, NNConv
    from polygraph.nn.edge_conv import DynamicEdgeConv, EdgeConv
    from polygraph.nn.light_ecc import LightECConv
    from polygraph.nn.mesh_conv import (
        ChebyshevConv,
        ECMeshConv,
        EdgeMeshConv,
        FeaStMeshConv,
        GATMeshConv,
        MoNetMeshConv,
    )
    from polygraph.nn.nonlocal_conv import NonLocalGraphConv2d, OnGraph
else:
    __getattr__, __dir__ = lazy(
        __name__,
        names={
            "ChebyshevConv": "mesh_conv",
            "DynamicEdgeConv": "edge_conv",
            "ECConv": "ecc",
            "ECMeshConv": "mesh_conv",
            "EdgeConv": "edge_conv",
            "EdgeMeshConv": "mesh_conv",
            "FeaStMeshConv": "mesh_conv",
            "GATMeshConv": "mesh_conv",
            "LightECConv": "light_ecc",
            "MoNetMeshConv": "mesh_conv",
            "NNConv": "ecc",
            "NonLocalGraphConv2d": "nonlocal_conv",
            "OnGraph": "nonlocal_conv",
        },
    )

__all__ = [
    "ACTIVATIONS",
    "CCP",
    "LAYOUTS",
    "MASO",
    "NCP",
    "NORMS",
    "ChebyshevConv",
    "DensePolynomial",
    "DynamicEdgeConv",
    "ECConv",
    "ECMeshConv",
    "EdgeConv",
    "EdgeMeshConv",
    "FeaStMeshConv",
    "FirstOrder",
    "GATMeshConv",
    "Layout",
    "LightECConv",
    "MeshGraph",
    "MoNetMeshConv",
    "NCPSkip",
    "NNConv",
    "NonLocalGraphConv2d",
    "OnGraph",
    "PiSigma",
    "PixelGraph",
    "PolyResidual",
    "PolynomialBlock",
    "ProdPoly",
    "Resample",
    "RidgePolynomial",
    "SecondOrderNorm",
    "SelectVertices",
    "Simple",
    "SpiralConv",
    "knn",
    "knn_graph",
    "layout_of",
    "pixel_knn",
    "polynomial_step",
    "to_maso",
]
