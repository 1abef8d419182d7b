"""Tensors of polynomial blocks: two independent ways, and the recursion itself."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from polygraph.analysis import (
    coefficient_tensors,
    derivative_tensors,
    khatri_rao,
    mode_product,
)
from polygraph.nn import (
    CCP,
    NCP,
    FirstOrder,
    NCPSkip,
    PiSigma,
    ProdPoly,
    RidgePolynomial,
    SelectVertices,
    Simple,
    SpiralConv,
)

SPIRAL = partial(SpiralConv, indices=torch.tensor([[0, 1], [1, 2], [2, 0]]))
BLOCKS = {
    "ccp": partial(CCP, rank=3),
    "ncp": NCP,
    "ncp-rank": partial(NCP, rank=3),
    "skip": NCPSkip,
    "skip-code": partial(NCPSkip, skip_first=False),
    "skip-rank": partial(NCPSkip, rank=3),
    "skip-linear": partial(NCPSkip, skip="linear"),
    "skip-plus-nested": partial(NCPSkip, skip="plus_nested"),
    "skip-plus-nested-rank": partial(NCPSkip, skip="plus_nested", rank=3),
    "omega": partial(NCP, rank=3, offset_rank=2),
    "simple": Simple,
    "pi-sigma": PiSigma,
    "ridge": RidgePolynomial,
}
PLAIN = ("pi-sigma", "ridge")  # without norms
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def randomized(block):
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block.double()


def made(name, factory, channels, order):
    torch.manual_seed(order)
    norm = {} if name in PLAIN else {"norm": "none"}
    return randomized(BLOCKS[name](factory, channels, channels, order, **norm))


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("name", BLOCKS)
def test_both_ways_and_the_recursion_agree(name, order):
    block = made(name, nn.Linear, 3, order)
    found, other = coefficient_tensors(block, (3,)), derivative_tensors(block, (3,), order)
    z = torch.randn(7, 3, dtype=torch.float64)
    for values in (found(z), found.symmetric()(z), other(z)):
        torch.testing.assert_close(values, block(z), **CLOSE)
    assert found.order == other.order == order
    for a, b in zip(found.symmetric().tensors, other.tensors, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("name", BLOCKS)
def test_over_spirals(name):
    block = made(name, SPIRAL, 2, 3)
    z = torch.randn(4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(coefficient_tensors(block, (3, 2))(z), block(z), **CLOSE)


def test_over_images():
    block = made("ncp-rank", partial(nn.Conv2d, kernel_size=3, padding=1), 2, 2)
    z = torch.randn(4, 2, 2, 2, dtype=torch.float64)
    found = coefficient_tensors(block, (2, 2, 2))
    assert found.tensors[2].shape == (2, 2, 2, 8, 8)
    torch.testing.assert_close(found(z), block(z), **CLOSE)


def test_ccp_by_its_matrix_form():
    """W of degree k unfolds to C times the sum of Khatri-Rao products of k of the factors."""
    block = made("ccp", nn.Linear, 3, 4)
    (first, *rest), scales = block.wide.weight.view(4, 3, 3), [n.scale for n in block.norms]
    rest = [scale[:, None] * u for scale, u in zip(scales, rest, strict=True)]
    found = coefficient_tensors(block, (3,)).symmetric()
    for degree in range(1, 5):
        unfolded = 0
        for chosen in itertools.combinations(rest, degree - 1):
            product = first.T
            for u in chosen:
                product = khatri_rao(u.T, product)
            unfolded = unfolded + product @ block.output.weight.T
        tensor = unfolded.T.reshape(3, *[3] * degree)
        orders = [
            tensor.permute(0, *(1 + i for i in order))
            for order in itertools.permutations(range(degree))
        ]
        torch.testing.assert_close(torch.stack(orders).mean(0), found.tensors[degree], **CLOSE)
    torch.testing.assert_close(block.output.bias, found.tensors[0])


def test_orders_multiply():
    blocks = [made("ncp", nn.Linear, 2, 2), made("ccp", nn.Linear, 2, 2)]
    block = ProdPoly(*blocks, randomized(FirstOrder(nn.Linear, 2, 2)))
    found = coefficient_tensors(block, (2,))
    assert found.order == 4
    z = torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(found(z), block(z), **CLOSE)
    torch.testing.assert_close(found.terms(z).sum(0), block(z), **CLOSE)


def test_a_block_on_some_vertices():
    keep = torch.tensor([0, 2])
    kept = partial(SpiralConv, indices=torch.tensor([[0, 1], [2, 0]]), num_sources=3)
    block = randomized(
        NCPSkip(SPIRAL, 2, 2, 3, norm="none", final_factory=kept, select=SelectVertices(keep, 3))
    )
    z = torch.randn(4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(coefficient_tensors(block, (3, 2))(z), block(z), **CLOSE)


def test_products_of_matrices_and_modes():
    a, b = torch.randn(2, 3, 5, dtype=torch.float64)
    x, y = torch.randn(2, 3, dtype=torch.float64)
    # The lemma of the papers.
    torch.testing.assert_close(khatri_rao(a, b).T @ torch.kron(x, y), (a.T @ x) * (b.T @ y))
    tensor = torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(mode_product(tensor, x, 1), torch.einsum("aib,i->ab", tensor, x))


def test_norms_are_those_of_symmetric_parts():
    """X y - y x is the zero polynomial, whatever its tensor."""
    block = made("ccp", nn.Linear, 3, 2)
    found = coefficient_tensors(block, (3,))
    assert float(found.norms()[2]) < float(found.tensors[2].norm())
    torch.testing.assert_close(found.symmetric().norms(), found.norms())


def test_operators_that_are_not_linear_are_noticed():
    """A ReLU inside of an operator, of which the block cannot know."""

    def bent(i, o, bias=True):
        return nn.Sequential(nn.Linear(i, o, bias), nn.LeakyReLU(0.5))

    block = randomized(CCP(bent, 3, 3, order=2, norm="none", layout="vectors"))
    with pytest.raises(ValueError, match="are its operators linear"):
        coefficient_tensors(block, (3,))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: khatri_rao(torch.ones(2, 3), torch.ones(2, 4)), ValueError, r"\[J, N\]"),
        (lambda: mode_product(torch.ones(2, 3), torch.ones(2), 2), ValueError, r"in \[0, 2\)"),
        (lambda: mode_product(torch.ones(2, 3), torch.ones(2), 1), ValueError, r"shape \[3\]"),
        (lambda: coefficient_tensors(nn.Linear(2, 2), (2,)), TypeError, "got Linear"),
        (
            lambda: coefficient_tensors(CCP(nn.Linear, 2, 2, norm="rms"), (2,)),
            ValueError,
            "norm 'none'",
        ),
        (
            lambda: coefficient_tensors(CCP(nn.Linear, 500, 2, 3, norm="none"), (500,)),
            ValueError,
            r"2 x 500\^3",
        ),
        (lambda: derivative_tensors(torch.exp, (500,), 3), ValueError, r"500 x 500\^3"),
        (lambda: derivative_tensors(torch.exp, (5,), 0), ValueError, "order must be"),
        (
            lambda: derivative_tensors(torch.square, (2,), 2)(torch.ones(2, 3)),
            ValueError,
            r"shape \[B, 2\]",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
