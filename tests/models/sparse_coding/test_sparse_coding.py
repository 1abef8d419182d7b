"""Multi-layer sparse coding: the forward pass exactly, descent, adjoints, parity with peers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from support.mesh_shapes import grid

from polygraph.mesh import spiral_table
from polygraph.models import MultiLayerSparseCoder
from polygraph.models.sparse_coding import adjoint, linear_part, squared_norm
from polygraph.models.sparse_coding.coder import METHODS
from polygraph.nn import Resample, SpiralConv

SHAPE = (2, 11, 9)


def draw(seed):
    return torch.Generator().manual_seed(seed)


def layers(threshold=0.05, dtype=torch.float64):
    torch.manual_seed(0)
    made = [torch.nn.Conv2d(2, 6, 4, stride=2), torch.nn.Conv2d(6, 8, 3, padding=1)]
    for layer in made:
        torch.nn.init.constant_(layer.bias, -threshold)
    return [layer.to(dtype) for layer in made]


def signals(count=3, dtype=torch.float64):
    return torch.randn(count, *SHAPE, generator=draw(1), dtype=dtype)


def mesh_operators():
    vertices, faces = grid(4, 5)
    torch.manual_seed(0)
    table = torch.randint(0, 20, (7, 3), generator=draw(2))
    return {
        "linear": (torch.nn.Linear(5, 9), (5,)),
        "conv, strided, cut": (torch.nn.Conv2d(2, 6, 4, stride=3, padding=1, dilation=2), SHAPE),
        "conv, groups": (torch.nn.Conv2d(2, 6, 3, groups=2), SHAPE),
        "conv, circular": (torch.nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), SHAPE),
        "conv, same": (torch.nn.Conv2d(2, 4, 3, padding="same"), SHAPE),
        "spiral": (SpiralConv(3, 4, spiral_table(vertices, faces)), (20, 3)),
        "resample": (Resample(table, torch.rand(7, 3), num_sources=20), (20, 3)),
        "sequence": (
            torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.AvgPool2d(2)),
            SHAPE,
        ),
    }


@pytest.mark.parametrize("name", sorted(mesh_operators()))
def test_adjoints(name):
    """<Dᵀ x, γ> = <x, D γ>, D γ is linear and differentiable, and the norm is the largest."""
    operator, shape = mesh_operators()[name]
    operator = operator.double()
    x = torch.randn(2, *shape, generator=draw(0), dtype=torch.float64)
    up = linear_part(operator, x)
    codes = torch.randn(up.shape, generator=draw(3), dtype=torch.float64).requires_grad_()
    down = adjoint(operator, codes, x)
    torch.testing.assert_close((up * codes).sum(), (x * down).sum(), atol=1e-10, rtol=0)
    (gradient,) = torch.autograd.grad((down * x).sum(), codes)
    torch.testing.assert_close(gradient, up, atol=1e-10, rtol=0)
    with torch.no_grad():
        size = math.prod(shape)
        basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
        matrix = linear_part(operator, basis).flatten(1)
        wanted = float(torch.linalg.svdvals(matrix)[0]) ** 2
        found, _ = squared_norm(operator, shape, x[:1], 150)
    assert 0.98 * wanted < found <= wanted * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_without_unfoldings_it_is_the_network(method, dtype):
    """Layered thresholding is the forward pass with ReLU, bit for bit."""
    made = layers(dtype=dtype)
    network = torch.nn.Sequential(made[0], torch.nn.ReLU(), made[1], torch.nn.ReLU())
    coder = MultiLayerSparseCoder(made, SHAPE, unfoldings=0, method=method)
    x = signals(dtype=dtype)
    first, last = coder.encode(x)
    assert torch.equal(last, network(x))
    assert torch.equal(first, network[:2](x))
    assert torch.equal(coder(x), last)


@torch.no_grad()
def test_ista_is_its_formula():
    """Two unfoldings against the recursion, by matrices."""
    made = layers()
    coder = MultiLayerSparseCoder(made, SHAPE, unfoldings=2, method="ista").eval()
    x = signals()
    matrices, biases = [], []
    for layer, shape in zip(made, coder.shapes, strict=False):
        size = math.prod(shape)
        basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
        matrices.append(linear_part(layer, basis).flatten(1))  # D, as γ @ D.T
        biases.append(layer(torch.zeros(1, *shape).double()).flatten(1))
    D, E = matrices
    flat, (c, d) = x.flatten(1), coder.step
    first = (flat @ D + biases[0]).relu()
    second = (first @ E + biases[1]).relu()
    for _ in range(2):
        first = second @ E.T
        first = (first + c * ((flat - first @ D.T) @ D + biases[0])).relu()
        second = (second + d * ((first - second @ E.T) @ E + biases[1])).relu()
    codes = coder.encode(x)
    torch.testing.assert_close(codes[0].flatten(1), first, atol=1e-11, rtol=0)
    torch.testing.assert_close(codes[1].flatten(1), second, atol=1e-11, rtol=0)
    rest = flat - first @ D.T
    wanted = (rest.square() / 2).sum(1) - (first * biases[0]).sum(1)
    rest = first - second @ E.T
    wanted += (rest.square() / 2).sum(1) - (second * biases[1]).sum(1)
    torch.testing.assert_close(coder.objective(x, codes), wanted, atol=1e-11, rtol=0)
    torch.testing.assert_close(coder.decode(codes[1]).flatten(1), second @ E.T @ D.T)
    atoms = coder.effective(2)
    place = coder.shapes[2][1] // 2 * coder.shapes[2][2] + coder.shapes[2][2] // 2
    rows = torch.arange(8) * math.prod(coder.shapes[2][1:]) + place
    torch.testing.assert_close(atoms.flatten(1), (D @ E).T[rows])


@torch.no_grad()
def test_basis_pursuit_never_rises():
    """The first layer's share falls with each step, to what Lasso finds of the layer alone."""
    made = layers(threshold=0.1)[:1]
    x = signals()
    values = []
    for count in (1, 2, 3, 5, 10, 30, 400):
        coder = MultiLayerSparseCoder(made, SHAPE, count, "basis-pursuit").eval()
        values.append(coder.objective(x, coder.encode(x)))
    falls = torch.stack(values).diff(dim=0)
    assert (falls <= 1e-12).all()
    assert values[1].sum() < values[0].sum() - 1e-3
    size = math.prod(SHAPE)
    basis = torch.eye(size, dtype=torch.float64).view(size, *SHAPE)
    D = linear_part(made[0], basis).flatten(1).numpy()
    peer = Lasso(0.1 / size, positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000)
    for signal, value in zip(x, values[-1], strict=True):
        code = peer.fit(D, signal.flatten().numpy()).coef_
        wanted = ((signal.flatten().numpy() - D @ code) ** 2).sum() / 2 + 0.1 * code.sum()
        assert float(value) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("method", ["ista", "fista", "basis-pursuit"])
