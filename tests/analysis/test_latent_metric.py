"""The metric of a decoder against formulas and autograd, and geodesics that are known."""

import math

import pytest
import torch
from support.mesh_shapes import grid

from polygraph.analysis import LatentMetric, decoder_degree
from polygraph.mesh import build_hierarchy
from polygraph.models import MeshAutoencoder, MeshAutoencoderConfig

TIGHT = {"rtol": 1e-9, "atol": 1e-10}


def mesh_model(**settings):
    hierarchy = build_hierarchy(*grid(5, 6), factors=(2, 2))
    torch.manual_seed(0)
    config = MeshAutoencoderConfig((4, 4), (4, 4, 3), latent_channels=3, **settings)
    return MeshAutoencoder(config, hierarchy)


def parabola(z):
    """``[B, 1]`` to one vertex on a parabola."""
    return torch.stack([z[:, 0], z[:, 0] ** 2, 0 * z[:, 0]], 1)[:, None]


def cylinder(z):
    """Angle and height to one vertex: a flat surface, whose geodesics are straight in them."""
    return torch.stack([z[:, 0].cos(), z[:, 0].sin(), z[:, 1]], 1)[:, None]


@pytest.mark.parametrize("block", ["first_order", "simple", "full", "skip"])
def test_a_polynomial_decoder_has_its_jacobian_in_closed_form(block):
    model = mesh_model(block=block, activation="none", norm="none", variational=True)
    degree = 1 if block == "first_order" else 4
    assert decoder_degree(model) == degree
    closed, z = LatentMetric(model, unit=1000.0), torch.tensor([0.3, -1.0, 0.7])
    assert closed.degree == degree
    double = model.double().eval()
    found = torch.autograd.functional.jacobian(lambda z: double.decode(z[None])[0], z.double())
    scaled = found.flatten(0, 1) * 1000 / math.sqrt(model.num_vertices)
    torch.testing.assert_close(closed.jacobian(z), scaled, **TIGHT)
    torch.testing.assert_close(closed.tensor(z), scaled.T @ scaled, rtol=1e-8, atol=1e-8)


def test_other_decoders_go_through_autograd():
    model = mesh_model(block="full")
    assert decoder_degree(model) is None
    metric, z = LatentMetric(model), torch.tensor([0.3, -1.0, 0.7])
    assert "autograd" in repr(metric)
    double = model.double().eval()
    found = torch.autograd.functional.jacobian(lambda z: double.decode(z[None])[0], z.double())
    scaled = found.flatten(0, 1) / math.sqrt(model.num_vertices)
    torch.testing.assert_close(metric.jacobian(z), scaled, **TIGHT)


def test_a_flat_decoder_has_straight_geodesics():
    torch.manual_seed(0)
    matrix = torch.randn(3, 30, dtype=torch.float64)
    metric = LatentMetric(lambda z: (z @ matrix).view(-1, 10, 3), degree=1)
    a, b = torch.randn(2, 3, dtype=torch.float64)
    way = metric.geodesic(a, b, 5)
    exact = float(((b - a) @ matrix).norm()) / math.sqrt(10)
    assert way.length == pytest.approx(exact, rel=1e-9)
    assert way.straight_length == pytest.approx(exact, rel=1e-9)
    straight = torch.lerp(a, b, torch.linspace(0, 1, 5).double()[:, None])
    torch.testing.assert_close(way.codes, straight, rtol=1e-5, atol=1e-5)
    assert way.exact
    way = LatentMetric(cylinder).geodesic(torch.zeros(2), torch.tensor([2.0, 1.0]))
    assert way.length == pytest.approx(math.hypot(2, 1), rel=1e-8)
    assert not way.exact


def test_energies_and_lengths_of_a_parabola_are_its_arc():
    """The arc of x², from 0 to 2; at constant speed the energy is the squared length."""
    arc = 0.5 * 2 * math.sqrt(17) + math.asinh(4) / 4
    metric, a, b = LatentMetric(parabola, degree=2), torch.zeros(1), torch.full((1,), 2.0)
    straight = metric.geodesic(a, b, bends=0)
    assert straight.energy == pytest.approx(4 * (1 + 16 / 3), rel=1e-12)  # 4 ∫ 1 + 4 (2t)²
    way = metric.geodesic(a, b, bends=4)
    assert way.exact
    assert way.length == pytest.approx(arc, rel=1e-3)
    assert way.energy == pytest.approx(arc**2, rel=1e-3)
    assert straight.energy > way.energy >= way.length**2 - 1e-9
    steps = torch.linalg.vector_norm(parabola(way.codes)[:, 0].diff(dim=0), dim=1)
    assert float(steps.max() / steps.min()) < 1.3


def test_a_geodesic_of_a_mesh_decoder_is_shorter_than_the_line():
    model = mesh_model(block="full", activation="none", norm="none")
    with torch.no_grad():
        model.from_latent.weight.mul_(4)
    a, b = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)) * 2
    way = LatentMetric(model).geodesic(a, b, 7)
    assert way.exact
    assert way.length < way.straight_length
    torch.testing.assert_close(way.codes[0], a.double())
    torch.testing.assert_close(way.codes[-1], b.double())
    again = LatentMetric(model, unit=1000.0).geodesic(a, b, 7)
    assert again.straight_length == pytest.approx(1000 * way.straight_length, rel=1e-9)


def test_what_cannot_be_measured_is_refused():
    metric = LatentMetric(parabola, degree=2)
    with pytest.raises(ValueError, match="z must be a finite code"):
        metric.tensor(torch.full((1,), float("nan")))
    with pytest.raises(ValueError, match="start and end must have one length"):
        metric.geodesic(torch.zeros(1), torch.zeros(2))
    with pytest.raises(ValueError, match="points be at least 2"):
        metric.geodesic(torch.zeros(1), torch.zeros(1), 1)
    with pytest.raises(ValueError, match="degree"):
        LatentMetric(parabola, degree=0)
    with pytest.raises(ValueError, match="unit must be positive"):
        LatentMetric(parabola, unit=0.0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        LatentMetric(lambda z: z[:, None] / 0).tensor(torch.zeros(3))
    still = metric.geodesic(torch.ones(1), torch.ones(1))
    assert still.length == pytest.approx(0.0, abs=1e-12)
