"""Runs an operator's cases and saves the results: ``isa_worker.py TEST_FILE CLASS OUT``.

The contract starts it with POLYGRAPH_ISA set, which the library reads once per process.
"""

import importlib.util
import sys

import torch
from calls import convert, run


def main(test_file, class_name, out):
    """Save the results of all cases in float32 and float64, and the instruction set in use."""
    spec = importlib.util.spec_from_file_location("cases_of_the_operator", test_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    operator = getattr(module, class_name)
    results = {"instruction set": torch.ops.polygraph.instruction_set()}
    for name, make in operator.cases.items():
        for dtype in ("float32", "float64"):
            inputs = convert(make(), dtype=getattr(torch, dtype))
            results[f"{name}/{dtype}"] = run(operator.op, inputs)
    torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
