"""Generators and critics of images by name, in pairs; classifiers by name.

``thesis/*``: those of `polygraph.models.images.graph_gan` at the published width; ``critic-*`` has
the graph layer in the critic alone, ``both-*`` in both networks. ``small/*``: the same with a
quarter of the features in the critic and half in the generator's last layers, which two cores can
carry. ``pi/*``: the generators of the Π-net papers. ``small/ccp``, ``small/ncp`` and ``small/ncp-
skip``: polynomials of order 8 of z, without activations, which two cores can carry too;
``pi/prodpoly-sn`` and ``small/prodpoly``: of order 66. ``linear/*``: the four decompositions side
by side, exact polynomials in evaluation mode, against SNGAN's critic. ``pi/dcgan-64``: images of 64
x 64; all others are 32 x 32, and `polygraph.models.images.sizes.at_size` makes others of them.
`polygraph.tasks.gan.presets` says how each pair is trained.

``bed/*``: `PixelClassifier` with a convolution, attention or a graph layer in its middle. Of these
``-bare`` have the graph alone, ``-coordinates`` rows and columns as well; those without an ending
have also the weights of edges, where there are such. ``spline/*``: `SplineCNN`. ``sparse/*``:
`SparseCodingClassifier`, of the same parameters whatever the pursuit but for ``sparse/lista``.
``resnet18``, ``prodpoly-2211`` and so on: `polygraph.models.resnet.presets`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from polygraph.models.images.dcgan import ConvCriticConfig, DeconvGeneratorConfig
from polygraph.models.images.graph_gan import GraphCriticConfig, GraphGeneratorConfig
from polygraph.models.images.growing_gan import GrowingCriticConfig, GrowingGeneratorConfig
from polygraph.models.images.lenet import LeNetConfig
from polygraph.models.images.pixel_classifier import PixelClassifierConfig
from polygraph.models.images.polynomial_gan import PolynomialGeneratorConfig
from polygraph.models.images.prodpoly_gan import ProdPolyGeneratorConfig
from polygraph.models.images.sngan import ResidualCriticConfig, ResidualGeneratorConfig
from polygraph.models.images.sparse_classifier import SparseCodingClassifierConfig
from polygraph.models.images.spline_cnn import SplineCNNConfig
from polygraph.models.images.style_gan import StyleGeneratorConfig
from polygraph.models.resnet.presets import RESNETS

NEIGHBORS = (8, 16, 32)
#: in names -> the kind of layer, and δ of its edges' weights
_GRAPHS: dict[str, tuple[str, float | None]] = {
    "edge": ("edge-sum", None),
    "edge-max": ("edge-max", None),
    "ecc": ("ecc", 10.0),
    "light": ("light", 10.0),
}


class Pair(NamedTuple):
    """Two networks that are trained against each other.

    Attributes:
        generator: config of a family of `polygraph.models.images.families.GENERATORS`.
        critic: config of a family of `polygraph.models.images.families.CRITICS`.
    """

    generator: Any
    critic: Any


_DIGITS = Pair(
    GraphGeneratorConfig(
        latent_channels=32, channels=(64, 32, 16, 16), graph="edge-sum", graph_sizes=(16,), k=8
    ),
    GraphCriticConfig(channels=(16, 32, 64)),
)
_THESIS = Pair(GraphGeneratorConfig(), GraphCriticConfig())
_SMALL = Pair(
    GraphGeneratorConfig(channels=(264, 132, 66, 33)), GraphCriticConfig(channels=(33, 66, 132))
)
_SNGAN = Pair(ResidualGeneratorConfig(), ResidualCriticConfig())
_PROGAN = Pair(GrowingGeneratorConfig(), GrowingCriticConfig())
_POLYNOMIAL = Pair(
    PolynomialGeneratorConfig(), ConvCriticConfig(batch_norm=False, spectral_norm=True)
)
_PRODPOLY = Pair(ProdPolyGeneratorConfig(), ResidualCriticConfig(channels=100))
_SMALL_PRODPOLY = Pair(
    ProdPolyGeneratorConfig(
        latent_channels=64, channels=(32, 32, 32, 32, 64, 64, 64, 64, 32, 32, 16)
    ),
    ResidualCriticConfig(channels=24),
)
_STYLE = Pair(StyleGeneratorConfig(mapping_rate=0.01), ResidualCriticConfig())
_SMALL_POLYNOMIAL = Pair(
    PolynomialGeneratorConfig(
        body="sngan", order=8, latent_channels=64, channels=(64, 48, 24, 16), norm="rms"
    ),
    ConvCriticConfig(channels=(32, 64, 128), batch_norm=False),
)


_LINEAR = Pair(
    PolynomialGeneratorConfig(
        order=8, channels=(64, 48, 32, 16), norm="batch_channel", latent_distribution="uniform"
    ),
    ResidualCriticConfig(channels=24),
)
_LINEAR_PRODPOLY = _LINEAR._replace(
    generator=ProdPolyGeneratorConfig(
        orders=(1, 2), channels=(32, 32, 32, 32, 64, 64, 64, 64, 32, 32, 16)
    )
)


def _with(pair: Pair, **generator: Any) -> Pair:
    return pair._replace(generator=replace(pair.generator, **generator))


def _graph_pairs(family: str, base: Pair) -> dict[str, Pair]:
    """A plain pair; a graph layer in the generator, in the critic, and in both."""
    found = {f"{family}/baseline": base}

    def add(name: str, **settings: Any) -> None:
        generator, critic = (replace(network, **settings) for network in base)
        found[f"{family}/{name}"] = base._replace(generator=generator)
        found[f"{family}/critic-{name}"] = base._replace(critic=critic)
        found[f"{family}/both-{name}"] = Pair(generator, critic)

    for name, (graph, delta) in _GRAPHS.items():
        for k in NEIGHBORS:
            add(f"{name}-k{k}", graph=graph, k=k, delta=delta)
    add("attention", graph="attention")
    return found


def _polynomial_pairs() -> dict[str, Pair]:
    found = {}
    for decomposition in ("ccp", "ncp", "ncp-skip", "prodpoly"):
        order = 2 if decomposition == "prodpoly" else 4
        made = _with(_POLYNOMIAL, decomposition=decomposition, order=order)
        found[f"pi/{decomposition}"] = made
        found[f"pi/{decomposition}-residual"] = _with(made, body="sngan")
    for decomposition in ("ccp", "ncp", "ncp-skip"):
        found[f"small/{decomposition}"] = _with(_SMALL_POLYNOMIAL, decomposition=decomposition)
        found[f"linear/{decomposition}"] = _with(_LINEAR, decomposition=decomposition)
    found["linear/prodpoly"] = _LINEAR_PRODPOLY
    found["pi/prodpoly-sn"], found["small/prodpoly"] = _PRODPOLY, _SMALL_PRODPOLY
    found["pi/ncp-mapping"] = _with(_POLYNOMIAL, mapping_order=2)
    return found


#: name -> generator and critic
PAIRS: dict[str, Pair] = {
    "digits": _DIGITS,
    **_graph_pairs("thesis", _THESIS),
    **_graph_pairs("small", _SMALL),
    "pi/dcgan": Pair(
        DeconvGeneratorConfig(latent_channels=100, latent_distribution="uniform"),
        ConvCriticConfig(),
    ),
    "pi/dcgan-64": Pair(
        DeconvGeneratorConfig(
            latent_channels=100,
            channels=(1024, 512, 256, 128, 64),
            latent_distribution="uniform",
            size=64,
        ),
        ConvCriticConfig(channels=(64, 128, 256, 512), size=64),
    ),
    "pi/progan": _PROGAN,
    "pi/progan-mapping": _with(_PROGAN, mapping_order=2),
    "pi/style": _STYLE,
    "pi/style-ncp": _with(_STYLE, mapping="ncp", mapping_depth=4, mapping_rate=1.0),
    "pi/sngan": _SNGAN,
    "pi/sngan-ncp": _with(_SNGAN, kind="ncp"),
    "pi/sngan-prodpoly": _with(_SNGAN, kind="ncp", mapping_order=(2, 2), norm="none"),
    "pi/sngan-residual-poly": _with(_SNGAN, kind="residual-poly"),
    **_polynomial_pairs(),
}


def _bed() -> dict[str, Any]:
    plain = PixelClassifierConfig()
    found = {"bed/conv": plain, "bed/attention": replace(plain, graph="attention")}
    for name, (graph, delta) in _GRAPHS.items():
        bare = replace(plain, graph=graph, coordinates=False)
        with_coordinates = replace(bare, coordinates=True)
        found[f"bed/{name}-k{bare.k}"] = replace(with_coordinates, delta=delta)
        found[f"bed/{name}-k{bare.k}-bare"] = bare
        if delta is not None:
            found[f"bed/{name}-k{bare.k}-coordinates"] = with_coordinates
    return found


def _sparse() -> dict[str, SparseCodingClassifierConfig]:
    """A pursuit each, with the dictionaries for MNIST, and for CIFAR-10."""
    for_mnist = SparseCodingClassifierConfig()
    for_cifar = SparseCodingClassifierConfig(
        channels=(32, 64, 128), kernels=(4, 4, 4), strides=(2, 2, 2), padding=1,
        tail=(256, 512, 512),
    )  # fmt: skip
    return {
        f"sparse/{sizes}{method}": replace(
            config, method=method, unfoldings=0 if method == "layered" else 6
        )
        for method in ("layered", "ista", "fista", "lista", "basis-pursuit")
        for sizes, config in (("", for_mnist), ("cifar-", for_cifar))
    }


#: name -> config of a family of `polygraph.models.images.families.CLASSIFIERS`
CLASSIFIER_PRESETS: dict[str, Any] = {
    **_bed(),
    "lenet": LeNetConfig(),
    "spline/small-cnn": SplineCNNConfig(),
    "spline/large-cnn": SplineCNNConfig(body="large"),
    **_sparse(),
    **RESNETS,
}
