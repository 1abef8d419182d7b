"""Calls of a layer, and what is done to them in tests."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.modules import module as torch_modules

from support.calls import upstream_like
from support.tolerances import assert_close

# Sums in another order, through a few products in float64.
EXACT = 1e-10
OFFSETS = (0.0, 1.0, 1e2, 1e4, 1e6)


class Case(NamedTuple):
    """A layer and a call of it."""

    make: Callable[[], Any]  #: the layer, with random weights
    inputs: Callable[[], tuple]  #: arguments, floating ones in float64 on the CPU
    peer: Callable[[], Any] | None = None  #: PyG's layer, with the same state_dict


HOOKS = {
    "forward": lambda m, f: m.register_forward_hook(f),
    "forward pre": lambda m, f: m.register_forward_pre_hook(f),
    "full backward": lambda m, f: m.register_full_backward_hook(f),
    "full backward pre": lambda m, f: m.register_full_backward_pre_hook(f),
}
GLOBAL_HOOKS = {
    "forward": torch_modules.register_module_forward_hook,
    "forward pre": torch_modules.register_module_forward_pre_hook,
    "full backward": torch_modules.register_module_full_backward_hook,
    "full backward pre": torch_modules.register_module_full_backward_pre_hook,
}


def is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def tree(value, change):
    """``change`` of every tensor in nested tuples."""
    if isinstance(value, tuple):
        return tuple(tree(part, change) for part in value)
    return change(value) if isinstance(value, torch.Tensor) else value


def flat(values):
    """The tensors of nested tuples, one after the other."""
    if isinstance(values, tuple):
        return [tensor for part in values for tensor in flat(part)]
    return [values] if isinstance(values, torch.Tensor) else []


def of_dtype(inputs, dtype):
    return tree(inputs, lambda t: t.to(dtype) if t.is_floating_point() else t)


def leaves(inputs):
    """Floating tensors as leaves that require gradients."""
    return tree(
        inputs, lambda t: t.detach().clone().requires_grad_() if t.is_floating_point() else t
    )


def run(layer, inputs, call=None):
    """Output, gradients of the inputs and of the parameters, and what is left in the buffers."""
    inputs = leaves(inputs)
    wanted = [t for t in flat(inputs) if t.is_floating_point()] + list(layer.parameters())
    out = layer(*inputs) if call is None else call(layer, *inputs)
    layer.zero_grad()
    if out.requires_grad:
        out.backward(upstream_like(out))
    found = {"out": out.detach()}
    found |= {
        f"gradient {n}": torch.zeros_like(t) if t.grad is None else t.grad
        for n, t in enumerate(wanted)
    }
    layer.zero_grad()
    return found | {f"buffer {n}": b.clone() for n, b in layer.state_dict().items()}


def require_close(actual, expected, tolerance=EXACT):
    """As a share of the largest entry, or of 1: what is zero but for rounding has no digits."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        if (actual[name] - value).abs().amax() > tolerance if value.numel() else False:
            assert_close(actual[name], value, tolerance, name)
        assert actual[name].shape == value.shape, name


def called_parts(layer):
    """Every module in a layer that can be called, by its name; the layer itself has none."""
    return {
        name: part
        for name, part in layer.named_modules()
        if type(part).forward is not torch.nn.Module.forward
    }


def pure(layer, inputs):
    """The layer as a function of its parameters and its floating inputs, and these."""
    places = [n for n, value in enumerate(inputs) if is_float(value)]
    parameters = {n: p.detach() for n, p in layer.named_parameters()}

    def call(parameters, *values):
        given = list(inputs)
        for place, value in zip(places, values, strict=True):
            given[place] = value
        return torch.func.functional_call(layer, parameters, tuple(given))

    return call, (parameters, *(inputs[place] for place in places))


def dot(a, b):
    return sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True))


def like(values, seed):
    """Random numbers in the shapes of a dictionary and tensors, as `pure` gives them."""
    parameters, *rest = values
    made = {n: upstream_like(p, seed + i) for i, (n, p) in enumerate(parameters.items())}
    return (made, *(upstream_like(v, seed - 1 - i) for i, v in enumerate(rest)))
