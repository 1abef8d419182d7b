"""Polynomial blocks: their recursions written out, their degree, their fused and reduced forms."""

from functools import partial
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from support.layer_calls import Case
from support.layer_contract import LayerContract
from torch import nn

from polygraph.analysis import check_degree
from polygraph.nn import (
    CCP,
    NCP,
    DensePolynomial,
    FirstOrder,
    NCPSkip,
    PiSigma,
    ProdPoly,
    RidgePolynomial,
    SelectVertices,
    Simple,
    SpiralConv,
)

torch.manual_seed(0)
SPIRALS = torch.randint(-1, 10, (10, 4))
KEEP = torch.tensor([1, 4, 9])
SPIRAL = partial(SpiralConv, indices=SPIRALS)
KEPT_SPIRAL = partial(SpiralConv, indices=SPIRALS[KEEP], num_sources=10)
OPERATORS = {  # factory, shape of a sample with 4 channels
    "linear": (nn.Linear, (4,)),
    "conv2d": (partial(nn.Conv2d, kernel_size=3, padding=1), (4, 5, 3)),
    "spiral": (SPIRAL, (10, 4)),
}
BLOCKS = {
    "ccp": CCP,
    "ncp": NCP,
    "skip": NCPSkip,
    "ncp-rank": partial(NCP, rank=3),
    "skip-rank": partial(NCPSkip, rank=3),
    "skip-code": partial(NCPSkip, skip_first=False),
    "skip-code-rank": partial(NCPSkip, rank=3, skip_first=False),
    "simple": Simple,
}
# float64, sums of a few hundred terms in another order
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def randomize(block):
    """Give every parameter, also those that start at a constant, a value of its own."""
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block.double()


def sample(shape, batch=2):
    return torch.randn(batch, *shape, dtype=torch.float64)


def rows(operator, part, width):
    """A copy of ``operator`` with the given part of its output channels."""
    single = randomize(SpiralConv(operator.in_channels, width, operator.indices, bias=False))
    single.weight.data = operator.weight.data[part * width : (part + 1) * width]
    return single


CODE_SKIP = partial(NCPSkip, skip_first=False)
NESTED = pytest.mark.parametrize(
    ("kind", "skips", "skips_first"),
    [(NCP, False, False), (NCPSkip, True, True), (CODE_SKIP, True, False)],
    ids=["NCP", "NCPSkip", "NCPSkip of the public code"],
)


@NESTED
@pytest.mark.parametrize("out_channels", [4, 3])
def test_ncp_layer_form(kind, skips, skips_first, out_channels):
    block = randomize(kind(SPIRAL, 4, out_channels, order=4, activation="elu"))
    x = sample((10, 4))
    a2, s2, a3, a4 = (rows(block.wide, part, out_channels) for part in range(4))
    s3, s4 = block.nested

    def norm(n, t):
        scale = block.norms[n].scale
        return scale * t / (1 + (t**2).mean(1, keepdim=True)).sqrt()

    x2 = norm(0, a2(x) * s2(x)) + a2(x) + (x if skips_first and out_channels == 4 else 0)
    x3 = norm(1, a3(x) * s3(x2)) + a3(x) + (x2 if skips else 0)
    x4 = norm(2, a4(x) * s4(x3)) + a4(x) + (x3 if skips else 0)
    torch.testing.assert_close(block(x), F.elu(x4 + block.beta), **CLOSE)


@pytest.mark.parametrize(("first", "returned"), [(True, 1), (False, 0)])
@pytest.mark.parametrize("order", [2, 3])
def test_ncp_skip_of_all_weights_zero(first, returned, order):
    """The formula returns its input; the public code of the meshes returns zero."""
    block = NCPSkip(SPIRAL, 4, 4, order=order, skip_first=first).double()
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = sample((10, 4))
    assert torch.equal(block(x), returned * x)


