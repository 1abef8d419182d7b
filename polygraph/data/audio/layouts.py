"""Which sounds a folder holds: their words, speakers and takes, and the lists that come with them.

``speech-commands``: a folder for each word (Warden 2018, versions 1 and 2), names
``SPEAKER_nohash_TAKE.wav``, ``validation_list.txt`` and ``testing_list.txt``; recordings of
``_background_noise_`` are no word. ``spoken-digits``: ``DIGIT_SPEAKER_TAKE.wav`` in one folder
(Free Spoken Digit Dataset). ``folder``: folders of sounds, below train/ and test/ (and val/) or
not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polygraph._files import read_regular
from polygraph.data.audio.sounds import SUFFIXES, list_sounds

LAYOUTS = ("speech-commands", "spoken-digits", "folder")
NOISE = "_background_noise_"
VALIDATION_LIST, TESTING_LIST = "validation_list.txt", "testing_list.txt"
_MOST_LIST = 1 << 24  # bytes of a list; those of version 2 have 400,000
_WORD_FILE = re.compile(r"(.+)_nohash_(\d{1,9})")
_DIGIT_FILE = re.compile(r"(\d)_([^_]+)_(\d{1,9})")
_PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Clips:
    """What a folder holds, before it is decoded.

    Attributes:
        layout: one of `LAYOUTS`.
        files: of the clips, in order.
        words: of each clip, the name of its class.
        speakers: of each clip; None where files do not say.
        takes: of each clip, which of a speaker's recordings of a word; None likewise.
        parts: of each clip ``train``, ``val`` or ``test``, where the folder says; else None.
        noise: recordings of noise.
    """

    layout: str
    files: list[Path]
    words: list[str]
    speakers: list[str] | None = None
    takes: list[int] | None = None
    parts: list[str] | None = None
    noise: tuple[Path, ...] = ()


def find_clips(root: Path, layout: str | None = None, *, with_lists: bool = True) -> Clips:
    """Look through a folder.

    Args:
        root: the folder.
        layout: one of `LAYOUTS`; None: the one that it looks like.
        with_lists: whether the lists of Speech Commands are needed.

    Raises:
        FileNotFoundError: there is no such folder, or a list is not in it.
        ValueError: no sounds, names that the layout does not have, or a list names something that
            is not there.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; want one with sounds")
    files = list_sounds(root)
    if not files:
        raise ValueError(f"{root}: want at least one sound ({', '.join(SUFFIXES)}), got none")
    layout = _looks_like(root, files) if layout is None else layout
    if layout == "speech-commands":
        return _speech_commands(root, files, with_lists)
    if layout == "spoken-digits":
        return _spoken_digits(files)
    return _folders(root, files)


def _looks_like(root: Path, files: Sequence[Path]) -> str:
    marks = (root / VALIDATION_LIST, root / TESTING_LIST, root / NOISE)
    if any(mark.exists() for mark in marks):
        return "speech-commands"
    if all(file.parent == root and _DIGIT_FILE.fullmatch(file.stem) for file in files):
        return "spoken-digits"
    return "folder"


def _speech_commands(root: Path, files: list[Path], with_lists: bool) -> Clips:
    noise = tuple(f for f in files if f.relative_to(root).parts[0] == NOISE)
    clips = [f for f in files if f.relative_to(root).parts[0] != NOISE]
    if not clips:
        raise ValueError(f"{root}: want a folder for each word beside {NOISE}, got none")
    words, speakers, takes = [], [], []
    for file in clips:
        found = _WORD_FILE.fullmatch(file.stem)
        if file.parent.parent != root or found is None:
            raise ValueError(
                f"{file}: the layout speech-commands has WORD/SPEAKER_nohash_TAKE.wav below {root}"
            )
        words.append(file.parent.name)
        speakers.append(found[1])
        takes.append(int(found[2]))
    parts = _listed_parts(root, clips) if with_lists else None
    return Clips("speech-commands", clips, words, speakers, takes, parts, noise)


def _listed_parts(root: Path, clips: Sequence[Path]) -> list[str]:
    """What each clip is for by the two lists; the rest trains."""
    place = {file.relative_to(root).as_posix(): n for n, file in enumerate(clips)}
    parts = ["train"] * len(clips)
    for name, part in ((VALIDATION_LIST, "val"), (TESTING_LIST, "test")):
        path = root / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; the official split is in {VALIDATION_LIST} and "
                f"{TESTING_LIST}, other splits are named by --split"
            )
        try:
            lines = read_regular(path, _MOST_LIST).decode().splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: no text: {error}") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            at = place.get(line.strip())
            if at is None:
                raise ValueError(f"{path}: line {number}: no clip {line.strip()[:80]!r} is here")
            if parts[at] != "train":
                raise ValueError(
                    f"{path}: line {number}: {line.strip()[:80]!r} is listed more than once"
                )
            parts[at] = part
    return parts


def _spoken_digits(files: list[Path]) -> Clips:
    words, speakers, takes = [], [], []
    for file in files:
        found = _DIGIT_FILE.fullmatch(file.stem)
        if found is None:
            raise ValueError(f"{file}: the layout spoken-digits has names DIGIT_SPEAKER_TAKE.wav")
        words.append(found[1])
        speakers.append(found[2])
        takes.append(int(found[3]))
    return Clips("spoken-digits", files, words, speakers, takes)


def _folders(root: Path, files: list[Path]) -> Clips:
    """Folders are classes; those of train/ and test/, or of train/ and val/, are parts."""
    names = [file.relative_to(root).parts for file in files]
    tops = {name[0] for name in names}
    parts = None
    if "train" in tops <= {*_PARTS} and len(tops) > 1:
        last = "test" if "test" in tops else "val"
        parts = ["test" if name[0] == last else name[0] for name in names]
        names = [name[1:] for name in names]
    for file, name in zip(files, names, strict=True):
        if len(name) != 2:
            raise ValueError(
                f"{file}: want every sound in a folder, which is its class, below {root}"
            )
    return Clips("folder", files, [name[0] for name in names], parts=parts)
