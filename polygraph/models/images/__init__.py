"""Models of images: generators and critics, classifiers, variational autoencoders, Inception."""

from polygraph.models.images.dcgan import (
    ConvCritic,
    ConvCriticConfig,
    DeconvGenerator,
    DeconvGeneratorConfig,
)
from polygraph.models.images.graph_gan import (
    GraphCritic,
    GraphCriticConfig,
    GraphGenerator,
    GraphGeneratorConfig,
)
from polygraph.models.images.growing_gan import (
    GrowingCritic,
    GrowingCriticConfig,
    GrowingGenerator,
    GrowingGeneratorConfig,
)
from polygraph.models.images.image_vae import ImageDecoder, ImageVAE, ImageVAEConfig
from polygraph.models.images.inception import InceptionV3, load_inception
from polygraph.models.images.lenet import LeNet, LeNetConfig
from polygraph.models.images.pixel_classifier import PixelClassifier, PixelClassifierConfig
from polygraph.models.images.polynomial_gan import PolynomialGenerator, PolynomialGeneratorConfig
from polygraph.models.images.prodpoly_gan import ProdPolyGenerator, ProdPolyGeneratorConfig
from polygraph.models.images.sizes import SIZE
from polygraph.models.images.sngan import (
    ResidualCritic,
    ResidualCriticConfig,
    ResidualGenerator,
    ResidualGeneratorConfig,
)
from polygraph.models.images.sparse_classifier import (
    SparseCodingClassifier,
    SparseCodingClassifierConfig,
)
from polygraph.models.images.spline_cnn import SplineCNN, SplineCNNConfig
from polygraph.models.images.style_gan import StyleGenerator, StyleGeneratorConfig

__all__ = [
    "SIZE",
    "ConvCritic",
    "ConvCriticConfig",
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
    "ImageDecoder",
    "ImageVAE",
    "ImageVAEConfig",
    "InceptionV3",
    "LeNet",
    "LeNetConfig",
    "PixelClassifier",
    "PixelClassifierConfig",
    "PolynomialGenerator",
    "PolynomialGeneratorConfig",
    "ProdPolyGenerator",
    "ProdPolyGeneratorConfig",
    "ResidualCritic",
    "ResidualCriticConfig",
    "ResidualGenerator",
    "ResidualGeneratorConfig",
    "SparseCodingClassifier",
    "SparseCodingClassifierConfig",
    "SplineCNN",
    "SplineCNNConfig",
    "StyleGenerator",
    "StyleGeneratorConfig",
    "load_inception",
]
