"""The fused end of a residual block with BatchNorm against the contract, and what is its own."""

import math
from functools import partial
from typing import ClassVar

import pytest
import torch
from support.contract import OperatorContract
from support.faults import at, put
from support.tables import normal

from polygraph import ops, reference
from polygraph.ops.batch_norm_step import with_statistics

FORMS = {"product": ("s",), "sum": ("s", "term"), "factor": ("term",)}


def call(form, *shape, seed=0, weight=True, bias=True, **settings):
    """One call's arguments."""
    D = shape[-1]
    given = {n: normal(*shape, seed=seed + i) for i, n in enumerate(FORMS[form])}
    return {
        "a": normal(*shape, seed=seed + 5),
        **given,
        "weight": normal(D, seed=seed + 6) if weight else None,
        "bias": normal(D, seed=seed + 7) if bias else None,
        **settings,
    }


CASES = {
    f"{form}, {activation}": partial(call, form, 4, 5, 3, eps=0.37, activation=activation)
    for form in FORMS
    for activation in ("relu", "none")
} | {
    "defaults": partial(call, "product", 3, 4, 2, weight=False, bias=False),
    "no factor, no shift": partial(call, "factor", 3, 4, 2, weight=False, bias=False, eps=0.1),
    "rows": partial(call, "product", 9, 8, eps=0.01),
    "many rows": partial(call, "product", 1100, 19, eps=0.5, activation="relu"),
    "many rows, sum": partial(call, "sum", 700, 17, activation="relu"),
    "many rows, factor": partial(call, "factor", 700, 33),
    "16 channels": partial(call, "product", 2, 10, 16, activation="relu"),
}
EMPTY = {
    "no rows": partial(call, "product", 0, 5, 3),
    "no rows to multiply": partial(call, "factor", 0, 5, 3),
    "no channels": partial(call, "sum", 2, 5, 0, activation="relu"),
}
BACKWARD = "batch_norm_step_backward"


def raw_forward():
    """Arguments of the compiled operator: its three forms."""
    for form, given in FORMS.items():
        i = {n: t.float().requires_grad_() for n, t in call(form, 6, 3).items()}
        few = form == "factor"
        weight, bias = (None, None) if few else (i["weight"], i["bias"])
        s, term = (i[n] if n in given else None for n in ("s", "term"))
        yield i["a"], s, term, weight, bias, 0.37, 0 if few else 1


def raw_backward():
    """Arguments of the derivative that match those; of the sum without an activation, too."""
    for arguments in [*raw_forward(), (*list(raw_forward())[1][:-1], 0)]:
        out, mean, _, rstd = torch.ops.polygraph.batch_norm_step(*arguments)
        grad = normal(6, 3, seed=9).float().requires_grad_()
        out = out.detach().requires_grad_()
        yield grad, *arguments[:5], out, mean.detach(), rstd.detach(), *arguments[5:]


def other(name, wanted):
    """Faults of one tensor: (name, change, message)."""
    message = rf"{name} must have (the )?shape (\[.*\] = |of a, ){wanted}, got "
    yield f"{name} with too few channels", lambda t: t[..., 1:], message
    yield f"{name} of another dtype", lambda t: t.double(), f"{name} must be float32, got float64"
    yield f"{name} on another device", lambda t: t.to("meta"), f"{name} must be on the device of"


BROKEN = {
    fault: (put(name, change), RuntimeError, message)
    for name, wanted in (("s", r"\[4, 5, 3\]"), ("weight", r"\[3\]"), ("bias", r"\[3\]"))
    for fault, change, message in other(name, wanted)
} | {
    "s of as many rows": (
        put("s", lambda s: s.flatten(0, 1)),
        RuntimeError,
        r"s must have the shape of a, \[4, 5, 3\], got \[20, 3\]",
    ),
    "term too short": (
        lambda i: i | {"term": i["s"][1:]},
        RuntimeError,
        r"term must have the shape of a, \[4, 5, 3\], got \[3, 5, 3\]",
    ),
    "a of rank 1": (
        lambda i: i | {"a": i["a"][0, 0], "s": i["s"][0, 0]},
        RuntimeError,
        r"a must have shape \[N, D\]",
    ),
    "a of integers": (
        put("a", lambda a: a.long()),
        RuntimeError,
        "a must be float32, float64, float16 or bfloat16, got int64",
    ),
    "nothing to normalise": (put("s", lambda s: None), RuntimeError, "s or term must be given"),
    "unknown activation": (
        put("activation", lambda n: "elu"),
        ValueError,
        "activation must be one of none, relu, got 'elu'",
    ),
    "eps 0": (put("eps", lambda e: 0.0), ValueError, "eps must be positive, got 0.0"),
    "eps NaN": (put("eps", lambda e: math.nan), ValueError, "eps must be positive, got nan"),
}
RAW_BROKEN = {
    f"backward: {name} too short": (
        BACKWARD,
        at(place, lambda t: t[1:]),
        rf"{name} must have shape \[.*\] = {wanted}, got ",
    )
    for place, name, wanted in (
        (0, "grad", r"\[6, 3\]"),
        (6, "out", r"\[6, 3\]"),
        (7, "mean", r"\[3\]"),
        (8, "rstd", r"\[3\]"),
    )
} | {
    "backward: mean of another dtype": (
        BACKWARD,
        at(7, lambda t: t.double()),
        "mean must be float32, got float64",
    ),
    "backward: activation 2": (BACKWARD, at(10, lambda n: 2), "activation must be 0 or 1, got 2"),
    "activation -1": ("batch_norm_step", at(6, lambda n: -1), "activation must be 0 or 1, got -1"),
    "eps -1": ("batch_norm_step", at(5, lambda e: -1.0), "eps must be positive, got -1"),
}


