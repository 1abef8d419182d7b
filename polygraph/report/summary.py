"""Tables of a grid's rows: seeds averaged, the best marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from polygraph._text import markdown_text
from polygraph.report.grid_rows import by_error
from polygraph.report.table import markdown_table, text_table

COLUMNS = {
    "model": "model",
    "seeds": "seeds",
    "mean_mm": "error mm",
    "spread_mm": "range over seeds",
    "std_mm": "std",
    "median_mm": "median",
    "p90_mm": "90 %",
    "max_mm": "max",
    "val_mean_mm": "val mm",
    "ratio": "x first order",
    "nonfinite": "not finite",
    "outlier_meshes": "outliers",
    "diverged": "diverged",
    "parameters": "parameters",
    "train_step_ms": "step ms",
    "inference_1_ms": "infer 1 ms",
    "inference_16_ms": "infer 16 ms",
    "peak_mib": "peak MiB",
    "seconds": "train s",
}
FIRST_ORDER = "first-order"
_BEST = ("mean_mm", "std_mm", "median_mm", "p90_mm", "max_mm")
_BEST_OF_NETWORKS = (
    "parameters",
    "train_step_ms",
    "inference_1_ms",
    "inference_16_ms",
    "peak_mib",
)
_KEYS = ("data", "split", "latent", "recipe_hash")


def average_seeds(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per model: means over its seeds.

    ``spread_mm`` is the range of the test error, ``diverged`` how many seeds diverged. A number
    that one of the seeds lacks is None: nothing is left out of a mean.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["group_hash"], row["model"], row["split_hash"]), []).append(row)
    merged = []
    for group in groups.values():
        row = dict(group[0])
        for key, value in row.items():
            values: list[Any] = [r.get(key) for r in group]
            if any(isinstance(v, float) for v in values):
                row[key] = None if None in values else sum(values) / len(values)
            elif key in ("nonfinite", "nonfinite_meshes", "outlier_meshes"):
                row[key] = None if None in values else sum(values)
            else:
                row[key] = value
        means = [r["mean_mm"] for r in group]
        row["spread_mm"] = None if None in means else max(means) - min(means)
        row["seeds"] = len(group)
        row["diverged"] = sum(r["status"] == "diverged" for r in group)
        merged.append(row)
    return merged


def tables(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Averaged rows that may stand in one table, by (data, split, latent, recipe hash).

    The lowest error comes first, what has none last.

    Linear models, which have no recipe, stand in the tables of all, and the mean shape beside any
    number of latents.
    """
    merged = average_seeds(rows)
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in merged:
        if row["recipe_hash"] is not None:
            found.setdefault(tuple(row[key] for key in _KEYS), []).append(row)
    for row in merged:
        if row["recipe_hash"] is None:
            places = [
                key
                for key in found
                if key[:2] == (row["data"], row["split"]) and row["latent"] in (0, key[2])
            ]
            for key in places or [tuple(row[name] for name in _KEYS)]:
                found.setdefault(key, []).append(row)
    return {
        key: sorted(_with_ratios(group), key=lambda row: by_error(row["mean_mm"]))
        for key, group in found.items()
    }


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first = next((row["mean_mm"] for row in rows if row["model"] == FIRST_ORDER), None)
    return [
        {**row, "ratio": row["mean_mm"] / first if first and row["mean_mm"] is not None else None}
        for row in rows
    ]


def best_cells(rows: Sequence[dict[str, Any]]) -> set[tuple[int, str]]:
    """(row, column) of the smallest errors, and of what costs least among the networks."""
    best: set[tuple[int, str]] = set()
    for key in (*_BEST, *_BEST_OF_NETWORKS):
        values = {
            number: row[key]
            for number, row in enumerate(rows)
            if row.get(key) is not None and (key in _BEST or row["family"] != "linear")
        }
        if len(values) > 1:
            least = min(values.values())
            best |= {(number, key) for number, value in values.items() if value == least}
    return best


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Without the columns that say nothing here."""
    quiet = {"nonfinite", "outlier_meshes", "diverged"}
    return {
        key: heading
        for key, heading in COLUMNS.items()
        if any(row.get(key) is not None for row in rows)
        and not (key in quiet and not any(row.get(key) for row in rows))
        and not (key == "spread_mm" and all(row["seeds"] == 1 for row in rows))
    }


def _title(key: tuple[Any, ...]) -> str:
    data, split, latent, recipe = key
    named = "" if recipe is None else f", recipe {recipe[:8]}"
    return f"{data}, {split}, {latent} latents{named}"


def text_summary(rows: Sequence[dict[str, Any]]) -> str:
    """Aligned tables for a terminal, a star before the best."""
    return "\n\n".join(
        f"{_title(key)}\n{text_table(group, _columns(group), best=best_cells(group))}"
        for key, group in tables(rows).items()
    )


def markdown_summary(rows: Sequence[dict[str, Any]]) -> str:
    """The same as markdown, the best in bold, with what the tables were made from."""
    parts = []
    for key, group in tables(rows).items():
        table = markdown_table(group, _columns(group), best=best_cells(group))
        parts.append(f"## {markdown_text(_title(key))}\n\n{table}\n\n{_origin(group)}\n")
    return "\n".join(parts)


def _setting(value: Any) -> str:
    if isinstance(value, dict):  # such as the length of a run, in steps or in epochs
        return " ".join(f"{count} {unit}" for unit, count in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _origin(rows: Sequence[dict[str, Any]]) -> str:
    row = next((r for r in rows if r["recipe"] is not None), rows[0])
    recipe = row["recipe"] or {}
    settings = ", ".join(f"{key} {_setting(value)}" for key, value in recipe.items())
    commits = sorted({str(r["commit"])[:16] for r in rows})
    return markdown_text(
        f"Vertex error in mm on the {row['num_test']} test meshes (data {row['data_hash'][:16]}, "
        f"split {row['split_hash'][:16]}); {settings}; weights chosen on the validation split. "
        f"Commits {', '.join(commits)}, torch {row['torch']}, {row['threads']} threads of "
        f"{row['machine']}. Times are medians of runs in which all models took turns; peak memory "
        "is that of a training step."
    )
