"""Which models belong to one line of a chart of error against order: one rule for all charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from polygraph.report.grid_rows import POLYNOMIALS, Model

START = "first-order"  # order 1 of every polynomial: the same network without products


@dataclass(frozen=True)
class OrderLine:
    """Models that differ by nothing but their order.

    Attributes:
        family: one of `polygraph.report.grid_rows.POLYNOMIALS`.
        without: whether they lack activations.
        norm: their normalisation; None where it is that of most polynomials of the chart.
        models: by order; first-order of the same network comes first, where it has run.
    """

    family: str
    without: bool
    norm: str | None
    models: list[Model]


def order_lines(models: Sequence[Model]) -> list[OrderLine]:
    """The lines of a view's models, by family, those with activations first.

    First-order models with other spirals or filters (``first-order-spiralnet++``) are no order 1 of
    these polynomials, and are left out, as is every other operator.
    """
    mine: dict[tuple[str, bool, str | None], list[Model]] = {}
    for model in models:
        row = model.rows[0]
        if row["family"] in POLYNOMIALS and row["operator"] == "spiral":
            key = (row["family"], lacks_activations(model), row["norm"])
            mine.setdefault(key, []).append(model)
    norms = Counter(key[2] for key, found in mine.items() for _ in found)
    usual = norms.most_common(1)[0][0] if norms else None
    lines = []
    for family, without, norm in sorted(mine, key=lambda k: (POLYNOMIALS.index(k[0]), k[1])):
        name = f"{START}-noact" if without else START
        start = [model for model in models if model.rows[0]["model"] == name]
        found = sorted([*start, *mine[family, without, norm]], key=order_of)
        lines.append(OrderLine(family, without, None if norm == usual else norm, found))
    return lines


def order_of(model: Model) -> int:
    """Degree of its blocks."""
    return int(model.rows[0]["order"] or 1)


def lacks_activations(model: Model) -> bool:
    """Whether it is a network without activations."""
    return bool(model.rows[0]["activation"] == "none")
