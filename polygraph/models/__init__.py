"""Models in three rooms, of meshes, points and images; a file for each family.

A file has the family's config, its module and the paper it is from. `create_model` makes any of
them by name, `list_models` has the names.
"""

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
    PixelClassifier,
    PixelClassifierConfig,
    PolynomialGenerator,
    PolynomialGeneratorConfig,
    ResidualCritic,
    ResidualCriticConfig,
    ResidualGenerator,
    ResidualGeneratorConfig,
    load_inception,
)
from polygraph.models.mesh import PCA, MeshAutoencoder, MeshAutoencoderConfig, load_published
from polygraph.models.mesh.presets import PRESETS, get_preset
from polygraph.models.points import (
    DGCNNClassifier,
    DGCNNClassifierConfig,
    DGCNNSegmenter,
    DGCNNSegmenterConfig,
)
from polygraph.models.registry import create_model, list_models

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
    "PixelClassifier",
    "PixelClassifierConfig",
    "PolynomialGenerator",
    "PolynomialGeneratorConfig",
    "ResidualCritic",
    "ResidualCriticConfig",
    "ResidualGenerator",
    "ResidualGeneratorConfig",
    "create_model",
    "get_preset",
    "list_models",
    "load_inception",
    "load_published",
]
