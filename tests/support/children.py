"""Processes that have imported everything already when they begin, to be killed or waited for.

They are forked from a process that did nothing but import: forked from a test's own process, they
would inherit whatever threads and devices other tests have used.
"""

import functools
import multiprocessing
import os
import sys
from importlib.util import find_spec
from unittest import mock

PRELOADED = ["polygraph.tasks.mesh.training", "polygraph.tasks.benchmark.grid", "lightning_fabric"]


@functools.cache
def forkserver():
    """The process that children are forked from; started once, and ended with this one."""
    from multiprocessing import forkserver as server

    context = multiprocessing.get_context("forkserver")
    assert all(map(find_spec, PRELOADED))  # it would leave out what is not there
    context.set_forkserver_preload(PRELOADED)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with mock.patch.dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1"):
        server.ensure_running()
    return context


def begin(function, *arguments, output=os.devnull):
    """Call a function of an importable module in a child; what it prints goes to a file.

    Returns:
        The `multiprocessing.Process`: its ``exitcode`` is 0, 1 after an exception, or minus the
        signal that ended it.
    """
    child = forkserver().Process(target=_call, args=(function, arguments, str(output)))
    child.start()
    return child


def finish(function, *arguments, output=os.devnull, seconds=300):
    """Wait for such a child, which must end well."""
    child = begin(function, *arguments, output=output)
    child.join(seconds)
    assert child.exitcode == 0, f"exit status {child.exitcode}, {_end_of(output)}"


def finish_together(function, *arguments, processes, port, outputs):
    """Call a function in several children with the environment that torchrun gives them."""
    world = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
    world |= {"MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": 0}
    children = []
    for rank, output in zip(range(processes), outputs, strict=True):
        environment = {n: str(v) for n, v in {**world, "RANK": rank, "LOCAL_RANK": rank}.items()}
        children.append(begin(_of_world, environment, function, *arguments, output=output))
    for child, output in zip(children, outputs, strict=True):
        child.join(300)
        assert child.exitcode == 0, f"exit status {child.exitcode}, {_end_of(output)}"


def _of_world(environment, function, *arguments):
    os.environ.update(environment)
    return function(*arguments)


def _end_of(output):
    with open(output) as file:
        return file.read()[-3000:]


def _call(function, arguments, output):
    """Call, in the child; as in `conftest`, nothing waits for the disk."""
    os.fsync = os.fstat
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = function(*arguments)
    sys.stdout.flush()
    sys.exit(status)
