"""The fused polynomial step against the contract, and what is its own."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from support.contract import OperatorContract
from support.faults import at, put
from support.poly_steps import ACTIVATIONS, call
from support.tables import normal
from support.tolerances import KERNEL, assert_close

from polygraph import ops, reference

CASES = (
    {
        "plain": partial(call, 2, 5, 3, eps=0.37, activation="elu"),
        "defaults": partial(call, 2, 5, 3, scale=False, bias=False, skip=False),
        "one tensor of two halves": partial(call, 2, 5, 3, packed=True, eps=0.37, activation="elu"),
        "two halves, polynomial": partial(call, 2, 4, 5, packed=True, norm="none", skip=False),
        "small eps": partial(call, 2, 5, 3, eps=1e-3, activation="leaky_relu"),
        "large eps": partial(call, 2, 5, 3, eps=50.0, activation="relu"),
        "one vertex": partial(call, 3, 1, 4, eps=0.5, activation="elu"),
        "many rows": partial(call, 5, 1100, 19, eps=0.5, activation="elu"),
        "many rows of two halves": partial(call, 3, 600, 16, packed=True, activation="elu"),
        "many vertices": partial(call, 3, 600, 3, eps=0.5, activation="elu"),
        "many vertices of two halves": partial(call, 3, 600, 3, packed=True, activation="relu"),
        "a scale per vertex": partial(call, 2, 5, 3, vertex="scale", activation="elu"),
        "a bias per vertex": partial(call, 2, 5, 3, vertex="bias", activation="leaky_relu"),
        "both per vertex, two halves": partial(
            call, 3, 5, 3, vertex="scale, bias", packed=True, eps=0.37, activation="elu"
        ),
        "both per vertex, polynomial": partial(
            call, 2, 4, 2, vertex="scale, bias", norm="none", skip=False
        ),
        "both per vertex, many vertices": partial(
            call, 3, 600, 3, vertex="scale, bias", packed=True, activation="elu"
        ),
        "both per vertex, many rows": partial(
            call, 3, 600, 19, vertex="scale, bias", activation="relu"
        ),
        "no scale": partial(call, 2, 7, 9, scale=False),
        "no bias": partial(call, 2, 7, 9, bias=False),
        "no skip": partial(call, 2, 7, 9, skip=False),
    }
    | {
        f"norm {norm}, {activation}": partial(
            call, 3, 9, 17, norm=norm, activation=activation, eps=0.7
        )
        for norm, activation in product(("rms", "none"), ACTIVATIONS)
    }
    | {f"{D} channels": partial(call, 2, 10, D, activation="elu") for D in (1, 2, 7, 8, 16, 33)}
)

EMPTY = {
    "no samples": partial(call, 0, 5, 3),
    "no vertices, polynomial": partial(call, 2, 0, 3, norm="none"),
    "no vertices": partial(call, 2, 0, 3),
    "no channels": partial(call, 2, 5, 0),
    "no channels in two halves": partial(call, 2, 5, 0, packed=True),
}

BACKWARD = "poly_step_backward"


def raw_forward():
    """Arguments of the compiled operator, with everything given and with the least."""
    i = {n: t.float().requires_grad_() for n, t in call(2, 5, 3).items()}
    yield i["a"], i["s"], i["scale"], i["bias"], i["skip"], 1, 0.37, 1
    yield i["a"], i["s"], None, None, None, 0, 1.0, 0
    own = {n: t.float().requires_grad_() for n, t in call(2, 5, 3, vertex="scale, bias").items()}
    yield own["a"], own["s"], own["scale"], own["bias"], own["skip"], 1, 0.37, 1
    yield torch.cat([i["a"], i["s"]], -1).detach().requires_grad_(), *[None] * 4, 1, 0.37, 3


def raw_backward():
    """Arguments of the derivative that match those."""
    for arguments in raw_forward():
        a, s, scale, bias, _, norm, eps, activation = arguments
        own = bias is not None and bias.dim() == 2
        out, rnorm = torch.ops.polygraph.poly_step(*arguments)
        grad = normal(2, 5, 3, seed=9).float().requires_grad_()
        out = out.detach().requires_grad_()
        yield grad, a, s, scale, out, rnorm.detach(), norm, eps, activation, own, s is not None


def rows(name):
    """Faults of one tensor ``[B, V, D]`` that must match ``a``: (name, change, message)."""
    wanted = name + r" must have shape \[B, V, D\] = \[2, 5, 3\], got "
    yield f"{name} of rank 2", lambda t: t[0], wanted + r"\[5, 3\]"
    yield f"{name} with a sample too few", lambda t: t[1:], wanted + r"\[1, 5, 3\]"
    yield f"{name} with a vertex too few", lambda t: t[:, 1:], wanted + r"\[2, 4, 3\]"
    yield f"{name} with a channel too few", lambda t: t[..., 1:], wanted + r"\[2, 5, 2\]"
    yield f"{name} of another dtype", lambda t: t.double(), f"{name} must be float32, got float64"
    yield f"{name} on another device", lambda t: t.to("meta"), f"{name} must be on the device of"


def channels(name):
    """Faults of one tensor ``[D]``: (name, change, message)."""
    wanted = name + r" must have shape \[D\] = \[3\], got "
    yield f"{name} too short", lambda t: t[1:], wanted + r"\[2\]"
    yield f"{name} of rank 0", lambda t: t[0], wanted + r"\[\]"
    wanted = name + r" must have shape \[D\] or \[V, D\] = \[5, 3\], got "
    yield f"{name} of one vertex", lambda t: t[None], wanted + r"\[1, 3\]"
    yield f"{name} of another dtype", lambda t: t.half(), f"{name} must be float32, got float16"
    yield f"{name} on another device", lambda t: t.to("meta"), f"{name} must be on the device of"


BROKEN = {
    fault: (put(name, change), RuntimeError, message)
    for name, kind in (("s", rows), ("skip", rows), ("scale", channels), ("bias", channels))
    for fault, change, message in kind(name)
} | {
    "a of rank 1": (
        lambda i: i | {"a": i["a"][0, 0], "s": i["s"][0, 0], "skip": None},
        RuntimeError,
        r"a must have shape \[B, V, D\]",
    ),
    "a of rank 4": (put("a", lambda a: a[None]), RuntimeError, r"a must have shape \[B, V, D\]"),
    "a of integers": (
        put("a", lambda a: a.long()),
        RuntimeError,
        "a must be float32, float64, float16 or bfloat16, got int64",
    ),
    "an odd number of channels in two halves": (
        put("s", lambda s: None),
        RuntimeError,
        "a must have an even number of channels when s is None, got 3",
    ),
    "unknown norm": (
        put("norm", lambda n: "batch"),
        ValueError,
        "norm must be one of none, rms, got 'batch'",
    ),
    "unknown activation": (
        put("activation", lambda n: "gelu"),
        ValueError,
        "activation must be one of none, elu, relu, leaky_relu, got 'gelu'",
    ),
    "eps 0": (put("eps", lambda e: 0.0), ValueError, "eps must be positive, got 0.0"),
    "eps negative": (put("eps", lambda e: -1.0), ValueError, "eps must be positive, got -1.0"),
    "eps NaN": (put("eps", lambda e: math.nan), ValueError, "eps must be positive, got nan"),
}

RAW_BROKEN = (
    {
        f"backward: {fault}": (BACKWARD, at(place, change), message)
        for place, name in ((0, "grad"), (4, "out"))
        for fault, change, message in list(rows(name))[:-1]
    }
    | {
        f"backward: {fault}": (BACKWARD, at(3, change), message)
        for fault, change, message in list(channels("scale"))[:-1]
    }
    | {
        "backward: rnorm of rank 1": (
            BACKWARD,
            at(5, lambda r: r[0]),
            r"rnorm must have shape \[B, D\] = \[2, 3\], got \[3\]",
        ),
        "backward: rnorm of another dtype": (
            BACKWARD,
            at(5, lambda r: r.double()),
            "rnorm must be float32, got float64",
        ),
        "backward: norm 2": (BACKWARD, at(6, lambda n: 2), "norm must be 0 or 1, got 2"),
        "backward: activation 4": (
            BACKWARD,
            at(8, lambda n: 4),
            "activation must be 0, 1, 2 or 3, got 4",
        ),
        "norm 2": ("poly_step", at(5, lambda n: 2), "norm must be 0 or 1, got 2"),
        "norm -1": ("poly_step", at(5, lambda n: -1), "norm must be 0 or 1, got -1"),
        "activation 4": ("poly_step", at(7, lambda n: 4), "activation must be 0, 1, 2 or 3, got 4"),
        "activation -1": ("poly_step", at(7, lambda n: -1), "activation must be 0, 1, 2 or 3"),
    }
)


RAW = {"poly_step": lambda: list(raw_forward()), BACKWARD: lambda: list(raw_backward())}


class TestPolyStep(OperatorContract):
    """The contract."""

    stem = "poly_step"
    op = staticmethod(ops.poly_step)
    reference = staticmethod(reference.poly_step)
    batched = ("a", "s", "skip")
    cases = CASES
    small = (
        "plain",
        "defaults",
        "one tensor of two halves",
        "two halves, polynomial",
        "small eps",
        "large eps",
        "one vertex",
        "a scale per vertex",
        "a bias per vertex",
        "both per vertex, two halves",
        "both per vertex, polynomial",
    )
    vectors = ("8 channels", "16 channels", "many rows of two halves")
    empty = EMPTY
    threaded = "many rows"
    broken = BROKEN
    raw = RAW
    raw_broken = RAW_BROKEN


def test_by_hand():
    """The formula on two vertices and one channel."""
    a, s = torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [-1.0]])
    one = torch.ones(1)
    root = math.sqrt(4.0 + (9.0 + 1.0) / 2)  # eps 4, t = 3, -1
    expected = torch.tensor([[3 + 0.5 * 3 / root + 2 + 1], [1 - 0.5 / root - 4 + 1]])
    skip = torch.tensor([[2.0], [-4.0]])
    for function in (ops.poly_step, reference.poly_step):
        out = function(a, s, 0.5 * one, bias=one, skip=skip, eps=4.0)
        torch.testing.assert_close(out, expected)
        out = function(a, s, 0.5 * one, bias=one, skip=skip, eps=4.0, activation="leaky_relu")
        torch.testing.assert_close(out, torch.where(expected > 0, expected, 0.2 * expected))


def test_samples_are_normalised_apart():
    """A sample's result does not depend on the rest of its batch, in any bit."""
    i = {n: t.float() for n, t in call(4, 300, 9).items()}
    whole = ops.poly_step(**i, activation="elu")
    i |= {name: i[name][2:3] for name in ("a", "s", "skip")}
    assert torch.equal(ops.poly_step(**i, activation="elu"), whole[2:3])


