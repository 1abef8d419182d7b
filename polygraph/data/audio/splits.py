"""Which clips train and which test: by the data set's own lists, by take, by speaker, or drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polygraph._names import unknown_name
from polygraph.data.audio.layouts import Clips
from polygraph.data.splits import draw_validation

IntArray = NDArray[np.int64]

SPLITS = ("official", "random", "takes:FIRST-LAST", "speaker:NAME")
_DIGITS_TEST = "takes:0-4"  # what the Free Spoken Digit Dataset calls its test set


class Parts(NamedTuple):
    """A split.

    Attributes:
        name: what it is called.
        train: int64, ascending.
        test: int64, ascending.
        val: int64, ascending, or None where clips that validate are drawn from ``train``.
    """

    name: str
    train: IntArray
    test: IntArray
    val: IntArray | None


def check_split(name: str | None) -> None:
    """Refuse what is the name of no split.

    Raises:
        ValueError: says which there are.
    """
    if name is None or name in ("official", "random"):
        return
    kind, _, value = name.partition(":")
    if kind == "speaker" and all(value.split(",")):
        return
    if kind == "takes" and _range_of(value) is not None:
        return
    raise ValueError(f"data: {unknown_name('split', name, SPLITS)}")


def split_clips(
    clips: Clips, labels: IntArray, name: str | None, fraction: float, seed: int
) -> Parts:
    """Divide clips.

    Args:
        clips: of a folder.
        labels: int64 ``[N]``, their classes.
        name: ``official``: lists of Speech Commands, takes 0 to 4 of spoken digits, or folders
            train/ and test/. ``takes:0-4``: these takes test. ``speaker:theo`` or
            ``speaker:theo,yweweler``: what these speakers say tests. ``random``: drawn of each
            class. None: official, or random where there is none.
        fraction: of random, share of each class that tests.
        seed: of random.

    Raises:
        ValueError: the layout has no such split, nobody is called so, or a part is empty.
    """
    if name is None:
        name = "random" if clips.layout == "folder" and clips.parts is None else "official"
    kind, _, value = name.partition(":")
    val = None
    if kind == "random":
        test = draw_validation(labels, np.arange(len(labels)), fraction, seed)[1]
        is_test = np.isin(np.arange(len(labels)), test)
    elif kind == "speaker":
        is_test = _of_speakers(clips, value.split(","))
    elif kind == "takes" or clips.layout == "spoken-digits":
        is_test = _of_takes(clips, value or _DIGITS_TEST.partition(":")[2])
    elif clips.parts is None:
        raise ValueError(
            "data: split official is of folders train/ and test/, which there are not; random, "
            "for example, draws the clips that test"
        )
    else:
        parts = np.array(clips.parts)
        is_test = parts == "test"
        val = np.flatnonzero(parts == "val") if (parts == "val").any() else None
    is_train = ~is_test
    if val is not None:
        is_train[val] = False
    for part, chosen in (("train on", is_train), ("test on", is_test)):
        if not chosen.any():
            raise ValueError(f"data: split {name} leaves no clips to {part}")
    return Parts(name, np.flatnonzero(is_train), np.flatnonzero(is_test), val)


def _of_speakers(clips: Clips, names: list[str]) -> NDArray[np.bool_]:
    if clips.speakers is None:
        raise ValueError(f"data: files of the layout {clips.layout} do not say who speaks")
    known = sorted(set(clips.speakers))
    for name in names:
        if name not in known:
            shown = known if len(known) <= 20 else [*known[:20], f"{len(known) - 20} others"]
            raise ValueError(f"data: {unknown_name('speaker', name, shown)}")
    return np.isin(np.array(clips.speakers), names)


def _of_takes(clips: Clips, text: str) -> NDArray[np.bool_]:
    if clips.takes is None:
        raise ValueError(f"data: files of the layout {clips.layout} do not say which take they are")
    span = _range_of(text)
    assert span is not None  # `check_split` has looked
    takes = np.array(clips.takes)
    return (takes >= span[0]) & (takes <= span[1])


def _range_of(text: str) -> tuple[int, int] | None:
    """``3-5`` or ``3`` as the first and the last number; None where it is neither."""
    first, dash, last = text.partition("-")
    last = last if dash else first
    good = first.isdecimal() and last.isdecimal() and len(text) < 20 and int(first) <= int(last)
    return (int(first), int(last)) if good else None
