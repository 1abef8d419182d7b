"""Lists of pairs for verification: drawn from any labelled set, written, read, hashed.

A pair is genuine when both samples are of one identity. In a file a sample is its identity's name
and its number within it, from 1 on in the order of the set, as in the lists of LFW.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polygraph._arrays import array_sha256, as_numpy
from polygraph._files import read_regular, write_atomic
from polygraph._names import did_you_mean

IntArray = NDArray[np.int64]

_MOST_BYTES = 1 << 28  # of a list
_COLUMNS = ("identity1", "number1", "identity2", "number2", "fold")


@dataclass(frozen=True)
class PairList:
    """Pairs of samples in folds.

    Attributes:
        first: int64 ``[P]``, numbers of samples.
        second: int64 ``[P]``.
        same: bool ``[P]``: genuine pairs.
        fold: int64 ``[P]``, from 0 on.
        disjoint: whether no identity is in two folds.

    Example:
        >>> from polygraph.data.pairs import make_pairs
        >>> labels = [n // 5 for n in range(100)]  # 20 identities of 5 samples
        >>> make_pairs(labels, folds=10, per_fold=300)
        PairList(400 pairs in 10 folds of 20 genuine and 20 impostors, disjoint, sha256=...)
    """

    first: IntArray
    second: IntArray
    same: NDArray[np.bool_]
    fold: IntArray
    disjoint: bool

    def __repr__(self) -> str:
        """One line: numbers of pairs, the hash."""
        genuine = np.bincount(self.fold[self.same], minlength=self.num_folds)
        impostors = np.bincount(self.fold[~self.same], minlength=self.num_folds)
        each = f"{genuine[0]} genuine and {impostors[0]} impostors"
        if len({*genuine.tolist()}) > 1 or len({*impostors.tolist()}) > 1:
            each = f"{genuine.min()} or more genuine and {impostors.min()} or more impostors"
        shared = "disjoint" if self.disjoint else "identities shared"
        return (
            f"PairList({len(self.first)} pairs in {self.num_folds} folds of {each}, {shared}, "
            f"sha256={self.sha256[:12]})"
        )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.first)

    @property
    def num_folds(self) -> int:
        """Number of folds."""
        return int(self.fold.max()) + 1

    @property
    def sha256(self) -> str:
        """SHA-256 of the pairs, their kinds and their folds, the same on every machine."""
        columns = (self.first, self.second, self.same, self.fold)
        return array_sha256(*(np.asarray(column, "<i8") for column in columns))

    def identities(self, labels: Any) -> IntArray:
        """Whom the pairs show, int64 ``[P, 2]``, by the labels ``[N]`` of all samples."""
        label = as_numpy(labels).astype(np.int64)
        return np.stack([label[self.first], label[self.second]], 1)


class _Universe(NamedTuple):
    """All pairs of some samples, numbered without being made.

    Attributes:
        members: samples, those of an identity side by side.
        ends: where each one's identity ends.
    """

    members: IntArray
    ends: IntArray

    @classmethod
    def of(cls, labels: IntArray, samples: IntArray) -> _Universe:
        members = samples[np.argsort(labels[samples], kind="stable")]
        return cls(members, np.searchsorted(labels[members], labels[members], "right"))

    def partners(self, same: bool) -> IntArray:
        """How many partners behind it each sample has."""
        places = np.arange(len(self.members))
        return self.ends - places - 1 if same else len(self.members) - self.ends

    def count(self, same: bool) -> int:
        return int(self.partners(same).sum())

    def draw(self, same: bool, count: int, draw: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Different pairs, drawn evenly."""
        partners = self.partners(same)
        until = np.cumsum(partners)
        number = draw.choice(int(until[-1]), count, replace=False)
        one = np.searchsorted(until, number, "right")
        behind = number - (until[one] - partners[one])
        two = (one + 1 if same else self.ends[one]) + behind
        return self.members[one], self.members[two]


def make_pairs(
    labels: Any,
    samples: Any = None,
    *,
    folds: int = 10,
    per_fold: int = 300,
    seed: int = 0,
) -> PairList:
    """Draw as many genuine as impostor pairs, no pair twice, in folds of equal size.

    No identity is in two folds where there are enough: two for each fold, one of them with two
    samples. If not, the folds share them, and their accuracies are less independent.

    Args:
        labels: integers ``[N]``, the identities of all samples.
        samples: integers: those that pairs are drawn from; None: all.
        folds: number of folds.
        per_fold: genuine pairs of a fold, and impostor pairs; fewer, the same in every fold, where
            there are not so many.
        seed: draws them.

    Raises:
        ValueError: there is one identity, or none has two samples; a number is below 1; or the
            folds are more than the pairs there are.
    """
    label, rows = _checked(labels, samples)
    for name, value in (("folds", folds), ("per_fold", per_fold)):
        if value < 1:
            raise ValueError(f"make_pairs: {name} must be at least 1, got {value}")
    names, sizes = np.unique(label[rows], return_counts=True)
    if len(names) < 2:
        raise ValueError(
            f"make_pairs: samples must be of at least 2 identities, got {len(names)}: there are no "
            "impostors"
        )
    if sizes.max() < 2:
        raise ValueError("make_pairs: an identity must have at least 2 samples, got 1 of each")
    draw = np.random.default_rng(seed)
    disjoint = len(names) >= 2 * folds and int((sizes > 1).sum()) >= folds
    if disjoint:
        order = draw.permutation(len(names))
        order = order[np.argsort(sizes[order] < 2, kind="stable")]  # those with pairs come first
        fold_of = np.empty(len(names), np.int64)
        fold_of[order] = np.arange(len(names)) % folds
        place = fold_of[np.searchsorted(names, label[rows])]
        parts = [_Universe.of(label, rows[place == n]) for n in range(folds)]
        size = min(per_fold, *(part.count(same) for part in parts for same in (True, False)))
        drawn = [[part.draw(same, size, draw) for same in (True, False)] for part in parts]
    else:
        whole = _Universe.of(label, rows)
        size = min(per_fold, *(whole.count(same) // folds for same in (True, False)))
        if size < 1:
            raise ValueError(
                f"make_pairs: folds must be at most {min(map(whole.count, (True, False)))}, the "
                f"pairs there are, got {folds}"
            )
        both = [whole.draw(same, folds * size, draw) for same in (True, False)]
        cut = [slice(n * size, (n + 1) * size) for n in range(folds)]
        drawn = [[(one[part], two[part]) for one, two in both] for part in cut]
    flat = [pair for fold in drawn for pair in fold]
    return PairList(
        np.concatenate([one for one, _ in flat]).astype(np.int64),
        np.concatenate([two for _, two in flat]).astype(np.int64),
        np.tile(np.repeat([True, False], size), folds),
        np.repeat(np.arange(folds), 2 * size),
        disjoint,
    )


def _checked(labels: Any, samples: Any) -> tuple[IntArray, IntArray]:
    label = as_numpy(labels)
    if label.ndim != 1 or not len(label) or label.dtype.kind not in "iu":
        raise ValueError(
            f"make_pairs: labels must be integers of shape [N], N at least 1, got {label.dtype} "
            f"{list(label.shape)}"
        )
    rows = np.arange(len(label)) if samples is None else as_numpy(samples)
    good = rows.ndim == 1 and rows.dtype.kind in "iu" and len(rows)
    if not good or rows.min() < 0 or rows.max() >= len(label) or len(np.unique(rows)) < len(rows):
        raise ValueError(
            f"make_pairs: samples must be different integers in [0, {len(label)}), got "
            f"{rows.dtype} {list(rows.shape)}"
        )
    return label.astype(np.int64), np.sort(rows).astype(np.int64)


# ---- files ----


def write_pairs(
    path: str | os.PathLike[str], pairs: PairList, labels: Any, classes: Sequence[str]
) -> None:
    """Write a list: as LFW's ``pairs.txt``, or with the suffix ``.csv`` as a table.

    Args:
        path: the file.
        pairs: what is written.
        labels: integers ``[N]``, identities of all samples of the set.
        classes: names of the identities.

    Raises:
        ValueError: a name has a tab or a line break; or, for LFW's format, folds differ in size.

    Example:
        >>> import tempfile
        >>> from polygraph.data.pairs import make_pairs, read_pairs, write_pairs
        >>> labels, names = [0, 0, 0, 1, 1, 1], ["Ada", "Emmy"]
        >>> path = f"{tempfile.mkdtemp()}/pairs.txt"
        >>> write_pairs(path, made := make_pairs(labels, folds=2, per_fold=1), labels, names)
        >>> read_pairs(path, labels, names).sha256 == made.sha256
        True
    """
    label = as_numpy(labels).astype(np.int64)
    for name in classes:
        if any(mark in name for mark in "\t\n\r"):
            raise ValueError(f"write_pairs: names must have no tab or line break, got {name!r}")
    number = _numbers(label)
    rows = [
        (classes[label[one]], int(number[one]), classes[label[two]], int(number[two]))
        for one, two in zip(pairs.first, pairs.second, strict=True)
    ]
    if Path(path).suffix.lower() == ".csv":
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        table.writerows([*row, fold] for row, fold in zip(rows, pairs.fold.tolist(), strict=True))
        write_atomic(path, text.getvalue().encode())
        return
    size = len(pairs) // (2 * pairs.num_folds)
    order = np.lexsort((~pairs.same, pairs.fold))
    usual = np.tile(np.repeat([True, False], size), pairs.num_folds)
    if not np.array_equal(pairs.same[order], usual) or len(np.unique(pairs.fold)) * 2 * size != len(
        pairs
    ):
        raise ValueError(
            f"write_pairs: {path}: folds must have as many genuine as impostor pairs, all the "
            "same number; a .csv file takes others"
        )
    lines = [f"{pairs.num_folds}\t{size}"]
    for at in order:
        name, n, other, m = rows[at]
        lines.append(f"{name}\t{n}\t{m}" if pairs.same[at] else f"{name}\t{n}\t{other}\t{m}")
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def read_pairs(path: str | os.PathLike[str], labels: Any, classes: Sequence[str]) -> PairList:
    """Read a list that `write_pairs` wrote, or one of LFW's; arguments as there.

    Raises:
        ValueError: the file is missing or damaged, or names an identity or a number that the set
            does not have; the message names the line.
    """
    try:
        text = read_regular(path, _MOST_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from error
    rows = _csv_rows(path, text) if Path(path).suffix.lower() == ".csv" else _lfw_rows(path, text)
    label = as_numpy(labels).astype(np.int64)
    order = np.argsort(label, kind="stable")
    starts = np.searchsorted(label[order], np.arange(len(classes) + 1))
    place = {name: n for n, name in enumerate(classes)}

    def sample(line: int, name: str, number: str) -> int:
        if name not in place:
            hint = did_you_mean(name, list(classes))
            raise ValueError(f"{path}: line {line}: no identity {name!r} in the set{hint}")
        start, end = starts[place[name]], starts[place[name] + 1]
        if not number.isdecimal() or not 1 <= int(number) <= end - start:
            raise ValueError(
                f"{path}: line {line}: number must be in 1 to {end - start}, the samples of "
                f"{name!r}, got {number!r}"
            )
        return int(order[start + int(number) - 1])

    first = np.array([sample(row.line, row.one, row.number) for row in rows], np.int64)
    second = np.array([sample(row.line, row.two, row.other) for row in rows], np.int64)
    if (first == second).any():
        at = rows[int((first == second).argmax())].line
        raise ValueError(f"{path}: line {at}: a sample is paired with itself")
    same, fold = label[first] == label[second], np.array([row.fold for row in rows], np.int64)
    return PairList(first, second, same, fold, _is_disjoint(label, first, second, fold))


class _Row(NamedTuple):
    line: int
    one: str
    number: str
    two: str
    other: str
    fold: int


def _lfw_rows(path: Any, text: str) -> list[_Row]:
    lines = text.splitlines()
    head = lines[0].split() if lines else []
    if len(head) not in (1, 2) or not all(word.isdecimal() and int(word) > 0 for word in head):
        raise ValueError(
            f"{path}: line 1: must be the numbers of folds and of genuine pairs in each, got "
            f"{lines[0][:40] if lines else 'an empty file'!r}"
        )
    folds, size = (1, int(head[0])) if len(head) == 1 else map(int, head)
    if len(lines) - 1 != 2 * folds * size:
        raise ValueError(
            f"{path}: {folds} folds of {size} genuine and {size} impostor pairs are "
            f"{2 * folds * size} lines, got {len(lines) - 1}"
        )
    rows = []
    for line, words in enumerate((text.split("\t") for text in lines[1:]), 2):
        fold, at = divmod(line - 2, 2 * size)
        wanted = 3 if at < size else 4
        if len(words) != wanted or (wanted == 4 and words[0] == words[2]):
            kind = "genuine" if wanted == 3 else "impostor"
            raise ValueError(
                f"{path}: line {line}: must be {'a' if wanted == 3 else 'an'} {kind} pair, "
                f"{wanted} words between tabs, got {lines[line - 1][:60]!r}"
            )
        other = words[2] if wanted == 4 else words[0]
        rows.append(_Row(line, words[0], words[1], other, words[-1], fold))
    return rows


def _csv_rows(path: Any, text: str) -> list[_Row]:
    table = csv.reader(io.StringIO(text), strict=True)
    rows = []
    try:
        head = next(table, [])
        if tuple(head) != _COLUMNS:
            raise ValueError(
                f"{path}: line 1: must be {','.join(_COLUMNS)}, got {','.join(head)[:80]!r}"
            )
        for words in table:
            line = table.line_num
            if len(words) != len(_COLUMNS) or not words[-1].isdecimal():
                raise ValueError(
                    f"{path}: line {line}: must have {len(_COLUMNS)} columns, the last a fold "
                    f"from 0 on, got {','.join(words)[:80]!r}"
                )
            one, number, two, other, fold = words
            rows.append(_Row(line, one, number, two, other, int(fold)))
    except csv.Error as error:
        raise ValueError(f"{path}: line {table.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{path}: must have at least one pair, got none")
    found = sorted({row.fold for row in rows})
    if found != list(range(len(found))):
        raise ValueError(f"{path}: folds must be numbered from 0 on, got {found[:10]}")
    return rows


def _numbers(label: IntArray) -> IntArray:
    """The place of each sample within its identity, from 1 on."""
    order = np.argsort(label, kind="stable")
    ranked = label[order]
    found = np.empty(len(label), np.int64)
    found[order] = np.arange(len(label)) - np.searchsorted(ranked, ranked, "left") + 1
    return found


def _is_disjoint(label: IntArray, first: IntArray, second: IntArray, fold: IntArray) -> bool:
    """Whether no identity is in two folds."""
    who = np.concatenate([label[first], label[second]])
    both = np.unique(np.stack([who, np.tile(fold, 2)]), axis=1)
    return bool(len(np.unique(both[0])) == both.shape[1])
