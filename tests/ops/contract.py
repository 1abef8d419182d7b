"""What every operator must pass. The test file of an operator subclasses `OperatorContract`.

Each test is written once, here, and runs over the cases that the subclass gives. A case is a
function without arguments that makes the keyword arguments of one call, in float64 on the CPU.
"""

import functools
import sys
from typing import ClassVar

import pytest
import torch
from calls import (
    LAYOUTS,
    convert,
    floats,
    leaves,
    relaid,
    require_same,
    run,
    run_reference,
    run_twice,
    tensors,
    upstream_like,
)
from gpu_contract import GpuContract
from isa_worker import results_on
from tolerances import KERNEL, SECOND_DERIVATIVE, assert_close
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from polygraph import ops

all_operators = torch._C._dispatch_get_all_op_names
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def grads_of(f, values):
    """The result, and all first derivatives."""
    out = f(*values)
    return [out, *torch.autograd.grad(out, values, upstream_like(out))]


def is_differentiable(name):
    """Whether derivatives of the compiled operator are registered."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return has_kernel(f"polygraph::{name}", "Autograd")


def require_name(caught):
    """Fail unless the message of an exception begins with the name of one of our operators."""
    message = str(caught.value)
    compiled = {n.split("::")[1] for n in all_operators() if n.startswith("polygraph::")}
    assert message.partition(": ")[0] in compiled.union(ops.__all__), message


class OperatorContract(GpuContract):
    """Base class; the attributes below are the operator's own part."""

    stem: str  #: all its compiled operators begin with this
    apart: tuple = ()  #: but those that begin with one of these, which are another's
    op: staticmethod  #: the public function
    reference: staticmethod  #: its definition
    batched: tuple = ()  #: arguments that have the batch dimension in front
    cases: ClassVar[
        dict
    ]  #: name -> case; together they set every scalar to something not its default
    small: tuple = ()  #: names of cases small enough for finite differences
    vectors: tuple = ()  #: names of cases whose channels are a multiple of 8: read as vectors
    empty: ClassVar[dict] = {}  #: name -> case with nothing in some dimension
    threaded: str  #: name of a case large enough to be shared among threads
    broken: ClassVar[
        dict
    ] = {}  #: name -> (function from a good call to a bad one, exception, message)
    raw: ClassVar[
        dict
    ] = {}  #: name of a compiled operator -> function that lists argument tuples for it
    raw_broken: ClassVar[
        dict
    ] = {}  #: name -> (operator, function from good arguments to bad, message)
    gpu_asserts: ClassVar[
        dict
    ] = {}  #: name of a fault, of the kinds above, that a kernel finds on a GPU -> its message
    gpu_broken: ClassVar[
        dict
    ] = {}  #: what a GPU alone finds, as in `raw_broken`; the message is a plain string
    products: bool = False  #: whether some of the work are PyTorch's matrix products
    torch_sums: tuple = ()  #: results of `run` whose sums are PyTorch's

    @classmethod
    def parameters(cls):
        """Parameter of a test -> the values it takes for this operator."""
        return {
            "case": cls.cases,
            "small_case": cls.small,
            "layout_case": (cls.small[0], *cls.vectors),
            "empty_case": cls.empty,
            "fault": cls.broken,
            "raw_name": cls.raw,
            "differentiable": [name for name in cls.raw if is_differentiable(name)],
            "raw_fault": cls.raw_broken,
        }

    @classmethod
    def pytest_generate_tests(cls, metafunc):
        """Run each test over the operator's cases, dtypes and faults."""
        for name, values in cls.parameters().items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, list(values))
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))

    # ---- values ----

    @classmethod
    @functools.cache
    def expected(cls, case, dtype):
        """What the definition gives of a case; many of them take longer than the operator."""
        return run_reference(cls.reference, convert(cls.cases[case](), dtype=dtype))

    def check(self, inputs, device="cpu", expected=None):
        """The result and all first derivatives of one call agree with the definition."""
        dtype = next(iter(floats(inputs).values())).dtype
        expected = run_reference(self.reference, inputs) if expected is None else expected
        actual = run(self.op, convert(inputs, device=device))
        for name, value in expected.items():
            assert actual[name].dtype == dtype, f"{name} is {actual[name].dtype}"
            assert actual[name].device == torch.empty(0, device=device).device
            assert_close(actual[name], value, KERNEL[dtype], name)

    def test_values_and_derivatives(self, case, dtype):
        """Every dtype, every case: within rounding of the definition."""
        self.check(convert(self.cases[case](), dtype=dtype), expected=self.expected(case, dtype))

    def test_cases_cover_the_signature(self):
        """No argument is left at None or at its default value in all of the cases."""
        made = [make() for make in self.cases.values()]
        defaults = self.op.__kwdefaults__ or {}
        arguments = self.op.__code__.co_varnames[
            : self.op.__code__.co_argcount + self.op.__code__.co_kwonlyargcount
        ]
        for name in arguments:
            values = [call.get(name, defaults.get(name)) for call in made]
            default = defaults.get(name)
            assert any(isinstance(v, torch.Tensor | tuple) or v != default for v in values), name

    @pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_second_derivatives(self, case, wide):
        """Second derivatives of every case agree with those of the definition."""
        inputs = convert(self.cases[case](), dtype=wide)
        expected = run_twice(self.reference, convert(inputs, dtype=torch.float64))
        actual = run_twice(self.op, inputs)
        for name, value in expected.items():
            assert_close(actual[name], value, SECOND_DERIVATIVE[wide], name)

    def test_without_batch(self, dtype):
        """A single sample needs no batch dimension."""
        inputs = convert(self.cases[self.small[0]](), dtype=dtype)
        one = {n: v[0] if n in self.batched and v is not None else v for n, v in inputs.items()}
        self.check(one)
        batch = {n: v[:1] if n in self.batched and v is not None else v for n, v in inputs.items()}
        assert torch.equal(self.op(**one), self.op(**batch)[0])

    def test_empty(self, empty_case, dtype):
        """Nothing in, nothing (or zeros) out; never a crash, never garbage."""
        inputs = convert(self.empty[empty_case](), dtype=dtype)
        self.check(inputs)

    # ---- derivatives ----

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

    # ---- without memory ----

    @pytest.mark.parametrize("kind", ["meta", "fake"])
    def test_shapes_alone(self, small_case, kind):
        """On the meta device and on fake tensors: shapes and dtypes of results and gradients."""
        inputs = convert(self.cases[small_case](), dtype=torch.float32)
        expected = run(self.op, inputs)
        if kind == "meta":
            found = run(self.op, convert(inputs, device="meta"))
        else:
            with FakeTensorMode(allow_non_fake_inputs=False) as mode:
                fake = {n: self.faked(mode, v) for n, v in inputs.items()}
                found = run(self.op, fake)
        for name, value in expected.items():
            assert found[name].shape == value.shape, name
            assert found[name].dtype == value.dtype, name

    @classmethod
    def faked(cls, mode, value):
        """A tensor, or a tuple with tensors, without its memory."""
        if isinstance(value, tuple):
            return tuple(cls.faked(mode, v) for v in value)
        return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

    # ---- the compiled operators ----

    def test_every_compiled_operator_is_listed(self):
        """``raw`` and with it opcheck leave none of the operator's family out."""
        prefix = f"polygraph::{self.stem}"
        names = {n.split("::")[1] for n in all_operators() if prefix in n}
        assert {n for n in names if not n.startswith(self.apart)} == set(self.raw)

    def test_opcheck(self, raw_name):
        """Schema, fake, autograd registration, and tracing with dynamic shapes."""
        op = getattr(torch.ops.polygraph, raw_name).default
        for arguments in self.raw[raw_name]():
            torch.library.opcheck(op, arguments)

    # ---- memory ----

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides(self, layout, dtype):
        """The layout of the arguments in memory does not change a bit of the result."""
        inputs = convert(self.cases[self.small[0]](), dtype=dtype)
        require_same(run(self.op, relaid(inputs, layout)), run(self.op, inputs))

    def test_expanded(self, dtype):
        """Arguments and gradients that are broadcast views."""
        inputs = convert(self.cases[self.small[0]](), dtype=dtype)
        wide = {
            n: t[:1].expand_as(t) if n in self.batched and t is not None else t
            for n, t in inputs.items()
        }
        copied = {n: t.clone() if isinstance(t, torch.Tensor) else t for n, t in wide.items()}
        one = torch.ones((), dtype=dtype)
        upstream = one.expand(self.op(**copied).shape)
        require_same(run(self.op, wide, upstream), run(self.op, copied, upstream.contiguous()))

    def test_arguments_are_left_alone(self, case):
        """No argument is written to."""
        inputs = self.cases[case]()
        before = {name: t.clone() for name, t in tensors(inputs).items()}
        run(self.op, inputs)
        require_same(tensors(inputs), before)

    # ---- faults ----

    def test_fault(self, fault):
        """Every argument broken in turn: refused before any work, by a message that names it."""
        change, exception, message = self.broken[fault]
        good = convert(self.cases[self.small[0]](), dtype=torch.float32)
        self.op(**good)
        with pytest.raises(exception, match=message) as caught:
            run(self.op, change(good))
        require_name(caught)

    def test_raw_fault(self, raw_fault):
        """The same for the compiled operators, which a caller may reach directly."""
        name, change, message = self.raw_broken[raw_fault]
        op = getattr(torch.ops.polygraph, name)
        good = list(self.raw[name]()[0])
        op(*good)
        with pytest.raises(RuntimeError, match=message) as caught:
            op(*change(good))
        require_name(caught)

    # ---- repeatability ----

    def test_repeats_bit_for_bit(self, dtype, set_threads):
        """Twice the same, on one thread and on two, and when only deterministic work is allowed."""
        inputs = convert(self.cases[self.threaded](), dtype=dtype)
        set_threads(1)
        expected = run(self.op, inputs)
        require_same(run(self.op, inputs), expected)
        set_threads(2)
        require_same(run(self.op, inputs), expected)
        torch.use_deterministic_algorithms(True)
        try:
            require_same(run(self.op, inputs), expected)
        finally:
            torch.use_deterministic_algorithms(False)

    @pytest.mark.parametrize("isa", ["plain", "avx2"])
    def test_other_instruction_sets(self, isa, tmp_path):
        """A process held to a lesser instruction set computes the same within rounding."""
        wanted = ["plain", "avx2"].index(isa)
        if torch.ops.polygraph.instruction_set() < wanted:
            pytest.skip(f"this processor has no {isa}")
        test_file = sys.modules[type(self).__module__].__file__
        found = results_on(isa, test_file, type(self).__name__, tmp_path / "results.pt")
        assert found.pop("instruction set") == wanted
        assert len(found) == 2 * len(self.cases)
        for key, actual in found.items():
            case, dtype_name = key.rsplit("/", 1)
            dtype = getattr(torch, dtype_name)
            for name, value in self.expected(case, dtype).items():
                assert_close(actual[name], value, KERNEL[dtype], f"{key}: {name}")

    # ---- PyTorch's own machinery ----

    @pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
    def test_compiles_without_graph_break(self, backend):
        """torch.compile(fullgraph=True), forward and backward, between other operations."""
        self.check_compiled(backend)

    def check_compiled(self, backend, device="cpu"):
        """Compiled as it is."""
        inputs = convert(self.cases[self.small[0]](), dtype=torch.float32, device=device)
        names = list(floats(inputs))

        def around(**inputs):
            return (self.op(**(inputs | {names[0]: 2 * inputs[names[0]]})) + 1).sin()

        torch.compiler.reset()
        actual = run(torch.compile(around, fullgraph=True, backend=backend), inputs)
        for name, value in run(around, inputs).items():
            # Inductor's own sine may round otherwise: one more float32 step at each end.
            assert_close(actual[name], value, KERNEL[torch.float32], name)

    @pytest.mark.filterwarnings(
        "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning"
    )
    def test_traces(self):
        """`torch.jit.trace`, which PyTorch still has: the same bits, forward and backward."""
        f, values = self.call_of_floats(convert(self.cases[self.small[0]](), dtype=torch.float32))
        traced = torch.jit.trace(f, values, check_trace=False)
        for part, expected in zip(grads_of(traced, values), grads_of(f, values), strict=True):
            assert torch.equal(part, expected)

    def test_autocast(self):
        """Under autocast the operator runs in its dtype; gradients come back in float32."""
        self.check_autocast(torch.bfloat16)

    def check_autocast(self, half, device="cpu"):
        """The same bits as of arguments in the half type."""
        inputs = convert(self.cases[self.small[0]](), dtype=torch.float32, device=device)
        expected = run(self.op, convert(inputs, dtype=half))
        with torch.autocast(device, dtype=half):
            actual = run(self.op, inputs)
            double = self.op(**convert(inputs, dtype=torch.float64))
        assert actual["out"].dtype == half
        assert torch.equal(actual["out"], expected["out"])
        for name in floats(inputs):
            assert actual[f"grad of {name}"].dtype == torch.float32
            assert torch.equal(actual[f"grad of {name}"], expected[f"grad of {name}"].float())
        assert double.dtype == torch.float64
