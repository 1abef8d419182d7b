"""Generators of the Π-net papers: exact degrees, shapes, published sizes, bad settings."""

import copy
from dataclasses import replace

import pytest
import torch
from support.tiny_gan import narrowed
from torch import nn

from polygraph.analysis import check_degree
from polygraph.models.images._mapping import PRODUCT_NORMS
from polygraph.models.images.dcgan import (
    ConvCritic,
    ConvCriticConfig,
    DeconvGenerator,
    DeconvGeneratorConfig,
)
from polygraph.models.images.families import GENERATORS, build, config_of
from polygraph.models.images.latent import draw_latent
from polygraph.models.images.polynomial_gan import (
    BODIES,
    DECOMPOSITIONS,
    PolynomialGenerator,
    PolynomialGeneratorConfig,
    _Up,
)
from polygraph.models.images.presets import PAIRS
from polygraph.models.images.sizes import at_size
from polygraph.models.images.sngan import (
    RESIDUAL_KINDS,
    ResidualCritic,
    ResidualCriticConfig,
    ResidualGenerator,
    ResidualGeneratorConfig,
)

TINY = PolynomialGeneratorConfig(latent_channels=4, channels=(5, 4, 3, 3))


def enlarged(generator):
    """With weights of which no order is lost in rounding."""
    torch.manual_seed(1)
    generator.double()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(1.0)
            elif parameter.dim() > 1 and parameter.numel():
                fan = parameter[0].numel() if parameter.dim() == 2 else parameter.shape[1]
                parameter.normal_(0, fan**-0.5)
    return generator


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("decomposition", "order", "degree"),
    [
        *((name, order, order) for name in ("ccp", "ncp", "ncp-skip") for order in (1, 2, 4, 6)),
        ("prodpoly", 1, 1),
        ("prodpoly", 2, 16),
    ],
)
def test_is_polynomial_of_its_degree(decomposition, order, degree, body):
    """Along lines the next finite difference vanishes, and the one before does not."""
    config = replace(TINY, decomposition=decomposition, order=order, body=body)
    generator = enlarged(PolynomialGenerator(config))
    assert generator.degree == degree
    report = check_degree(generator.polynomial, (4,), degree)
    assert report, report.message
    z = torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(generator(z), generator.polynomial(z).tanh())


@pytest.mark.parametrize("name", ["ccp", "ncp", "ncp-skip", "prodpoly"])
def test_linear_generation_is_exact_in_evaluation_mode(name):
    """The presets side by side: batch normalisation by running statistics is affine."""
    torch.manual_seed(0)
    generator = build(at_size(narrowed(PAIRS[f"linear/{name}"].generator), 8)).double()
    with torch.no_grad():
        generator(draw_latent(50, generator.config, dtype=torch.float64))
    generator.eval()
    assert generator.degree == (22 if name == "prodpoly" else 8)
    report = check_degree(generator.polynomial, (5,), generator.degree, lines=1)
    assert report, report.message


@pytest.mark.parametrize("name", ["ccp", "ncp", "ncp-skip", "prodpoly"])
def test_linear_generation_begins_with_contrast(name):
    """Before the tanh pictures are neither flat nor saturated, and z decides what they are.

    By PyTorch's initial weights those of `ccp` have a deviation of 0.04.
    """
    torch.manual_seed(0)
    config = PAIRS[f"linear/{name}"].generator
    values = build(config).polynomial(draw_latent(64, config))
    assert 0.3 < float(values.std()) < 1.2
    assert float(values.std(0).mean()) > 0.8 * float(values.std())


@pytest.mark.parametrize("body", BODIES)
def test_maps_between_sizes_keep_the_size_of_features(body):
    torch.manual_seed(0)
    up = _Up(body, 48, 32)
    values = up(torch.randn(32, 48, 8, 8))[:, :, 2:-2, 2:-2]  # without the border
    assert 0.85 < float(values.std()) < 1.15


def test_what_is_constant_in_ncp_reaches_the_picture():
    """A constant added to the first features moves the mean over z of the pictures.

    Not as much as each of them, for every product has a deviation over z.
    """
    torch.manual_seed(0)
    config = replace(PAIRS["linear/ncp"].generator, norm="none")
    generator = build(config)
    z = draw_latent(512, config)
    with torch.no_grad():
        before = generator.polynomial(z)
        generator.input.bias += 1
        moved = generator.polynomial(z) - before
    assert float(moved.mean(0).norm()) > 0.25 * float(moved.square().mean(0).sum().sqrt())