@torch.no_grad()
def test_unfolding_lowers_the_objective(method):
    """Below layered thresholding; of one layer it falls with each unfolding, FISTA is ahead.

    Basis pursuit knows of one layer at a time, and is below in the first alone.
    """
    x = signals()
    both = layers()
    start = MultiLayerSparseCoder(both, SHAPE, 0)
    found = MultiLayerSparseCoder(both, SHAPE, 20, method)
    shares = [coder.objectives(x, coder.encode(x)) for coder in (found, start)]
    first, second = (s[0] if method == "basis-pursuit" else sum(s) for s in shares)
    assert (first < second).all()
    assert all((code >= 0).all() for code in found.encode(x))
    one = both[:1]
    values = [
        coder.objective(x, coder.encode(x)).sum()
        for coder in (MultiLayerSparseCoder(one, SHAPE, n, method) for n in (1, 2, 4, 8, 16))
    ]
    assert all(a > b for a, b in pairwise(values))
    if method == "fista":
        ista = MultiLayerSparseCoder(one, SHAPE, 16, "ista")
        assert values[-1] < ista.objective(x, ista.encode(x)).sum()


def test_parity_with_sporco():
    """One circular convolution: the minimum that sporco's ConvBPDN finds by ADMM."""
    cbpdn = pytest.importorskip("sporco.admm.cbpdn", exc_type=ImportError)
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular").double()
    torch.nn.init.constant_(layer.bias, -0.1)
    image = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    coder = MultiLayerSparseCoder([layer], (1, 8, 8), 1500, "basis-pursuit").eval()
    # With its own choice of rho it is not there after thousands of steps.
    options = cbpdn.ConvBPDN.Options(
        {
            **{"NonNegCoef": True, "MaxMainIter": 1500, "RelStopTol": 1e-9, "Verbose": False},
            **{"AutoRho": {"Enabled": False}, "rho": 0.1, "RelaxParam": 1.8},
        }
    )
    # The layer correlates with its weight: its adjoint convolves, centred on the middle.
    atoms = layer.weight.detach()[:, 0].permute(1, 2, 0).numpy()
    solver = cbpdn.ConvBPDN(atoms, image[0, 0].numpy(), 0.1, options)
    found = np.roll(np.asarray(solver.solve()).squeeze(), (1, 1), (0, 1)).transpose(2, 0, 1)
    with torch.no_grad():
        ours = float(coder.objective(image, coder.encode(image)))
        theirs = float(coder.objective(image, [torch.from_numpy(found.copy())[None]]))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert theirs == pytest.approx(float(solver.getitstat().ObjFun[-1]), abs=1e-6)