@pytest.mark.parametrize("expanded", ["a", "s", "skip"])
@pytest.mark.parametrize("D", [2, 3, 9])
def test_rows_that_are_one_row_expanded(D, expanded):
    """Strides of zero over vertices: nothing behind the one row is read."""
    i = call(2, 300, D)
    i[expanded] = i[expanded][:, :1].clone().expand(-1, 300, -1)
    whole = i | {expanded: i[expanded].contiguous()}
    for inputs in (i, whole):
        inputs[expanded] = inputs[expanded].detach().requires_grad_()
    out, expected = (ops.poly_step(**inputs, activation="elu") for inputs in (i, whole))
    assert_close(out, expected, KERNEL[torch.float64], "output")
    out.sum().backward()
    expected.sum().backward()
    assert_close(i[expanded].grad, whole[expanded].grad, KERNEL[torch.float64], "gradient")


@pytest.mark.parametrize("D", [3, 19])
def test_the_bits_do_not_depend_on_threads_with_values_per_vertex(D):
    """A vertex' gradients are sums over samples, added in their order by one thread."""
    i = {n: t.float() for n, t in call(5, 1100, D, vertex="scale, bias").items()}

    def gradients(threads):
        leaves = {n: t.clone().requires_grad_() for n, t in i.items()}
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            ops.poly_step(**leaves, activation="elu").square().sum().backward()
        finally:
            torch.set_num_threads(before)
        return [t.grad for t in leaves.values()]

    assert all(torch.equal(a, b) for a, b in zip(gradients(1), gradients(2), strict=True))


