"""Calls of an operator as dictionaries of keyword arguments, and what is done to them in tests."""

import torch
from torch.utils import _pytree as pytree


def tensors(inputs):
    """The tensors of a call by name."""
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def floats(inputs):
    """The tensors of a call that it is differentiable in, by name."""
    return {name: t for name, t in tensors(inputs).items() if t.is_floating_point()}


def convert(inputs, *, dtype=None, device=None):
    """The call with its floating tensors in another dtype, and all tensors on another device."""

    def change(value):
        if isinstance(value, tuple):
            return tuple(change(v) for v in value)
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

    return {name: change(value) for name, value in inputs.items()}


def on_device(arguments, device):
    """Positional arguments with all tensors copied to a device, without a graph; lists, too."""

    def copied(t):
        return t.detach().to(device, copy=True)

    return pytree.tree_map_only(torch.Tensor, copied, list(arguments))


def upstream_like(out, seed=1):
    """A gradient for ``out``: random, the same on every device and for every dtype."""
    values = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).double()
    return values.to(device=out.device, dtype=out.dtype)


def leaves(inputs):
    """The call with its floating tensors as leaves that require gradients."""
    return inputs | {n: t.detach().requires_grad_() for n, t in floats(inputs).items()}


def run(op, inputs, upstream=None, *, allow_unused=False):
    """Results of the call by name: ``out``, and the gradient of every floating argument.

    ``allow_unused``: an argument that the result does not depend on has a gradient of zeros.
    """
    inputs = leaves(inputs)
    wanted = floats(inputs)
    out = op(**inputs)
    upstream = upstream_like(out) if upstream is None else upstream.to(out)
    grads = torch.autograd.grad(
        out,
        list(wanted.values()),
        upstream,
        allow_unused=allow_unused,
        materialize_grads=allow_unused,
    )
    return {"out": out.detach()} | {f"grad of {n}": g for n, g in zip(wanted, grads, strict=True)}


def require_same(actual, expected):
    """Fail unless two results of `run` agree in every bit."""
    for name, value in expected.items():
        assert torch.equal(actual[name], value), f"{name} differs"


def run_reference(reference, inputs):
    """What `run` of the same call should give: in float64, from the same rounded numbers."""
    dtype = next(iter(floats(inputs).values())).dtype
    exact = convert(inputs, dtype=torch.float64)
    upstream = upstream_like(reference(**exact).to(dtype))
    return run(reference, exact, upstream, allow_unused=True)


def run_twice(op, inputs):
    """Second derivatives by name: of a random combination of all first derivatives."""
    inputs = leaves(inputs)
    wanted = floats(inputs)
    out = op(**inputs)
    upstream = upstream_like(out).requires_grad_()
    first = torch.autograd.grad(out, list(wanted.values()), upstream, create_graph=True)
    total = sum((g * upstream_like(g, seed)).sum() for seed, g in enumerate(first, start=2))
    wanted = wanted | {"upstream": upstream}
    second = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    return {
        f"second derivative in {name}": torch.zeros_like(t) if grad is None else grad
        for (name, t), grad in zip(wanted.items(), second, strict=True)
    }


def run_raw(op, arguments):
    """What a compiled operator returns, and what it leaves in its arguments, by name."""
    arguments = on_device(arguments, None)
    out = op(*arguments)
    out = () if out is None else (out,) if isinstance(out, torch.Tensor) else tuple(out)
    found = [(f"result {n}", t) for n, t in enumerate(out)]
    found += [(f"argument {n}", t) for n, t in enumerate(arguments)]
    return {name: t for name, t in found if isinstance(t, torch.Tensor)}


def _transposed(t):
    return t.mT.contiguous().mT if t.dim() > 1 else t


def _sliced(t):
    """Every other entry along every dimension, in the middle of a larger tensor of sevens."""
    wide = t.new_full([2 * size + 3 for size in t.shape], 7)
    inner = wide[tuple(slice(1, 1 + 2 * size, 2) for size in t.shape)]
    return inner.copy_(t)


def _channel_slice(t):
    """The first channels of a wider tensor."""
    return torch.cat([t, torch.full_like(t, 7)], dim=-1)[..., : t.shape[-1]]


def _offset(t):
    """Dense, but not at an address that vectors like."""
    return torch.cat([t.new_full((1,), 7), t.flatten()])[1:].view(t.shape)


LAYOUTS = {
    "transposed": _transposed,
    "sliced": _sliced,
    "channel slice": _channel_slice,
    "offset": _offset,
}


def relaid(inputs, layout):
    """The call with every tensor in another memory layout and with the same values."""
    return {
        name: LAYOUTS[layout](value) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
