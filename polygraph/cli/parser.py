"""What the commands share: a parser that raises, and checks of what it read."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn


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


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add ``--data PATH`` and what says how to read it."""
    parser.add_argument(
        "--data", metavar="PATH", help="a folder of meshes, or 'synthetic'; default: the run's own"
    )
    parser.add_argument("--kind", help="of --data: registered (default), coma or dfaust")
    parser.add_argument("--split", help="of --data, default: interpolation")
    parser.add_argument("--to-mm", type=float, help="millimetres per unit of --data")


def given_data(chosen: argparse.Namespace, run: Any) -> Any:
    """The configuration of ``--data``; None without it.

    What is not said of it is as in training.
    """
    given = {name: getattr(chosen, name) for name in ("kind", "split", "to_mm")}
    given = {name: value for name, value in given.items() if value is not None}
    if chosen.data is None:
        if given:
            option = "--" + next(iter(given)).replace("_", "-")
            raise UsageError(f"{option} is of the data at --data PATH, which is missing")
        return None
    from dataclasses import replace

    from polygraph.data import MeshDataConfig
    from polygraph.tasks.mesh.given import BUILT_IN
    from polygraph.tasks.mesh.run import run_data

    if chosen.data == BUILT_IN:
        return MeshDataConfig(**given)
    config = run_data(run, chosen.data)
    kind = "registered" if config.kind in (BUILT_IN, "arrays") else config.kind
    return replace(config, **{"kind": kind, **given})


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