def test_mapping_multiplies_the_degree():
    """An NCP of order 2 before one of order 3."""
    generator = enlarged(PolynomialGenerator(replace(TINY, mapping_order=2, order=3)))
    assert generator.degree == 6
    report = check_degree(generator.polynomial, (4,), 6)
    assert report, report.message


@pytest.mark.parametrize("norm", [n for n in PRODUCT_NORMS if n != "none"])
@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
def test_normalised_forms(decomposition, norm):
    """Images that depend on z; no degree is promised but where evaluation is affine."""
    torch.manual_seed(0)
    generator = PolynomialGenerator(replace(TINY, decomposition=decomposition, norm=norm))
    assert (generator.degree is None) == (norm != "batch_channel")
    z = torch.randn(3, 4)
    values, images = generator.polynomial(z), generator(z)
    assert images.shape == (3, 3, 32, 32)
    # At most 1, which float32's tanh rounds to from 9 on: the products of prodpoly with
    # batch_channel, whose scale starts at 1 and not at 0.1, have entries beyond it.
    assert images.abs().max() <= 1
    assert torch.isfinite(values).all()
    assert (values - values[:1]).abs().amax((1, 2, 3))[1:].min() > 1e-5


@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
@pytest.mark.parametrize("mapping", [0, 2, (2, 3)])
def test_residual_generator(kind, mapping):
    """Grey images of the right size, with a mapping network and without."""
    torch.manual_seed(0)
    config = ResidualGeneratorConfig(kind, 6, 1, 5, mapping_order=mapping)
    assert ResidualGenerator(config)(torch.randn(2, 6)).shape == (2, 1, 32, 32)


def test_residual_kinds_differ_from_plain_by_their_products():
    """A z = 1 and b = 0, or a scale of 0: the plain generator."""
    torch.manual_seed(0)
    config = ResidualGeneratorConfig(latent_channels=6, channels=5)
    plain = ResidualGenerator(config)
    z = torch.randn(2, 6)
    for kind in ("ncp", "residual-poly"):
        other = ResidualGenerator(replace(config, kind=kind))
        missing = other.load_state_dict(plain.state_dict(), strict=False)
        assert not missing.unexpected_keys
        assert missing.missing_keys
        assert not torch.allclose(other(z), plain(z), atol=1e-3)
        with torch.no_grad():
            for layer in other.latent:
                layer.weight.zero_()
            for norm in other.norms:
                norm.scale.zero_()
        torch.testing.assert_close(other(z), plain(z))


def test_ncp_of_residual_blocks_by_its_formula():
    """x_n = (A_n z) * (S_n x_{n-1} + b_n); its product with polynomials of z."""
    torch.manual_seed(0)
    config = ResidualGeneratorConfig("ncp", 6, 1, 5, norm="none", mapping_order=(2, 2))
    generator = ResidualGenerator(config).double()
    z = torch.randn(2, 6, dtype=torch.float64)
    x = generator.input(w := generator.mapping(z)).view(2, 5, 4, 4)
    assert (generator.mapping.order, generator.mapping.degree) == (4, 4)
    for n, block in enumerate(generator.blocks):
        nn.init.normal_(generator.constants[n])
        a = w @ generator.latent[n].weight.T + generator.latent[n].bias
        x = a[:, :, None, None] * (sum(block(x)) + generator.constants[n][:, None, None])
    # The running statistics of training are not those of evaluation: both passes train.
    torch.testing.assert_close(generator(z), generator.output(x))


def test_ncp_begins_as_sngan():
    """A_n z is 1 on average, b_n is 0."""
    config = ResidualGeneratorConfig("ncp", 6, 1, 5)
    generator = ResidualGenerator(config)
    for linear, constant in zip(generator.latent, generator.constants, strict=True):
        assert torch.equal(linear.bias, torch.ones(5))
        assert torch.equal(constant, torch.zeros(5))
    plain = sum(p.numel() for p in ResidualGenerator(replace(config, kind="plain")).parameters())
    assert sum(p.numel() for p in generator.parameters()) == plain + 3 * (6 * 5 + 5 + 5)


