"""What is measured of embeddings of identities that training has not seen."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph.data.pairs import PairList
from polygraph.metrics.verification import (
    all_pair_scores,
    identify,
    rank_with_distractors,
    templates,
    verification_summary,
)

IntArray = NDArray[np.int64]
Floats = NDArray[np.float64]

FPIRS = (0.01, 0.1)
_MOST_PAIRS = 5_000_000  # of all pairs that are scored
_CMC = 20
_DISTRACTORS = (10, 100, 1000, 10_000, 100_000, 1_000_000)


def pairs_summary(
    scores: Floats, pairs: PairList, labels: IntArray, resamples: int
) -> dict[str, Any]:
    """A list of pairs: folds, curve, intervals over identities, and its hash.

    Args:
        scores: ``[P]``, of the pairs.
        pairs: the list.
        labels: ``[N]``, identities of all samples.
        resamples: for the intervals; 0: none.
    """
    found = verification_summary(
        scores,
        pairs.same,
        pairs.fold if pairs.num_folds > 1 else None,
        identities=pairs.identities(labels),
        by="identities",
        resamples=resamples,
    )
    return {"sha256": pairs.sha256, "disjoint_folds": pairs.disjoint, **found}


def all_pairs_summary(embeddings: Floats, labels: IntArray) -> dict[str, Any] | None:
    """All pairs, for low false accept rates; None where they are more than five millions."""
    if len(labels) * (len(labels) - 1) // 2 > _MOST_PAIRS:
        return None
    return verification_summary(*all_pair_scores(embeddings, labels))


def halves(labels: IntArray) -> tuple[IntArray, IntArray]:
    """Samples that are enrolled and samples that search: the first half of each identity's.

    An odd one is enrolled.
    """
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    starts = np.searchsorted(ranked, ranked, "left")
    sizes = np.searchsorted(ranked, ranked, "right") - starts
    enrolled = 2 * (np.arange(len(labels)) - starts) < sizes
    return np.sort(order[enrolled]), np.sort(order[~enrolled])


def identification_summary(
    embeddings: Floats, labels: IntArray, others: Floats
) -> dict[str, Any] | None:
    """Searches: half of each identity's samples are a template of the gallery, the rest search.

    In the open set every second identity is enrolled, and the others' searches should find nobody.

    Args:
        embeddings: ``[N, D]``.
        labels: ``[N]``.
        others: ``[M, D]``, of other identities: distractors, among which each probe's mate (its
            identity's first sample) is looked for.

    Returns:
        None where no identity has two samples.
    """
    enrolled, probes = halves(labels)
    if not len(probes):
        return None
    gallery, names = templates(embeddings[enrolled], labels[enrolled])
    found = identify(gallery, names, embeddings[probes], labels[probes])
    half = names[::2]
    kept = np.isin(names, half)
    opened = identify(gallery[kept], half, embeddings[probes], labels[probes])
    strangers = int((~opened.mated).sum())
    tpir = []
    if 0 < strangers < len(probes):
        tpir = [asdict(opened.tpir_at_fpir(fpir)) for fpir in FPIRS]
    first = {int(labels[row]): row for row in enrolled[::-1]}
    mates = embeddings[[first[int(label)] for label in labels[probes]]]
    counts = [count for count in _DISTRACTORS if count <= len(others)]
    ranks = rank_with_distractors(embeddings[probes], mates, others, counts) if counts else {}
    return {
        "num_gallery": len(names),
        "num_probes": len(probes),
        "rank1": found.rank(1),
        "rank5": found.rank(5),
        "cmc": found.cmc(_CMC).tolist(),
        "open_set": {
            "num_gallery": len(half),
            "num_mated": int(opened.mated.sum()),
            "num_strangers": strangers,
            "tpir_at_fpir": tpir,
        },
        "rank1_with_distractors": {str(count): rank for count, rank in ranks.items()},
    }
