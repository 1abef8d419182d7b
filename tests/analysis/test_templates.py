"""Polynomial networks degree by degree."""

from functools import partial

import pytest
import torch
from torch import nn

from polygraph.analysis import coefficient_tensors, degree_templates
from polygraph.nn import CCP, NCP, ProdPoly, Simple, SpiralConv

CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def network(*orders, width=4):
    torch.manual_seed(0)
    blocks = (NCP(nn.Linear, width, width, order=order, norm="none") for order in orders)
    return ProdPoly(*blocks).double()


def test_terms_and_templates_are_those_of_the_tensors():
    block = CCP(nn.Linear, 4, 3, order=3, norm="none").double()
    x = torch.randn(5, 4, dtype=torch.float64)
    found, tensors = degree_templates(block, x, 3), coefficient_tensors(block, (4,)).symmetric()
    torch.testing.assert_close(found.terms, tensors.terms(x), **CLOSE)
    torch.testing.assert_close(
        found.templates[0], tensors.tensors[1].expand(5, 3, 4), **CLOSE
    )  # a linear part has one template
    cubic = torch.einsum("oijk,bj,bk->boi", tensors.tensors[3], x, x)
    torch.testing.assert_close(found.templates[2], cubic, **CLOSE)


@pytest.mark.parametrize("center", [0.0, 0.5])
def test_a_deep_network_is_the_sum_of_its_terms(center):
    net, x = network(2, 2, 2, 2), torch.randn(6, 4, dtype=torch.float64)
    found = degree_templates(net, x, 16, center=center)
    torch.testing.assert_close(found.terms.sum(0), net(x), **CLOSE)
    products = torch.einsum("nbki,bi->nbk", found.templates, x - center)
    torch.testing.assert_close(products, found.terms[1:], **CLOSE)
    torch.testing.assert_close(found.terms[0], net(torch.full_like(x, center)), **CLOSE)
    assert float(found.energy().sum()) == pytest.approx(1)


def test_a_higher_degree_than_the_network_has_adds_nothing():
    net, x = network(2), torch.randn(3, 4, dtype=torch.float64)
    found = degree_templates(net, x, 5)
    assert float(found.terms[3:].abs().max()) < 1e-12
    assert float(found.energy()[2:].max()) < 1e-12


def test_a_constant_has_no_energy():
    found = degree_templates(lambda x: 0 * x + 1, torch.randn(2, 3).double(), 2)
    assert found.energy().tolist() == [0, 0]


def test_images_vertices_and_chosen_outputs():
    net = nn.Sequential(
        Simple(partial(nn.Conv2d, kernel_size=3, padding=1), 1, 2, order=2, norm="none"),
        nn.BatchNorm2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    net = net.double().eval()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    found = degree_templates(net, x, 2, outputs=[2])
    assert found.templates.shape == (2, 2, 1, 1, 4, 4)
    values = found.terms[0, :, 2] + torch.einsum("nbkchw,bchw->b", found.templates, x)
    torch.testing.assert_close(values, net(x)[:, 2], **CLOSE)
    spirals = torch.tensor([[0, 1], [1, 2], [2, 0]])
    mesh = NCP(partial(SpiralConv, indices=spirals), 2, 2, order=2, norm="none").double()
    x = torch.randn(2, 3, 2)  # of another type: taken as float64
    found = degree_templates(mesh, x, 2, templates=False)
    assert found.templates is None
    torch.testing.assert_close(found.terms.sum(0), mesh(x.double()), **CLOSE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: degree_templates(network(2, 2), x, 3), "no polynomial of degree 3"),
        (lambda x: degree_templates(torch.tanh, x, 8), "no polynomial of degree 8"),
        (lambda x: degree_templates(network(2).float().forward, x.float(), 2), "dtype|float64"),
        (lambda x: degree_templates(network(2), x, 2, outputs=[4]), r"lie in \[0, 4\), got 4"),
        (lambda x: degree_templates(network(2), x[0], 2), r"\[B, \*in_shape\]"),
        (lambda x: degree_templates(lambda x: x.sum() * x[0, 0], x, 2), "must return float64"),
        (lambda x: degree_templates(network(2), x, 0), "degree must be"),
        (lambda x: degree_templates(lambda x: x / 0, x, 1), "no polynomial"),
    ],
)
def test_what_is_no_polynomial_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(3, 4, dtype=torch.float64))
