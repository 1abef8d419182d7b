"""Verification: is a pair of one identity? Accuracy in folds, intervals, everything in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import as_numpy
from polygraph._checks import check_choice
from polygraph._repr import short_repr
from polygraph.metrics.verification.curve import (
    FARS,
    Roc,
    SortedPairs,
    checked_pairs,
)
from polygraph.metrics.verification.scores import Floats, Integers, checked_numbers


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy of verification, each fold at the threshold that is best on the others.

    Attributes:
        accuracy: float64 ``[K]``, of the pairs of each fold.
        thresholds: float64 ``[K]``.
        right: bool ``[P]``, of each pair, at its fold's threshold.

    Example:
        >>> from polygraph.metrics.verification import fold_accuracy
        >>> same = [True, False, True, False]
        >>> found = fold_accuracy([0.9, 0.2, 0.8, 0.4], same, [0, 0, 1, 1])
        >>> found.mean, found.std, found.thresholds
        (1.0, 0.0, array([0.6 , 0.55]))
    """

    accuracy: Floats
    thresholds: Floats
    right: NDArray[np.bool_]

    __repr__ = short_repr

    @property
    def mean(self) -> float:
        """Mean over the folds."""
        return float(self.accuracy.mean())

    @property
    def std(self) -> float:
        """Standard deviation over the folds (the root of the mean square)."""
        return float(self.accuracy.std())


def _best_threshold(pairs: SortedPairs, weights: Integers | NDArray[np.bool_] | None) -> float:
    """The threshold that is right most often; of several the highest, in the middle of its gap."""
    genuine, impostors = pairs.counts(weights)
    right = np.append(0, genuine - impostors)  # less the impostors, which rejecting all gets right
    at = int(right.argmax()) - 1
    present = np.flatnonzero(np.diff(genuine + impostors, prepend=0))
    if at < 0:
        return float(np.nextafter(pairs.scores[present[0]], np.inf))
    upper = float(pairs.scores[at])
    below = present[present > at]
    if not len(below):
        return upper
    lower = float(pairs.scores[below[0]])
    middle = lower + (upper - lower) / 2
    return middle if lower < middle <= upper else upper


def best_threshold(scores: Any, same: Any) -> float:
    """The threshold at which most pairs are told right, accepting what is at or above it.

    Of several the highest: fewer impostors are accepted. It lies in the middle between the lowest
    accepted score and the next one below; just above all scores where nothing is best accepted.

    Args:
        scores: numbers ``[P]``.
        same: booleans ``[P]``.

    Raises:
        ValueError: see `roc`.

    Example:
        >>> from polygraph.metrics.verification import best_threshold
        >>> best_threshold([3, 2, 2, 0], [True, True, False, False])
        2.5
    """
    return _best_threshold(SortedPairs.of(*checked_pairs("best_threshold", scores, same)), None)


def fold_accuracy(scores: Any, same: Any, fold: Any) -> FoldAccuracy:
    """Accuracy in folds, the protocol of LFW: thresholds come from the other folds.

    Source: Huang et al., "Labeled Faces in the Wild", 2007. We depart from the usual code, which
    tries 400 thresholds on a grid: all are looked at, see `best_threshold`.

    Args:
        scores: numbers ``[P]``; the larger, the more alike.
        same: booleans ``[P]``.
        fold: integers ``[P]`` from 0 on; every fold has pairs, and there are two or more.

    Raises:
        ValueError: see `roc`; there are fewer than two folds, or a fold is empty; or the pairs
            outside of a fold are all genuine or all impostors.
    """
    values, mates = checked_pairs("fold_accuracy", scores, same)
    number = checked_numbers("fold_accuracy: fold", fold, len(values))
    count = int(number.max()) + 1
    sizes = np.bincount(number, minlength=count) if number.min() >= 0 else np.zeros(1, np.int64)
    if count < 2 or not sizes.all():
        raise ValueError(
            "fold_accuracy: fold must number two or more folds from 0 on, each with pairs, got "
            f"{np.unique(number)[:10].tolist()}"
        )
    pairs = SortedPairs.of(values, mates)
    thresholds, right = np.empty(count), np.empty(len(values), np.bool_)
    for n in range(count):
        inside = number == n
        for kind, members in (("genuine", mates), ("impostor", ~mates)):
            if not (members & ~inside).any():
                raise ValueError(
                    f"fold_accuracy: a threshold needs {kind} pairs outside of fold {n}, got none"
                )
        thresholds[n] = _best_threshold(pairs, ~inside)
        right[inside] = (values[inside] >= thresholds[n]) == mates[inside]
    return FoldAccuracy(np.bincount(number, right) / sizes, thresholds, right)


def _weights(
    draw: np.random.Generator,
    same: NDArray[np.bool_],
    identities: Integers | None,
) -> Integers:
    """How often each pair is in a resample."""
    if identities is None:
        found = np.empty(len(same), np.int64)
        for kind in (same, ~same):  # as many of both as there are
            size = int(kind.sum())
            found[kind] = np.bincount(draw.integers(0, size, size), minlength=size)
        return found
    count = int(identities.max()) + 1
    while True:  # a genuine and an impostor pair show three people: one draw of five has them all
        times = np.bincount(draw.integers(0, count, count), minlength=count)
        one, two = times[identities[:, 0]], times[identities[:, 1]]
        found = np.where(same, one, one * two).astype(np.int64)
        if found[same].any() and found[~same].any():
            return found


