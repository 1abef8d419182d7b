"""The contract of operators that are made of PyTorch's matrix products."""

import torch

from support.calls import convert, require_same, run
from support.contract import OperatorContract
from support.tolerances import KERNEL, assert_close


class WithProducts(OperatorContract):
    """Some of the work are PyTorch's matrix products, which depend on the number of threads."""

    products = True

    test_without_batch = None  # there is no batch dimension
    test_gpu_more_than_2_31_elements = None

    def test_repeats_bit_for_bit(self, dtype, set_threads):
        """Twice the same on one thread and on two, and within rounding of each other."""
        inputs = convert(self.cases[self.threaded](), dtype=dtype)
        set_threads(1)
        expected = run(self.op, inputs)
        require_same(run(self.op, inputs), expected)
        set_threads(2)
        actual = run(self.op, inputs)
        for name, value in expected.items():
            assert_close(actual[name], value, KERNEL[dtype], name)
        torch.use_deterministic_algorithms(True)
        try:
            require_same(run(self.op, inputs), actual)
        finally:
            torch.use_deterministic_algorithms(False)
