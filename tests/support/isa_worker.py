"""Runs operators' cases with lesser instructions: the process, and what asks it.

The library reads POLYGRAPH_ISA once, so the contract needs a process for each instruction set. One
serves all operators: it answers requests, a line of JSON each, as long as its input is open.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import traceback

import torch

from support.calls import convert, run
from support.paths import environment

# ---- the process ----


def results_of(test_file, name):
    """What a function of a test file returns; or results of an operator's cases.

    Those are in float32 and float64, with the instruction set in use.
    """
    spec = importlib.util.spec_from_file_location("cases_of_the_operator", test_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    operator = getattr(module, name)
    if not isinstance(operator, type):
        return operator()
    results = {"instruction set": torch.ops.polygraph.instruction_set()}
    for name, make in operator.cases.items():
        for dtype in ("float32", "float64"):
            inputs = convert(make(), dtype=getattr(torch, dtype))
            results[f"{name}/{dtype}"] = run(operator.op, inputs)
    return results


def serve():
    """Save what is asked for; the answer is empty, or says what went wrong."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        test_file, name, out = json.loads(line)
        try:
            torch.save(results_of(test_file, name), out)
            answer = ""
        except Exception:
            answer = traceback.format_exc()
        print(json.dumps(answer), file=answers, flush=True)


# ---- what asks it ----


@functools.cache
def process_of(isa):
    """The process held to one instruction set; it ends with this one, which closes its input."""
    return subprocess.Popen(
        [sys.executable, "-m", "support.isa_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(POLYGRAPH_ISA=isa),
    )


def results_on(isa, test_file, name, out):
    """What `results_of` returns in a process held to an instruction set; through a file."""
    process = process_of(isa)
    print(json.dumps([test_file, name, str(out)]), file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:
        process_of.cache_clear()
        raise AssertionError(f"{name} ended the process with status {process.wait()}")
    assert json.loads(answer) == ""
    return torch.load(out, weights_only=True)


if __name__ == "__main__":
    serve()
