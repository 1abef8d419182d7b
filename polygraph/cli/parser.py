"""What the commands share: a parser that raises, and checks of what it read."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UsageError(Exception):
    """The command line is wrong."""


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a usage error of this command."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add ``--run DIR``."""
    parser.add_argument("--run", required=True, metavar="DIR", help="folder of a trained model")


def checked_folder(command: str, out: str) -> str:
    """The folder to write to, if it is one: no name is not the current folder."""
    if not str(out).strip():
        raise UsageError(f"{command}: --out must name a folder, got {out!r}")
    return out


def check_least(command: str, chosen: argparse.Namespace, **least: int) -> None:
    """Refuse values of ``chosen`` below these; a seed also has a largest value."""
    for name, low in least.items():
        if getattr(chosen, name) < low:
            raise UsageError(
                f"{command}: {name} must be at least {low}, got {getattr(chosen, name)}"
            )
        if name == "seed" and chosen.seed >= 2**63:
            raise UsageError(f"{command}: seed must be in [0, 2^63), got {chosen.seed}")