def test_ncp_skip_of_the_public_code_is_ncp_at_order_2():
    plain, skip = randomize(NCP(SPIRAL, 4, 4)), randomize(NCPSkip(SPIRAL, 4, 4, skip_first=False))
    skip.load_state_dict(plain.state_dict())
    x = sample((10, 4))
    assert torch.equal(plain(x), skip(x))


@NESTED
def test_ncp_with_rank_on_images(kind, skips, skips_first):
    factory, shape = OPERATORS["conv2d"]
    block = randomize(kind(factory, 4, 2, order=3, rank=5, norm="none", activation="relu"))
    x = sample(shape)
    a1, a2, a3 = block.wide(x).chunk(3, 1)
    s2, s3 = block.nested
    b2, b3 = 1 + block.offsets[:, :, None, None]
    alpha2, alpha3 = (norm.scale[:, None, None] for norm in block.norms)
    x2 = a2 * (alpha2 * s2(a1) + b2)
    x2 = x2 + a1 if skips_first else x2
    x3 = a3 * (alpha3 * s3(x2) + b3)
    x3 = x3 + x2 if skips else x3
    torch.testing.assert_close(block(x), F.relu(block.output(x3)), **CLOSE)


def test_ccp_on_vectors():
    block = randomize(CCP(nn.Linear, 4, 2, order=3, rank=5, activation="leaky_relu"))
    z = sample((4,))
    u1, u2, u3 = block.wide(z).chunk(3, 1)

    def norm(n, t):
        return block.norms[n].scale * t / (1 + (t**2).mean(1, keepdim=True)).sqrt()

    x2 = norm(0, u2 * u1) + u1
    x3 = norm(1, u3 * x2) + x2
    torch.testing.assert_close(block(z), F.leaky_relu(block.output(x3), 0.2), **CLOSE)


@pytest.mark.parametrize("operator", OPERATORS)
def test_simple(operator):
    factory, shape = OPERATORS[operator]
    block = randomize(Simple(factory, 4, 3, order=4, norm="none"))
    x = sample(shape)
    expand = (slice(None), None, None) if operator == "conv2d" else slice(None)
    linear = block.operator(x)
    wanted = linear + block.beta[expand]
    for n, norm in enumerate(block.norms, start=2):
        wanted = wanted + norm.scale[expand] * linear**n
    torch.testing.assert_close(block(x), wanted, **CLOSE)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_degree(operator, block, order):
    factory, shape = OPERATORS[operator]
    network = BLOCKS[block](factory, 4, 4, order=order, norm="none").double()
    assert network.degree == network.order == order
    report = check_degree(network, shape, order)
    assert report, report.message
    assert report.above < 1e-14  # a few units in the last place
    assert not check_degree(network, shape, order + 1)
    assert not check_degree(network, shape, order - 1)


@pytest.mark.parametrize("operator", OPERATORS)
def test_degrees_multiply(operator):
    factory, shape = OPERATORS[operator]
    blocks = [NCP(factory, 4, 3, 2, norm="none"), Simple(factory, 3, 2, 3, norm="none")]
    network = ProdPoly(ProdPoly(*blocks), CCP(factory, 2, 2, 2, norm="none")).double()
    assert network.degree == network.order == 12
    assert check_degree(network, shape, 12)


@pytest.mark.parametrize("change", [{"norm": "rms"}, {"norm": "instance"}, {"activation": "elu"}])
def test_normalisation_and_activation_have_no_degree(change):
    block = NCP(SPIRAL, 4, 4, 2, **{"norm": "none"} | change).double()
    assert block.degree is None
    assert block.order == 2
    assert ProdPoly(block).degree is None
    assert not check_degree(block, (10, 4), 2)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("norm", ["rms", "vertex_rms", "none"])
@pytest.mark.parametrize("activation", ["none", "elu", "relu", "leaky_relu", "leaky_relu_0.02"])
def test_fused_steps_equal_plain_ones(block, norm, activation):
    network = BLOCKS[block](SPIRAL, 4, 3, order=3, norm=norm, activation=activation)
    randomize(network)
    x = sample((10, 4))
    fused = network(x)
    for step in network.norms:
        assert step.fused
        step.fused = False
    torch.testing.assert_close(fused, network(x), **CLOSE)


