"""Text files: their encoding, and tables of numbers, a line each.

Numbers are plain ASCII decimals. They are parsed by one call for the whole file; the checks around
it, vectorised as well, make sure that every word is one number: no word is split into two
(``1-2``, ``1.2.3``), none is left out, and nothing that only Python takes (``1_0``) is taken.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from polygraph.mesh.errors import MeshError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NUMBER = re.compile(
    rb"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE
)
_NOT_FINITE = re.compile(rb"(?<!\S)[+-]?(?:nan|inf|infinity)(?!\S)", re.IGNORECASE)

_BLANK, _NEWLINE, _DIGIT, _SIGN, _DOT, _EXPONENT, _OTHER = range(7)
_KINDS = np.full(256, _OTHER, dtype=np.uint8)
for _letters, _kind in (
    (b" \t\r\v\f", _BLANK),
    (b"\n", _NEWLINE),
    (b"0123456789", _DIGIT),
    (b"+-", _SIGN),
    (b".", _DOT),
    (b"eE", _EXPONENT),
):
    _KINDS[list(_letters)] = _kind


def text_of(data: bytes, name: str) -> bytes:
    """The text without a byte-order mark.

    Raises:
        MeshError: the file is in UTF-16.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise MeshError(f"{name}: the text is in UTF-16; save it as UTF-8")
    return data.removeprefix(b"\xef\xbb\xbf")


def without_comments(text: bytes) -> bytes:
    """The text, cut at the first # of every line."""
    return re.sub(rb"#[^\n]*", b"", text) if b"#" in text else text


def quoted(line: bytes) -> str:
    """A line, or its beginning, for a message."""
    return repr(line.strip()[:80].decode("utf-8", "replace"))


def ragged(starts: IntArray, sizes: IntArray) -> IntArray:
    """The indices ``starts[i] .. starts[i] + sizes[i] - 1`` of all i, one after the other."""
    if len(sizes) and (sizes == sizes[0]).all():
        return (starts[:, None] + np.arange(sizes[0])).reshape(-1)
    begin = np.cumsum(sizes) - sizes
    return np.repeat(starts - begin, sizes) + np.arange(int(sizes.sum()))


def outside_type(values: FloatArray, kind: str) -> npt.NDArray[np.bool_]:
    """Which numbers a type does not hold: out of its range, or not whole."""
    if kind[0] == "f":
        with np.errstate(over="ignore"):
            rounded = values.astype(kind)
        return np.asarray(np.isinf(rounded) & np.isfinite(values))
    limits = np.iinfo(kind)
    return np.asarray(
        ~((values >= limits.min) & (values <= limits.max) & (values == np.floor(values)))
    )


def doubles(values: npt.NDArray[Any]) -> FloatArray:
    """The numbers in double precision; NaNs of every kind remain NaNs, without a warning."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


class Table:
    """The numbers of a text; lines that are blank do not count.

    Args:
        text: lines of numbers between blanks.
        name: of the file.
        first_line: number of the text's first line in its file.
        numbers: the number of each line in its file, where these are not consecutive.
        integers: refuse what is not written as an integer.

    Attributes:
        values: float64 ``[N]``, the numbers.
        starts: int64 ``[L + 1]``; line i holds ``values[starts[i] : starts[i + 1]]``.

    Raises:
        MeshError: a word is not a number.
    """

    def __init__(
        self,
        text: bytes,
        name: str,
        *,
        first_line: int = 1,
        numbers: IntArray | None = None,
        integers: bool = False,
    ) -> None:
        self.name = name
        self._text = text
        kinds = _KINDS[np.frombuffer(text, np.uint8)]
        begins = kinds > _NEWLINE
        begins[1:] &= kinds[:-1] <= _NEWLINE
        words = np.flatnonzero(begins)
        self._ends = np.append(np.flatnonzero(kinds == _NEWLINE), len(text))
        lengths = np.diff(np.searchsorted(words, self._ends), prepend=0)
        self._index = np.flatnonzero(lengths)
        self._lines = self._index + first_line if numbers is None else numbers[self._index]
        self.starts = np.concatenate([[0], np.cumsum(lengths[self._index])]).astype(np.int64)
        values = None if integers else _parse(text, kinds, words)
        if integers and int(kinds.max(initial=0)) <= _SIGN:
            values = _parse(text, kinds, words)
        self.values = self._word_by_word(integers) if values is None else values

    def __len__(self) -> int:
        """Number of lines that are not blank."""
        return len(self._index)

    @property
    def lengths(self) -> IntArray:
        """int64 ``[L]``: numbers in each line."""
        return np.diff(self.starts)

    def fault(self, row: int, what: str) -> MeshError:
        """An error that names a line and quotes it."""
        line = int(self._index[row])
        begin = int(self._ends[line - 1]) + 1 if line else 0
        text = self._text[begin : int(self._ends[line])]
        return MeshError(f"{self.name}: line {self._lines[row]}: {what}: {quoted(text)}")

    def row_of(self, at: int) -> int:
        """The row that holds ``values[at]``."""
        return int(np.searchsorted(self.starts, at, side="right")) - 1

    def rectangle(self, first: int, count: int, widths: Any, what: str) -> FloatArray:
        """Lines ``first .. first + count - 1``, which must be of one width out of ``widths``."""
        lengths = self.lengths[first : first + count]
        if not len(lengths):
            return np.empty((0, min(widths)))
        wrong = (lengths != lengths[0]) if int(lengths[0]) in widths else np.ones(1, dtype=bool)
        if wrong.any():
            row = int(np.argmax(wrong))
            want = lengths[0] if row else " or ".join(map(str, sorted(widths)))
            raise self.fault(first + row, f"{what} has {want} numbers, got {lengths[row]}")
        values = self.values[self.starts[first] : self.starts[first + len(lengths)]]
        return values.reshape(len(lengths), -1)

    def _word_by_word(self, integers: bool) -> FloatArray:
        """Find the word that is not a number; slow."""
        pattern = re.compile(rb"[+-]?[0-9]+") if integers else _NUMBER
        values = []
        for number, word in enumerate(self._text.split()):
            if not pattern.fullmatch(word):
                kind = "an integer" if integers else "a number"
                raise self.fault(self.row_of(number), f"{quoted(word)} is not {kind}")
            values.append(float(word))
        return np.array(values, dtype=np.float64)


def _parse(text: bytes, kinds: npt.NDArray[np.uint8], words: IntArray) -> FloatArray | None:
    """The number of every word; None where a word may not be one number."""
    if (kinds == _OTHER).any():
        rest = np.frombuffer(_NOT_FINITE.sub(b"", text), np.uint8)
        if (_KINDS[rest] == _OTHER).any():
            return None
    # A sign begins a number or its exponent, so that no word is read as two numbers.
    signs = np.flatnonzero(kinds == _SIGN)
    before = kinds[signs[signs > 0] - 1]
    if not ((before <= _NEWLINE) | (before == _EXPONENT)).all():
        return None
    # For the same reason no point follows a point or an exponent of its word.
    marks = np.flatnonzero((kinds == _DOT) | (kinds == _EXPONENT))
    word = np.searchsorted(words, marks, side="right")
    together = word[1:] == word[:-1]
    allowed = (kinds[marks[:-1]] == _DOT) & (kinds[marks[1:]] == _EXPONENT)
    if (together & ~allowed).any():
        return None
    try:
        values = np.fromstring(text, dtype=np.float64, sep=" ")
    except (DeprecationWarning, ValueError):  # which of them depends on the version of NumPy
        return None
    return values if len(values) == len(words) else None
