"""The tables of classifiers.md."""

from __future__ import annotations

import math
import statistics

from pages.rows import Row, accuracy, number, row, rows, seeds, table, variants


def networks(name: str, base: str) -> str:
    """Classifiers of images side by side, and what they reach and cost beside one of them."""
    plain = first(name, base)["step_seconds"]
    return table(
        (
            "network", "parameters", "test accuracy", "validation", "training loss, last tenth",
            f"accuracy / {base}", f"a step / {base}",
        ),
        (
            [
                variant,
                number(found[0]["parameters"]),
                seeds([r["test"]["accuracy"] for r in found]),
                seeds([r["val"]["accuracy"] for r in found]),
                seeds([r["training"]["loss"][-1] for r in found], 2),
                number(accuracy(name, variant) / accuracy(name, base), 2),
                number(found[0]["step_seconds"] / plain, 2),
            ]
            for variant, found in variants(name).items()
        ),
    )  # fmt: skip


def first(name: str, variant: str) -> Row:
    """The first run of a variant."""
    return variants(name)[variant][0]


def exploded(name: str, variant: str, least: float) -> int:
    """How many of a run's validation losses are as large as that, or not finite (null)."""
    losses = first(name, variant)["validation"]["val_loss"]
    return sum(loss is None or loss >= least for loss in losses)


def of_seed(name: str, variant: str, seed: int = 0) -> float:
    """The test accuracy of one run."""
    found: float = row(name, variant=variant, seed=seed)["test"]["accuracy"]
    return found


def held_out(name: str) -> list[str]:
    """The speakers of a file, in its order."""
    return list(dict.fromkeys(r["held_out"] for r in rows(name)))


def speakers(name: str, chosen: dict[str, str]) -> str:
    """Accuracies of each speaker that was held out, and their mean, by network."""

    def line(network: str, words: str) -> list[str]:
        found = [_run_of(name, network, speaker) for speaker in held_out(name)]
        return [
            words,
            number(found[0]["parameters"]),
            *(number(r["test"]["accuracy"], 3) for r in found),
            number(statistics.mean(r["test"]["accuracy"] for r in found), 3),
        ]

    return table(
        ("network", "parameters", *held_out(name), "mean"),
        (line(network, words) for network, words in chosen.items()),
    )


def _run_of(name: str, network: str, speaker: str) -> Row:
    return row(name, variant=f"{network}-{speaker}")


def mean_speaker(name: str, network: str) -> float:
    """The mean accuracy over the speakers."""
    found = [_run_of(name, network, speaker) for speaker in held_out(name)]
    return statistics.mean(r["test"]["accuracy"] for r in found)


def yardstick_by_speaker(name: str) -> str:
    """Accuracies without a network on each speaker that was held out, and on the others."""
    found = rows(name)
    parts = {"held out": "accuracy", "others, validation": "val_accuracy"}
    return table(
        ("clips of", *held_out(name), "mean"),
        (
            [
                words,
                *(number(r[key], 3) for r in found),
                number(statistics.mean(r[key] for r in found), 3),
            ]
            for words, key in parts.items()
        ),
    )


def validated(name: str) -> float:
    """The mean accuracy on the samples that validate."""
    return statistics.mean(r["val_accuracy"] for r in rows(name))


def mcnemar(name: str, one: str, other: str) -> tuple[int, int, float]:
    """Clips that the first network alone gets right, the second alone, and the exact p of equality.

    All speakers' clips together; two-sided, of Binomial(n, 1/2).
    """
    first = second = 0
    for speaker in held_out(name):
        wrong, others = (set(_run_of(name, n, speaker)["test"]["wrong"]) for n in (one, other))
        first += len(others - wrong)
        second += len(wrong - others)
    n, low = first + second, min(first, second)
    tail = sum(math.comb(n, k) for k in range(low + 1)) / 2**n
    return first, second, min(1.0, 2 * tail)


def verified(name: str) -> str:
    """Embedders side by side: means over runs, each run's number behind them."""
    return table(
        (
            "network and loss", "parameters", "accuracy", "equal error rate", "TAR at FAR 0.01",
            "rank 1",
        ),
        (
            [
                variant,
                number(found[0]["parameters"]),
                seeds([r["test"]["accuracy"] for r in found]),
                number(statistics.mean(r["test"]["eer"] for r in found), 3),
                number(statistics.mean(r["test"]["tar_at_1e-2"] for r in found), 3),
                number(statistics.mean(r["test"]["rank1"] for r in found), 3),
            ]
            for variant, found in variants(name).items()
        ),
    )  # fmt: skip


def yardsticks(name: str) -> str:
    """What methods without a network reach."""
    methods = dict.fromkeys(r["method"] for r in rows(name))
    return table(
        ("method", "accuracy", "equal error rate"),
        (
            [
                method,
                seeds([r["accuracy"] for r in rows(name, method=method)]),
                number(statistics.mean(r["eer"] for r in rows(name, method=method)), 3),
            ]
            for method in methods
        ),
    )


def method(name: str, wanted: str) -> float:
    """The mean accuracy of a method without a network."""
    return statistics.mean(r["accuracy"] for r in rows(name, method=wanted))


def spread(name: str, variant: str) -> float:
    """The standard deviation of a variant's test accuracies."""
    return statistics.stdev(r["test"]["accuracy"] for r in variants(name)[variant])


def paired(name: str, one: str, other: str) -> list[float]:
    """By how much a variant is ahead of another, run by run of one seed."""
    ends = [{r["seed"]: r["test"]["accuracy"] for r in variants(name)[v]} for v in (one, other)]
    if ends[0].keys() != ends[1].keys():
        raise LookupError(f"{name}: {one} and {other} have not the same seeds")
    return [ends[0][seed] - ends[1][seed] for seed in ends[0]]


def ahead(name: str, one: str, other: str) -> int:
    """At how many seeds a variant is more accurate than another."""
    return sum(difference > 0 for difference in paired(name, one, other))
