"""Lists of pairs: balanced, seeded, disjoint, written and read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polygraph.data.pairs import make_pairs, read_pairs, write_pairs

LABELS = np.repeat(np.arange(20), 5)
NAMES = [f"person {n}" for n in range(20)]


def check(pairs, labels, samples, folds):
    """What holds of every list."""
    both = np.sort(np.stack([pairs.first, pairs.second], 1))
    assert len(np.unique(both, axis=0)) == len(pairs)
    assert (both[:, 0] < both[:, 1]).all()
    assert np.isin(both, samples).all()
    assert (pairs.same == (labels[pairs.first] == labels[pairs.second])).all()
    sizes = {
        (kind, n): int(((pairs.fold == n) & (pairs.same == kind)).sum())
        for kind in (True, False) for n in range(folds)
    }  # fmt: skip
    assert len(set(sizes.values())) == 1
    who = pairs.identities(labels)
    inside = [set(who[pairs.fold == n].ravel().tolist()) for n in range(folds)]
    shared = any(inside[a] & inside[b] for a in range(folds) for b in range(a))
    assert not (pairs.disjoint and shared)
    return sizes[True, 0]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=4, max_size=40), st.integers(1, 4), st.integers(1, 9))
def test_any_labels(labels, folds, per_fold):
    labels = np.array(labels)
    samples = np.arange(0, len(labels), 2) if len(labels) > 30 else np.arange(len(labels))
    sizes = np.unique(labels[samples], return_counts=True)[1]
    genuine = int((sizes * (sizes - 1) // 2).sum())
    impostors = len(samples) * (len(samples) - 1) // 2 - genuine
    if min(genuine, impostors) < folds:
        with pytest.raises(ValueError, match="make_pairs"):
            make_pairs(labels, samples, folds=folds, per_fold=per_fold)
        return
    pairs = make_pairs(labels, samples, folds=folds, per_fold=per_fold)
    size = check(pairs, labels, samples, folds)
    assert pairs.disjoint == (len(sizes) >= 2 * folds and (sizes > 1).sum() >= folds)
    if not pairs.disjoint:
        assert size == min(per_fold, genuine // folds, impostors // folds)
    assert pairs.num_folds == folds


def test_all_pairs_are_drawn_when_asked_for():
    pairs = make_pairs([0, 0, 1, 1], folds=1, per_fold=99)
    assert [len(pairs), pairs.same.sum()] == [4, 2]
    assert {*zip(pairs.first[:2].tolist(), pairs.second[:2].tolist(), strict=True)} == {
        (0, 1), (2, 3),
    }  # fmt: skip


def test_a_seed_gives_a_list():
    one, again, other = (make_pairs(LABELS, seed=seed) for seed in (0, 0, 1))
    assert one.sha256 == again.sha256 != other.sha256
    assert len(one.sha256) == 64
    assert one.disjoint
    assert not make_pairs(LABELS[:30], folds=10, per_fold=3).disjoint


def test_many_samples_need_little_memory():
    """2 * 10^10 pairs are numbered, not made."""
    pairs = make_pairs(np.arange(200_000) // 4, folds=10, per_fold=300)
    assert len(pairs) == 6000


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"pairs.{suffix}"
    for labels in (LABELS, np.random.default_rng(0).permutation(LABELS)):
        pairs = make_pairs(labels, seed=3)
        write_pairs(path, pairs, labels, NAMES)
        found = read_pairs(path, labels, NAMES)
        assert found.sha256 == pairs.sha256
        assert found.disjoint


def test_the_format_of_lfw(tmp_path):
    """Two folds of one genuine and one impostor pair, by hand; and one fold, as of its views."""
    path, labels = tmp_path / "pairs.txt", [0, 1, 0, 1, 1]
    path.write_text("2\t1\nAda\t1\t2\nAda\t2\tEmmy\t3\nEmmy\t1\t3\nEmmy\t2\tAda\t1\n")
    found = read_pairs(path, labels, ["Ada", "Emmy"])
    assert found.first.tolist() == [0, 2, 1, 3]
    assert found.second.tolist() == [2, 4, 4, 0]
    assert found.same.tolist() == [True, False, True, False]
    assert (found.fold.tolist(), found.disjoint) == ([0, 0, 1, 1], False)
    path.write_text("1\nAda\t1\t2\nAda\t2\tEmmy\t3\n")
    assert len(read_pairs(path, labels, ["Ada", "Emmy"])) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: must be the numbers of folds"),
        ("x\ty\n", "line 1: must be the numbers of folds"),
        ("1\t2\nAda\t1\t2\n", "are 4 lines, got 1"),
        ("1\t1\nAda\t1\tEmmy\t2\nAda\t1\tEmmy\t2\n", "line 2: must be a genuine pair, 3 words"),
        ("1\t1\nAda\t1\t2\nAda\t1\t2\n", "line 3: must be an impostor pair, 4 words"),
        ("1\t1\nAda\t1\t2\nAda\t1\tAda\t2\n", "line 3: must be an impostor pair"),
        ("1\t1\nAda\t1\t1\nAda\t1\tEmmy\t2\n", "line 2: a sample is paired with itself"),
        ("1\t1\nAda\t1\t3\nAda\t1\tEmmy\t2\n", "line 2: number must be in 1 to 2.*got '3'"),
        ("1\t1\nAdda\t1\t2\nAda\t1\tEmmy\t2\n", "line 2: no identity 'Adda'.*did you mean 'Ada'"),
    ],
)
def test_bad_lists(tmp_path, text, message):
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(path, [0, 1, 0, 1], ["Ada", "Emmy"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "line 1: must be identity1,number1"),
        ("identity1,number1,identity2,number2,fold\n", "at least one pair"),
        ("identity1,number1,identity2,number2,fold\nAda,1,Ada,2,x\n", "line 2: must have 5"),
        ("identity1,number1,identity2,number2,fold\nAda,1,Ada,2,1\n", r"from 0 on, got \[1\]"),
        ('identity1,number1,identity2,number2,fold\n"Ada,1', "line 2: unexpected end"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(path, [0, 1, 0, 1], ["Ada", "Emmy"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_pairs([0, 0, 0]), "at least 2 identities, got 1: there are no impostors"),
        (lambda: make_pairs([0, 1, 2]), "an identity must have at least 2 samples"),
        (lambda: make_pairs([0, 0, 1], folds=3), "folds must be at most 1, the pairs there are"),
        (lambda: make_pairs([0, 0, 1], folds=0), "folds must be at least 1, got 0"),
        (lambda: make_pairs([0, 0, 1], per_fold=0), "per_fold must be at least 1, got 0"),
        (lambda: make_pairs([0.0, 1.0]), "labels must be integers"),
        (lambda: make_pairs([0, 0, 1], [0, 3]), r"different integers in \[0, 3\)"),
        (lambda: make_pairs([0, 0, 1], [0, 0]), r"different integers in \[0, 3\)"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_lists_that_a_format_cannot_hold(tmp_path):
    pairs = make_pairs([0, 0, 1, 1], folds=1)
    with pytest.raises(ValueError, match="no tab or line break"):
        write_pairs(tmp_path / "pairs.txt", pairs, [0, 0, 1, 1], ["a\tb", "c"])
    uneven = type(pairs)(pairs.first, pairs.second, pairs.same, np.array([0, 0, 0, 1]), False)
    with pytest.raises(ValueError, match=r"a \.csv file takes others"):
        write_pairs(tmp_path / "pairs.txt", uneven, [0, 0, 1, 1], ["a", "b"])
    write_pairs(tmp_path / "pairs.csv", uneven, [0, 0, 1, 1], ["a", "b"])
    assert read_pairs(tmp_path / "pairs.csv", [0, 0, 1, 1], ["a", "b"]).sha256 == uneven.sha256
