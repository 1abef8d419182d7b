"""What the sentences of meshes.md say of the rows: who is below whom, and by how much."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from pages.meshes import ANIMALS, BODIES, NAMES, ORDERS, RATE, errors, mean
from pages.rows import rows

KINDS, ENDS = ("simple", "full", "skip"), ("", "-noact")
POLYNOMIALS = tuple(m for m in NAMES if m.startswith(KINDS) and "batchnorm" not in m)
SPIRALS = ("first-order", "first-order-spiralnet++")
OTHERS = ("ecc", "chebyshev", "edgeconv", "feastnet", "gat", "monet")
WHERE = {"split": "interpolation", "latent": 16}  # if nothing else is said


def rising(name: str, models: Sequence[str], **wanted: Any) -> bool:
    """Each model's mean error lies above that of the one before."""
    means = [mean(name, model, **wanted) for model in models]
    return all(a < b for a, b in itertools.pairwise(means))


def body(model: str, **wanted: Any) -> float:
    """The mean error on the bodies."""
    return mean(BODIES, model, **WHERE | wanted)


def not_below(other: str, **wanted: Any) -> list[str]:
    """The models on the bodies of which a seed is no better than another model."""
    limit = body(other, **wanted)
    found = {r["model"] for r in rows(BODIES, **WHERE | wanted)} - {other}
    return [m for m in NAMES if m in found and max(errors(BODIES, m, **WHERE | wanted)) >= limit]


def below(other: str, models: Iterable[str], **wanted: Any) -> list[float]:
    """By how many mm each model lies below another on the bodies; negative: above."""
    return [body(other, **wanted) - body(model, **wanted) for model in models]


def lost(models: Iterable[str], **wanted: Any) -> list[float]:
    """By how many mm each model is worse without activations on the bodies."""
    return [body(f"{m}-noact", **wanted) - body(m, **wanted) for m in models]


def seeds_differ(model: str, key: str) -> float:
    """By how many mm seed 1 lies above seed 0, 16 latents, motions never seen."""
    first, second = errors(BODIES, model, key, **WHERE | {"split": "extrapolation"})
    return second - first


def fall_with_order(rate: float) -> bool:
    """Errors of every kind of polynomial, with activations and without."""
    falling = [[f"{kind}-4", f"{kind}-3", f"{kind}-2", "first-order"] for kind in KINDS]
    return all(rising(ORDERS, [m + end for m in f], rate=rate) for f in falling for end in ENDS)


def activations_matter(rate: float) -> float:
    """The largest difference in mm that activations make from order 2 on."""
    models = [f"{kind}-{order}" for kind in KINDS for order in (2, 3, 4)]
    return max(
        abs(mean(ORDERS, f"{m}-noact", rate=rate) - mean(ORDERS, m, rate=rate)) for m in models
    )


def better_at(rate: float) -> list[str]:
    """The polynomials that are better at this rate than at the recipe's."""
    models = [f"{kind}-{order}{end}" for kind in KINDS for order in (2, 3, 4) for end in ENDS]
    return sorted(m for m in models if mean(ORDERS, m, rate=rate) < mean(ORDERS, m, rate=RATE))


def better_without() -> list[tuple[str, str]]:
    """The animals and models that do better without activations."""
    models = [m for m in NAMES if f"{m}-noact" in NAMES]
    return [
        (data, m)
        for data in ("horse", "fox")
        for m in models
        if mean(ANIMALS, f"{m}-noact", data=data) < mean(ANIMALS, m, data=data)
    ]


def best_operator(data: str) -> str:
    """The best of the operators other than spirals on an animal."""
    return min(OTHERS, key=lambda model: mean(ANIMALS, model, data=data))
