"""The tables of images.md."""

from __future__ import annotations

import statistics

from pages.rows import Row, number, row, rows, seeds, table, variants
from pages.rows import accuracy as accuracy

OURS, PEER = "polygraph", "pytorch + pyg"


def best(of: Row) -> Row:
    """The scores of the lowest FID."""
    return min(of["scores"], key=lambda score: score["FID"])


def last(of: Row) -> Row:
    """The scores at the end."""
    return of["scores"][-1]


def fid(name: str) -> dict[str, float]:
    """The FID of every run at its end."""
    return {r["run"]: last(r)["FID"] for r in rows(name)}


def ranking(name: str) -> list[str]:
    """The runs, the lowest FID first."""
    return lowest_first(fid(name))


def lowest_first(found: dict[str, float]) -> list[str]:
    """Names, that of the smallest number first."""
    return sorted(found, key=lambda run: found[run])


def is_stable(names: list[str], runs: list[str]) -> bool:
    """Whether in some runs every number is finite, and the critic's gap stays small."""
    every = {r["run"]: r for name in names for r in rows(name)}
    return all(
        max(every[run]["curve"]["critic_gap"]) < 5
        and all(score["num_nonfinite"] == 0 for score in every[run]["scores"])
        for run in runs
    )


def gap(name: str, run: str) -> float:
    """The mean of a critic's gap over the last tenth of a run."""
    return gap_of(row(name, run=run))


def largest_gaps(names: list[str]) -> list[str]:
    """The runs of some files, that of the largest gap first."""
    found = {r["run"]: gap_of(r) for name in names for r in rows(name)}
    return lowest_first(found)[::-1]


