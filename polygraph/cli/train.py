"""Train a model; `polygraph train KIND --help` lists the settings of a kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from polygraph._names import did_you_mean
from polygraph.cli.parser import UsageError, checked_folder
from polygraph.tasks import TASKS, help_text, load_command, summary


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    kind = arguments[0]
    if kind not in TASKS:
        hint = did_you_mean(kind, TASKS) or f"; known: {', '.join(TASKS)}"
        raise UsageError(f"train: unknown kind of model {kind!r}{hint}")
    words = arguments[1:]
    if {"-h", "--help"} & {*words}:
        print(help_text(kind), end="")
        return 0
    command = load_command(kind)
    try:
        config, out, resume = command.parse(["--help" if w == "--help-all" else w for w in words])
    except (ValueError, TypeError) as error:
        raise UsageError(f"train {kind}: {error}") from error
    from polygraph.train.log import say_on_stdout

    folder = checked_folder(f"train {kind}", out)
    result = command.train(config, folder, resume=resume, say=say_on_stdout)
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{command.describe(result)}\n{Path(out).resolve()}")
    return 0


def _help() -> str:
    lines = ["usage: polygraph train KIND [settings]", "", __doc__, ""]
    return "\n".join([*lines, *(f"  polygraph train {kind:8} {summary(kind)}" for kind in TASKS)])
