"""Verification: curves, folds, intervals, against brute force on scores that tie."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polygraph.metrics import verification as v

NAN = float("nan")


@st.composite
def pairs(draw):
    """Small integers as scores, so that many tie; genuine and impostor pairs among them."""
    count = draw(st.integers(2, 24))
    scores = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    same = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    same[0], same[1] = True, False
    return np.array(scores), np.array(same)


def cuts(scores):
    """All sets that a threshold can accept: one below each different score, and none."""
    yield np.inf
    yield from sorted(set(scores.tolist()), reverse=True)


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_curve_against_brute_force(case):
    scores, same = case
    curve = v.roc(scores, same)
    genuine, impostors = scores[same], scores[~same]
    far = [Fraction(int((impostors >= t).sum()), len(impostors)) for t in cuts(scores)]
    tar = [Fraction(int((genuine >= t).sum()), len(genuine)) for t in cuts(scores)]
    assert curve.far.tolist() == [float(x) for x in far]
    assert curve.tar.tolist() == [float(x) for x in tar]
    wins = sum(Fraction(2 * int(g > i) + int(g == i), 2) for g in genuine for i in impostors)
    assert curve.auc == float(wins / (len(genuine) * len(impostors)))
    area = sum((far[k + 1] - far[k]) * (tar[k] + tar[k + 1]) / 2 for k in range(len(far) - 1))
    assert curve.auc == float(area)
    for k in range(len(far) - 1):  # where the straight piece meets FAR = 1 - TAR
        before, after = far[k] + tar[k], far[k + 1] + tar[k + 1]
        if before < 1 <= after:
            share = (1 - before) / (after - before)
            assert curve.eer == float(far[k] + share * (far[k + 1] - far[k]))
            assert curve.eer_threshold == list(cuts(scores))[k + 1]
    for asked in (0.05, 0.1, 0.25, 0.5, 0.9):
        found = curve.tar_at_far(asked)
        allowed = Fraction(str(asked))
        if Fraction(1, len(impostors)) > allowed:
            assert not found.resolved
            assert (found.rate, found.reached, found.threshold) == (None, None, None)
            assert Fraction(1, found.needed) <= allowed < Fraction(1, found.needed - 1)
            continue
        best = max(k for k in range(len(far)) if far[k] <= allowed)
        assert (found.rate, found.reached) == (float(tar[best]), float(far[best]))
        assert found.rate == (genuine >= found.threshold).mean()
        assert found.reached == (impostors >= found.threshold).mean() <= asked


@settings(max_examples=100, deadline=None)
@given(pairs(), st.integers(2, 4), st.randoms(use_true_random=False))
def test_folds_against_brute_force(case, count, random):
    scores, same = case
    fold = np.array([random.randrange(count) for _ in scores])
    fold[: min(count, len(fold))] = np.arange(min(count, len(fold)))
    whole = len(scores) >= count and all(
        (same & (fold != n)).any() and (~same & (fold != n)).any() for n in range(count)
    )
    if not whole:
        with pytest.raises(ValueError, match="fold"):
            v.fold_accuracy(scores, same, fold)
        return
    found = v.fold_accuracy(scores, same, fold)
    for n in range(count):
        others, mates = scores[fold != n], same[fold != n]
        right = [(((others >= t) == mates).sum(), t) for t in cuts(others)]
        best = max(right)[1]  # of several the highest
        below = [s for s in others if s < best]
        if best == np.inf:
            assert found.thresholds[n] == np.nextafter(max(others), np.inf)
        else:
            assert found.thresholds[n] == ((best + max(below)) / 2 if below else best)
        mine = (scores[fold == n] >= found.thresholds[n]) == same[fold == n]
        assert found.accuracy[n] == mine.mean()
        assert found.right[fold == n].tolist() == mine.tolist()
    assert found.mean == pytest.approx(np.mean(found.accuracy))


def test_a_fold_by_hand():
    """Two folds: 0.5 and 0.35 are the middles of the gaps, and one pair of each is wrong."""
    scores = [0.9, 0.6, 0.4, 0.1, 0.8, 0.3, 0.5, 0.2]
    same = [True, True, False, False, True, True, False, False]
    found = v.fold_accuracy(scores, same, [0, 0, 0, 0, 1, 1, 1, 1])
    assert found.thresholds.tolist() == [0.65, 0.5]
    assert found.accuracy.tolist() == [0.75, 0.5]
    assert (found.mean, found.std) == (0.625, 0.125)


def test_a_threshold_between_neighbouring_floats():
    low = 1.0
    high = np.nextafter(low, 2)
    assert v.best_threshold([high, low], [True, False]) == high
    assert v.best_threshold([0.0, -0.0, 1.0], [True, False, False]) > 1
    assert v.best_threshold([1, 1], [True, False]) > 1  # half are right either way: none accepted


@settings(max_examples=30, deadline=None)
@given(pairs(), st.integers(0, 9))
def test_weights_are_repetitions(case, seed):
    """A curve of weighted pairs is that of pairs repeated: what intervals rest on."""
    scores, same = case
    weights = np.random.default_rng(seed).integers(0, 3, len(scores))
    weights[:2] = 1
    pairs = v.curve.SortedPairs.of(scores.astype(float), same)
    one, other = pairs.roc(weights), v.roc(np.repeat(scores, weights), np.repeat(same, weights))
    assert (one.auc, one.eer) == (other.auc, other.eer)
    assert one.tar_at_far(0.5).rate == other.tar_at_far(0.5).rate


def test_intervals():
    draw = np.random.default_rng(0)
    same = np.arange(400) % 2 == 0
    scores = draw.normal(size=400) + 1.5 * same
    who = np.stack([np.arange(400) % 40, np.arange(400) % 40 + 40 * ~same], 1)
    auc = {"auc": lambda curve: curve.auc}
    low, high = v.bootstrap(scores, same, auc)["auc"]
    assert low < v.roc(scores, same).auc < high
    # The deviation of the Mann-Whitney statistic for normal scores 1.5 apart is about 0.018.
    assert 0.04 < high - low < 0.11
    assert v.bootstrap(scores, same, auc)["auc"] == (low, high)
    assert v.bootstrap(scores, same, auc, seed=1)["auc"] != (low, high)
    assert v.bootstrap(scores, same, {"none": lambda curve: None})["none"] is None
    by_pair = v.bootstrap(np.repeat(scores, 10), np.repeat(same, 10), auc, resamples=300)["auc"]
    by_person = v.bootstrap(
        np.repeat(scores, 10), np.repeat(same, 10), auc, resamples=300,
        identities=np.repeat(who, 10, axis=0),
    )["auc"]  # fmt: skip
    assert np.ptp(by_person) > 2 * np.ptp(by_pair)  # copies are no news


def test_identity_weights_are_products():
    same = np.array([True, True, False])
    draw = np.random.default_rng(0)
    for _ in range(20):
        found = v.folds._weights(draw, same, np.array([[0, 0], [1, 1], [0, 1]]))
        assert found[2] == found[0] * found[1] == 1  # both were drawn, each once


def test_the_summary_is_plain_numbers():
    draw = np.random.default_rng(0)
    same = np.arange(200) % 2 == 0
    scores, fold = draw.normal(size=200) + same, np.arange(200) // 20
    found = v.verification_summary(scores, same, fold, resamples=20)
    json.dumps(found, allow_nan=False)
    assert found["accuracy"] == v.fold_accuracy(scores, same, fold).mean
    assert [p["resolved"] for p in found["tar_at_far"]] == [False] * 4 + [True] * 2
    assert [p["needed"] for p in found["tar_at_far"]] == [10**n for n in range(6, 0, -1)]
    assert found["intervals"].keys() >= {"eer", "auc", "tar@1e-02", "tar@1e-01"}
    assert "tar@1e-03" not in found["intervals"]
    with pytest.raises(ValueError, match="identities must be given"):
        v.verification_summary(scores, same, by="identities")


def test_a_million_pairs():
    """Sizes in blocks: the same as one by one."""
    draw = np.random.default_rng(0)
    rows = torch.from_numpy(draw.normal(size=(1500, 8)).astype(np.float32))
    labels = draw.integers(0, 50, 1500)
    scores, same = v.all_pair_scores(rows, labels)
    one, two = np.triu_indices(1500, 1)
    assert (same == (labels[one] == labels[two])).all()
    np.testing.assert_allclose(v.pair_scores(rows, one, two), scores, atol=1e-15)
    assert v.roc(scores, same).tar_at_far(1e-6).resolved


def test_templates():
    rows = np.array([[3.0, 0], [0, 1], [0, 4], [1, 1]])
    found, ids = v.templates(rows, [9, 2, 9, 2])
    middle = np.array([0, 1]) + np.array([1, 1]) / np.sqrt(2)
    np.testing.assert_allclose(found, [middle / np.linalg.norm(middle), [np.sqrt(0.5)] * 2])
    assert ids.tolist() == [2, 9]
    with pytest.raises(ValueError, match="embeddings of template 5 cancel"):
        v.templates([[1.0, 0], [-1, 0], [1, 1]], [5, 5, 6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: v.roc([1, NAN], [True, False]), "scores must be finite, but 1 are not.*score 1"),
        (lambda: v.roc([1, 2], [True, True]), "at least one impostor pair, got none"),
        (lambda: v.roc([1, 2], [False, False]), "at least one genuine pair, got none"),
        (lambda: v.roc([], []), "at least one genuine pair|booleans of shape"),
        (lambda: v.roc([1, 2], [True]), r"booleans of shape \[2\].*got bool \[1\]"),
        (lambda: v.roc([1, 2], [0, 2]), "same must be booleans"),
        (lambda: v.roc([[1, 2]], [[1, 0]]), r"scores must be numbers of shape \[P\]"),
        (lambda: v.roc([1, 0], [1, 0]).tar_at_far(0), r"far must be in \(0, 1\), got 0"),
        (lambda: v.fold_accuracy([1, 0], [1, 0], [0, 0]), "two or more folds"),
        (lambda: v.fold_accuracy([1, 0], [1, 0], [0, 2]), r"two or more folds.*\[0, 2\]"),
        (lambda: v.fold_accuracy([1, 0], [1, 0], [-1, 0]), "two or more folds"),
        (lambda: v.fold_accuracy([1, 0], [1, 0], [0, 1]), "genuine pairs outside of fold 0"),
        (lambda: v.pair_scores([[1, NAN]], [0], [0]), "embeddings must be finite.*row 0"),
        (lambda: v.pair_scores([[1, 1], [0, 0]], [0], [1]), "1 rows are zero.*row 1"),
        (lambda: v.pair_scores([1, 2], [0], [0]), r"numbers of shape \[N, D\]"),
        (lambda: v.pair_scores([[1, 2]], [0], [1]), r"second must lie in \[0, 1\)"),
        (lambda: v.pair_scores([[1, 2]], [0], [0, 0]), r"second must be integers of shape \[1\]"),
        (lambda: v.all_pair_scores([[1, 2]], [0.5]), "labels must be integers"),
        (lambda: v.bootstrap([1, 0], [1, 0], {}, resamples=0), "resamples must be at least 1"),
        (lambda: v.bootstrap([1, 0], [1, 0], {}, identities=[1, 2]), r"shape \[2, 2\]"),
        (
            lambda: v.bootstrap([1, 0], [1, 0], {}, identities=[[1, 1], [2, 2]]),
            r"pair 1 is of identities \[2, 2\], which same contradicts",
        ),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