def bootstrap(
    scores: Any,
    same: Any,
    statistics: dict[str, Callable[[Roc], float | None]],
    *,
    identities: Any = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of statistics of a curve.

    Args:
        scores: numbers ``[P]``.
        same: booleans ``[P]``.
        statistics: name -> function of a `Roc`; one that gives None has no interval.
        identities: integers ``[P, 2]``, whom a pair shows: then identities are drawn, not pairs,
            and a pair counts as often as its identity is drawn, an impostor pair as often as the
            product says (Bolle et al., CVIU 2004, subsets). Pairs of one person are not
            independent: these intervals are the wider ones, and the honest ones where there are few
            people. None: genuine and impostor pairs are drawn, as many as there are of each.
        resamples: how many are drawn.
        level: share of the resamples within the interval.
        seed: draws them.

    Returns:
        Name -> lower and upper end.

    Raises:
        ValueError: see `roc`; or another argument is wrong.

    Example:
        >>> from polygraph.metrics.verification import bootstrap
        >>> scores, same = [4, 3, 2, 1] * 5, [True, False, True, False] * 5
        >>> low, high = bootstrap(scores, same, {"auc": lambda curve: curve.auc})["auc"]
        >>> low < 0.75 < high
        True
    """
    values, mates = checked_pairs("bootstrap", scores, same)
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"bootstrap: resamples must be at least 1 and level in (0, 1), got {resamples} and "
            f"{level}"
        )
    who = None if identities is None else _checked_identities(identities, mates)
    pairs, draw = SortedPairs.of(values, mates), np.random.default_rng(seed)
    found: dict[str, list[float | None]] = {name: [] for name in statistics}
    for _ in range(resamples):
        curve = pairs.roc(_weights(draw, mates, who))
        for name, statistic in statistics.items():
            found[name].append(statistic(curve))
    return {name: _interval(drawn, level) for name, drawn in found.items()}


def _interval(drawn: Sequence[float | None], level: float) -> tuple[float, float] | None:
    known = [value for value in drawn if value is not None]
    if len(known) < len(drawn):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked_identities(identities: Any, same: NDArray[np.bool_]) -> Integers:
    """Identities of pairs, numbered from 0 on."""
    found = as_numpy(identities)
    if found.shape != (len(same), 2) or found.dtype.kind not in "iu":
        raise ValueError(
            f"bootstrap: identities must be integers of shape [{len(same)}, 2], got {found.dtype} "
            f"{list(found.shape)}"
        )
    wrong = (found[:, 0] == found[:, 1]) != same
    if wrong.any():
        raise ValueError(
            f"bootstrap: pair {int(wrong.argmax())} is of identities "
            f"{found[wrong.argmax()].tolist()}, which same contradicts"
        )
    return np.unique(found, return_inverse=True)[1].reshape(-1, 2).astype(np.int64)


def verification_summary(
    scores: Any,
    same: Any,
    fold: Any = None,
    *,
    fars: Sequence[float] = FARS,
    identities: Any = None,
    by: str = "pairs",
    resamples: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything about pairs, as plain numbers.

    Args:
        scores: numbers ``[P]``; the larger, the more alike.
        same: booleans ``[P]``.
        fold: integers ``[P]``; None: no accuracy.
        fars: false accept rates.
        identities: integers ``[P, 2]``, for ``by="identities"``.
        by: what is resampled: ``"pairs"`` or ``"identities"``; see `bootstrap`.
        resamples: 0: no intervals.
        level: of the intervals.
        seed: of the resamples.

    Returns:
        ``num_genuine``, ``num_impostors``, ``eer``, ``eer_threshold``, ``auc``, ``tar_at_far`` (an
        `OperatingPoint` for each rate, as a dictionary). With folds ``accuracy`` (mean over the
        folds), ``accuracy_std``, ``fold_accuracy`` and ``fold_thresholds``. With resamples
        ``intervals``: of ``eer``, ``auc``, and of each rate that is resolved, by ``tar@1e-03``.

    Raises:
        ValueError: see `fold_accuracy` and `bootstrap`.

    Example:
        >>> from polygraph.metrics.verification import verification_summary
        >>> found = verification_summary([3, 2, 1], [True, False, False], fars=[0.5])
        >>> found["eer"], found["auc"], found["tar_at_far"][0]["rate"]
        (0.0, 1.0, 1.0)
    """
    check_choice("verification_summary", "by", by, ("pairs", "identities"))
    if by == "identities" and identities is None:
        raise ValueError("verification_summary: identities must be given to resample them")
    curve = SortedPairs.of(*checked_pairs("verification_summary", scores, same)).roc()
    points = [curve.tar_at_far(far) for far in fars]
    found: dict[str, Any] = {
        "num_genuine": curve.num_genuine,
        "num_impostors": curve.num_impostors,
        "eer": curve.eer,
        "eer_threshold": curve.eer_threshold,
        "auc": curve.auc,
        "tar_at_far": [asdict(point) for point in points],
    }
    if fold is not None:
        folds = fold_accuracy(scores, same, fold)
        found |= {
            "accuracy": folds.mean,
            "accuracy_std": folds.std,
            "fold_accuracy": folds.accuracy.tolist(),
            "fold_thresholds": folds.thresholds.tolist(),
        }
    if resamples:
        statistics = _statistics([point.asked for point in points if point.resolved])
        who = identities if by == "identities" else None
        found["intervals"] = {
            "by": by,
            "level": level,
            "resamples": resamples,
            "seed": seed,
            **bootstrap(
                scores,
                same,
                statistics,
                identities=who,
                resamples=resamples,
                level=level,
                seed=seed,
            ),
        }
    return found


def _statistics(fars: Sequence[float]) -> dict[str, Callable[[Roc], float | None]]:
    def tar(far: float) -> Callable[[Roc], float | None]:
        return lambda curve: curve.tar_at_far(far).rate

    found: dict[str, Callable[[Roc], float | None]] = {
        "eer": lambda curve: curve.eer,
        "auc": lambda curve: curve.auc,
    }
    return found | {f"tar@{far:.0e}": tar(far) for far in fars}
