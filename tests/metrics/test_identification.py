"""Identification: ranks, open sets, distractors, against brute force on scores that tie."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polygraph.metrics import verification as v


@st.composite
def searches(draw):
    entries, probes = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    whole = st.lists(st.integers(0, 3), min_size=entries, max_size=entries)
    scores = [draw(whole) for _ in range(probes)]
    gallery = draw(st.lists(st.integers(0, 4), min_size=entries, max_size=entries))
    return (
        np.array(scores),
        gallery,
        draw(st.lists(st.integers(0, 6), min_size=probes, max_size=probes)),
    )


@settings(max_examples=150, deadline=None)
@given(searches())
def test_ranks_against_brute_force(case):
    scores, gallery, probes = case
    found = v.identify_scores(scores, gallery, probes)
    best = [
        {name: max(s for s, g in zip(row, gallery, strict=True) if g == name) for name in gallery}
        for row in scores.tolist()
    ]
    assert found.num_identities == len(set(gallery))
    for row, probe, mated, rank, mate, top in zip(
        best, probes, found.mated, found.ranks, found.mate_scores, found.best_scores, strict=True
    ):
        assert mated == (probe in gallery)
        assert top == max(row.values())
        if mated:
            assert mate == row[probe]
            assert rank == 1 + sum(s >= row[probe] for name, s in row.items() if name != probe)
        else:
            assert rank == 0
            assert np.isnan(mate)
    mated = [rank for rank in found.ranks.tolist() if rank]
    if mated:
        cmc = [sum(r <= k for r in mated) / len(mated) for k in range(1, found.num_identities + 1)]
        assert found.cmc().tolist() == cmc
        assert cmc[-1] == 1
        assert found.rank(1) == cmc[0]
        assert found.cmc(found.num_identities + 3)[-1] == 1


@settings(max_examples=150, deadline=None)
@given(searches(), st.sampled_from([0.1, 0.25, 0.5, 0.9]), st.sampled_from([1, 2, None]))
def test_open_set_against_brute_force(case, fpir, rank):
    found = v.identify_scores(*case)
    strangers = found.best_scores[~found.mated]
    if not len(strangers) or not found.mated.any():
        with pytest.raises(ValueError, match="in the gallery and probes whose is not"):
            found.tpir_at_fpir(fpir, rank)
        return
    point = found.tpir_at_fpir(fpir, rank)
    if Fraction(1, len(strangers)) > Fraction(str(fpir)):
        assert not point.resolved
        assert point.rate is None
        return
    near = found.ranks[found.mated] <= (rank or 99)
    mates = found.mate_scores[found.mated]
    kept = [
        t for t in np.arange(-0.5, 5)
        if Fraction(int((strangers >= t).sum()), len(strangers)) <= Fraction(str(fpir))
    ]  # fmt: skip
    lowest = min(kept)
    assert point.rate == ((mates >= lowest) & near).mean()
    assert point.reached == (strangers >= lowest).mean() <= fpir
    assert point.rate == ((mates >= point.threshold) & near).mean()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2))
def test_distractors_against_brute_force(seed, rank):
    draw = np.random.default_rng(seed)
    probes, mates = (draw.integers(1, 3, (5, 2)) for _ in range(2))
    others = draw.integers(1, 3, (6, 2))
    found = v.rank_with_distractors(probes, mates, others, [0, 2, 6], rank=rank, seed=3)
    assert found[0] == 1
    order = np.random.default_rng(3).permutation(6)

    def cosine(a, b):  # exact: the sign and the square
        return Fraction(int(a @ b) ** 2, int(a @ a) * int(b @ b))

    for count in (2, 6):
        ranks = [
            1 + sum(cosine(p, others[o]) > cosine(p, m) for o in order[:count])
            for p, m in zip(probes, mates, strict=True)
        ]
        equal = [
            sum(cosine(p, others[o]) == cosine(p, m) for o in order[:count])
            for p, m in zip(probes, mates, strict=True)
        ]
        least = np.mean([r + e <= rank for r, e in zip(ranks, equal, strict=True)])
        most = np.mean([r <= rank for r in ranks])
        assert least <= found[count] <= most  # cosines that are equal may differ in the last bit


def test_embeddings_go_the_same_way_as_scores(monkeypatch):
    draw = np.random.default_rng(0)
    gallery, probes = draw.normal(size=(40, 6)), draw.normal(size=(70, 6))
    ids, who = draw.integers(0, 20, 40), draw.integers(0, 25, 70)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (probes, gallery)]
    wanted = v.identify_scores(unit[0] @ unit[1].T, ids, who)
    monkeypatch.setattr(v.identification, "CHUNK", 40 * 7)  # seven probes at a time
    found = v.identify(gallery, ids, probes, who)
    assert found.ranks.tolist() == wanted.ranks.tolist()
    np.testing.assert_allclose(found.best_scores, wanted.best_scores)
    copies = v.rank_with_distractors(gallery, gallery, gallery[:1], [1])
    assert copies == {1: 39 / 40}  # a distractor that is the probe itself comes before its mate


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: v.identify_scores([[1.0]], [0, 1], [0]), r"gallery_ids must be integers.*\[1\]"),
        (lambda: v.identify_scores([[1.0]], [0], [0, 1]), r"probe_ids must be integers.*\[1\]"),
        (lambda: v.identify_scores([[float("nan")]], [0], [0]), "scores must be finite"),
        (lambda: v.identify_scores([[]], [], [0]), "P and M at least 1"),
        (lambda: v.identify_scores([[1.0]], [0], [1]).cmc(), "there must be a probe"),
        (lambda: v.identify_scores([[1.0]], [0], [0]).cmc(0), "most must be at least 1"),
        (lambda: v.identify_scores([[1.0]], [0], [0]).tpir_at_fpir(0.1), "got 1 and 0"),
        (lambda: v.identify_scores([[1.0]], [0], [0]).tpir_at_fpir(0.1, 0), "rank must be"),
        (lambda: v.identify([[1, 0]], [0], [[1, 0, 0]], [0]), "width of the gallery, 2, got 3"),
        (lambda: v.identify([[0, 0]], [0], [[1, 0]], [0]), "gallery must have a direction"),
        (lambda: v.rank_with_distractors([[1]], [[1], [1]], [[1]], [1]), "shapes"),
        (lambda: v.rank_with_distractors([[1]], [[1]], [[1]], [2]), r"lie in \[0, 1\]"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