def test_old_checkpoints_of_residual_generators():
    """The block that was called prodpoly has a name of its own; the NCP of before is refused."""
    old = {"latent_channels": 6, "out_channels": 1, "channels": 5, "norm": "rms"}
    found = config_of(GENERATORS, "residual", old | {"kind": "prodpoly"})
    assert found.kind == "residual-poly"
    assert config_of(GENERATORS, "residual", old | {"kind": "plain"}).kind == "plain"
    with pytest.raises(ValueError, match="b_n outside of the product"):
        config_of(GENERATORS, "residual", old | {"kind": "ncp"})
    with pytest.raises(ValueError, match="'residual-poly' now"):
        ResidualGeneratorConfig("prodpoly")


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_latent_vectors_of_both_distributions(kind):
    config = ResidualGeneratorConfig(latent_channels=500, latent_distribution=kind)
    z = draw_latent(40, config, generator=torch.Generator().manual_seed(0))
    assert z.shape == (40, 500)
    assert float(z.std()) == pytest.approx(1 if kind == "normal" else 3**-0.5, rel=0.02)
    assert (float(z.abs().max()) <= 1) == (kind == "uniform")
    with pytest.raises(ValueError, match="latent_distribution"):
        replace(config, latent_distribution="unifrom")


def test_published_sizes():
    """SNGAN's pair: the parameters of the layers in the paper's table, counted by hand."""
    block = 2 * (256 * 256 * 9 + 256) + (256 * 256 + 256) + 2 * 2 * 256
    wanted = (128 * 4096 + 4096) + 3 * block + 2 * 256 + (256 * 27 + 3)
    assert sum(p.numel() for p in build(ResidualGeneratorConfig()).parameters()) == wanted
    square, first = 128 * 128 * 9 + 128, 3 * 128 * 9 + 128
    wanted = first + square + (3 * 128 + 128) + 2 * square + (128 * 128 + 128) + 4 * square + 129
    assert sum(p.numel() for p in build(ResidualCriticConfig()).parameters()) == wanted


@pytest.mark.parametrize("spectral", [False, True])
def test_critics(spectral):
    """A number per image; with spectral normalisation no weight stretches more than by 1."""
    torch.manual_seed(0)
    x = torch.randn(3, 1, 32, 32)
    critics = (
        ResidualCritic(ResidualCriticConfig(1, 4, spectral)),
        ConvCritic(ConvCriticConfig(1, (3, 4, 5), not spectral, spectral)),
    )
    for critic in critics:
        for _ in range(30):  # power iterations
            assert critic(x).shape == (3,)
        if spectral:
            assert critic.output.weight.detach().norm() == pytest.approx(1, abs=1e-4)
            convs = [m for m in critic.modules() if isinstance(m, torch.nn.Conv2d)]
            for conv in convs:
                assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2) < 1.05


def test_spectral_norm_compiles():
    """Power iterations are part of the graph."""
    critic = ResidualCritic(ResidualCriticConfig(1, 4))
    torch.compiler.reset()
    x = torch.randn(2, 1, 32, 32)
    compiled = torch.compile(critic.eval(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), critic(x))
    twin = copy.deepcopy(critic.train())
    compiled = torch.compile(critic, fullgraph=True, backend="aot_eager")
    for _ in range(2):  # each call moves the singular vectors, which are buffers
        torch.testing.assert_close(compiled(x), twin(x))
    for one, other in zip(critic.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_deconv_generator():
    generator = DeconvGenerator(DeconvGeneratorConfig(6, 1, (6, 5, 4, 3)))
    assert generator(torch.randn(2, 6)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (PolynomialGeneratorConfig, {"decomposition": "npc"}, "did you mean 'ncp'"),
        (PolynomialGeneratorConfig, {"body": "resnet"}, "body must be one of dcgan, sngan"),
        (PolynomialGeneratorConfig, {"order": 0}, "order must be a positive integer"),
        (PolynomialGeneratorConfig, {"norm": "batch"}, "norm must be one of"),
        (PolynomialGeneratorConfig, {"mapping_order": -1}, "mapping_order must be 0 or more"),
        (PolynomialGeneratorConfig, {"channels": (1,)}, "channels must be 4 numbers"),
        (ResidualGeneratorConfig, {"kind": "plane"}, "did you mean 'plain'"),
        (ResidualGeneratorConfig, {"out_channels": 4}, "out_channels must be 1 or 3"),
        (DeconvGeneratorConfig, {"channels": (1, 2)}, "channels must be 4 numbers"),
        (ResidualCriticConfig, {"channels": 0}, "channels must be a positive integer"),
        (ConvCriticConfig, {"spectral_norm": True}, "exclude each other"),
    ],
)
def test_bad_settings(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)
