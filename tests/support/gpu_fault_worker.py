"""Calls an operator with one fault on the GPU: ``gpu_fault_worker.py TEST_FILE CLASS FAULT``.

A fault is a name in ``broken``, ``raw_broken`` or ``gpu_broken`` of the class; "" is the good call.
"""

import importlib.util
import sys

import torch

from support.calls import convert, on_device, run
from support.devices import GPU, prepare, synchronize


def main(test_file, class_name, fault):
    """Make the call with its derivatives, and wait for the device."""
    prepare()
    spec = importlib.util.spec_from_file_location("faults_of_the_operator", test_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    operator = getattr(module, class_name)
    raw = operator.raw_broken | operator.gpu_broken
    if fault in raw:
        name, change, _ = raw[fault]
        arguments = on_device(change(list(operator.raw[name]()[0])), GPU)
        getattr(torch.ops.polygraph, name)(*arguments)
    else:
        change = operator.broken[fault][0] if fault else lambda inputs: inputs
        good = convert(operator.cases[operator.small[0]](), dtype=torch.float32)
        run(operator.op, convert(change(good), device=GPU))
    synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
