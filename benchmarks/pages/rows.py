"""The rows that benchmarks have left in ``results/<machine>/``, and where each of them comes from.

A file is named by its stem (``knn``), or by machine and stem
(``intel-xeon-2-cores/mesh_bodies_skip_code``); without a machine it is `MACHINE`'s.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
MACHINE = "amd-epyc-2-cores"
LINK = "../../benchmarks/results"  # from docs/results to RESULTS

Row = dict[str, Any]


def path(name: str) -> Path:
    """The JSON file of a name."""
    return RESULTS / (f"{name}.json" if "/" in name else f"{MACHINE}/{name}.json")


def rows(name: str, **wanted: Any) -> list[Row]:
    """The rows of a file that have the wanted values, in the file's order.

    A file that is no list is one row.
    """
    found = read(path(name))
    return [r for r in found if all(r.get(key) == value for key, value in wanted.items())]


@functools.cache
def read(file: Path) -> list[Row]:
    """All rows of a file."""
    content = json.loads(file.read_text())
    return content if isinstance(content, list) else [content]


def row(name: str, **wanted: Any) -> Row:
    """The one row that has the wanted values.

    Raises:
        LookupError: there is none, or there are several.
    """
    found = rows(name, **wanted)
    if len(found) != 1:
        raise LookupError(f"{path(name).name}: wanted one row of {wanted}, found {len(found)}")
    return found[0]


# ---- numbers and tables ----


def number(value: float | None, digits: int = 0) -> str:
    """A number with so many digits behind the point, or a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def span(values: Iterable[float]) -> str:
    """The least and the largest, two digits of each: ``9.7 to 67``."""
    given = list(values)
    low, high = (number(v, 0 if v >= 9.95 else 1) for v in (min(given), max(given)))
    return low if low == high else f"{low} to {high}"


def seeds(values: Sequence[float], digits: int = 3) -> str:
    """The mean, and behind it all of them where there are several."""
    each = f" ({', '.join(number(value, digits) for value in values)})" if len(values) > 1 else ""
    return f"{number(statistics.mean(values), digits)}{each}"


def variants(name: str) -> dict[str, list[Row]]:
    """The runs of a file by their variant, seeds side by side."""
    found: dict[str, list[Row]] = {}
    for r in rows(name):
        found.setdefault(r["variant"], []).append(r)
    return found


def accuracy(name: str, variant: str) -> float:
    """The mean test accuracy of a variant's seeds."""
    return statistics.mean(r["test"]["accuracy"] for r in variants(name)[variant])


def table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Markdown: the first column to the left, the others, numbers, to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- origin ----


def origin(*names: str, seeds: str | None = None) -> str:
    """Where a table comes from: files, commands, commits, machine, versions and seeds.

    Args:
        names: the files whose rows it shows.
        seeds: what is known of them where the rows do not tell.
    """
    lines = [
        f"[{path(name).name}]({LINK}/{path(name).relative_to(RESULTS)}): {command(name)}"
        for name in names
    ]
    found = [r for name in names for r in rows(name)]
    trained = [r for r in found if r.get("commit")]  # PCA and the mean shape have no run
    lines.append(f"Commit {_counted(map(_commit, trained))}.")
    machines = "; ".join(dict.fromkeys(map(_machine, trained)))
    lines.append(f"{machines}; {', '.join(dict.fromkeys(_versions(trained)))}.")
    known = sorted({r["seed"] for r in found if r.get("seed") is not None})
    seeds = seeds or ", ".join(map(str, known))
    if not seeds:
        raise LookupError(f"{', '.join(names)}: the rows name no seeds, and nothing else does")
    lines.append(f"Seeds: {seeds}.")
    return "\n".join(f"> {line}<br>" for line in lines[:-1]) + f"\n> {lines[-1]}"


def command(name: str) -> str:
    """What made a file, as the table in its folder's README tells."""
    file = path(name)
    for line in (file.parent / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 2 and f"`{file.name}`" in cells[0]:
            return cells[1]
    raise LookupError(f"{file.parent.name}/README.md does not say which command made {file.name}")


def _commit(row: Row) -> str:
    commit, _, changes = row["commit"].partition("+")
    return f"`{commit[:9]}`" + (" with changes" if changes or row.get("changed") else "")


def _machine(row: Row) -> str:
    machine, threads = row["machine"], row["threads"]
    if isinstance(machine, str):
        machine = {"cpu": machine}
    parts = [re.sub(r"\(R\)|\(TM\)", "", machine["cpu"])]
    if "cores" in machine:
        parts += [f"{machine['cores']} cores", machine["instruction_set"]]
    return ", ".join([*parts, f"{threads} thread" + "s" * (threads != 1)])


def _versions(found: Sequence[Row]) -> list[str]:
    versions = [f"torch {r['torch']}" for r in found]
    versions += [f"{k} {v}" for r in found for k, v in (r.get("versions") or {}).items()]
    return versions


def _counted(texts: Iterable[str]) -> str:
    """Each with how many rows it has, where there are several."""
    counts = Counter(texts)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{text} ({count} rows)" for text, count in counts.most_common()).replace(
        "(1 rows)", "(1 row)"
    )
