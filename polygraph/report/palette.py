"""How families of models look: on the page, which gets it in its payload, and in pictures."""

from __future__ import annotations

from typing import NamedTuple

from polygraph.report.grid_rows import LINEAR


class Look(NamedTuple):
    """Of a family: its colour, plotly's symbol for its points, and its name for people."""

    color: str
    symbol: str
    label: str


# Okabe and Ito's colours, which people with any kind of colour vision tell apart. The page lists
# families in this order.
FAMILIES = {
    "first-order": Look("#1c2430", "circle", "first order"),
    "simple": Look("#56b4e9", "square", "simple"),
    "full": Look("#d55e00", "circle", "full"),
    "skip": Look("#009e73", "diamond", "skip"),
    "skip-code": Look("#005c43", "diamond-open", "skip of the public code"),
    "variational": Look("#7a5195", "square-open", "variational"),
    "spiral": Look("#cc79a7", "triangle-up", "spirals as published"),
    "peer": Look("#e69f00", "cross", "other operators"),
    "graph": Look("#0072b2", "star", "graph convolutions"),
    LINEAR: Look("#8b95a3", "x", "linear"),
}
