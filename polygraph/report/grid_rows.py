"""The rows of a grid of mesh autoencoders, checked, and grouped for people to compare.

A grid (`polygraph benchmark mesh`) is a folder with ``results.json``, a list of rows, one per
model, seed, data set, split and number of latents. Only rows of one data set, split, latent size
and recipe are compared: a `View` is such a set. Nothing is dropped: a run that diverged, a number
that is not finite and a run that is not there yet each have their place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polygraph._json import check_seal, read_json

RESULTS = "results.json"
LINEAR = "linear"
POLYNOMIALS = ("simple", "full", "skip", "skip-code")
FAMILIES = ("first-order", *POLYNOMIALS, "variational", "spiral", "peer", "graph", LINEAR)
STATUSES = ("done", "diverged")

_TEXT, _INT, _REAL = (str,), (int,), (int, float)
_NONE = (type(None),)
SCHEMA: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("data", "data_hash", "split", "split_hash", "model", "family"), _TEXT),
    **dict.fromkeys(("config_hash", "group_hash", "status", "run", "machine"), _TEXT),
    **dict.fromkeys(("operator", "activation", "norm", "recipe_hash", "message"), _TEXT + _NONE),
    **dict.fromkeys(("commit", "polygraph", "torch", "python"), _TEXT + _NONE),
    **dict.fromkeys(("num_vertices", "num_train", "num_val", "num_test", "latent"), _INT),
    **dict.fromkeys(("order", "seed", "steps", "best_step", "threads"), _INT + _NONE),
    **dict.fromkeys(("nonfinite", "nonfinite_meshes", "outlier_meshes"), _INT + _NONE),
    **dict.fromkeys(("mean_mm", "std_mm", "median_mm", "p90_mm", "max_mm"), _REAL + _NONE),
    **dict.fromkeys(("val_mean_mm", "seconds", "step_ms", "peak_mib"), _REAL + _NONE),
    **dict.fromkeys(("inference_1_ms", "inference_16_ms", "train_step_ms"), _REAL + _NONE),
    "to_mm": _REAL,
    "parameters": _INT + _NONE,
    "recipe": (dict, *_NONE),
    "quantiles_mm": (list, *_NONE),
}
QUANTILES = 101
_MOST_BYTES = 1 << 28  # of the rows of a grid
AVERAGED = (
    "mean_mm", "std_mm", "median_mm", "p90_mm", "max_mm", "val_mean_mm", "parameters", "seconds",
    "step_ms", "inference_1_ms", "inference_16_ms", "train_step_ms", "peak_mib",
)  # fmt: skip
COUNTED = ("nonfinite", "nonfinite_meshes", "outlier_meshes")

Row = dict[str, Any]


class GridError(ValueError):
    """A folder that is no grid, or a row that is not one; the message names it and the key."""


@dataclass(frozen=True)
class Spread:
    """One number over the seeds of a model.

    Attributes:
        mean: None when a seed has no finite value: an average of the others would flatter.
        std: sample standard deviation; None for fewer than two values.
        values: one per seed, None where there is none.
    """

    mean: float | None
    std: float | None
    values: list[float | None]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread:
        """The spread of values of which some may be missing."""
        known = [value for value in values if value is not None]
        if len(known) < len(values) or not known:
            return cls(None, None, list(values))
        mean = math.fsum(known) / len(known)
        std = None
        if len(known) > 1:
            std = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1))
        return cls(mean, std, list(values))


@dataclass(frozen=True)
class Model:
    """One model in a view: its runs, one per seed.

    Attributes:
        name: as in the rows, with a piece of the hash where two groups share a name.
        rows: by seed; never empty.
        missing_seeds: seeds that other models of the view have.
    """

    name: str
    rows: list[Row]
    missing_seeds: list[int] = field(default_factory=list)

    def spread(self, key: str) -> Spread:
        """Of one of `AVERAGED`."""
        return Spread.of([row[key] for row in self.rows])

    def count(self, key: str) -> int | None:
        """Sum of one of `COUNTED` over the seeds; None where a seed was not measured."""
        values = [row[key] for row in self.rows]
        return None if any(value is None for value in values) else sum(values)

    def quantiles(self) -> list[float | None]:
        """Error quantiles averaged over the seeds; None from where one of them is not finite."""
        columns = zip(
            *(row["quantiles_mm"] or [None] * QUANTILES for row in self.rows), strict=True
        )
        return [Spread.of(column).mean for column in columns]

    def from_median(self) -> list[Row]:
        """Its runs, that of the median error (the lower of two) first, then those next to it.

        Runs without an error count as the worst.
        """
        ordered = sorted(
            self.rows, key=lambda row: math.inf if row["mean_mm"] is None else row["mean_mm"]
        )
        middle = (len(ordered) - 1) // 2
        return [ordered[n] for n in sorted(range(len(ordered)), key=lambda n: abs(n - middle))]


@dataclass(frozen=True)
class View:
    """What may be compared: one data set, split, latent size and recipe.

    Attributes:
        data, split: names.
        latent: numbers per mesh.
        recipe_hash: None when nothing but linear models has run.
        recipe: its settings.
        models: the lowest mean error first, those without one last; every table, chart and legend
            keeps that order.
        missing_models: names that other views of the grid have.
    """

    data: str
    split: str
    latent: int
    recipe_hash: str | None
    recipe: dict[str, Any] | None
    models: list[Model]
    missing_models: list[str] = field(default_factory=list)


def read_rows(folder: str | Path) -> list[Row]:
    """The rows of a grid, or of a file like its ``results.json``, each checked against `SCHEMA`.

    Raises:
        GridError: no such file, not JSON, no rows, a key that is missing or of another type, a row
            that was changed since it was written.
    """
    path = Path(folder)
    if not path.is_file():
        path = path / RESULTS
    if not path.is_file():
        raise GridError(f"{folder}: no grid here: {RESULTS} is missing")
    rows = read_json(path, GridError, most_bytes=_MOST_BYTES, parse_constant=_refuse)
    if not isinstance(rows, list) or not rows:
        raise GridError(f"{path}: must be a list of rows, one at least")
    for number, row in enumerate(rows):
        _check_row(row, f"{path}: row {number}")
        check_seal(row, f"{path}: row {number}", GridError)
    return rows


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON; numbers that are not finite are null")


def _check_row(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise GridError(f"{where}: must be an object, got {type(row).__name__}")
    for key, kinds in SCHEMA.items():
        if key not in row:
            raise GridError(f"{where}: lacks {key}")
        value = row[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            raise GridError(f"{where}: {key} must be {wanted}, got {value!r}")
    for key, known in (("family", FAMILIES), ("status", STATUSES)):
        if row[key] not in known:
            raise GridError(f"{where}: {key} must be one of {', '.join(known)}, got {row[key]!r}")
    quantiles = row["quantiles_mm"]
    if quantiles is not None and (
        len(quantiles) != QUANTILES
        or not all(value is None or type(value) in (int, float) for value in quantiles)
    ):
        raise GridError(f"{where}: quantiles_mm must be {QUANTILES} numbers or nulls")
    if (row["recipe_hash"] is None) != (row["family"] == LINEAR):
        raise GridError(f"{where}: recipe_hash must be null for family {LINEAR}, and only for it")


def make_views(rows: Sequence[Row]) -> list[View]:
    """The views of a grid, in the order in which their first rows come.

    Linear rows stand beside every recipe, and those with no latents (the mean shape) beside every
    latent size.
    """
    trained = [row for row in rows if row["family"] != LINEAR]
    linear = [row for row in rows if row["family"] == LINEAR]
    keys = list(dict.fromkeys(_key(row) for row in trained))
    covered = {key[:3] for key in keys}
    alone = [_key(row) for row in linear if row["latent"] and _key(row)[:3] not in covered]
    keys += dict.fromkeys(alone)
    if not keys:
        keys = list(dict.fromkeys(_key(row) for row in linear))
    names = _unique(row["model"] for row in rows)
    views = []
    for key in keys:
        mine = [row for row in trained if _key(row) == key]
        recipe = mine[0]["recipe"] if mine else None
        mine += [row for row in linear if _stands_beside(row, key)]
        models = _models(mine)
        there = {row["model"] for row in mine}
        views.append(View(*key, recipe, models, [name for name in names if name not in there]))
    return views


def _key(row: Row) -> tuple[str, str, int, str | None]:
    return row["data"], row["split"], row["latent"], row["recipe_hash"]


def _stands_beside(row: Row, key: tuple[str, str, int, str | None]) -> bool:
    return (row["data"], row["split"]) == key[:2] and row["latent"] in (0, key[2])


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _models(rows: Sequence[Row]) -> list[Model]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group_hash"], []).append(row)
    seeds = sorted({row["seed"] for row in rows if row["seed"] is not None})
    labels = [group[0]["model"] for group in groups.values()]
    models = []
    for digest, group in groups.items():
        name = group[0]["model"]
        if labels.count(name) > 1:
            name = f"{name} ({digest[:6]})"
        ordered = sorted(group, key=lambda row: -1 if row["seed"] is None else row["seed"])
        have = {row["seed"] for row in group}
        missing = [] if group[0]["family"] == LINEAR else [s for s in seeds if s not in have]
        models.append(Model(name, ordered, missing))
    return sorted(models, key=lambda m: by_error(m.spread("mean_mm").mean))


def by_error(mean: float | None) -> tuple[bool, float]:
    """Sorts errors: the lowest first, what has none last."""
    return mean is None, mean or 0.0


def describe_view(view: View) -> Mapping[str, Any]:
    """Names, hashes and sizes that all rows of a view share, from its first row."""
    row = view.models[0].rows[0]
    keys = ("data", "data_hash", "split", "split_hash", "num_vertices", "to_mm")
    return {key: row[key] for key in (*keys, "num_train", "num_val", "num_test")}
