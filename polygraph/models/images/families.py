"""Networks by the name of their family: what a checkpoint says to rebuild one."""

from __future__ import annotations

from typing import Any

from torch import nn

from polygraph._checks import check_choice
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
from polygraph.models.images.image_vae import ImageVAE, ImageVAEConfig
from polygraph.models.images.lenet import LeNet, LeNetConfig
from polygraph.models.images.pixel_classifier import PixelClassifier, PixelClassifierConfig
from polygraph.models.images.polynomial_gan import PolynomialGenerator, PolynomialGeneratorConfig
from polygraph.models.images.prodpoly_gan import ProdPolyGenerator, ProdPolyGeneratorConfig
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
from polygraph.models.resnet.resnet import ResNet, ResNetConfig

#: family -> (class of the config, class of the module)
GENERATORS: dict[str, tuple[type, type[nn.Module]]] = {
    "graph": (GraphGeneratorConfig, GraphGenerator),
    "polynomial": (PolynomialGeneratorConfig, PolynomialGenerator),
    "prodpoly": (ProdPolyGeneratorConfig, ProdPolyGenerator),
    "residual": (ResidualGeneratorConfig, ResidualGenerator),
    "style": (StyleGeneratorConfig, StyleGenerator),
    "deconv": (DeconvGeneratorConfig, DeconvGenerator),
    "growing": (GrowingGeneratorConfig, GrowingGenerator),
}
CRITICS: dict[str, tuple[type, type[nn.Module]]] = {
    "graph": (GraphCriticConfig, GraphCritic),
    "residual": (ResidualCriticConfig, ResidualCritic),
    "conv": (ConvCriticConfig, ConvCritic),
    "growing": (GrowingCriticConfig, GrowingCritic),
}
CLASSIFIERS: dict[str, tuple[type, type[nn.Module]]] = {
    "pixel": (PixelClassifierConfig, PixelClassifier),
    "lenet": (LeNetConfig, LeNet),
    "resnet": (ResNetConfig, ResNet),
    "spline": (SplineCNNConfig, SplineCNN),
    "sparse": (SparseCodingClassifierConfig, SparseCodingClassifier),
}
VAES: dict[str, tuple[type, type[nn.Module]]] = {"vae": (ImageVAEConfig, ImageVAE)}
_ALL = (GENERATORS, CRITICS, CLASSIFIERS, VAES)


def family_of(config: Any) -> str:
    """The family that the config of a generator, a critic, a classifier or a VAE belongs to.

    Raises:
        TypeError: it is no such config.
    """
    for families in _ALL:
        for name, (cls, _) in families.items():
            if type(config) is cls:
                return name
    raise TypeError(
        "family_of: not a config of a generator, critic, classifier or VAE: "
        f"{type(config).__name__}"
    )


def is_polynomial(config: Any) -> bool:
    """Whether a generator's config is of a polynomial of z, or of one with ReLUs in its maps."""
    if isinstance(config, ResidualGeneratorConfig):
        return config.kind == "ncp"
    return isinstance(config, PolynomialGeneratorConfig | ProdPolyGeneratorConfig)


def build(config: Any) -> nn.Module:
    """The network of a config, initialised from torch's global generator."""
    family = family_of(config)
    for families in _ALL:
        cls, module = families.get(family, (None, None))
        if cls is type(config) and module is not None:
            return module(config)
    raise AssertionError(family)


def config_of(families: dict[str, tuple[type, type[nn.Module]]], family: str, fields: Any) -> Any:
    """The config of a family from its fields, as a checkpoint holds them.

    Raises:
        ValueError: an unknown family, or a field has a bad value.
        TypeError: an unknown field.
    """
    check_choice("checkpoint", "family", family, families)
    translate = {"graph": _graph_of_today, "residual": _residual_of_today}.get(family)
    return families[family][0](**(fields if translate is None else translate(fields)))


def _graph_of_today(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a graph network as they are called now.

    Checkpoints from before there were replicas hold EdgeConv's mean without ReLU as ``edge``, full
    matrices of the lightweight ECC, and attention to pooled keys.
    """
    if "replicas" in fields or "graph" not in fields:
        return fields
    graph = "edge-mean" if fields["graph"] == "edge" else fields["graph"]
    return fields | {"graph": graph, "replicas": 1, "pooled_keys": graph == "attention"}


def _residual_of_today(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an SNGAN network as they are called now.

    Raises:
        ValueError: an NCP of before, which was another function of the same weights.
    """
    if "kind" not in fields or "latent_distribution" in fields:
        return fields
    if fields["kind"] == "ncp":
        raise ValueError(
            "checkpoint: its generator 'ncp' is (A_n z) * S_n x + b_n, with b_n outside of the "
            "product, which is no NCP and no longer built: train preset pi/sngan-ncp again"
        )
    kind = "residual-poly" if fields["kind"] == "prodpoly" else fields["kind"]
    return fields | {"kind": kind}
