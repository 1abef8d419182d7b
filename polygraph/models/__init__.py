"""Models in three rooms, of meshes, points and images; a file for each family.

A file has the family's config, its module and the paper it is from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polygraph.models.images import (
    ConvCritic,
    ConvCriticConfig,
    DeconvGenerator,
    DeconvGeneratorConfig,
    GraphCritic,
    GraphCriticConfig,
    GraphGenerator,
    GraphGeneratorConfig,
    GrowingCritic,
    GrowingCriticConfig,
    GrowingGenerator,
    GrowingGeneratorConfig,
    InceptionV3,
    LeNet,
    LeNetConfig,
    PolynomialGenerator,
    PolynomialGeneratorConfig,
    ResidualCritic,
    ResidualCriticConfig,
    ResidualGenerator,
    ResidualGeneratorConfig,
    load_inception,
)
from polygraph.models.mesh import PCA, MeshAutoencoder, MeshAutoencoderConfig, load_published
from polygraph.models.points import (
    DGCNNClassifier,
    DGCNNClassifierConfig,
    DGCNNSegmenter,
    DGCNNSegmenterConfig,
)

if TYPE_CHECKING:
    from polygraph.models.mesh.presets import PRESETS, get_preset

__all__ = [
    "PCA",
    "PRESETS",
    "ConvCritic",
    "ConvCriticConfig",
    "DGCNNClassifier",
    "DGCNNClassifierConfig",
    "DGCNNSegmenter",
    "DGCNNSegmenterConfig",
    "DeconvGenerator",
    "DeconvGeneratorConfig",
    "GraphCritic",
    "GraphCriticConfig",
    "GraphGenerator",
    "GraphGeneratorConfig",
    "GrowingCritic",
    "GrowingCriticConfig",
    "GrowingGenerator",
    "GrowingGeneratorConfig",
    "InceptionV3",
    "LeNet",
    "LeNetConfig",
    "MeshAutoencoder",
    "MeshAutoencoderConfig",
    "PolynomialGenerator",
    "PolynomialGeneratorConfig",
    "ResidualCritic",
    "ResidualCriticConfig",
    "ResidualGenerator",
    "ResidualGeneratorConfig",
    "get_preset",
    "load_inception",
    "load_published",
]


def __getattr__(name: str) -> Any:
    # Presets say how spirals are made, for which polygraph.mesh needs the extra [mesh].
    if name in ("PRESETS", "get_preset"):
        from polygraph.models.mesh import presets

        return getattr(presets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