def gap_of(of: Row) -> float:
    """The same, of a row."""
    gaps: list[float] = of["curve"]["critic_gap"]
    return statistics.mean(gaps[-max(1, len(gaps) // 10) :])


def ablations(name: str, run: str) -> str:
    """A generator's scores as it is, and with its non-local part replaced at test time."""
    found = row(name, run=run)
    return table(
        ("non-local part", "IS", "FID"),
        (
            [words, *(number(_of(scores, metric), 2) for metric in ("IS", "FID"))]
            for words, scores in (
                ("as trained", found),
                ("without it", found["ablations"]["zero"]),
                ("without it, the local part in full", found["ablations"]["local"]),
                ("random neighbours", found["ablations"]["random"]),
                ("the mean pixel as every neighbour", found["ablations"]["mean"]),
            )
        ),
    )


def ablated_fid(name: str, run: str, what: str) -> float:
    """The FID of a generator with its non-local part replaced."""
    return _of(row(name, run=run)["ablations"][what], "FID")


def _of(scores: Row, metric: str) -> float:
    """A score by its name without that of the extractor."""
    (found,) = (value for key, value in scores.items() if key.split(" (")[0] == metric)
    return float(found)


def turning(name: str, run: str, after: int) -> int:
    """The step after another one at which a critic's gap is smallest."""
    curve = row(name, run=run)["curve"]
    pairs = zip(curve["critic_gap"], curve["step"], strict=True)
    return min(pair for pair in pairs if pair[1] > after)[1]


def scores(name: str) -> str:
    """Runs side by side; what sees the images is named in the heading."""
    eyes = dict.fromkeys(r["extractor"] for r in rows(name))
    if len(eyes) != 1:
        raise ValueError(f"{name}: scores of {', '.join(eyes)} cannot be compared")
    (seen,) = eyes
    return table(
        (
            "run", "steps", "generator, parameters", f"IS ({seen})", f"FID ({seen})",
            "lowest FID, at", "critic's gap, last", "largest",
        ),
        map(_score_line, rows(name)),
    )  # fmt: skip


def _score_line(of: Row) -> list[str]:
    end, low, gaps = last(of), best(of), of["curve"]["critic_gap"]
    return [
        of["run"],
        number(of["steps"]),
        number(of["parameters"]),
        f"{number(end['IS'], 2)} ± {number(end['IS std'], 2)}",
        number(end["FID"], 2),
        f"{number(low['FID'], 2)}, {number(low['step'])}",
        number(gaps[-1], 2),
        number(max(gaps), 1),
    ]


def mean_of(name: str, variant: str, metric: str = "FID") -> float:
    """The mean over seeds of a score at the end."""
    return statistics.mean(last(r)[metric] for r in variants(name)[variant])


def seeds_ahead(name: str, one: str, other: str) -> int:
    """How many seeds of a variant end with a lower FID than the same seed of another."""
    ends = [{r["seed"]: last(r)["FID"] for r in variants(name)[v]} for v in (one, other)]
    if ends[0].keys() != ends[1].keys():
        raise LookupError(f"{name}: {one} and {other} have not the same seeds")
    return sum(ends[0][seed] < ends[1][seed] for seed in ends[0])


def early_least(name: str, variant: str, step: int) -> float:
    """The lowest FID of a variant's seeds at a step on their way."""
    return min(_at(r, step) for r in variants(name)[variant])


def early_most(name: str, variant: str, step: int) -> float:
    """The highest."""
    return max(_at(r, step) for r in variants(name)[variant])


def _at(of: Row, step: int) -> float:
    return next(float(score["FID"]) for score in of["scores"] if score["step"] == step)


def span_of(name: str, variant: str) -> float:
    """How far apart the FIDs of a variant's seeds are at the end."""
    found = [last(r)["FID"] for r in variants(name)[variant]]
    return max(found) - min(found)


def _degree(found: list[Row]) -> str:
    """The degree of a variant, and whether the check found it at every seed."""
    if "degree" not in found[0]:
        return f"none: {found[0]['activations']}"
    held = {r["degree_holds"] for r in found}
    words = "REFUTED" if False in held else "not checked" if None in held else "checked"
    return f"{number(found[0]['degree'])}, {words}"


def generators(name: str, chosen: list[str]) -> str:
    """Generators side by side: means over seeds, with every seed's number behind them."""

    def line(variant: str) -> list[str]:
        found = variants(name)[variant]
        first = found[0]
        lows = [best(r) for r in found]
        return [
            variant,
            _degree(found),
            number(first["parameters"]),
            number(first["steps"]),
            seeds([last(r)["FID"] for r in found], 1),
            seeds([low["FID"] for low in lows], 1),
            seeds([last(r)["IS"] for r in found], 2),
            number(statistics.mean(map(gap_of, found)), 1),
        ]

    seen = rows(name)[0]["extractor"]
    return table(
        (
            "generator", "degree in z", "parameters", "steps", f"FID ({seen})",
            "lowest on the way", f"IS ({seen})", "critic's gap",
        ),
        map(line, chosen),
    )  # fmt: skip


def at_step(of: Row, step: int) -> Row | None:
    """The scores of a run at a step, if it was scored there."""
    return next((score for score in of["scores"] if score["step"] == step), None)


def by_step(names: list[str], steps: list[int]) -> str:
    """The FID of every run of some files on its way, and the critic's gap there at last."""

    def line(of: Row) -> list[str]:
        found = [at_step(of, step) for step in steps]
        return [
            of["run"],
            *(number(score["FID"], 1) if score else "" for score in found),
            number(gap_of(of), 2),
        ]

    all_rows = [r for name in names for r in rows(name)]
    return table(
        ("run", *(f"FID at {step}" for step in steps), "critic's gap, last"), map(line, all_rows)
    )


def early_fid(names: list[str]) -> dict[int, dict[str, float]]:
    """Step -> run -> FID there, of the runs of some files."""
    found: dict[int, dict[str, float]] = {}
    for r in (r for name in names for r in rows(name)):
        for score in r["scores"]:
            found.setdefault(score["step"], {})[r["run"]] = score["FID"]
    return found


def step_ratio(variant: str, name: str) -> float:
    """How many steps of the plain generator a step of a variant takes."""
    return float(row(name, variant=variant)["step / baseline"]["median"])


def lowest(name: str, chosen: list[str]) -> float:
    """The least test accuracy of some variants' seeds."""
    return min(r["test"]["accuracy"] for variant in chosen for r in variants(name)[variant])


def highest(name: str, chosen: list[str]) -> float:
    """The largest."""
    return max(r["test"]["accuracy"] for variant in chosen for r in variants(name)[variant])


def classifiers(name: str) -> str:
    """Classifiers side by side: means over seeds, with every seed's number behind them."""
    plain = next(iter(variants(name)))
    step = row_of(name, plain)["step_seconds"]
    return table(
        (
            "second layer", "parameters", "test accuracy", "test loss",
            "validation accuracy", f"a step / {plain}",
        ),
        (
            [
                variant,
                number(found[0]["parameters"]),
                seeds([r["test"]["accuracy"] for r in found]),
                seeds([r["test"]["loss"] for r in found]),
                seeds([r["val"]["accuracy"] for r in found]),
                number(found[0]["step_seconds"] / step, 1),
            ]
            for variant, found in variants(name).items()
        ),
    )  # fmt: skip


def row_of(name: str, variant: str) -> Row:
    """The first run of a variant."""
    return variants(name)[variant][0]


def memory(variant: str, library: str = OURS, name: str = "gan_memory") -> float | None:
    """Peak MiB of a critic's and a generator's step; None where it was not measured."""
    found = rows(name, variant=variant, library=library)
    return found[0]["peak_mib"] if found else None


def time(variant: str, library: str, ratio: str) -> float | None:
    """A median ratio of times of whole training steps; None where it was not measured."""
    found = rows("gan_time", variant=variant, library=library)
    return found[0][ratio]["median"] if found and ratio in found[0] else None


def costs() -> str:
    """Time and memory of a training step, ours and the peer's."""
    return table(
        (
            "layer", "a step: ours, s", "PyTorch and PyG / ours", "ours / plain generator",
            "peak MiB: ours", "PyTorch and PyG",
        ),
        (
            [
                variant,
                number(row("gan_time", variant=variant, library=OURS)["step_seconds"]["median"], 2),
                number(time(variant, PEER, f"step / {OURS}"), 1),
                number(time(variant, OURS, "step / baseline"), 1),
                number(memory(variant)),
                number(memory(variant, PEER)),
            ]
            for variant in dict.fromkeys(r["variant"] for r in rows("gan_time"))
        ),
    )  # fmt: skip
