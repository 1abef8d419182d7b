"""The part of the contract about derivatives: of every order, forwards, in batches."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from support.calls import (
    convert,
    floats,
    leaves,
    run,
    upstream_like,
)
from support.tolerances import KERNEL, SECOND_DERIVATIVE, assert_close


class DerivativeContract:
    """Mixed into `contract.OperatorContract`, which has the attributes."""

    def call_of_floats(self, inputs):
        """The call as a function of its floating tensors alone, and those."""
        inputs = leaves(inputs)
        names = list(floats(inputs))
        return lambda *values: self.op(**(inputs | dict(zip(names, values, strict=True)))), tuple(
            floats(inputs).values()
        )

    def test_gradcheck(self, small_case):
        """First derivatives agree with finite differences, in random directions."""
        f, values = self.call_of_floats(self.cases[small_case]())
        assert torch.autograd.gradcheck(f, values, fast_mode=True)

    def test_gradgradcheck(self, small_case):
        """Second derivatives agree with finite differences, in random directions."""
        f, values = self.call_of_floats(self.cases[small_case]())
        assert torch.autograd.gradgradcheck(f, values, fast_mode=True)

    def test_one_derivative_at_a_time(self, small_case):
        """A derivative is the same whether or not the others are wanted as well."""
        inputs = convert(self.cases[small_case](), dtype=torch.float32)
        together = run(self.op, inputs)
        for name, value in floats(inputs).items():
            leaf = value.clone().requires_grad_()
            out = self.op(**(inputs | {name: leaf}))
            (alone,) = torch.autograd.grad(out, leaf, upstream_like(out))
            assert torch.equal(alone, together[f"grad of {name}"]), name

    # ---- forward mode and torch.func ----

    def test_forward_mode(self, small_case):
        """Tangents agree with gradients: <u, J t> = <Jᵀ u, t>, for every argument alone as well."""
        f, values = self.call_of_floats(self.cases[small_case]())
        tangents = tuple(upstream_like(v.detach(), seed) for seed, v in enumerate(values, start=2))
        out = f(*values)
        upstream = upstream_like(out)
        grads = torch.autograd.grad(out, values, upstream)
        values = tuple(v.detach() for v in values)
        _, together = torch.func.jvp(f, values, tangents)
        expected = sum((g * t).sum() for g, t in zip(grads, tangents, strict=True))
        scale = sum((g * t).abs().sum() for g, t in zip(grads, tangents, strict=True))
        assert abs((upstream * together).sum() - expected) <= 1e-12 * scale
        alone = torch.zeros_like(together)
        for place, (value, tangent) in enumerate(zip(values, tangents, strict=True)):
            with forward_ad.dual_level():
                given = [*values[:place], forward_ad.make_dual(value, tangent)]
                moved = forward_ad.unpack_dual(f(*given, *values[place + 1 :])).tangent
            share = (grads[place] * tangent).sum()
            assert abs((upstream * moved).sum() - share) <= 1e-12 * scale
            alone = alone + moved
        assert_close(alone, together, 1e-12, "tangents one by one")

    def test_second_order_in_every_order(self, small_case):
        """A Hessian times a vector is the same whichever derivative is taken forwards."""
        f, values = self.call_of_floats(self.cases[small_case]())
        tangents = tuple(upstream_like(v.detach(), seed) for seed, v in enumerate(values, start=2))
        upstream = upstream_like(f(*values).detach())

        def score(*values):
            return (upstream * f(*values)).sum() + f(*values).square().sum()

        grads = torch.autograd.grad(score(*values), values, create_graph=True)
        expected = torch.autograd.grad(grads, values, tangents, allow_unused=True)
        pairs = zip(values, expected, strict=True)
        expected = [torch.zeros_like(v) if e is None else e for v, e in pairs]
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(v, t) for v, t in zip(values, tangents, strict=True)]
            grads = torch.autograd.grad(score(*duals), duals)
            dual = [forward_ad.unpack_dual(g).tangent for g in grads]
        leaves = tuple(v.detach() for v in values)
        every = tuple(range(len(values)))
        gradient = torch.func.grad(score, every)
        _, forward_over_reverse = torch.func.jvp(gradient, leaves, tangents)

        def slope(*values):
            return torch.func.jvp(score, values, tangents)[1]

        found = {
            "forward over reverse": forward_over_reverse,
            "reverse over forward": torch.func.grad(slope, every)(*leaves),
            "dual numbers over reverse": dual,
        }
        for way, parts in found.items():
            for part, wanted in zip(parts, expected, strict=True):
                part = torch.zeros_like(wanted) if part is None else part
                assert_close(part, wanted, SECOND_DERIVATIVE[torch.float64], way)

    def test_batches(self, small_case):
        """`vmap` of values and gradients, over every argument and over all, is a loop."""
        f, values = self.call_of_floats(self.cases[small_case]())
        values = tuple(v.detach() for v in values)
        upstream = upstream_like(f(*values))
        every = tuple(range(len(values)))

        def score(*values):
            out = f(*values)
            return (upstream * out).sum(), out

        both = torch.func.grad(score, every, has_aux=True)
        stacks = [torch.stack([v, 0.5 * v, v * v], -1) for v in values]
        choices = [{place} for place in every] + ([set(every)] if len(every) > 1 else [])
        for batched in choices:
            dims = tuple(-1 if place in batched else None for place in every)
            given = [stacks[p] if p in batched else v for p, v in enumerate(values)]
            grads, out = torch.func.vmap(both, dims)(*given)
            for n in range(3):
                alone = [g[..., n] if p in batched else g for p, g in enumerate(given)]
                wanted, expected = both(*alone)
                assert_close(out[n], expected, KERNEL[torch.float64], f"sample {n} of {batched}")
                for g, w in zip(grads, wanted, strict=True):
                    assert_close(g[n], w, KERNEL[torch.float64], f"gradient {n} of {batched}")

    def test_batched_gradients(self, small_case):
        """Several gradients at once, as vectorised Jacobians take them, are those one by one."""
        f, values = self.call_of_floats(self.cases[small_case]())
        out = f(*values)
        upstreams = torch.stack([upstream_like(out, seed) for seed in (2, 3)])
        together = torch.autograd.grad(
            out, values, upstreams, is_grads_batched=True, retain_graph=True
        )
        for n, upstream in enumerate(upstreams):
            alone = torch.autograd.grad(out, values, upstream, retain_graph=True)
            for g, expected in zip(together, alone, strict=True):
                assert_close(g[n], expected, KERNEL[torch.float64], f"gradient {n}")

    def test_jacobian(self):
        """`torch.autograd.functional.jacobian` of both strategies, vectorised, agrees."""
        f, values = self.call_of_floats(self.cases[self.small[0]]())
        jacobian = torch.autograd.functional.jacobian
        forwards = jacobian(f, values, vectorize=True, strategy="forward-mode")
        for part, expected in zip(forwards, jacobian(f, values, vectorize=True), strict=True):
            assert_close(part, expected, KERNEL[torch.float64], "Jacobian")

    @pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
    def test_checkpoint(self, small_case, reentrant):
        """As the last operation of a checkpointed region; the same bits."""
        inputs = convert(self.cases[small_case](), dtype=torch.float32)
        f, values = self.call_of_floats(inputs)
        out = checkpoint(f, *values, use_reentrant=reentrant)
        out.backward(upstream_like(out))  # reentrant checkpoints take no other way
        expected = run(self.op, inputs)
        assert torch.equal(out, expected["out"])
        for name, value in zip(floats(inputs), values, strict=True):
            assert torch.equal(value.grad, expected[f"grad of {name}"]), name

    def test_raw_forward_mode(self, differentiable):
        """<u, J t> = <Jᵀ u, t> for the compiled operators, whose derivatives these are made of."""
        op = getattr(torch.ops.polygraph, differentiable).default
        for arguments in self.raw[differentiable]():
            self.check_raw_forward_mode(op, arguments)

    def check_raw_forward_mode(self, op, arguments):
        """Of one call."""
        places = [
            place
            for place, a in enumerate(arguments)
            if isinstance(a, torch.Tensor) and a.is_floating_point()
        ]
        arguments = list(arguments)
        for place in places:
            arguments[place] = arguments[place].detach().double().requires_grad_()

        def f(*values):
            given = list(arguments)
            for place, value in zip(places, values, strict=True):
                given[place] = value
            out = op(*given)
            out = out if isinstance(out, tuple | list) else (out,)
            return tuple(t for t in out if t.is_floating_point())

        values = tuple(arguments[place] for place in places)
        tangents = tuple(upstream_like(v.detach(), seed) for seed, v in enumerate(values, start=2))
        outs = [out for out in f(*values) if out.requires_grad]
        upstream = [upstream_like(out.detach()) for out in outs]
        grads = torch.autograd.grad(outs, values, upstream, allow_unused=True)
        _, moved = torch.func.jvp(f, tuple(v.detach() for v in values), tangents)
        moved = [m for m, out in zip(moved, f(*values), strict=True) if out.requires_grad]
        terms = [g * t for g, t in zip(grads, tangents, strict=True) if g is not None]
        expected = sum(t.sum() for t in terms)
        found = sum((u * m).sum() for u, m in zip(upstream, moved, strict=True))
        assert abs(found - expected) <= 1e-11 * sum(t.abs().sum() for t in terms)
