"""The device of the tests marked `gpu`, and what takes its place in a dry run.

POLYGRAPH_GPU_TESTS_ON=cpu runs them on the CPU. That shows that every test can run, and that
correct kernels pass it; it says nothing about a GPU. POLYGRAPH_GPU_TESTS_ON=emulated runs them on
tensors on the CPU, too, for which CUDA's kernels take the place of the CPU's: what is compared with
the reference then tests these kernels, what is compared with the CPU compares them with themselves.
"""

import os
import sys
from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest
import torch

from support.paths import EMULATOR

PLACES = ("cuda", "cpu", "emulated")
PLACE = os.environ.get("POLYGRAPH_GPU_TESTS_ON", "cuda")
DRY_RUN = PLACE != "cuda"
GPU = "cpu" if DRY_RUN else "cuda"
ELSEWHERE = "meta" if DRY_RUN else "cpu"  #: where no argument may be left behind


def prepare():
    """Put CUDA's kernels in the place of the CPU's, if that is wanted; for the whole process."""
    if PLACE == "emulated":
        sys.path.append(str(EMULATOR))
        import emulator

        emulator.load()


def synchronize():
    """Wait for the device; what went wrong there is raised here at the latest."""
    torch.get_device_module(GPU).synchronize()


def second_device():
    """A device besides the current one."""
    if DRY_RUN:
        return GPU
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    return "cuda:1"


@contextmanager
def busy_stream():
    """A stream other than the default one, at work already when the block begins."""
    if DRY_RUN:
        yield
        return
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        yield
    stream.synchronize()


# What a tensor is asked for by Python that waits for the device.
WAITS = ("item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")


@contextmanager
def no_waiting():
    """Refuse, as a capture does, what waits for a GPU: values asked for, tables from Python."""
    with ExitStack() as stack:
        for owner, names in ((torch.Tensor, WAITS), (torch, ("tensor", "as_tensor"))):
            for name in names:
                refused = AssertionError(f"{name} would wait for the device")
                stack.enter_context(mock.patch.object(owner, name, side_effect=refused))
        yield


def capture(function):
    """Record in a CUDA graph what a function without arguments computes.

    It runs once before: kernels are loaded at their first launch, which a capture does not allow.

    Returns:
        The function's results, a dictionary of tensors that are computed by replaying alone, and
        what replays it.
    """
    if DRY_RUN:
        results = function()
        if PLACE == "emulated":  # the CPU's own kernels may look at values
            with no_waiting():
                function()
        return results, lambda: results.update(function())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return results, graph.replay
