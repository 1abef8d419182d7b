"""Gradients of the distances of nearest neighbours: what cancels, overflows or lies far away."""

from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.clouds import CLOUDS
from support.tables import normal
from support.tolerances import KERNEL, assert_close

from polygraph import ops, reference


def test_gradient_of_one_neighbour():
    """``index`` has no gradient; a distance reaches its query and its point."""
    x = normal(1, 6, 2).requires_grad_()
    index, found = ops.knn(x, 2, exclude_self=True)
    assert not index.requires_grad
    (grad,) = torch.autograd.grad(found[0, 3, 1], x)
    expected = torch.zeros_like(x)
    difference = (x[0, 3] - x[0, index[0, 3, 1]]).detach()
    expected[0, 3] = 2 * difference
    expected[0, index[0, 3, 1]] = -2 * difference
    torch.testing.assert_close(grad, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("cloud", ["offset 1e4", "clusters of 1e-6", "plain"])
def test_gradient_does_not_cancel(cloud):
    """In float32 the gradient is that of float64, also where neighbours are nearly equal."""
    x = CLOUDS[cloud]((300, 7), torch.Generator().manual_seed(4), torch.float32)
    weight = normal(300, 9, seed=5)
    grads = []
    for points in (x.double().requires_grad_(), x.clone().requires_grad_()):
        found = reference.knn(points, 9)[1] if points.dtype == torch.float64 else None
        found = ops.knn(points, 9)[1] if found is None else found
        grads.append(torch.autograd.grad(found, points, weight.to(found.dtype))[0].double())
    index = [reference.knn(x.double(), 9)[0], ops.knn(x, 9)[0]]
    same = (index[0] == index[1]).all(1)
    same &= ~torch.isin(torch.arange(300), torch.cat([i[~same] for i in index]))
    assert same.sum() > 150
    torch.testing.assert_close(grads[1][same], grads[0][same], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_far_from_the_origin(dtype):
    """Map coordinates: 6.4e6 away, neighbours 1e-3 apart (1 in float32, which holds no less)."""
    apart = 1e-3 if dtype == torch.float64 else 1.0
    x = (6.4e6 + apart * normal(2, 200, 3)).to(dtype)
    y = (6.4e6 + apart * normal(2, 40, 3, seed=1)).to(dtype)
    weight = normal(2, 40, 9, seed=2)
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    index, found = ops.knn(leaves[0], 9, y=leaves[1])
    grads = torch.autograd.grad(found, leaves, weight.to(dtype))
    exact = [t.double().requires_grad_() for t in (x, y)]
    points = torch.stack([cloud[i] for cloud, i in zip(exact[0], index, strict=True)])
    distances = (exact[1][:, :, None] - points).square().sum(3)
    expected = torch.autograd.grad(distances, exact, weight.to(dtype).double())
    for grad, wanted in zip(grads, expected, strict=True):
        assert_close(grad, wanted, KERNEL[dtype], "gradient")


@given(
    exponents=st.lists(st.sampled_from([-308, -300, -1, 0, 100, 300, 308]), min_size=3, max_size=3),
    signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3),
    fractions=st.lists(st.floats(1.0, 1.7), min_size=3, max_size=3),
)
def test_gradients_near_overflow(exponents, signs, fractions):
    """No factor, difference or sum on the way overflows where the gradient does not."""
    y, x, weight = (
        torch.tensor([[s * f * 10.0**e]], dtype=torch.float64)
        for s, f, e in zip(signs, fractions, exponents, strict=True)
    )
    wanted = 2 * (Fraction(y.item()) - Fraction(x.item())) * Fraction(weight.item())
    assume(abs(wanted) < Fraction(2) ** 1023)
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    grads = torch.autograd.grad(ops.knn(leaves[0], 1, y=leaves[1])[1], leaves, weight)
    for grad, sign in zip(grads, (-1, 1), strict=True):
        torch.testing.assert_close(grad.item(), sign * float(wanted), rtol=1e-14, atol=1e-307)
