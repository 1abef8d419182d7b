"""Train a grid of mesh autoencoders, all competitors alike; a table, rows as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from polygraph._names import did_you_mean
from polygraph.cli.parser import UsageError

KINDS = ("mesh",)


def run(arguments: Sequence[str]) -> int:
    """Do what the words after the command ask for; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: polygraph benchmark mesh [settings]\n\n{__doc__}")
        return 0 if arguments else 2
    kind = arguments[0]
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f"; known: {', '.join(KINDS)}"
        raise UsageError(f"benchmark: unknown kind {kind!r}{hint}")
    if {"-h", "--help"} & {*arguments}:
        from polygraph.tasks.benchmark.help import text

        print(text(), end="")
        return 0
    from polygraph.tasks.benchmark.arguments import parse_benchmark_mesh
    from polygraph.tasks.benchmark.grid import run_grid

    try:
        grid, out, finished = parse_benchmark_mesh(
            ["--help" if word == "--help-all" else word for word in arguments[1:]]
        )
    except ValueError as error:
        raise UsageError(f"benchmark mesh: {error}") from error
    result = run_grid(grid, out, finished=finished)
    print(f"\n{result.table}\n")
    for name in ("results.json", "table.md"):
        print(f"wrote {(result.folder / name).resolve()}")
    return 0
