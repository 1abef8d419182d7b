"""What every operator must pass. The test file of an operator subclasses `OperatorContract`.

Each test is written once, here, and runs over the cases that the subclass gives. A case is a
function without arguments that makes the keyword arguments of one call, in float64 on the CPU.
"""

import functools
import sys
from typing import ClassVar

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from polygraph import ops
from support.calls import (
    LAYOUTS,
    convert,
    floats,
    relaid,
    require_same,
    run,
    run_reference,
    run_twice,
    tensors,
    upstream_like,
)
from support.derivative_contract import DerivativeContract
from support.gpu_contract import GpuContract
from support.isa_worker import results_on
from support.tolerances import KERNEL, SECOND_DERIVATIVE, assert_close

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


class OperatorContract(DerivativeContract, GpuContract):
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
