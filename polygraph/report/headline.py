"""What a report says first of a view: computed over all of its models, in words."""

from __future__ import annotations

from polygraph.report.grid_rows import LINEAR, Model, View
from polygraph.report.order_lines import START

PCA = "pca"
Piece = tuple[str, bool]  # text, and whether it is bold


def headline(view: View) -> list[Piece]:
    """Sizes; the lowest mean error of all models, whatever they are; what it is to be held against.

    A model that lacks a finite error for one of its seeds has no mean, and cannot be the best.
    """
    seeds = {row["seed"] for model in view.models for row in model.rows} - {None}
    vertices = view.models[0].rows[0]["num_vertices"]
    pieces: list[Piece] = [
        (
            f"{_plural(len(view.models), 'model')}, {_plural(len(seeds), 'seed')}, {view.latent} "
            f"numbers per mesh of {vertices:,} vertices. ",
            False,
        )
    ]
    ranked = sorted(
        (model for model in view.models if _mean(model) is not None), key=lambda m: _mean(m) or 0.0
    )
    if not ranked:
        return [*pieces, ("No model has a finite error over all of its seeds.", False)]
    best = ranked[0]
    pieces += [
        ("The lowest error on meshes that training never saw is ", False),
        (f"{millimetres(_mean(best))} mm", True),
        (", by ", False),
        (best.name, True),
    ]
    return [*pieces, (_against(best, ranked), False)]


def _against(best: Model, ranked: list[Model]) -> str:
    """The best network, if it is another; first order; PCA."""
    others: dict[str, str] = {}
    network = next((model for model in ranked if not _is_linear(model)), None)
    if network is not None:
        others[network.name] = f"{network.name}, the best network"
    first = next((model for model in ranked if model.name == START), None)
    if first is not None:
        others.setdefault(first.name, "the first-order model")
    for model in ranked:
        if model.rows[0]["model"] == PCA:
            others.setdefault(model.name, "PCA")
    others.pop(best.name, None)
    means = {model.name: millimetres(_mean(model)) for model in ranked}
    said = [f"{means[name]} of {words}" for name, words in others.items()]
    return f", against {' and '.join(said)}." if said else "."


def _mean(model: Model) -> float | None:
    return model.spread("mean_mm").mean


def _is_linear(model: Model) -> bool:
    return bool(model.rows[0]["family"] == LINEAR)


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def millimetres(value: float | None) -> str:
    """With the digits that the page's table gives it."""
    if value is None:
        return "–"
    if abs(value) >= 1e7:
        return f"{value:.1e}"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"
