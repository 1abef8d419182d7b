"""The command line. A command imports what it needs when it runs: help and doctor always work.

Errors are one line on stderr. Exit status: 0 done, 1 the work failed, 2 the command was wrong.
POLYGRAPH_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import polygraph
from polygraph._names import did_you_mean
from polygraph._threads import settle_threads
from polygraph.cli.parser import UsageError

# Each is a module of this folder, with - for _: its first line is the help, its `run` the command.
COMMANDS = (
    "demo",
    "demo-gan",
    "demo-denoise",
    "train",
    "benchmark",
    "sample",
    "score",
    "neighbours",
    "evaluate",
    "reconstruct",
    "predict",
    "degree",
    "denoise",
    "verify",
    "lens",
    "atoms",
    "latent",
    "export",
    "report",
    "view",
    "doctor",
)
_MOST_CHARACTERS = 1000  # of an error


def _command(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(f"polygraph.cli.{name.replace('-', '_')}")


def _help() -> str:
    lines = ["usage: polygraph COMMAND ...", "", (polygraph.__doc__ or "").strip(), ""]
    for name in COMMANDS:
        lines.append(f"  {name:12} {_command(name).__doc__.splitlines()[0]}")
    lines += [
        "",
        "  --version    print the version",
        "  --help       after a command: its settings",
    ]
    return "\n".join(lines)


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    name = arguments[0]
    if name == "--version":
        print(f"polygraph {polygraph.__version__}")
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"; known: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {name!r}{hint}")
    status: int = _command(name).run(arguments[1:])
    return status


def describe(error: BaseException) -> str:
    """An error in one line; a missing package names the extra that brings it."""
    text = " ".join(str(error).split())
    if len(text) > _MOST_CHARACTERS:  # a value from a file is part of it, which may be of any size
        text = f"{text[:_MOST_CHARACTERS]} ... ({len(text)} characters)"
    if isinstance(error, ModuleNotFoundError) and error.name:
        from polygraph.cli.doctor import extra_of

        extra = extra_of(error.name)
        if extra is not None:
            package = error.name.split(".")[0]
            return f"{package} is not installed: pip install 'polygraph-nn[{extra}]'"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    expected = isinstance(error, UsageError | ValueError | OSError | ImportError | RuntimeError)
    return text if expected and text else f"{type(error).__name__}: {text}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: words after ``polygraph``; default from the command line.

    Returns:
        The exit status.
    """
    arguments: Sequence[Any] = sys.argv[1:] if argv is None else argv
    settle_threads()
    try:
        return _run([str(argument) for argument in arguments])
    except KeyboardInterrupt:
        print(
            "polygraph: interrupted; a training run goes on from its last checkpoint with --resume",
            file=sys.stderr,
        )
        return 130
    except (
        BrokenPipeError
    ):  # the reader of our output has gone: nothing to say, nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("POLYGRAPH_DEBUG") == "1":
            raise
        print(f"polygraph: {describe(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
