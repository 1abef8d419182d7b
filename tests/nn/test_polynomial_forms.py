"""The forms of NCP-Skip, factored constants, products of related work: a few dense lines each."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from polygraph import ops
from polygraph.analysis import check_degree
from polygraph.nn import (
    CCP,
    LAYOUTS,
    NCP,
    DensePolynomial,
    EdgeConv,
    NCPSkip,
    NNConv,
    OnGraph,
    PiSigma,
    RidgePolynomial,
    SecondOrderNorm,
    SelectVertices,
    Simple,
    SpiralConv,
    polynomial_step,
)
from polygraph.nn import block as block_module

CLOSE = {"rtol": 1e-11, "atol": 1e-12}
EDGES = torch.tensor([[0, 1, 2, 3, 0, 2], [1, 2, 3, 0, 2, 1]])
LABELS = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SPIRALS = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])
SPIRAL = partial(SpiralConv, indices=SPIRALS)


def edge_conv(i, o, bias=True):
    return OnGraph(EdgeConv(nn.Linear(2 * i, o, bias), "add"), EDGES)


def ecc(i, o, bias=True):
    conv = NNConv(i, o, nn.Linear(2, i * o), aggr="mean", root_weight=False, bias=bias)
    return OnGraph(conv, EDGES, LABELS)


OPERATORS = {
    "linear": (nn.Linear, (3,)),
    "conv2d": (partial(nn.Conv2d, kernel_size=3, padding=1), (3, 2, 2)),
    "spiral": (SPIRAL, (4, 3)),
    "edge_conv": (edge_conv, (4, 3)),
    "ecc": (ecc, (4, 3)),
}
FORMS = {
    "ncp": NCP,
    "omega": partial(NCP, rank=3, offset_rank=2),
    "identity": NCPSkip,
    "linear": partial(NCPSkip, skip="linear"),
    "linear-rank": partial(NCPSkip, skip="linear", rank=3),
    "plus-nested": partial(NCPSkip, skip="plus_nested"),
    "plus-nested-rank": partial(NCPSkip, skip="plus_nested", rank=3),
}
PRODUCTS = {"pi-sigma": PiSigma, "ridge": RidgePolynomial}


def randomized(block):
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block.double()


def sample(*shape):
    return torch.randn(2, *shape, dtype=torch.float64)


def scales(block):
    return [norm.scale for norm in block.norms]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("skip", ["linear", "plus_nested"])
def test_layer_form(skip, channels):
    """x_n = (A_n x) * (S_n x_{n-1}) + A_n x + V_n x_{n-1}, products scaled."""
    block = randomized(NCPSkip(nn.Linear, 3, channels, 3, skip=skip, norm="none"))
    x = sample(3)
    a2, s2, a3 = block.wide.weight.view(3, channels, 3)
    (s3,) = block.nested
    one, two = scales(block)
    same = torch.eye(3, dtype=torch.float64) if channels == 3 else 0
    if skip == "linear":
        v2, v3 = (operator.weight for operator in block.skips)
    else:
        v2, v3 = s2 + same, s3.weight + torch.eye(channels, dtype=torch.float64)
    x2 = one * (x @ a2.T) * (x @ s2.T) + x @ a2.T + x @ v2.T
    x3 = two * (x @ a3.T) * s3(x2) + x @ a3.T + x2 @ v3.T
    torch.testing.assert_close(block(x), x3 + block.beta, **CLOSE)


@pytest.mark.parametrize("skip", ["linear", "plus_nested"])
def test_form_with_a_rank(skip):
    """x_n = (A_n z) * (S_n x_{n-1} + b_n) + V_n x_{n-1}."""
    block = randomized(NCPSkip(nn.Linear, 3, 2, 3, rank=4, skip=skip, norm="none"))
    z = sample(3)
    x1, a2, a3 = block.wide(z).chunk(3, 1)
    x = x1
    for n, a in enumerate((a2, a3)):
        s = block.nested[n].weight
        v = block.skips[n].weight if skip == "linear" else s + torch.eye(4, dtype=torch.float64)
        b = 1 + block.offsets[n]
        x = a * (scales(block)[n] * (x @ s.T) + b) + x @ v.T
    torch.testing.assert_close(block(z), block.output(x), **CLOSE)


def test_factored_constants():
    """b_n is B_nᵀ b_n, of ω numbers and ω x k; it starts at one."""
    block = NCP(nn.Linear, 3, 2, order=3, rank=4, offset_rank=5, norm="none")
    for n in range(2):
        torch.testing.assert_close(block.added_offset(n), torch.zeros(4))
    assert sum(p.numel() for p in block.parameters()) == (
        3 * 3 * 4 + 2 * 4 * 4 + 2 * (5 + 5 * 4) + 2 * 4 + 4 * 2 + 2
    )
    block = randomized(block)
    z = sample(3)
    x, a2, a3 = block.wide(z).chunk(3, 1)
    for n, a in enumerate((a2, a3)):
        b = block.offset_factors[n].T @ block.offsets[n]
        x = a * (scales(block)[n] * block.nested[n](x) + b)
    torch.testing.assert_close(block(z), block.output(x), **CLOSE)
    block.reset_parameters()
    torch.testing.assert_close(block.added_offset(1), torch.zeros(4, dtype=torch.float64))


def test_plus_nested_has_the_parameters_of_identity_and_linear_more():
    def count(skip):
        block = NCPSkip(nn.Linear, 5, 5, order=4, skip=skip)
        return sum(p.numel() for p in block.parameters())

    assert count("plus_nested") == count("identity")
    assert count("linear") == count("identity") + 3 * 25


def test_a_learned_skip_where_positions_are_dropped():
    keep = torch.tensor([0, 2])
    kept = partial(SpiralConv, indices=SPIRALS[keep], num_sources=4)
    x = sample(4, 3)
    linear = randomized(NCPSkip(SPIRAL, 3, 5, 3, skip="linear", final_factory=kept, norm="none"))
    assert linear(x).shape == (2, 2, 5)
    full = NCPSkip(SPIRAL, 3, 5, 3, skip="plus_nested", norm="none")
    short = NCPSkip(
        SPIRAL, 3, 5, 3,
        skip="plus_nested", norm="none", final_factory=kept, select=SelectVertices(keep, 4),
    )  # fmt: skip
    randomized(full), randomized(short)
    wide = full.wide.weight
    short.wide.weight.data, short.final.weight.data = wide[:10].clone(), wide[10:].clone()
    for a, b in zip(short.nested, full.nested, strict=True):
        a.weight.data = b.weight.data
    for a, b in zip(short.norms, full.norms, strict=True):
        a.scale.data = b.scale.data
    short.beta.data = full.beta.data
    torch.testing.assert_close(short(x), full(x)[:, keep], **CLOSE)


@pytest.mark.parametrize("form", [*FORMS, *PRODUCTS])
@pytest.mark.parametrize("operator", OPERATORS)
def test_degree_and_second_derivatives(operator, form):
    factory, shape = OPERATORS[operator]
    norm = {} if form in PRODUCTS else {"norm": "none"}
    block = {**FORMS, **PRODUCTS}[form](factory, 3, 3, order=3, **norm).double()
    assert block.degree == 3
    report = check_degree(block, shape, 3)
    assert report, report.message
    x = sample(*shape).requires_grad_()
    assert torch.autograd.gradgradcheck(block, x, fast_mode=True)


def test_pi_sigma_and_ridge():
    z = sample(3)
    block = randomized(PiSigma(nn.Linear, 3, 2, order=3))
    a, b, c = block.operator(z).chunk(3, 1)
    torch.testing.assert_close(block(z), a * b * c, **CLOSE)
    ridge = randomized(RidgePolynomial(nn.Linear, 3, 2, order=3))
    torch.testing.assert_close(ridge(z), sum(part(z) for part in ridge.parts), **CLOSE)
    assert [part.order for part in ridge.parts] == [1, 2, 3]


def test_dense_polynomial():
    block = randomized(DensePolynomial(3, 2, order=3))
    z = sample(3)
    one, two, three = block.weights
    wanted = block.beta + z @ one.T + torch.einsum("oij,bi,bj->bo", two, z, z)
    wanted = wanted + torch.einsum("oijk,bi,bj,bk->bo", three, z, z, z)
    torch.testing.assert_close(block(z), wanted, **CLOSE)
    assert block.degree == 3
    assert check_degree(block, (3,), 3)
    torch.manual_seed(0)
    fresh = DensePolynomial(16, 8, order=3)
    for n, weight in enumerate(fresh.weights, 1):
        assert weight.std().item() == pytest.approx(16 ** (-n / 2) / math.factorial(n), rel=0.2)


def test_tanh():
    norm, t = SecondOrderNorm(3, "tanh", initial_scale=0.5), torch.randn(2, 4, 3) * 10
    torch.testing.assert_close(norm(t), 0.5 * t.tanh())
    assert NCP(nn.Linear, 3, 3, norm="tanh").degree is None


@pytest.mark.parametrize("norm", ["rms", "none"])
@pytest.mark.parametrize("form", ["ncp", "ncp-rank", "skip", "simple", "ccp"])
def test_images_take_the_fused_step(form, norm, monkeypatch):
    """Channels first in memory or last: the values and gradients of the composed step."""
    conv = partial(nn.Conv2d, kernel_size=3, padding=1)
    forms = {"ncp-rank": partial(NCP, rank=4), "skip": NCPSkip, "simple": Simple, "ccp": CCP}
    block = randomized(forms.get(form, NCP)(conv, 3, 3, order=3, norm=norm, activation="elu"))
    fused = []
    plain = ops.poly_step
    monkeypatch.setattr(ops, "poly_step", lambda *args, **kw: fused.append(1) or plain(*args, **kw))
    found = []
    first, last = torch.contiguous_format, torch.channels_last
    for layout, steps in ((first, 0), (first, 2), (last, 2)):
        fused.clear()
        monkeypatch.setattr(block_module, "_of_one_shape", lambda *_, n=steps: n > 0)
        torch.manual_seed(1)
        x = sample(3, 5, 4).to(memory_format=layout).requires_grad_()
        out = block.to(memory_format=layout)(x)
        (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        found.append((out, gradient, *torch.autograd.grad(gradient.sum(), block.parameters())))
        assert len(fused) == steps
        for one, other in zip(found[0], found[-1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        assert out.is_contiguous(memory_format=last if steps else first)


def test_images_whose_factors_broadcast_are_composed():
    """A number per feature, as A_n z of generators has: the same in both orders of memory."""
    norm = SecondOrderNorm(3, "rms", LAYOUTS["images"]).double()
    a, s, skip = sample(3, 5, 4), sample(3, 1, 1), torch.randn(3, 1, 1, dtype=torch.float64)
    last = a.to(memory_format=torch.channels_last)
    for given in ({"s": s}, {"s": a.flip(0), "skip": skip}):
        plain = polynomial_step(norm, a, **given)
        torch.testing.assert_close(polynomial_step(norm, last, **given), plain, **CLOSE)


def test_repr_says_what_is_special():
    assert repr(NCPSkip(SPIRAL, 3, 3, skip="linear")).endswith("skip='linear')")
    assert "skip=" not in repr(NCPSkip(SPIRAL, 3, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCPSkip(SPIRAL, 3, 3, skip="lineal"), "did you mean 'linear'"),
        (lambda: NCPSkip(SPIRAL, 3, 3, skip="linear", select=nn.Identity()), "whose operators"),
        (lambda: NCP(nn.Linear, 3, 3, offset_rank=2), "with a rank"),
        (lambda: NCP(nn.Linear, 3, 3, rank=2, offset_rank=0), "offset_rank must be"),
        (lambda: DensePolynomial(100, 1, 4), r"1 x 100\^4 weights"),
        (lambda: DensePolynomial(3, 2)(torch.ones(2, 4)), r"shape \[B, 3\]"),
        (lambda: DensePolynomial(3, 2)(torch.ones(2, 3).double()), "float"),
        (lambda: PiSigma(nn.Linear, 3, 3, order=0), "order must be"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
