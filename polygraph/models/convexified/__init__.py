"""Convexified convolutional networks: layers that are trained by convex problems.

Not to be confused with `polygraph.nn.convex`, networks that are convex in their input.
"""

from polygraph.models.convexified.config import PRESETS, ConvexifiedLayerConfig
from polygraph.models.convexified.estimator import ConvexifiedCNN
from polygraph.models.convexified.features import (
    ExactFeatures,
    FourierFeatures,
    NystroemFeatures,
    make_features,
)
from polygraph.models.convexified.network import ConvexifiedLayer, ConvexifiedNetwork
from polygraph.models.convexified.nuclear import nuclear_norm, project_nuclear
from polygraph.models.convexified.patches import GraphPatches, ImagePatches
from polygraph.models.convexified.problem import (
    Certificate,
    Inputs,
    LogisticProblem,
    Pooled,
    as_matrix,
    fit_normalisation,
)
from polygraph.models.convexified.solvers import Step, Tracker, solve

__all__ = [
    "PRESETS",
    "Certificate",
    "ConvexifiedCNN",
    "ConvexifiedLayer",
    "ConvexifiedLayerConfig",
    "ConvexifiedNetwork",
    "ExactFeatures",
    "FourierFeatures",
    "GraphPatches",
    "ImagePatches",
    "Inputs",
    "LogisticProblem",
    "NystroemFeatures",
    "Pooled",
    "Step",
    "Tracker",
    "as_matrix",
    "fit_normalisation",
    "make_features",
    "nuclear_norm",
    "project_nuclear",
    "solve",
]
