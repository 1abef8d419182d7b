<<<<<<< HEAD
"""Models in rooms, of meshes, points and images, residual networks; a file for each family.
=======
"""Models in rooms, of meshes, points and images, residual networks, denoisers; a file each family.
>>>>>>> denoise

A file has the family's config, its module and the paper it is from. `create_model` makes any of
them by name, `list_models` has the names. `polygraph.models.vae` has what variational ones share.
"""

from polygraph.models.denoiser import GCDN, DnCNN, DnCNNConfig, GCDNConfig, denoise_tiles
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
    ImageVAE,
    ImageVAEConfig,
    InceptionV3,
    LeNet,
    LeNetConfig,
    PixelClassifier,
    PixelClassifierConfig,
    PolynomialGenerator,
    PolynomialGeneratorConfig,
    ProdPolyGenerator,
    ProdPolyGeneratorConfig,
    ResidualCritic,
    ResidualCriticConfig,
    ResidualGenerator,
    ResidualGeneratorConfig,
    SplineCNN,
    SplineCNNConfig,
    StyleGenerator,
    StyleGeneratorConfig,
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
from polygraph.models.resnet import ResNet, ResNetConfig

__all__ = [
    "GCDN",
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
    "DnCNN",
    "DnCNNConfig",
    "GCDNConfig",
    "GraphCritic",
    "GraphCriticConfig",
    "GraphGenerator",
    "GraphGeneratorConfig",
    "GrowingCritic",
    "GrowingCriticConfig",
    "GrowingGenerator",
    "GrowingGeneratorConfig",
    "ImageVAE",
    "ImageVAEConfig",
    "InceptionV3",
    "LeNet",
    "LeNetConfig",
    "MeshAutoencoder",
    "MeshAutoencoderConfig",
    "PixelClassifier",
    "PixelClassifierConfig",
    "PolynomialGenerator",
    "PolynomialGeneratorConfig",
    "ProdPolyGenerator",
    "ProdPolyGeneratorConfig",
    "ResNet",
    "ResNetConfig",
    "ResidualCritic",
    "ResidualCriticConfig",
    "ResidualGenerator",
    "ResidualGeneratorConfig",
    "SplineCNN",
    "SplineCNNConfig",
    "StyleGenerator",
    "StyleGeneratorConfig",
    "create_model",
    "denoise_tiles",
    "get_preset",
    "list_models",
    "load_inception",
    "load_published",
]
