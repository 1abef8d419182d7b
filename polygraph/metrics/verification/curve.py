"""Genuine and impostor scores against a threshold: ROC, AUC, EER, TAR at FAR.

A pair is accepted when its score is at least the threshold. Pairs of equal score are accepted
together: no threshold parts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import as_numpy
from polygraph._repr import short_repr
from polygraph.metrics.verification.scores import Floats, Integers

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  #: usual false accept rates


def checked_pairs(owner: str, scores: Any, same: Any) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores and what they are of, as float64 and bool ``[P]``.

    Raises:
        ValueError: shapes or dtypes are wrong, a score is not finite, or there are no genuine or no
            impostor pairs; ``owner`` begins the message.
    """
    values, mates = as_numpy(scores), as_numpy(same)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise ValueError(
            f"{owner}: scores must be numbers of shape [P], got {values.dtype} {list(values.shape)}"
        )
    whole = mates.dtype.kind in "biu" and bool(np.isin(mates, (0, 1)).all())
    if mates.shape != values.shape or not whole:
        raise ValueError(
            f"{owner}: same must be booleans of shape [{len(values)}], one for each score, got "
            f"{mates.dtype} {list(mates.shape)}"
        )
    values, mates = values.astype(np.float64), mates.astype(np.bool_)
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(
            f"{owner}: scores must be finite, but {int(bad.sum())} are not, the first of them "
            f"score {int(bad.argmax())}"
        )
    for wanted, kind in ((True, "genuine"), (False, "impostor")):
        if not (mates == wanted).any():
            raise ValueError(f"{owner}: there must be at least one {kind} pair, got none")
    return values, mates


