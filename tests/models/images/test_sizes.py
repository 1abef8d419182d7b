"""Networks of other sizes: every family, what of them stays, weights of before, bad sizes."""

from dataclasses import replace

import pytest
import torch
from support.tiny_gan import narrowed

from polygraph.models.images import (
    ConvCriticConfig,
    DeconvGeneratorConfig,
    GraphCriticConfig,
    GraphGeneratorConfig,
    GrowingCriticConfig,
    PolynomialGeneratorConfig,
    ProdPolyGeneratorConfig,
    ResidualCriticConfig,
    ResidualGeneratorConfig,
    StyleGeneratorConfig,
)
from polygraph.models.images.families import build
from polygraph.models.images.presets import PAIRS
from polygraph.models.images.sizes import at_size, halvings_to, sizes_of, strides_to

FAMILIES = (
    *("digits", "small/both-edge-k8", "small/attention", "small/ncp", "linear/prodpoly"),
    *("pi/prodpoly", "pi/sngan-prodpoly", "pi/dcgan", "pi/style", "pi/progan"),
)


def test_levels():
    assert sizes_of(32) == (4, 8, 16, 32)
    assert sizes_of(28) == (7, 14, 28)
    assert sizes_of(48) == (6, 12, 24, 48)
    assert [halvings_to(size, 8) for size in (8, 16, 28, 32, 48, 64)] == [1, 1, 2, 2, 3, 3]
    for size in (-4, 0, 3, 4, 7, 9, 36, 33):
        with pytest.raises(ValueError, match=f"power of two, such as 28, 32 or 64, got {size}"):
            sizes_of(size)


@pytest.mark.parametrize("size", [16, 28, 64])
@pytest.mark.parametrize("name", FAMILIES)
def test_pairs_of_every_family_fit_together(name, size):
    pair = PAIRS[name]
    if size == 28 and "linear" in name:
        with pytest.raises(ValueError, match="strides must be 1 or 2 and multiply to 28"):
            at_size(pair.generator, size)
        return
    generator, critic = (at_size(narrowed(network), size) for network in pair)
    assert at_size(generator, 32).size == 32
    assert at_size(generator, size) is generator
    with torch.no_grad():
        images = build(generator)(torch.randn(2, generator.latent_channels))
        assert images.shape == (2, 3, size, size)
        critic = build(critic)
        assert critic(images).shape == (2,)
        with pytest.raises(ValueError, match=rf"x must have shape \[B, 3, {size}, {size}\]"):
            critic(images[..., :-1])


def test_what_stays():
    """Features by level; graph layers at theirs; the last strides."""
    assert at_size(StyleGeneratorConfig(), 64).channels == (128, 128, 64, 32, 16)
    assert at_size(StyleGeneratorConfig(), 28).channels == (128, 128, 64)
    assert at_size(GrowingCriticConfig(), 64).channels == (16, 32, 64, 128, 128)
    assert at_size(ConvCriticConfig(), 16).channels == (128, 256)
    assert at_size(DeconvGeneratorConfig(channels=(4, 2, 1, 1)), 128).channels == (4, 2, 1, 1, 1, 1)
    assert at_size(GraphGeneratorConfig(graph="edge-sum"), 64).graph_sizes == (16, 32)
    assert at_size(GraphGeneratorConfig(graph="edge-sum"), 28).graph_sizes == (28,)
    assert at_size(GraphCriticConfig(graph="edge-sum"), 28).graph_sizes == (28,)
    assert at_size(ResidualGeneratorConfig(), 64).channels == 256
    larger = at_size(ProdPolyGeneratorConfig(), 64)
    assert larger.strides == (2, 1, 2, 1, 2, 1, 2, 2, 1, 2)
    assert larger.channels == ProdPolyGeneratorConfig().channels
    assert strides_to((2, 1, 2), 1) == (1, 1, 1)


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("decomposition", ["ncp", "prodpoly"])
def test_degrees(decomposition, size):
    """One order for each size: ``prodpoly`` has a factor for each, ``ncp`` N whatever the size."""
    config = PolynomialGeneratorConfig(decomposition, order=2, channels=(2, 2, 2, 2))
    generator = build(at_size(config, size))
    assert generator.degree == (2 if decomposition == "ncp" else 2 ** len(sizes_of(size)))


def test_critics_of_residual_blocks_end_at_8_or_less():
    for size, blocks in ((16, 3), (28, 4), (32, 4), (64, 5)):
        critic = build(ResidualCriticConfig(channels=2, size=size))
        assert len(critic.blocks) == blocks
        assert critic.blocks(torch.randn(1, 3, size, size)).shape[-1] in (7, 8)


def test_dcgan_at_64_as_published():
    """100 numbers to 4 x 4 x 1024, then 512, 256 and 128 features, 64 x 64 at the end."""
    generator = PAIRS["pi/dcgan-64"].generator
    assert (generator.latent_channels, generator.latent_distribution) == (100, "uniform")
    assert generator.channels[:4] == (1024, 512, 256, 128)
    with torch.device("meta"):
        built = build(generator)
        assert built.input.out_features == 4 * 4 * 1024
        assert built(torch.randn(2, 100)).shape == (2, 3, 64, 64)


#: Generator and critic as they were when there was one size.
PARAMETERS = {
    "small/both-edge-k8": (1_194_339, 289_081),
    "small/ncp-skip": (316_931, 167_649),
    "small/prodpoly": (356_595, 37_849),
    "pi/prodpoly": (14_192_131, 662_977),
    "pi/dcgan": (3_584_003, 663_745),
    "pi/progan": (846_444, 845_089),
    "pi/style": (1_044_643, 1_053_825),
    "pi/sngan-prodpoly": (4_508_419, 1_053_825),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_at_32(name):
    with torch.device("meta"):
        found = [sum(p.numel() for p in build(config).parameters()) for config in PAIRS[name]]
    assert tuple(found) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 36}, "generator: size must be 4, 5, 6 or 7 times"),
        ({"size": 64}, r"channels must be 5 numbers, got \[512, 256, 128, 64\], for size 64"),
        ({"size": 2.0}, "size must be an integer"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        replace(DeconvGeneratorConfig(), **change)


def test_bad_places_of_graph_layers():
    with pytest.raises(ValueError, match="graph_sizes must be of 16 and 32 and 64, got"):
        replace(at_size(GraphGeneratorConfig(), 64), graph_sizes=(8,))
    with pytest.raises(ValueError, match="size must be at least 16 for a graph layer, got 8"):
        at_size(GraphGeneratorConfig(graph="edge-sum"), 8)
    assert at_size(GraphGeneratorConfig(), 8).graph_sizes == ()