@pytest.mark.parametrize("kind", [NCP, NCPSkip, CODE_SKIP], ids=["NCP", "NCPSkip", "code"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("in_channels", [3, 4])
def test_last_step_on_some_vertices_only(kind, order, in_channels):
    full = randomize(kind(SPIRAL, in_channels, 3, order, norm="none", activation="elu"))
    some = randomize(
        kind(
            SPIRAL,
            in_channels,
            3,
            order,
            norm="none",
            activation="elu",
            final_factory=KEPT_SPIRAL,
            select=SelectVertices(KEEP, 10),
        )
    )
    state = full.state_dict()
    if order > 2:
        wide = state["wide.weight"]
        state["wide.weight"], state["final.weight"] = wide[:-3], wide[-3:]
    some.load_state_dict(state)
    x = sample((10, in_channels))
    torch.testing.assert_close(some(x), full(x)[:, KEEP], **CLOSE)


def test_one_gather_for_all_operators_on_the_input():
    block = NCP(SPIRAL, 4, 3, order=4)
    assert [m.out_channels for m in block.modules() if isinstance(m, SpiralConv)] == [12, 3, 3]
    assert [name for name, _ in block.named_parameters() if "bias" in name] == []


def test_linear_on_vertices_needs_its_layout_named():
    x = sample((10, 4))
    vertices = randomize(NCP(nn.Linear, 4, 3, layout="vertices"))
    assert vertices.layout.name == "vertices"
    torch.testing.assert_close(vertices(x)[1], vertices(x[1]), **CLOSE)
    vectors = randomize(NCP(nn.Linear, 4, 3))
    vectors.load_state_dict(vertices.state_dict())
    assert vectors.layout.name == "vectors"
    assert not torch.allclose(vectors(x), vertices(x))
    torch.testing.assert_close(vectors(x[0]), torch.cat([vectors(v[None]) for v in x[0]]), **CLOSE)


@pytest.mark.parametrize("block", BLOCKS)
def test_second_derivatives(block):
    network = randomize(BLOCKS[block](SPIRAL, 2, 2, order=3, activation="elu"))
    x = sample((10, 2), batch=1).requires_grad_()
    assert torch.autograd.gradgradcheck(network, x)
    penalty = torch.autograd.grad(network(x).sum(), x, create_graph=True)[0].square().sum()
    penalty.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("block", BLOCKS)
def test_state_dict_round_trip_and_reset(block):
    first, second = (BLOCKS[block](SPIRAL, 4, 3, order=3) for _ in range(2))
    x = torch.randn(2, 10, 4)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
    randomize(second).float().reset_parameters()
    fresh, reset = first.state_dict(), second.state_dict()
    constant = [name for name, v in fresh.items() if v.unique().numel() == 1]
    assert constant
    for name in constant:
        assert torch.equal(fresh[name], reset[name])
    assert not torch.equal(first(x), second(x))


def test_slopes():
    x = torch.randn(2, 10, 4)
    for activation, slope in (("leaky_relu", 0.2), ("leaky_relu_0.02", 0.02)):
        plain, block = NCP(SPIRAL, 4, 3), NCP(SPIRAL, 4, 3, activation=activation)
        block.load_state_dict(plain.state_dict())
        torch.testing.assert_close(block(x), F.leaky_relu(plain(x), slope))


def test_first_order():
    block = FirstOrder(SPIRAL, 4, 3, activation="elu")
    x = torch.randn(2, 10, 4)
    assert torch.equal(block(x), F.elu(block.operator(x)))
    assert block.order == 1
    assert block.degree is None
    assert FirstOrder(SPIRAL, 4, 3).degree == 1


def test_repr_is_one_line():
    assert repr(NCP(SPIRAL, 4, 3, order=3, activation="elu")) == (
        "NCP(4, 3, order=3, operator=SpiralConv, norm='rms', activation='elu')"
    )
    assert repr(CODE_SKIP(SPIRAL, 4, 3)).endswith("activation='none', skip_first=False)")
    assert "skip_first" not in repr(NCPSkip(SPIRAL, 4, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCP(SPIRAL, 4, 3, order=0), "NCP: order must be a positive integer, got 0"),
        (lambda: CCP(SPIRAL, 0, 3), "CCP: in_channels must be a positive integer, got 0"),
        (lambda: CCP(SPIRAL, 4, 3, rank=0), "CCP: rank must be a positive integer, got 0"),
        (lambda: NCP(SPIRAL, 4, 3, norm="instanc"), "did you mean 'instance'"),
        (lambda: NCP(SPIRAL, 4, 3, activation="eluu"), "NCP: activation .*did you mean 'elu'"),
        (lambda: Simple(SPIRAL, 4, 3, layout="pixels"), "layout must be one of vectors, vertices"),
        (lambda: NCP(SPIRAL, 4, 3, rank=2, final_factory=KEPT_SPIRAL), "without rank"),
        (lambda: NCPSkip(SPIRAL, 4, 3, final_factory=KEPT_SPIRAL), "select are given together"),
        (lambda: NCP(nn.Linear, 4, 3, norm="batch"), "'batch' needs num_vertices"),
        (lambda: ProdPoly(), "at least one block"),
        (
            lambda: ProdPoly(NCP(SPIRAL, 4, 3), NCP(SPIRAL, 4, 3)),
            "block 1 must take the 3 channels",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_polynomials_multiply():
    with pytest.raises(TypeError, match="block 1 must be a polynomial block, got ReLU"):
        ProdPoly(NCP(SPIRAL, 4, 3), nn.ReLU())


def randomized(make):
    """Made with parameters none of which is a constant."""

    def made():
        block = make()
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5)
        return block

    return made


def batch(operator, size=2):
    shape = OPERATORS[operator][1]
    return (torch.randn(size, *shape, generator=torch.Generator().manual_seed(1)).double(),)


def case(block, operator, **options):
    factory = OPERATORS[operator][0]
    return Case(randomized(partial(block, factory, 4, 3, **options)), partial(batch, operator))


class TestPolynomials(LayerContract):
    kinds = (
        CCP,
        NCP,
        NCPSkip,
        Simple,
        FirstOrder,
        ProdPoly,
        PiSigma,
        RidgePolynomial,
        DensePolynomial,
    )
    cases: ClassVar = {
        **{
            name: case(block, "spiral", order=3, activation="elu") for name, block in BLOCKS.items()
        },
        "first order": case(FirstOrder, "spiral", activation="leaky_relu"),
        "pi-sigma": case(PiSigma, "spiral", order=3),
        "ridge": case(RidgePolynomial, "spiral", order=3),
        "dense": Case(partial(DensePolynomial, 4, 3, 3), partial(batch, "linear")),
        "vertex scales": case(NCPSkip, "spiral", order=4, norm="vertex_rms"),
        "batch norm": case(NCP, "spiral", order=2, norm="batch_channel"),
        "images": case(NCP, "conv2d", order=3, norm="instance"),
        "vectors": case(CCP, "linear", order=2, norm="none", activation="relu"),
        "some vertices": Case(
            randomized(
                lambda: NCPSkip(
                    SPIRAL, 4, 3, 3, final_factory=KEPT_SPIRAL, select=SelectVertices(KEEP, 10)
                )
            ),
            partial(batch, "spiral"),
        ),
        "product": Case(
            randomized(
                lambda: ProdPoly(NCP(SPIRAL, 4, 5, 2), Simple(SPIRAL, 5, 3, 2, activation="elu"))
            ),
            partial(batch, "spiral"),
        ),
    }
    compiled = ("ccp", "ncp", "skip-rank", "simple")
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    sizes = (7, 12, 5, 30)

    @staticmethod
    def sized(size):
        return batch("spiral", size)
