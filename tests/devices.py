"""The device of the tests marked `gpu`, and what takes its place in a dry run.

POLYGRAPH_GPU_TESTS_ON=cpu runs them on the CPU. That shows that every test can run, and that
correct kernels pass it; it says nothing about a GPU.
"""

import os
from contextlib import contextmanager

import pytest
import torch

GPU = os.environ.get("POLYGRAPH_GPU_TESTS_ON", "cuda")
DRY_RUN = GPU == "cpu"
ELSEWHERE = "meta" if DRY_RUN else "cpu"  #: where no argument may be left behind


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


def capture(function):
    """Record in a CUDA graph what a function without arguments computes.

    It runs once before: kernels are loaded at their first launch, which a capture does not allow.

    Returns:
        The function's results, a dictionary of tensors that are computed by replaying alone, and
        what replays it.
    """
    if DRY_RUN:
        results = function()
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
