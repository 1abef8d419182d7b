"""What the engine of :mod:`polygraph.train` is used for: a folder for each task.

All folders have one shape: ``arguments.py`` reads the command line, ``training.py`` has the
configuration of a run, what the loop needs to know, and the function that trains; ``run.py`` and
others work on finished runs. From Python each has ``train`` and ``load``. A new task is a new
folder, whose ``command`` says what is called, and a line in `TASKS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

#: what `polygraph train` calls a task, and its folder
TASKS = ("audio", "denoise", "gan", "images", "mesh", "points", "vae", "verify")


class Command(NamedTuple):
    """What `polygraph train KIND` calls.

    Attributes:
        parse: reads the words of the command line: the run's configuration, its folder, whether to
            resume. Raises ValueError or TypeError on what cannot be.
        train: called with the configuration, the folder, ``resume=`` and ``say=``; returns what
            ``result.json`` holds.
        describe: makes of that a line for people.
    """

    parse: Callable[[Sequence[str]], tuple[Any, str, bool]]
    train: Callable[..., dict[str, Any]]
    describe: Callable[[dict[str, Any]], str]


def __getattr__(name: str) -> Any:
    """The folders, when they are asked for: `polygraph.tasks.mesh.train`."""
    if name in (*TASKS, "benchmark"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def summary(kind: str) -> str:
    """What a task is, in one line: the first of its folder's docstring."""
    return str(_folder(kind).__doc__).splitlines()[0]


def help_text(kind: str) -> str:
    """What ``--help`` of a task says: the settings that matter first, and an example."""
    found: str = importlib.import_module(f"{__name__}.{kind}.help").text()
    return found


def load_command(kind: str) -> Command:
    """Import what trains; `TASKS` has the kinds."""
    found: Command = _folder(kind).command()
    return found


def _folder(kind: str) -> Any:
    return importlib.import_module(f"{__name__}.{kind}")