class TestBatchNormStep(OperatorContract):
    """The contract."""

    stem = "batch_norm_step"
    op = staticmethod(ops.batch_norm_step)
    reference = staticmethod(reference.batch_norm_step)
    batched = ("a", "s", "term")
    cases = CASES
    small = ("product, relu", "sum, none", "factor, none", "defaults")
    vectors = ("16 channels",)
    empty = EMPTY
    threaded = "many rows"
    broken = BROKEN
    raw: ClassVar = {
        "batch_norm_step": lambda: list(raw_forward()),
        BACKWARD: lambda: list(raw_backward()),
    }
    raw_broken = RAW_BROKEN
    torch_sums = ("out", *(f"grad of {n}" for n in ("a", "s", "term", "weight", "bias")))

    @pytest.mark.skip(reason="statistics are those of the batch: a sample alone has others")
    def test_without_batch(self, dtype):
        """Does not apply."""


def test_by_hand():
    """The formulas on two rows: products 3 and -1, of mean 1 and deviation 2."""
    a, s = torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [-1.0]])
    settings = {"weight": torch.tensor([0.5]), "bias": torch.tensor([2.0]), "eps": 1e-12}
    torch.testing.assert_close(
        ops.batch_norm_step(a, s, **settings), torch.tensor([[4 + 2.5], [0 + 1.5]])
    )
    term = torch.tensor([[7.0], [5.0]])
    torch.testing.assert_close(
        ops.batch_norm_step(a, s, term, **settings), torch.tensor([[4 + 2.5], [0 + 1.5]])
    )
    torch.testing.assert_close(
        ops.batch_norm_step(a, term=-term, **settings), torch.tensor([[4.5], [2.5]])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_statistics(dtype):
    """Those of the products, to the digits of the wide type, wherever the mean is."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    digits = 1e-12 if dtype == torch.float64 else 1e-6
    for shift in (0.0, 8.0, 1000.0):
        a, s = ((normal(3000, 5, seed=n) + shift).to(dtype) for n in (1, 2))
        _, mean, var = with_statistics(a, s)
        assert mean.dtype == var.dtype == wide
        # As the kernel has them: rounded to the type that is computed in.
        term = (a.to(wide) * s.to(wide)).double()
        torch.testing.assert_close(mean.double(), term.mean(0), rtol=digits, atol=digits)
        expected = term.var(0, correction=0)
        # Contracted multiplications and additions keep digits of the product that rounding loses.
        rounding = torch.finfo(wide).eps * shift**2
        torch.testing.assert_close(
            var.double(),
            expected,
            rtol=5 * digits + rounding / expected.sqrt().min().item(),
            atol=0,
        )


@pytest.mark.parametrize("size", [1e15, 1e-18])
def test_squares_that_overflow_or_vanish(size):
    """Terms whose squares float32 does not hold are normalised like others."""
    a, s = normal(40, 3, seed=1).float() * size, normal(40, 3, seed=2).float() * size
    weight = torch.tensor([1.0, 0.5, 2.0])
    term = (a * s).double()
    out = ops.batch_norm_step(torch.ones_like(a), term=a * s, weight=weight, eps=1e-300)
    expected = weight * (term - term.mean(0)) / term.std(0, correction=0)
    torch.testing.assert_close(out.double(), expected.double(), rtol=1e-5, atol=1e-5)
    out = ops.batch_norm_step(a, s, weight=torch.full((3,), size), eps=1e-300)
    expected = (a + s).double() + size * (term - term.mean(0)) / term.std(0, correction=0)
    torch.testing.assert_close(out.double() / size, expected / size, rtol=1e-5, atol=1e-5)


def test_not_a_number_stays():
    """A NaN is in all of its channel, and in no other."""
    a, s = normal(40, 3, seed=1).float(), normal(40, 3, seed=2).float()
    a[7, 1] = math.nan
    out = ops.batch_norm_step(a, s, activation="relu")
    assert out[:, 1].isnan().all()
    assert not out[:, [0, 2]].isnan().any()
