"""The part of the contract that every operator must pass on a GPU; `contract` has the attributes.

Each test runs on the device `devices.GPU`, which is the CPU in a dry run.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from support.calls import (
    LAYOUTS,
    convert,
    floats,
    on_device,
    relaid,
    require_same,
    run,
    run_raw,
    run_twice,
    tensors,
    upstream_like,
)
from support.devices import DRY_RUN, ELSEWHERE, GPU, PLACE, busy_stream, capture, second_device
from support.paths import environment
from support.tolerances import KERNEL, SECOND_DERIVATIVE, assert_close, relative_error

WORKERS_AT_ONCE = min(8, os.cpu_count() or 1)


class GpuContract:
    """Base class of `OperatorContract`."""

    def require_same_sums(self, actual, expected, torch_sums=()):
        """Agree in every bit, but for sums that PyTorch adds up, in an order of its own."""
        for name, value in expected.items():
            if value.is_floating_point() and (self.products or name in torch_sums):
                assert_close(actual[name], value, KERNEL[value.dtype], name)
            else:
                require_same(actual, {name: value})

    # ---- values and derivatives ----

    @pytest.mark.gpu
    def test_gpu_values(self, case, dtype):
        """On a GPU as on the CPU: within rounding of the definition."""
        self.check(convert(self.cases[case](), dtype=dtype), device=GPU)

    @pytest.mark.gpu
    def test_gpu_empty(self, empty_case):
        """Empty work launches no kernel."""
        self.check(convert(self.empty[empty_case](), dtype=torch.float32), device=GPU)

    @pytest.mark.gpu
    @pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=["float32", "float64"])
    def test_gpu_second_derivatives(self, case, wide):
        """Second derivatives of every case agree with those of the definition."""
        inputs = convert(self.cases[case](), dtype=wide)
        expected = run_twice(self.reference, convert(inputs, dtype=torch.float64))
        actual = run_twice(self.op, convert(inputs, device=GPU))
        for name, value in expected.items():
            assert_close(actual[name], value, SECOND_DERIVATIVE[wide], name)

    @pytest.mark.gpu
    @pytest.mark.parametrize("order", [1, 2])
    def test_gpu_finite_differences(self, small_case, order):
        """First and second derivatives along random directions."""
        check = torch.autograd.gradcheck if order == 1 else torch.autograd.gradgradcheck
        inputs = convert(self.cases[small_case](), device=GPU)
        assert check(*self.call_of_floats(inputs), fast_mode=True)

    # ---- the compiled operators ----

    @pytest.mark.gpu
    def test_gpu_compiled_operators(self, raw_name):
        """Each as on the CPU, with everything given and with the least; and from a CUDA graph."""
        key = "CPU" if DRY_RUN else "CUDA"
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"polygraph::{raw_name}", key):
            pytest.skip(f"{raw_name} is for the CPU alone")
        op = getattr(torch.ops.polygraph, raw_name)
        for number, arguments in enumerate(self.raw[raw_name]()):
            expected = run_raw(op, arguments)
            there = on_device(arguments, GPU)
            actual = run_raw(op, there)
            assert actual.keys() == expected.keys()
            for name, value in expected.items():
                what = f"{name} of {raw_name}, arguments {number}"
                assert actual[name].dtype == value.dtype, what
                if value.is_floating_point():
                    assert_close(actual[name], value, KERNEL[value.dtype], what)
                else:
                    assert torch.equal(actual[name].cpu(), value), what
            replayed, replay = capture(lambda op=op, there=there: run_raw(op, there))
            replay()
            self.require_same_sums(replayed, actual)

    # ---- memory ----

    @pytest.mark.gpu
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_gpu_strides(self, layout_case, layout, dtype):
        """The order of our sums depends on sizes alone, not on what memory lets us read at once."""
        inputs = convert(self.cases[layout_case](), dtype=dtype, device=GPU)
        expected = run(self.op, inputs)
        upstream = LAYOUTS[layout](upstream_like(expected["out"]))
        actual = run(self.op, relaid(inputs, layout), upstream)
        self.require_same_sums(actual, expected, self.torch_sums)

    @pytest.mark.gpu
    @pytest.mark.large
    def test_gpu_more_than_2_31_elements(self):
        """The last of many samples, past 2^31 elements, is what it is alone."""
        if DRY_RUN:
            pytest.skip("the dry run has no 40 GiB of memory")
        inputs = convert(self.cases[self.threaded](), dtype=torch.float16, device=GPU)
        first = inputs[self.batched[0]]
        copies = 2**31 // first[0].numel() + 1
        if torch.cuda.mem_get_info()[0] < 40 * 2**30:
            pytest.skip("needs 40 GiB of free GPU memory")
        many = inputs.copy()
        for name in self.batched:
            if inputs.get(name) is not None:
                many[name] = inputs[name][:1].repeat(copies, 1, 1)
                many[name][-1] = inputs[name][-1]
        last = {n: v[-1:] if n in self.batched and v is not None else v for n, v in many.items()}
        leaf = many[self.batched[0]].requires_grad_()
        out = self.op(**many)
        assert out.numel() > 2**31 or leaf.numel() > 2**31
        out[-1].float().square().sum().backward()
        single = last[self.batched[0]].detach().requires_grad_()
        small = self.op(**(last | {self.batched[0]: single}))
        small.float().square().sum().backward()
        tolerance = KERNEL[torch.float16]
        assert relative_error(out[-1:], small) <= tolerance
        assert relative_error(leaf.grad[-1:], single.grad) <= tolerance

    # ---- repeatability ----

    @pytest.mark.gpu
    def test_gpu_repeats_bit_for_bit(self, dtype):
        """No float atomics: twice the same, and allowed under deterministic algorithms."""
        inputs = convert(self.cases[self.threaded](), dtype=dtype, device=GPU)
        expected = run(self.op, inputs)
        require_same(run(self.op, inputs), expected)
        torch.use_deterministic_algorithms(True)
        try:
            require_same(run(self.op, inputs), expected)
        finally:
            torch.use_deterministic_algorithms(False)

    # ---- streams, graphs, devices ----

    @pytest.mark.gpu
    def test_gpu_side_stream(self):
        """Kernels run on the current stream: the side stream's own, late, inputs are seen."""
        inputs = convert(self.cases[self.threaded](), dtype=torch.float32, device=GPU)
        expected = run(self.op, inputs)
        empty = {n: torch.zeros_like(t) if n in floats(inputs) else t for n, t in inputs.items()}
        with busy_stream():
            for name, tensor in floats(inputs).items():
                empty[name].copy_(tensor)
            actual = run(self.op, empty)
        require_same(actual, expected)

    @pytest.mark.gpu
    def test_gpu_graph_capture(self, small_case):
        """Nothing waits for the device: forward and backward replay on numbers copied in later."""
        inputs = convert(self.cases[small_case](), dtype=torch.float32, device=GPU)
        upstream = upstream_like(self.op(**inputs))
        replayed, replay = capture(lambda: run(self.op, inputs, upstream))
        for _ in range(2):
            replay()
            self.require_same_sums(replayed, run(self.op, inputs, upstream))
            for tensor in floats(inputs).values():
                tensor.copy_(0.9 * tensor.flip(0))
            upstream.neg_()

    @pytest.mark.gpu
    def test_gpu_second_device(self, small_case):
        """Arguments say where the work is done, not the current device, which stays."""
        device = second_device()
        module = torch.get_device_module(GPU)
        before = module.current_device()
        assert torch.device(device) != torch.empty(0, device=GPU).device or DRY_RUN
        self.check(convert(self.cases[small_case](), dtype=torch.float32), device=device)
        assert module.current_device() == before

    @pytest.mark.gpu
    def test_gpu_mixed_devices(self, small_case):
        """One argument left behind on the CPU is an error, whichever it is."""
        inputs = convert(self.cases[small_case](), dtype=torch.float32, device=GPU)
        for name, tensor in list(tensors(inputs).items())[1:]:
            with pytest.raises(RuntimeError, match="must be on the device of"):
                self.op(**(inputs | {name: tensor.to(ELSEWHERE)}))

    # ---- PyTorch's own machinery ----

    @pytest.mark.gpu
    def test_gpu_compiles_without_graph_break(self):
        """torch.compile(fullgraph=True), with Inductor's own kernels before and after."""
        self.check_compiled("inductor", GPU)

    @pytest.mark.gpu
    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
    def test_gpu_autocast(self, half):
        """Under autocast the operator runs in its dtype; gradients come back in float32."""
        self.check_autocast(half, GPU)

    # ---- faults ----

    @pytest.mark.gpu
    def test_gpu_asserts(self):
        """What only values tell stops the kernel with a message, in a process of its own.

        A device-side assertion ends the process' work on the device, so each fault has a process.
        The good call ("") goes through the same one.
        """
        messages = {name: message for name, (_, _, message) in self.gpu_broken.items()}
        messages |= self.gpu_asserts
        if PLACE == "cpu":  # all of them are tested there without processes
            messages = dict([*messages.items()][:: max(1, len(messages) - 1)])
        with ThreadPoolExecutor(WORKERS_AT_ONCE) as pool:
            good, *broken = pool.map(self.fault_worker, ["", *messages])
        assert good.returncode == 0, good.stderr
        for (fault, message), done in zip(messages.items(), broken, strict=True):
            what = f"{fault}: exit status {done.returncode}, {done.stderr[-2000:]}"
            if PLACE == "cpu":  # which has messages of its own, where it reads what a GPU reads
                _, _, expected = (self.broken | self.raw_broken).get(fault, (None, None, "^$"))
                assert re.search(expected, done.stderr), what
                assert (done.returncode == 0) == (fault in self.gpu_broken), what
                continue
            assert done.returncode != 0, what
            assert message in done.stderr, what
            assert "device-side assert" in done.stderr, what

    def fault_worker(self, fault):
        """Run one fault in a process of its own."""
        test_file = sys.modules[type(self).__module__].__file__
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "support.gpu_fault_worker",
                test_file,
                type(self).__name__,
                fault,
            ],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
        )
