"""The polynomial step on numbers that overflow, vanish or are none."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.calls import run_twice
from support.poly_steps import ACTIVATIONS, call
from support.tables import NOT_FINITE, normal
from support.tolerances import KERNEL, SECOND_DERIVATIVE, assert_close

from polygraph import ops, reference


@given(
    V=st.integers(1, 9),
    D=st.integers(1, 19),
    exponents=st.lists(st.integers(-19, 18), min_size=1, max_size=4),
    norm=st.sampled_from(["rms", "none"]),
    activation=st.sampled_from(ACTIVATIONS),
)
@settings(max_examples=150)
def test_tiny_and_huge_numbers(V, D, exponents, norm, activation):
    """Factors from 1e-19 to 1e18, whose products still fit float32, channel by channel."""
    powers = torch.tensor([10.0 ** exponents[d % len(exponents)] for d in range(D)])
    a, s = normal(2, V, D).float() * powers, normal(2, V, D, seed=1).float() * powers
    settings = {"norm": norm, "activation": activation, "eps": 0.3}
    out = ops.poly_step(a, s, **settings)
    expected = reference.poly_step(a.double(), s.double(), **settings)
    for d in range(D):
        assert_close(out[..., d], expected[..., d], KERNEL[torch.float32], f"channel {d}")


@given(
    D=st.sampled_from([3, 19]),
    place=st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 18)),
    value=st.sampled_from((*NOT_FINITE, 1e19, 1e30)),
    into=st.sampled_from(["a", "s", "skip"]),
    norm=st.sampled_from(["rms", "none"]),
    activation=st.sampled_from(ACTIVATIONS),
)
@settings(max_examples=150)
def test_a_bad_number_stays_in_its_channel(D, place, value, into, norm, activation):
    """What is not finite, or overflows, changes one channel of one sample, and nothing else."""
    b, v, d = place
    d %= D
    good = {n: t.float() for n, t in call(2, 7, D).items()}
    bad = good | {into: good[into].clone()}
    bad[into][b, v, d] = value
    settings = {"norm": norm, "activation": activation}
    clean, out = ops.poly_step(**good, **settings), ops.poly_step(**bad, **settings)
    changed = clean != out
    changed[b, :, d] = False
    assert not changed.any()
    if norm == "none":
        changed = clean[b, :, d] != out[b, :, d]
        changed[v] = False
        assert not changed.any()
    expected = reference.poly_step(**bad, **settings)
    assert torch.equal(out.isnan(), expected.isnan())


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_not_finite_numbers_pass_through_activations(activation, value):
    """NaN stays NaN, and infinities go where the activation sends them; vectors and remainder."""
    a = torch.full((1, 2, 19), value)
    out = ops.poly_step(a, torch.zeros_like(a), norm="none", bias=torch.zeros(19))
    assert out.isnan().all()  # inf * 0
    out = ops.poly_step(torch.zeros_like(a), a, norm="none", skip=a, activation=activation)
    assert out.isnan().all()
    zeros = torch.zeros_like(a)
    out = ops.poly_step(zeros, zeros, skip=a, activation=activation)
    assert torch.equal(
        out.nan_to_num(7),
        reference.poly_step(zeros, zeros, skip=a, activation=activation).nan_to_num(7),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elu_near_zero_and_far_below(dtype):
    """e^x - 1 keeps its digits near zero and reaches -1, in whole vectors and in the remainder."""
    z = -torch.logspace(-30, 3, 331).to(dtype)
    z = torch.cat([z, -z, torch.zeros(1, dtype=dtype)])
    expected = torch.nn.functional.elu(z.double())
    for columns in (1, 3, 8, 17, len(z)):
        a = z[: len(z) // columns * columns].view(1, -1, columns)
        out = ops.poly_step(a, torch.zeros_like(a), activation="elu").flatten().double()
        error = (out - expected[: len(out)]).abs() / expected[: len(out)].abs().clamp_min(1e-300)
        # The polynomial is good to 2 units in the last place, and the result rounds once more.
        assert error.max() <= 4 * torch.finfo(dtype).eps


# a and s are multiplied by these powers of ten in the three channels: t is 1e19 (its square
# overflows float32) or more, t is 1e15 (its square fits, the third power of the norm's root does
# not), and last the gradient is so small that a product with the root underflows.
HUGE = {
    "t 1e19, by s": ([-5, 0, 14], [24, 19, 5], 0),
    "t 1e37": ([0, 9, 18], [37, 28, 19], 0),
    "t 1e15": ([0, 7, 15], [15, 8, 0], 0),
    "t 1e37, gradient 1e-15": ([0, 9, 18], [37, 28, 19], -15),
    "beside ordinary channels": ([0, 0, 0], [37, 0, -3], 0),
}


def check_powers(i, powers_of_a, powers_of_s, power_of_gradient=0):
    """Values, first and second derivatives in float32, each channel by its own largest."""
    i = {n: t.float() if isinstance(t, torch.Tensor) else t for n, t in i.items()}
    channels = [float(f"1e{p}") for p in powers_of_a], [float(f"1e{p}") for p in powers_of_s]
    if "s" in i:
        i |= {"a": i["a"] * torch.tensor(channels[0]), "s": i["s"] * torch.tensor(channels[1])}
    else:
        i["a"] = i["a"] * torch.tensor(channels[0] + channels[1])

    def derivatives(function, dtype):
        leaves = {
            n: t.to(dtype).requires_grad_() if isinstance(t, torch.Tensor) else t
            for n, t in i.items()
        }
        wanted = [t for t in leaves.values() if isinstance(t, torch.Tensor)]
        out = function(**leaves)
        upstream = normal(*out.shape, seed=7).to(dtype) * float(f"1e{power_of_gradient}")
        first = torch.autograd.grad(out, wanted, upstream, create_graph=True)
        # The derivative by a of each of these alone: their sizes differ by tens of powers.
        second = []
        for number, gradient in enumerate(first[:3]):
            inner = (gradient * normal(*gradient.shape, seed=8 + number).to(dtype)).sum()
            second += torch.autograd.grad(inner, wanted[:2], retain_graph=True, allow_unused=True)
        names = [n for n, t in leaves.items() if isinstance(t, torch.Tensor)]
        primals = tuple(t.detach() for t in wanted)
        along = tuple(t * normal(*t.shape, seed=12).to(dtype) for t in primals)
        _, moved = torch.func.jvp(
            lambda *values: function(**(leaves | dict(zip(names, values, strict=True)))),
            primals,
            along,
        )
        return [out, moved, *first], [g for g in second if g is not None]

    found = derivatives(ops.poly_step, torch.float32)
    wanted = derivatives(reference.poly_step, torch.float64)
    for kind, allowed in ((0, KERNEL), (1, SECOND_DERIVATIVE)):
        for number, (a, e) in enumerate(zip(found[kind], wanted[kind], strict=True)):
            for d in range(e.shape[-1]):
                if e[..., d].abs().max() > 1e-37:  # all of its digits, then
                    name = f"tensor {number} of derivatives {kind}, channel {d}"
                    assert_close(a[..., d], e[..., d], allowed[torch.float32], name)


@pytest.mark.parametrize("case", HUGE)
@pytest.mark.parametrize(
    "call",
    [
        partial(call, 2, 7, 3),
        partial(call, 2, 7, 3, packed=True, skip=False, activation="leaky_relu"),
        partial(call, 2, 7, 3, vertex="scale, bias", skip=False),
        partial(call, 2, 600, 3, scale=False, bias=False, skip=False),
    ],
    ids=["plain", "two halves", "per vertex", "many rows"],
)
def test_terms_whose_squares_overflow(call, case):
    """The second-order term stays, and so do its derivatives, as long as t itself is finite."""
    check_powers(call(eps=0.37), *HUGE[case])


@pytest.mark.parametrize("eps", [1e-12, 1e-30, 1e-50])
@pytest.mark.parametrize("powers", [([-9] * 3, [-9, -6, -3]), ([0] * 3, [0, 0, -15])])
def test_terms_whose_squares_underflow(powers, eps):
    """Squares below the smallest number count where eps is as small."""
    check_powers(call(2, 7, 3, skip=False, bias=False, eps=eps), *powers)


def test_second_derivatives_of_half_types_are_computed_in_float32():
    """Terms of 9e4 do not fit float16, in which the arguments come and the derivatives go."""
    i = {n: t.half() for n, t in call(2, 7, 3, bias=False, skip=False).items() if t is not None}
    i |= {"a": i["a"] * 300, "s": i["s"] * 300}
    wide = {n: t.double() for n, t in i.items()}
    found, wanted = run_twice(ops.poly_step, i), run_twice(reference.poly_step, wide)
    for name, value in wanted.items():
        # What flows to the result in between is rounded to float16, and so is each of two parts.
        assert_close(found[name], value, 4 * KERNEL[torch.float16], name)


def test_the_second_derivative_of_elu_at_zero_is_that_of_pytorch():
    """ELU bends at 0: of the two values, 0 and 1, it is 0."""
    zeros = torch.zeros(1, 2, 19, dtype=torch.float64)
    one = torch.ones_like(zeros)
    for function in (ops.poly_step, reference.poly_step):
        skip = zeros.clone().requires_grad_()
        out = function(zeros, zeros, skip=skip, activation="elu")
        (slope,) = torch.autograd.grad(out, skip, one, create_graph=True)
        assert torch.equal(slope, one)
        (bend,) = torch.autograd.grad(slope, skip, one)
        assert torch.equal(bend, zeros)


def test_overflowing_squares_by_hand():
    """N(t) of one vertex is t / sqrt(eps + t²): 1, once t is large."""
    for dtype, s in ((torch.float32, 2e24), (torch.bfloat16, 2e24), (torch.float64, 2e170)):
        a = torch.tensor([[1e-5]], dtype=dtype)
        for function in (ops.poly_step, reference.poly_step):
            out = function(a, torch.tensor([[s]], dtype=dtype))
            assert out.item() == pytest.approx(1.00001, abs=2 * torch.finfo(dtype).eps), dtype


def test_nothing_among_tiny_squares():
    """Terms of zeros are normalised to zeros, also where eps is less than float32 can hold."""
    zeros = torch.zeros(3, 5)
    for eps in (1e-30, 1e-60, 5e-324):
        for function in (ops.poly_step, reference.poly_step):
            assert torch.equal(function(zeros, zeros, eps=eps), zeros), (function, eps)
