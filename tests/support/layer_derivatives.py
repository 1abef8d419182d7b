"""The part of the contract of layers about derivatives."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from support.calls import upstream_like
from support.layer_calls import EXACT, dot, like, pure, require_close, run
from support.tolerances import assert_close


class LayerDerivatives:
    """Mixed into `layer_contract.LayerContract`, which has the attributes."""

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_checkpoint(self, case, reentrant):
        """Activations made anew in the backward pass: the same gradients."""
        layer, inputs = self.made(case)
        layer.eval()

        def call(layer, *arguments):
            return checkpoint(layer, *arguments, use_reentrant=reentrant)

        require_close(run(layer, inputs, call=call), run(layer, inputs))

    def test_forward_mode(self, case):
        """<J t, w> = <t, Jᵀ w>; and J t is the limit of differences."""
        layer, inputs = self.made(case)
        call, values = pure(layer.eval(), inputs)
        tangents = like(values, 3)
        out, tangent = torch.func.jvp(call, values, tangents)
        _, pull = torch.func.vjp(call, *values)
        upstream = upstream_like(out)
        cotangents = pull(upstream)
        pairs = [(tangents[0][n], cotangents[0][n]) for n in tangents[0]]
        pairs += list(zip(tangents[1:], cotangents[1:], strict=True))
        torch.testing.assert_close(
            dot([tangent], [upstream]), dot(*zip(*pairs, strict=True)), rtol=1e-9, atol=1e-9
        )
        step = 1e-6
        ends = []
        for sign in (step, -step):
            moved = {n: p + sign * tangents[0][n] for n, p in values[0].items()}
            rest = [v + sign * t for v, t in zip(values[1:], tangents[1:], strict=True)]
            ends.append(call(moved, *rest))
        # A step of 1e-6 leaves 1e-10 of rounding and of curvature; a kink is a chance in 1e5.
        assert_close((ends[0] - ends[1]) / (2 * step), tangent, 1e-6, "tangent")

    def test_functional_derivatives(self, case):
        """torch.func.grad, and forward over reverse, against autograd."""
        layer, inputs = self.made(case)
        call, values = pure(layer.eval(), inputs)
        upstream = upstream_like(layer(*inputs))
        numbers = tuple(range(len(values)))

        def loss(*values):
            return (call(*values).sin() * upstream).sum()

        grads = torch.func.grad(loss, numbers)(*values)
        leaf = ({n: p.clone().requires_grad_() for n, p in values[0].items()},)
        leaf += tuple(v.clone().requires_grad_() for v in values[1:])
        wanted = [*leaf[0].values(), *leaf[1:]]
        options = {"allow_unused": True, "materialize_grads": True}
        expected = torch.autograd.grad(loss(*leaf), wanted, create_graph=True, **options)
        for actual, value in zip([*grads[0].values(), *grads[1:]], expected, strict=True):
            assert_close(actual, value, EXACT, "torch.func.grad")
        tangents = like(values, 5)
        along = [*tangents[0].values(), *tangents[1:]]
        _, curved = torch.func.jvp(torch.func.grad(loss, numbers), values, tangents)
        second = [g for g in expected if g.requires_grad]
        total = dot(second, [t for t, g in zip(along, expected, strict=True) if g.requires_grad])
        if not second:
            return
        reverse = torch.autograd.grad(total, wanted, **options)
        for actual, value in zip([*curved[0].values(), *curved[1:]], reverse, strict=True):
            if float(value.abs().max()) > 1e-12:
                assert_close(actual, value, 1e-8, "forward over reverse")

    def test_jacobian_and_samples(self):
        """jacrev; and vmap(grad), sample by sample of three."""
        layer, inputs = self.made(self.first)
        call, (parameters, x, *rest) = pure(layer.eval(), inputs)
        jacobian = torch.func.jacrev(lambda x: call(parameters, x, *rest).flatten(-2).sum(-1))(x)
        expected = torch.autograd.functional.jacobian(
            lambda x: call(parameters, x, *rest).flatten(-2).sum(-1), x
        )
        assert_close(jacobian, expected, EXACT, "jacrev")
        samples = torch.stack([x, x.flip(0) * 1.5, upstream_like(x, 9)])

        def loss(parameters, x):
            return call(parameters, x, *rest).sin().sum()

        found = torch.func.vmap(torch.func.grad(loss, (0, 1)), (None, 0))(parameters, samples)
        for n, sample in enumerate(samples):
            single = torch.func.grad(loss, (0, 1))(parameters, sample)
            assert_close(found[1][n], single[1], EXACT, "vmap(grad)")
            for name, value in single[0].items():
                if float(value.abs().max()) > 1e-12:
                    assert_close(found[0][name][n], value, EXACT, name)