def test_channel_slices_of_one_tensor_are_not_copied():
    """Slices of one wide operator's result give the bits of separate tensors, and its gradient."""
    wide = normal(2, 40, 48).float()
    leaf = wide.clone().requires_grad_()
    a, s, skip = leaf.split(16, dim=-1)
    out = ops.poly_step(a, s, skip=skip)
    out.sum().backward()
    apart = [t.clone().requires_grad_() for t in wide.split(16, dim=-1)]
    expected = ops.poly_step(apart[0], apart[1], skip=apart[2])
    expected.sum().backward()
    assert torch.equal(out, expected)
    assert torch.equal(leaf.grad, torch.cat([t.grad for t in apart], -1))


def test_two_halves_are_the_two_factors():
    """``s=None`` reads a and s from one tensor, to the same bits."""
    i = {n: t.float() for n, t in call(2, 40, 24).items()}
    packed = i | {"a": torch.cat([i["a"], i.pop("s")], -1)}
    apart = i | {"s": packed["a"][..., 24:]}
    assert torch.equal(ops.poly_step(**packed), ops.poly_step(**apart))


def test_at_rest_the_second_order_term_is_exactly_off():
    """With scale 0 what remains is first order: a + bias."""
    i = call(2, 7, 5, skip=False)
    out = ops.poly_step(**(i | {"scale": torch.zeros(5, dtype=torch.float64)}))
    assert torch.equal(out, i["a"] + i["bias"])
