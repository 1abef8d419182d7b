"""Named splits: literal hashes, properties for any sizes, and every way of being wrong."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polygraph._names import unknown_name
from polygraph.data.splits import (
    carve_validation,
    interpolation_split,
    leave_out,
    make_split,
    read_splits,
    spread,
)


def test_hash_is_that_of_the_documented_text():
    split = make_split("s", [0, 3, 1], [4, 2], [5], num_meshes=6)
    text = '{"test":[2,4],"train":[0,1,3],"val":[5]}'
    assert split.sha256 == hashlib.sha256(text.encode()).hexdigest()
    # A literal: the hash must never change between versions, since published results quote it.
    assert split.sha256 == ("e8cec3c79b718bfe088d8aeae8acbec1687f359a0ab01deaba87316972a47846")


def test_literal_hash_of_interpolation():
    split = interpolation_split(None, 40)
    assert split.test.tolist() == [5, 15, 25, 35]
    assert split.val.tolist() == [11, 33]
    assert split.sha256 == ("0d1d667d81a6cf4144e2b998644398e63a594e8e84f7bf5a6c1d4dcddea95863")


def test_hash_depends_on_every_list():
    base = make_split("s", [0, 1], [2, 3], [4], num_meshes=6).sha256
    assert make_split("s", [0, 5], [2, 3], [4], num_meshes=6).sha256 != base
    assert make_split("s", [0, 1], [2, 5], [4], num_meshes=6).sha256 != base
    assert make_split("s", [0, 1], [2, 3], [5], num_meshes=6).sha256 != base
    assert make_split("another name", [1, 0], [3, 2], [4], num_meshes=6).sha256 == base


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) >= 2))
def test_interpolation_properties(sizes):
    frames = [{"clip": f"c{c}", "frame": i} for c, size in enumerate(sizes) for i in range(size)]
    split = interpolation_split(frames, len(frames))
    parts = np.concatenate([split.train, split.val, split.test])
    assert sorted(parts.tolist()) == list(range(len(frames)))  # a partition: nothing lost or twice
    assert len(split.train) >= 1
    assert len(split.test) >= 1
    assert len(split.val) >= 1 or len(split.train) == 1
    if any(size > 5 for size in sizes):
        assert {frames[i]["frame"] % 10 for i in split.test} == {5}


@given(st.integers(2, 60), st.integers(0, 2**16))
def test_leave_out_properties(num_clips, seed):
    rng = np.random.default_rng(seed)
    clips = np.sort(rng.integers(0, num_clips, 100))
    frames = [{"clip": f"{c:02d}", "kind": "abc"[c % 3]} for c in clips]
    for name, split in leave_out(frames, "kind", "without").items():
        assert {frames[i]["kind"] for i in split.test} == {name[-1]}
        parts = np.concatenate([split.train, split.val, split.test])
        assert sorted(parts.tolist()) == list(range(100))
        train = {frames[i]["clip"] for i in split.train}
        val = {frames[i]["clip"] for i in split.val}
        if len(train | val) >= 3:
            assert not train & val  # whole clips
        assert len(split.val) >= 1 or len(split.train) == 1


@given(st.lists(st.integers(), min_size=1, max_size=100), st.integers(1, 30))
def test_spread_takes_at_least_one(values, every):
    chosen = spread(values, every)
    assert 1 <= len(chosen) <= len(values) // every + 1


def test_validation_of_extrapolation_is_whole_clips():
    frames = [{"clip": c} for c in "aaabbbcccddd"]
    train, val = carve_validation(np.arange(9), np.arange(9, 12), frames)
    assert val.tolist() == [3, 4, 5]
    assert train.tolist() == [0, 1, 2, 6, 7, 8]


def test_validation_of_interpolation_is_single_meshes():
    frames = [{"clip": "a"}] * 50
    train, val = carve_validation(np.arange(40), np.arange(40, 50), frames)
    assert val.tolist() == [10, 30]
    assert len(train) == 38


def test_explicit_validation_is_kept():
    split = make_split("s", range(40), [50], [45, 44], num_meshes=51)
    assert split.val.tolist() == [44, 45]
    assert split.train.tolist() == list(range(40))


@pytest.mark.parametrize(
    ("train", "test", "val", "message"),
    [
        ([0, 6], [1], None, r"train must hold indices in \[0, 6\), got 6"),
        ([0, 1], [-1], None, r"test must hold indices in \[0, 6\), got -1"),
        ([0, 1, 1], [2], None, "train holds index 1 more than once"),
        ([0, 1, 2], [2, 3], None, "train and test overlap in 1 index, first 2"),
        ([0, 1, 2], [3, 4], [1, 2], "train and val overlap in 2 indices, first 1"),
        ([0, 1, 2], [3, 4], [4], "val and test overlap in 1 index, first 4"),
        ([], [3], None, "train must hold at least one mesh, got none"),
        ([3], [], None, "test must hold at least one mesh, got none"),
        ([0.5], [3], None, "train must be a flat list of integers, got float64"),
        ([[0, 1]], [3], None, "train must be a flat list of integers, got int64 of rank 2"),
    ],
)
def test_bad_lists(train, test, val, message):
    with pytest.raises(ValueError, match=f"split 'bad': {message}"):
        make_split("bad", train, test, val, num_meshes=6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable JSON file"),
        ("[]", "must map names of splits to their lists, got list"),
        ("{}", "must map names"),
        ('{"a": {"train": [0]}}', "split 'a' must have the lists train and test"),
        ('{"a": {"train": [0], "test": [1], "dev": [2]}}', "split 'a' must have the lists"),
        ('{"a": [0, 1]}', "split 'a' must have the lists train and test, maybe val; got list"),
        ('{"a": {"train": [0], "test": ["1"]}}', "test must be a list of integers"),
        ('{"a": {"train": [0], "test": [true]}}', "test must be a list of integers"),
        ('{"a": {"train": [0], "test": [9]}}', r"test must hold indices in \[0, 4\), got 9"),
        ('{"a": {"train": [0, 1], "test": [1]}}', "train and test overlap"),
    ],
)
def test_bad_splits_file(tmp_path, text, message):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_splits(path, 4, None)
    assert "splits.json" in str(error.value)


def test_splits_file(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"mine": {"train": [3, 1], "test": [0], "val": [2]}}))
    split = read_splits(path, 4, None)["mine"]
    assert (split.train.tolist(), split.val.tolist(), split.test.tolist()) == ([1, 3], [2], [0])
    assert split.train.dtype == np.int64


def test_unknown_name_suggests():
    message = unknown_name("split", "interpolatoin", ["extrapolation", "interpolation"])
    assert "did you mean 'interpolation'?" in message
    assert "Known: extrapolation, interpolation" in message
    assert unknown_name("split", "qqq", []) == "unknown split 'qqq'; known: none"
