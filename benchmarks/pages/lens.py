"""The tables of lens.md."""

from __future__ import annotations

import statistics

from pages.rows import Row, number, row, rows, table

CODES = "intel-xeon-2-cores/codes"
LENS = "intel-xeon-2-cores/lens"
PENALTIES = "intel-xeon-2-cores/orthogonal"
NETWORKS = ("trained", "batchnorm", "untrained")
LAYERS = ("ReLU 1", "pool 1", "ReLU 2", "pool 2", "ReLU 3", "logits")


def layers(network: str) -> list[Row]:
    """The rows of a network, from the first layer to the logits."""
    return [r for r in rows(CODES, network=network) if r["layer"] != "pixels"]


def purity(network: str) -> list[float]:
    """The share of the asking image's class among neighbours, by layer."""
    return [r["purity"] for r in layers(network)]


def spread(network: str) -> float:
    """By how much that share differs among the three ReLUs."""
    at = purity(network)[:5:2]
    return max(at) - min(at)


def far(network: str) -> list[float]:
    """The distance of neighbours in pixels, by layer."""
    return [r["pixel_distance"] for r in layers(network)]


def pixels() -> Row:
    """Neighbours in pixels, which are those of every network."""
    return row(CODES, network="trained", layer="pixels")


def neighbours() -> str:
    """Purity, distance and overlap at every layer of every network."""
    body = []
    for place, name in enumerate(LAYERS):
        each = [layers(network)[place] for network in NETWORKS]
        cells = [number(r[key], 2) for key in ("purity", "pixel_overlap") for r in each]
        cells[3:3] = [number(r["pixel_distance"], 1) for r in each]
        body.append([name, *cells])
    same = pixels()
    body.append(["pixels", *[number(same["purity"], 2)] * 3,
                 *[number(same["pixel_distance"], 1)] * 3, *["1"] * 3])  # fmt: skip
    heads = [
        f"{what}: {network}" for what in ("class", "distance", "shared") for network in NETWORKS
    ]
    return table(("neighbours by", *heads), body)


def everywhere_alone() -> bool:
    """Whether every training image is alone in its region, at every layer of every network."""
    counted = [r for network in NETWORKS for r in layers(network) if r["lonely"] is not None]
    return all(r["occupied"] == r["lonely"] == counted[0]["occupied"] for r in counted)


def walk(network: str, between: str) -> Row:
    """The row of segments of a kind in a network."""
    return row(LENS, kind="walk", network=network, between=between)


def walks() -> str:
    """Regions on segments."""
    return table(
        ("network", "test accuracy", "images of", "regions", "for each unit of length",
         "changes of the largest output"),
        (
            [r["network"], number(r["test_accuracy"], 2), r["between"], number(r["regions"]),
             number(r["regions_per_length"], 1), number(r["decisions"], 1)]
            for r in rows(LENS, kind="walk")
        ),
    )  # fmt: skip


def more_between(network: str) -> float:
    """How many times as many regions lie between two classes as within one."""
    return float(walk(network, "two classes")["regions"] / walk(network, "same class")["regions"])


def sign(data: str, images: int, labels: str = "true") -> Row:
    """The row of a network's templates."""
    return row(LENS, kind="signs", data=data, images=images, labels=labels)


def signs() -> str:
    """Products of images and their templates."""
    return table(
        ("images", "labels", "training accuracy", "true above false", "signs as in the ideal",
         "size, true / false"),
        (
            [f"{number(r['images'])} of {r['data']}", r["labels"], number(r["train_accuracy"], 2),
             number(r["auc"], 3), number(r["sign_split"], 3), number(r["ratio"], 2)]
            for r in rows(LENS, kind="signs")
        ),
    )  # fmt: skip


def variants() -> list[str]:
    """The variants of the penalty that have been run, in their order."""
    return list(dict.fromkeys(r["variant"] for r in rows(PENALTIES)))


def mean(variant: str, what: str) -> float:
    """The mean of a number over a variant's seeds."""
    return statistics.mean(r[what] for r in rows(PENALTIES, variant=variant))


def penalties() -> str:
    """Variants side by side, every seed's accuracy in its order."""
    body = []
    for variant in variants():
        each = rows(PENALTIES, variant=variant)
        body.append([
            variant,
            ", ".join(number(r["test_accuracy"], 3) for r in each),
            number(mean(variant, "train_accuracy"), 3),
            number(statistics.mean(r["train_loss"][-1] for r in each), 2),
            number(mean(variant, "cosine_weights"), 2),
            number(mean(variant, "cosine_templates"), 2),
        ])  # fmt: skip
    return table(
        ("penalty", "test accuracy by seed", "training accuracy", "loss, penalty included",
         "cosine of rows", "cosine of templates"), body,
    )  # fmt: skip


def seeds() -> str:
    """How many seeds were run, as a sentence."""
    counts = sorted({len(rows(PENALTIES, variant=v)) for v in variants()})
    if counts[-1] == 1:
        return "One seed, which decides nothing finer than two hundredths: the others were not run."
    return f"{counts[0]} to {counts[-1]} seeds: the others were not run."
