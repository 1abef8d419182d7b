"""The tables of meshes.md, and errors of single models. mesh_claims.py has what sentences say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pages.rows import Row, number, row, rows, table

BODIES, ORDERS, ANIMALS = "mesh_bodies", "mesh_bodies_orders", "mesh_animals"
CODE = "intel-xeon-2-cores/mesh_bodies_skip_code"
NORMS = "intel-xeon-2-cores/mesh_animals_instance"
LONG = {split: f"mesh_autoencoder_{split}" for split in ("interpolation", "extrapolation")}
RATE = 5e-3  # of the recipe mesh-benchmark
APART = 1.1  # two seeds are both named where one error is so many times the other
HUGE = 1e6  # from here on, the power of ten says more than the digits

NAMES = {
    "first-order": "first order",
    "first-order-noact": "first order, without activations",
    "simple-2": "simple, order 2",
    "simple-2-noact": "simple, order 2, without activations",
    "full-2": "full, order 2",
    "full-2-noact": "full, order 2, without activations",
    "skip-2": "skip, order 2",
    "skip-2-noact": "skip, order 2, without activations",
    "full-3": "full, order 3",
    "full-3-noact": "full, order 3, without activations",
    "full-4": "full, order 4",
    "full-4-noact": "full, order 4, without activations",
    "ecc": "ECC",
    "first-order-spiralnet++": "SpiralNet++'s spirals",
    "chebyshev": "Chebyshev",
    "edgeconv": "EdgeConv",
    "feastnet": "FeaStNet",
    "gat": "GAT",
    "monet": "MoNet",
    "pca": "PCA",
    "PCA-16": "PCA",
    "full-2-batchnorm": "full, order 2, BatchNorm",
    "mean-shape": "mean shape",
    "mean shape": "mean shape",
}
Where = Mapping[str, Any]


def runs(name: str, model: str, *, rate: float = RATE, **wanted: Any) -> list[Row]:
    """The rows of a model, by seed; PCA and the mean shape have no learning rate."""
    found = [r for r in rows(name, model=model, **wanted) if _rate(r) in (rate, None)]
    return sorted(found, key=lambda r: r["seed"] or 0)


def _rate(of: Row) -> float | None:
    return of["recipe"]["learning_rate"] if of["recipe"] else None


def errors(name: str, model: str, key: str = "mean_mm", **wanted: Any) -> list[float]:
    """Mean errors in mm by seed, infinite where a mesh is not finite.

    Raises:
        LookupError: the model has no such rows.
    """
    found = runs(name, model, **wanted)
    if not found:
        raise LookupError(f"{name}: no run of {model} with {wanted}")
    return [float("inf") if r[key] is None else r[key] for r in found]


def mean(name: str, model: str, **wanted: Any) -> float:
    """The mean error over the seeds."""
    found = errors(name, model, **wanted)
    return sum(found) / len(found)


def cell(found: Sequence[Row]) -> str:
    """One number, two where two seeds lie apart, the mean and the span of more seeds.

    Meshes that are not finite are counted, in place of a mean without them.
    """
    if not found:
        return "–"
    values = [r["mean_mm"] for r in found]
    if None in values or max(values) > HUGE:
        return _not_finite(found)
    if len(values) > 2:
        mean = number(sum(values) / len(values), 1)
        return f"{mean} ({number(min(values), 1)} to {number(max(values), 1)})"
    if max(values) > APART * min(values):
        return " and ".join(number(v, 1) for v in values)
    return number(sum(values) / len(values), 1)


def _not_finite(found: Sequence[Row]) -> str:
    """What each seed gave: an error, or how many meshes are not finite."""
    given = [r["mean_mm"] for r in found]
    texts = [
        str(r["nonfinite_meshes"]) if mean is None else f"{mean:.0e} mm".replace("e+", "e")
        for r, mean in zip(found, given, strict=True)
    ]
    last = max(n for n, mean in enumerate(given) if mean is None) if None in given else None
    if last is not None:
        texts[last] += f" of {found[last]['num_test']} meshes not finite"
    return " and ".join(texts)


def error_table(name: str, columns: Mapping[str, Where]) -> str:
    """A line per model, a column per data set, split or number of latents."""
    found = {r["model"] for r in rows(name)}
    unknown = found - set(NAMES)
    if unknown:
        raise LookupError(f"{name}: NAMES lacks {', '.join(sorted(unknown))}")
    body: Iterable[list[str]] = (
        [text, *(cell(runs(name, model, **wanted)) for wanted in columns.values())]
        for model, text in NAMES.items()
        if model in found and model != "mean-shape"
    )
    return table(("", *columns), body)


def bodies_table() -> str:
    """The runs of 10,000 steps on the bodies."""
    names = {"interpolation": "interpolation", "extrapolation": "motions never seen"}
    columns = {
        f"{text}, {latent} latents": {"split": split, "latent": latent}
        for split, text in names.items()
        for latent in (16, 8)
    }
    return error_table(BODIES, columns)


def animals_table() -> str:
    """The horse and the fox."""
    return error_table(ANIMALS, {data: {"data": data} for data in ("horse", "fox")})


def order_table() -> str:
    """Every kind of polynomial at every order and both learning rates."""
    kinds = ("simple", "full", "skip")
    cases = [(rate, kind, end) for rate in (RATE, 1e-3) for kind in kinds for end in ("", "-noact")]
    return table(
        ("polynomial", "activations", "Adam", "order 1", "2", "3", "4"),
        (
            [kind, "none" if end else "ELU", f"{rate * 1e3:g}e-3"]
            + [_order_cell(kind, end, degree, rate) for degree in (1, 2, 3, 4)]
            for rate, kind, end in cases
        ),
    )


def _order_cell(kind: str, end: str, degree: int, rate: float) -> str:
    """First order is no polynomial of any kind: one line has it."""
    if degree == 1:
        return cell(runs(ORDERS, f"first-order{end}", rate=rate)) if kind == "simple" else ""
    return cell(runs(ORDERS, f"{kind}-{degree}{end}", rate=rate))


def long_table() -> str:
    """The runs of 16,000 steps."""
    models = dict.fromkeys(r["model"] for split in LONG for r in rows(LONG[split]))
    return table(
        ("", "parameters", "interpolation", "median", "motions never seen", "median"),
        (_long_line(model) for model in models),
    )


def _long_line(model: str) -> list[str]:
    found = {split: rows(name, model=model) for split, name in LONG.items()}
    keys = ("test_mean_mm", "test_median_mm")
    return [
        NAMES[model],
        number(found["interpolation"][0]["parameters"]),
        *(number(r[0][key], 1) if r else "–" for r in found.values() for key in keys),
    ]


def long(model: str, split: str = "interpolation") -> float:
    """The mean error of a run of 16,000 steps."""
    return row(LONG[split], model=model)["test_mean_mm"]


def code_table() -> str:
    """NCP-Skip as the public code has it, what has run."""
    models = dict.fromkeys(r["model"] for r in rows(CODE))
    return table(("model", "error"), ([f"`{m}`", cell(runs(CODE, m))] for m in models))


def norm_table() -> str:
    """Normalisations of one short grid."""
    head = ("model", "parameters", "mean", "median", "90 %", "outliers", "not finite")
    keys = ("mean_mm", "median_mm", "p90_mm")
    return table(
        head,
        (
            [
                f"`{r['model']}`",
                number(r["parameters"]),
                *("–" if r[key] is None else number(r[key], 1) for key in keys),
                str(r["outlier_meshes"]),
                str(r["nonfinite_meshes"]),
            ]
            for r in rows(NORMS)
        ),
    )


def cost_table() -> str:
    """Training steps and inference of whole autoencoders, in ms."""
    cost = row("mesh_autoencoder_cost")
    one, many = cost["inference batch 1"], cost["inference batch 16"]
    return table(
        (
            "", "training step: ours, ms", "plain PyTorch", "plain PyTorch / ours",
            "inference, 1 mesh, ms", "/ first order", "16 meshes, ms", "/ first order",
        ),
        (
            [
                NAMES[model],
                *_training(cost, model),
                number(one[model]["median_ms"], 1),
                number(one[model]["x_first_order"], 2),
                number(many[model]["median_ms"], 1),
                number(many[model]["x_first_order"], 2),
            ]
            for model in one
        ),
    )  # fmt: skip


def _training(cost: Row, model: str) -> list[str]:
    step = cost["training_step"]
    if model not in step:
        return ["–"] * 3
    times = (step[model]["median_ms"], step[f"{model} in plain PyTorch"]["median_ms"])
    return [*(number(t, 1) for t in times), number(cost[f"training_step_speedup {model}"], 1)]
