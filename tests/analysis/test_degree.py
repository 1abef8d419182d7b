"""The degree check itself, on functions whose degree is known."""

import pytest
import torch

from polygraph.analysis import chebyshev_coefficients, check_degree, polynomial_degree

CONSTANT = torch.tensor([[2.0, -1.0]], dtype=torch.float64)

KNOWN = {
    "zero": (lambda x: 0 * x, 0),
    "constant": (lambda x: CONSTANT.expand(len(x), 2), 0),
    "affine": (lambda x: 3 * x + 1, 1),
    "odd cubic": (lambda x: x**3, 3),
    "product": (lambda x: x[:, 0] * x[:, 1] ** 2 * x[:, 2] ** 3 + x[:, 1], 6),
    "small leading term": (lambda x: 1e3 + x + 1e-12 * x**5, 5),
    "one output of many": (lambda x: torch.cat([x, x**2, 1e-3 * x[:, :1] ** 7], 1), 7),
    "high": (lambda x: (x.sum(1) + 1) ** 25, 25),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_degree(name):
    fn, degree = KNOWN[name]
    assert polynomial_degree(fn, (3,), max_degree=27) == degree
    if name != "zero":  # whose degree is a convention: no difference of order 0 shows it
        report = check_degree(fn, (3,), degree)
        assert report, report.message
        assert "do not vanish" not in report.message
    for wrong in (degree - 2, degree - 1, degree + 1, degree + 2):
        if wrong >= 0:
            assert not check_degree(fn, (3,), wrong)


@pytest.mark.parametrize(
    "fn", [torch.relu, torch.nn.functional.elu, torch.sin, torch.tanh, lambda x: 1 / (1 + x**2)]
)
def test_not_a_polynomial(fn):
    assert polynomial_degree(lambda x: x + 0.1 * fn(x), (3,)) is None
    assert not any(check_degree(fn, (3,), degree) for degree in range(8))


def test_two_degrees_apart():
    """x³ looks straight on three symmetric points; the check must not be fooled by symmetry."""
    report = check_degree(lambda x: x**3, (1,), 1)
    assert not report
    assert report.above > 0.1
    assert "order 2 do not vanish" in report.message


def test_repeats_and_depends_on_the_seed():
    def fn(x):
        return (x**2).sum(1)

    assert check_degree(fn, (3,), 2, seed=1) == check_degree(fn, (3,), 2, seed=1)
    assert check_degree(fn, (3,), 2, seed=1) != check_degree(fn, (3,), 2, seed=2)


def test_overflow_ends_the_growth_of_the_line():
    assert check_degree(lambda x: (1e20 * x) ** 12, (2,), 12)


def test_chebyshev_coefficients():
    m = 6
    nodes = torch.cos(torch.pi / m * torch.arange(m + 1, dtype=torch.float64))
    wanted = torch.randn(m + 1, 2, dtype=torch.float64)
    values = sum(wanted[k] * torch.cos(k * torch.acos(nodes))[:, None] for k in range(m + 1))
    # acos near ±1 costs half the digits of a few nodes
    torch.testing.assert_close(chebyshev_coefficients(values), wanted, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="at least 2 values, got 1"):
        chebyshev_coefficients(values[:1])


def test_bad_arguments():
    with pytest.raises(ValueError, match="degree must not be negative, got -1"):
        check_degree(torch.sin, (3,), -1)
    with pytest.raises(ValueError, match="max_degree must not be negative, got -1"):
        polynomial_degree(torch.sin, (3,), max_degree=-1)
    with pytest.raises(ValueError, match="lines must be a positive integer, got 0"):
        check_degree(torch.sin, (3,), 1, lines=0)
    with pytest.raises(ValueError, match=r"float64 \[4, ...\], got torch.float32"):
        check_degree(lambda x: x.float(), (3,), 1)
    with pytest.raises(ValueError, match=r"float64 \[4, ...\], got torch.float64 \[3\]"):
        check_degree(lambda x: x.sum(0), (3,), 1)
