"""Identification: who of a gallery is a probe? Ranks, CMC, open sets, distractors.

A gallery entry's score is a cosine; an identity with several entries has the largest of theirs.
Ties count against us: a mate's rank is 1 more than the number of other identities whose score is
at least its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import as_numpy
from polygraph._repr import short_repr
from polygraph.metrics.verification.curve import OperatingPoint, allowed_errors, unresolved
from polygraph.metrics.verification.scores import (
    CHUNK,
    Floats,
    Integers,
    checked_numbers,
    unit_rows,
)


@dataclass(frozen=True)
class Identification:
    """What searches of P probes in a gallery of G identities gave.

    Attributes:
        mated: bool ``[P]``: the probe's identity is in the gallery.
        ranks: int64 ``[P]``, of the mate, from 1 on; 0 where there is none.
        mate_scores: float64 ``[P]``, of the mate; NaN where there is none.
        best_scores: float64 ``[P]``, of the best candidate, whoever it is.
        num_identities: G.

    Example:
        >>> from polygraph.metrics.verification import identify_scores
        >>> scores = [[0.9, 0.1, 0.3], [0.5, 0.5, 0.2], [0.3, 0.2, 0.1]]
        >>> found = identify_scores(scores, gallery_ids=[4, 5, 6], probe_ids=[4, 5, 9])
        >>> found.ranks, found.rank(1), found.cmc(3)
        (array([1, 2, 0]), 0.5, array([0.5, 1. , 1. ]))
    """

    mated: NDArray[np.bool_]
    ranks: Integers
    mate_scores: Floats
    best_scores: Floats
    num_identities: int

    __repr__ = short_repr

    def cmc(self, most: int | None = None) -> Floats:
        """Cumulative match characteristic ``[most]``: mates within the first 1, 2, ... candidates.

        Args:
            most: largest rank; None: all identities.

        Raises:
            ValueError: ``most`` is below 1, or no probe has a mate.
        """
        size = self.num_identities if most is None else most
        if size < 1:
            raise ValueError(f"cmc: most must be at least 1, got {most}")
        ranks = self.ranks[self.mated]
        if not len(ranks):
            raise ValueError("cmc: there must be a probe whose identity is in the gallery")
        counts = np.bincount(ranks, minlength=size + 1)[1 : size + 1]
        return np.asarray(np.cumsum(counts) / len(ranks))

    def rank(self, k: int) -> float:
        """Share of the mated probes whose mate is among the first k candidates."""
        return float(self.cmc(k)[k - 1])

    def tpir_at_fpir(self, fpir: float, rank: int | None = 1) -> OperatingPoint:
        """True positive identification rate where the false positive one is at most ``fpir``.

        FPIR: share of the probes without a mate that have any candidate at or above the threshold.
        TPIR: share of the mated probes whose mate is at or above it, and among the first ``rank``.
        The threshold is the lowest that keeps FPIR; nothing is interpolated.

        Args:
            fpir: in (0, 1).
            rank: None: any rank.

        Raises:
            ValueError: ``fpir`` is not in (0, 1), ``rank`` is below 1, or there are no mated
                probes, or none without a mate.
        """
        if rank is not None and rank < 1:
            raise ValueError(f"tpir_at_fpir: rank must be at least 1, got {rank}")
        strangers = np.sort(self.best_scores[~self.mated])[::-1]
        if not len(strangers) or len(strangers) == len(self.mated):
            raise ValueError(
                "tpir_at_fpir: there must be probes whose identity is in the gallery and probes "
                f"whose is not, got {int(self.mated.sum())} and {len(strangers)}"
            )
        allowed = allowed_errors("tpir_at_fpir: fpir", fpir, len(strangers))
        if not allowed:
            return unresolved(fpir)
        limit = strangers[allowed]  # the first that is too many: it and its equals are rejected
        scores = self.mate_scores[self.mated]
        found = scores > limit
        if rank is not None:
            found &= self.ranks[self.mated] <= rank
        return OperatingPoint(
            fpir,
            True,
            unresolved(fpir).needed,
            float(found.mean()),
            float((strangers > limit).mean()),
            float(np.nextafter(limit, np.inf)),
        )


def _by_identity(scores: Floats, starts: Integers, order: Integers) -> Floats:
    """The largest score of each identity: ``[P, M]`` -> ``[P, G]``."""
    found: Floats = np.maximum.reduceat(scores[:, order], starts, axis=1)
    return found


def _searched(
    scores: Floats, names: Integers, probe_ids: Integers
) -> tuple[NDArray[np.bool_], Integers, Floats, Floats]:
    """`Identification` of scores ``[P, G]`` of identities ``names``, ascending."""
    place = np.minimum(np.searchsorted(names, probe_ids), len(names) - 1)
    mated = names[place] == probe_ids
    mates = np.where(mated, scores[np.arange(len(scores)), place], np.nan)
    ranks = np.where(mated, (scores >= mates[:, None]).sum(1), 0)
    return mated, ranks.astype(np.int64), mates, scores.max(1)


def _gallery(owner: str, gallery_ids: Any, size: int) -> tuple[Integers, Integers, Integers]:
    """Identities, ascending, where their entries begin, and the order of the entries."""
    ids = checked_numbers(f"{owner}: gallery_ids", gallery_ids, size)
    if not len(ids):
        raise ValueError(f"{owner}: gallery_ids must name at least one identity, got none")
    order = np.argsort(ids, kind="stable")
    names, starts = np.unique(ids[order], return_index=True)
    return names, starts.astype(np.int64), order.astype(np.int64)


def identify_scores(scores: Any, gallery_ids: Any, probe_ids: Any) -> Identification:
    """Search probes whose scores with every gallery entry are known.

    Args:
        scores: numbers ``[P, M]``; the larger, the more alike.
        gallery_ids: integers ``[M]``, whom the entries show.
        probe_ids: integers ``[P]``.

    Raises:
        ValueError: shapes or dtypes do not fit, there are no probes or no entries, or a score is
            not finite.
    """
    values = as_numpy(scores)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "iuf":
        raise ValueError(
            "identify_scores: scores must be numbers of shape [P, M], P and M at least 1, got "
            f"{values.dtype} {list(values.shape)}"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("identify_scores: scores must be finite")
    names, starts, order = _gallery("identify_scores", gallery_ids, values.shape[1])
    who = checked_numbers("identify_scores: probe_ids", probe_ids, len(values))
    return Identification(
        *_searched(_by_identity(values, starts, order), names, who), num_identities=len(names)
    )


def identify(gallery: Any, gallery_ids: Any, probes: Any, probe_ids: Any) -> Identification:
    """Search embeddings of probes among those of a gallery, a block of probes at a time.

    Args:
        gallery: ``[M, D]``, of numpy or torch; `templates` makes one of several embeddings.
        gallery_ids: integers ``[M]``.
        probes: ``[P, D]``.
        probe_ids: integers ``[P]``; identities that are not in the gallery make it an open set.

    Raises:
        ValueError: see `unit_rows`; or shapes do not fit.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics.verification import identify
        >>> gallery = np.eye(3)
        >>> identify(gallery, [0, 1, 2], gallery + 0.1, [0, 1, 2]).rank(1)
        1.0
    """
    entries = unit_rows("identify: gallery", gallery)
    rows = unit_rows("identify: probes", probes)
    if entries.shape[1] != rows.shape[1]:
        raise ValueError(
            f"identify: probes must have the width of the gallery, {entries.shape[1]}, got "
            f"{rows.shape[1]}"
        )
    names, starts, order = _gallery("identify", gallery_ids, len(entries))
    who = checked_numbers("identify: probe_ids", probe_ids, len(rows))
    entries = entries[order]
    step, parts = max(1, CHUNK // len(entries)), []
    for at in range(0, len(rows), step):
        scores = np.maximum.reduceat(rows[at : at + step] @ entries.T, starts, axis=1)
        parts.append(_searched(scores, names, who[at : at + step]))
    mated, ranks, mate_scores, best_scores = (np.concatenate(c) for c in zip(*parts, strict=True))
    return Identification(mated, ranks, mate_scores, best_scores, len(names))


def rank_with_distractors(
    probes: Any,
    mates: Any,
    distractors: Any,
    counts: Sequence[int],
    *,
    rank: int = 1,
    seed: int = 0,
) -> dict[int, float]:
    """How often a probe's mate is found among N distractors: MegaFace's protocol.

    Source: Kemelmacher-Shlizerman et al., "The MegaFace Benchmark", CVPR 2016.

    Args:
        probes: ``[P, D]``, of numpy or torch.
        mates: ``[P, D]``, for each probe another embedding of its identity: the only one that its
            gallery has of it.
        distractors: ``[M, D]``, of other identities.
        counts: numbers N of distractors, up to M; those of a smaller one are among those of a
            larger one.
        rank: the mate must be among the first so many candidates; a distractor of equal score comes
            before it.
        seed: orders the distractors.

    Returns:
        N -> share of the probes.

    Raises:
        ValueError: see `unit_rows`; or shapes, counts or rank do not fit.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics.verification import rank_with_distractors
        >>> rank_with_distractors([[1, 0]], [[1, 1]], [[0, 1], [1, 0]], [0, 2])
        {0: 1.0, 2: 0.0}
    """
    owner = "rank_with_distractors"
    rows, own = unit_rows(f"{owner}: probes", probes), unit_rows(f"{owner}: mates", mates)
    others = unit_rows(f"{owner}: distractors", distractors)
    if own.shape != rows.shape or others.shape[1] != rows.shape[1]:
        raise ValueError(
            f"{owner}: probes, mates and distractors must have shapes [P, D], [P, D] and [M, D], "
            f"got {list(rows.shape)}, {list(own.shape)} and {list(others.shape)}"
        )
    wanted = sorted(set(counts))
    if not wanted or wanted[0] < 0 or wanted[-1] > len(others) or rank < 1:
        raise ValueError(
            f"{owner}: counts must lie in [0, {len(others)}] and rank be at least 1, got "
            f"{list(counts)} and {rank}"
        )
    others = others[np.random.default_rng(seed).permutation(len(others))]
    scores = np.einsum("pd,pd->p", rows, own)
    ranks, found, done = np.ones(len(rows), np.int64), {}, 0
    step = max(1, CHUNK // len(rows))
    for count in wanted:
        for at in range(done, count, step):
            block = rows @ others[at : min(at + step, count)].T
            ranks += (block >= scores[:, None]).sum(1)
        found[count], done = float((ranks <= rank).mean()), count
    return found
