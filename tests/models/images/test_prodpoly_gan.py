"""A generator of high degree: its formula, its degree in evaluation mode, published sizes."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv_transpose2d

from polygraph.analysis import check_degree, degree_templates
from polygraph.models.images.prodpoly_gan import ProdPolyGenerator, ProdPolyGeneratorConfig
from polygraph.models.images.sngan import ResidualGeneratorConfig
from polygraph.models.state import StateError, build_with

TINY = ProdPolyGeneratorConfig((1, 2), 4, 1, (3, 3, 4, 3, 3, 3), (2, 2, 2, 2, 2))


def test_formula():
    """h_n = (A_n w) * c_n(BN(h_{n-1})), w polynomials of z in succession."""
    torch.manual_seed(0)
    generator = ProdPolyGenerator(TINY).double()
    z = torch.rand(5, 4, dtype=torch.float64) * 2 - 1
    w = generator.mapping(z)
    h = generator.input(w)[:, :, None, None]
    for layer in generator.layers:
        h = batch_norm(h, None, None, layer.norm.weight, layer.norm.bias, training=True)
        h = conv_transpose2d(h, layer.conv.weight, layer.conv.bias, 2, 1)
        h = h * (w @ layer.latent.weight.T + layer.latent.bias)[:, :, None, None]
    torch.testing.assert_close(generator(z), generator.output(h).tanh())


def test_degree_in_evaluation_mode():
    """Six factors of degree 2: batch normalisation by running statistics is affine."""
    torch.manual_seed(0)
    generator = ProdPolyGenerator(TINY).double()
    generator(torch.randn(50, 4, dtype=torch.float64))
    generator.eval()
    with torch.no_grad():
        for layer in generator.layers:
            layer.latent.weight.normal_(0, 1)
    assert generator.degree == 12
    report = check_degree(generator.polynomial, (4,), 12)
    assert report, report.message
    x = torch.rand(2, 4, dtype=torch.float64)
    found = degree_templates(generator.polynomial, x, 12, outputs=[100])
    torch.testing.assert_close(found.terms.sum(0), generator.polynomial(x))


def test_published_sizes():
    """Eleven widths, ten layers, 1 x 1 to 32 x 32; degree 6 of vectors times eleven."""
    generator = ProdPolyGenerator(ProdPolyGeneratorConfig(out_channels=1))
    assert generator.degree == 66
    assert generator(torch.rand(2, 128) * 2 - 1).shape == (2, 1, 32, 32)
    assert [layer.conv.kernel_size[0] for layer in generator.layers] == [
        4, 3, 4, 3, 4, 3, 4, 4, 3, 3,
    ]  # fmt: skip
    assert [layer.conv.out_channels for layer in generator.layers] == [
        128, 128, 128, 256, 256, 256, 256, 128, 128, 64,
    ]  # fmt: skip
    wanted = 128 * 128 + 128
    widths = [128, 128, 128, 128, 256, 256, 256, 256, 128, 128, 64]
    kernels = [4, 3, 4, 3, 4, 3, 4, 4, 3, 3]
    for before, width, kernel in zip(widths, widths[1:], kernels, strict=False):
        wanted += 2 * before + before * width * kernel**2 + width + 128 * width + width
    wanted += 64 * 9 + 1
    body = sum(p.numel() for n, p in generator.named_parameters() if not n.startswith("mapping"))
    assert body == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": (2, 2, 2, 2, 1)}, "multiply to 32"),
        ({"strides": (4, 2, 2, 2, 1)}, "must be 1 or 2"),
        ({"channels": (3, 3)}, "one number more"),
        ({"orders": (1, 0)}, "orders must be"),
        ({"norm": "rms"}, "norm"),
        ({"out_channels": 2}, "1 or 3"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_starts_near_one():
    for layer in ProdPolyGenerator(TINY).layers:
        assert torch.equal(layer.latent.bias, torch.ones_like(layer.latent.bias))
        assert isinstance(layer.norm, nn.BatchNorm2d)


@pytest.mark.parametrize(
    "config",
    [
        replace(TINY, orders=(10**9, 2)),
        ResidualGeneratorConfig("ncp", 4, 1, 3, mapping_order=(2, 10**9), size=8),
        ResidualGeneratorConfig("ncp", 4, 1, 3, mapping_order=10**9, size=8),
    ],
)
def test_orders_of_a_file_are_bounded_by_its_weights(config):
    """Nothing is built of a file that promises more terms than it has weights."""

    def build():
        raise AssertionError("it was built")

    with pytest.raises(StateError, match="more than there are weights, 1"):
        build_with(build, config, {"weight": torch.zeros(1)})