def allowed_errors(owner: str, rate: float, count: int) -> int:
    """How many of ``count`` may be wrong at a rate: the rate as it is written, in decimals.

    Raises:
        ValueError: the rate is not in (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"{owner} must be in (0, 1), got {rate}")
    return int(Fraction(repr(float(rate))) * count)


@dataclass(frozen=True)
class OperatingPoint:
    """What is accepted at the lowest threshold that keeps a rate of errors.

    Attributes:
        asked: the false accept (or false positive identification) rate that was asked for.
        resolved: whether there are enough impostors for one of them to be accepted at that rate. If
            not, no value is given: that of no error would stand for a rate that was not measured.
        needed: impostors that this rate needs.
        rate: genuine pairs (or mated searches) that are accepted; None where it is not resolved.
        reached: the rate of errors at this threshold, at most the one asked for; or None.
        threshold: pairs are accepted from here on; or None.
    """

    asked: float
    resolved: bool
    needed: int
    rate: float | None = None
    reached: float | None = None
    threshold: float | None = None


def unresolved(asked: float) -> OperatingPoint:
    """A rate for which there are too few impostors."""
    return OperatingPoint(asked, False, -int(-1 // Fraction(repr(float(asked)))))


@dataclass(frozen=True)
class Roc:
    """How many pairs are accepted at each threshold.

    Attributes:
        thresholds: float64 ``[T]``, the different scores, descending.
        true_accepts: int64 ``[T]``, genuine pairs whose score is at least the threshold.
        false_accepts: int64 ``[T]``, impostor pairs.
        num_genuine: all genuine pairs.
        num_impostors: all impostor pairs.

    Example:
        >>> from polygraph.metrics.verification import roc
        >>> curve = roc([3, 2, 2, 1], [True, True, False, False])
        >>> curve.auc, curve.eer, curve.far, curve.tar
        (0.875, 0.25, array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 1. , 1. ]))
        >>> curve.tar_at_far(0.5)
        OperatingPoint(asked=0.5, resolved=True, needed=2, rate=1.0, reached=0.5, threshold=2.0)
        >>> curve.tar_at_far(0.1)  # two impostors cannot tell
        OperatingPoint(asked=0.1, resolved=False, needed=10, rate=None, reached=None, ...)
    """

    thresholds: Floats
    true_accepts: Integers
    false_accepts: Integers
    num_genuine: int
    num_impostors: int

    __repr__ = short_repr

    @property
    def far(self) -> Floats:
        """False accept rates ``[T + 1]`` of the curve, from 0 (nothing is accepted) to 1."""
        return np.concatenate([[0.0], self.false_accepts / self.num_impostors])

    @property
    def tar(self) -> Floats:
        """True accept rates ``[T + 1]`` of the curve."""
        return np.concatenate([[0.0], self.true_accepts / self.num_genuine])

    @property
    def auc(self) -> float:
        """Area under the curve: P(genuine > impostor) + P(genuine = impostor) / 2.

        The Mann-Whitney statistic with average ranks. Exact while twice the product of the numbers
        of pairs is below 2^53.
        """
        genuine = np.diff(self.true_accepts, prepend=0).astype(np.float64)
        impostors = np.diff(self.false_accepts, prepend=0).astype(np.float64)
        beaten = 2 * self.true_accepts - genuine
        return float(impostors @ beaten) / (2.0 * self.num_genuine * self.num_impostors)

    @cached_property
    def _crossing(self) -> int:
        """The first threshold at which FAR + TAR is 1 or more."""
        g, i = self.num_genuine, self.num_impostors
        return int(np.argmax(self.false_accepts * g + self.true_accepts * i >= g * i))

    @property
    def eer(self) -> float:
        """Equal error rate: where the curve, straight between its points, has FAR = 1 - TAR."""
        g, i, at = self.num_genuine, self.num_impostors, self._crossing
        true, false = int(self.true_accepts[at]), int(self.false_accepts[at])
        true0 = int(self.true_accepts[at - 1]) if at else 0
        false0 = int(self.false_accepts[at - 1]) if at else 0
        before, after = false0 * g + true0 * i, false * g + true * i
        step = after - before
        return (false0 * step + (g * i - before) * (false - false0)) / (i * step)

    @property
    def eer_threshold(self) -> float:
        """The highest score as threshold at which FAR is at least 1 - TAR."""
        return float(self.thresholds[self._crossing])

    def tar_at_far(self, far: float) -> OperatingPoint:
        """True accept rate at the lowest threshold whose false accept rate is at most ``far``.

        Nothing is interpolated. With ties between genuine pairs and the first impostor that is too
        many, none of them is accepted.

        Raises:
            ValueError: ``far`` is not in (0, 1).
        """
        allowed = allowed_errors("tar_at_far: far", far, self.num_impostors)
        if not allowed:
            return unresolved(far)
        at = int(np.searchsorted(self.false_accepts, allowed, "right")) - 1
        needed = unresolved(far).needed
        if at < 0:
            above = float(np.nextafter(self.thresholds[0], np.inf))
            return OperatingPoint(far, True, needed, 0.0, 0.0, above)
        return OperatingPoint(
            far,
            True,
            needed,
            int(self.true_accepts[at]) / self.num_genuine,
            int(self.false_accepts[at]) / self.num_impostors,
            float(self.thresholds[at]),
        )


@dataclass(frozen=True)
class SortedPairs:
    """Pairs by descending score, so that curves of weighted pairs cost no more sorting.

    Attributes:
        scores: float64 ``[T]``, the different scores, descending.
        ends: int64 ``[T]``, the last place in ``order`` of each.
        order: int64 ``[P]``.
        same: bool ``[P]``, in that order.
    """

    scores: Floats
    ends: Integers
    order: Integers
    same: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Floats, same: NDArray[np.bool_]) -> SortedPairs:
        """Sort pairs; equal scores stay in their order."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        return cls(ranked[ends], ends, order, same[order])

    def counts(self, weights: Integers | NDArray[np.bool_] | None) -> tuple[Integers, Integers]:
        """Genuine and impostor pairs at or above each score, each as often as its weight says."""
        weight = 1 if weights is None else weights[self.order].astype(np.int64)
        genuine = np.cumsum(self.same * weight, dtype=np.int64)[self.ends]
        impostors = np.cumsum(~self.same * weight, dtype=np.int64)[self.ends]
        return genuine, impostors

    def roc(self, weights: Integers | None = None) -> Roc:
        """The curve."""
        genuine, impostors = self.counts(weights)
        return Roc(self.scores, genuine, impostors, int(genuine[-1]), int(impostors[-1]))


def roc(scores: Any, same: Any) -> Roc:
    """The curve of some pairs.

    Args:
        scores: numbers ``[P]``, of numpy or torch; the larger, the more alike.
        same: booleans ``[P]``: genuine pairs, of one identity; the others are impostors.

    Raises:
        ValueError: shapes or dtypes are wrong, a score is not finite, or there are no genuine or no
            impostor pairs.
    """
    return SortedPairs.of(*checked_pairs("roc", scores, same)).roc()
