"""Verification and identification by embeddings: protocols, exact on ties.

Of faces or of anything else: an embedding is a row of numbers whose direction says whom a sample
shows. `docs/verification.md` has the definitions.
"""

from polygraph.metrics.verification.curve import OperatingPoint, Roc, roc
from polygraph.metrics.verification.folds import (
    FoldAccuracy,
    best_threshold,
    bootstrap,
    fold_accuracy,
    verification_summary,
)
from polygraph.metrics.verification.identification import (
    Identification,
    identify,
    identify_scores,
    rank_with_distractors,
)
from polygraph.metrics.verification.scores import all_pair_scores, pair_scores, templates

__all__ = [
    "FoldAccuracy",
    "Identification",
    "OperatingPoint",
    "Roc",
    "all_pair_scores",
    "best_threshold",
    "bootstrap",
    "fold_accuracy",
    "identify",
    "identify_scores",
    "pair_scores",
    "rank_with_distractors",
    "roc",
    "templates",
    "verification_summary",
]