def test_gradients_reach_every_weight():
    """Through unfoldings and adjoints, against differences; learned steps and analysis too."""
    x = signals(1)
    for method, steps in (("fista", "learned"), ("lista", "unit"), ("basis-pursuit", "unit")):
        coder = MultiLayerSparseCoder(layers(), SHAPE, 2, method, steps=steps)
        with torch.no_grad():
            for parameter in coder.parameters():
                parameter *= 0.5

        def loss(coder=coder):
            return coder(x).square().sum()

        gradients = torch.autograd.grad(loss(), list(coder.parameters()))
        for parameter, gradient in zip(coder.parameters(), gradients, strict=True):
            assert gradient.abs().sum() > 0
            direction = torch.randn(parameter.shape, generator=draw(5), dtype=torch.float64) * 1e-6
            with torch.no_grad():
                parameter += direction
                above = loss()
                parameter -= 2 * direction
                below = loss()
                parameter += direction
            slope = float((gradient * direction).sum())
            assert float(above - below) / 2 == pytest.approx(slope, rel=1e-3, abs=1e-12)


def test_steps_follow_the_weights():
    """In training one power iteration a call, which leaves graphs alone; in evaluation none."""
    coder = MultiLayerSparseCoder(layers(), SHAPE, 2)
    twice = coder(signals()) + coder(signals())
    twice.sum().backward()
    first = coder.step.clone()
    with torch.no_grad():
        coder.dictionaries[0].weight *= 2
    coder.eval()(signals())
    assert torch.equal(coder.step, first)
    coder.train()(signals())
    assert float(coder.step[0]) == pytest.approx(float(first[0]) / 4, rel=0.02)
    again = MultiLayerSparseCoder(layers(), SHAPE, 2)
    again.load_state_dict(coder.state_dict())
    assert torch.equal(again.eval()(signals()), coder.eval()(signals()))


@torch.no_grad()
def test_codes_on_a_mesh():
    """Spirals and a selection of vertices as dictionaries."""
    vertices, faces = grid(4, 5)
    torch.manual_seed(0)
    spirals = SpiralConv(3, 8, spiral_table(vertices, faces))
    select = Resample(torch.arange(0, 20, 2)[:, None], torch.ones(10, 1), num_sources=20)
    coder = MultiLayerSparseCoder([spirals, select, torch.nn.Linear(8, 4)], (20, 3), 3)
    x = torch.randn(2, 20, 3, generator=draw(4))
    assert [list(code.shape) for code in coder.encode(x)] == [[2, 20, 8], [2, 10, 8], [2, 10, 4]]
    assert coder.effective(3).shape == (4, 20, 3)
    assert "20 x 3 -> 20 x 8 -> 10 x 8 -> 10 x 4" in repr(coder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiLayerSparseCoder([], (3,)), "at least one module"),
        (lambda: MultiLayerSparseCoder([torch.nn.ReLU()], (3,)), "ReLU is not"),
        (lambda: MultiLayerSparseCoder([torch.nn.Linear(4, 2)], (3,)), "does not take"),
        (lambda: MultiLayerSparseCoder([torch.nn.Linear(3, 2)], (3,), -1), "unfoldings must be"),
        (
            lambda: MultiLayerSparseCoder([torch.nn.Linear(3, 2)], (3,), method="istta"),
            "did you mean 'ista'",
        ),
        (
            lambda: MultiLayerSparseCoder([torch.nn.Linear(3, 2)], (3,), steps="two"),
            "steps must be one of",
        ),
        (
            lambda: MultiLayerSparseCoder([torch.nn.Linear(3, 2)], (3,))(torch.ones(2, 4)),
            r"x must have shape \[B, 3\]",
        ),
        (
            lambda: MultiLayerSparseCoder([torch.nn.Linear(3, 2)], (3,))(torch.ones(2, 3).double()),
            "x is float64",
        ),
        (
            lambda: MultiLayerSparseCoder([torch.nn.Linear(3, 2)], (3,)).decode(torch.ones(2, 3)),
            "the last code must have shape",
        ),
        (
            lambda: MultiLayerSparseCoder([torch.nn.Linear(3, 2)], (3,)).objective(
                torch.ones(2, 3), []
            ),
            "codes must have the shapes",
        ),
        (
            lambda: MultiLayerSparseCoder([torch.nn.Linear(3, 2)], (3,)).effective(2),
            r"number must be in \[1, 1\]",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
