"""Which places of data this user has named on this machine: what a run says of places is a hint.

A run folder may come from anybody, and says where its data lay. To open that unasked would read,
or convert into a cache, whatever its author chose. So training notes the place that it was given
in the user's own cache (`polygraph.data.store.default_cache_dir`, folder ``known``), and a run
is followed only to places that are noted there, with the cache that was used then. Others must be
given again, by option.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from polygraph._files import write_atomic
from polygraph._json import read_json
from polygraph.data.store import default_cache_dir

_FOLDER = "known"


@dataclass(frozen=True)
class KnownPlace:
    """A place that a training run of this user was given.

    Attributes:
        cache_dir: where it was converted to; None for the user's cache.
    """

    cache_dir: str | None


def _note(kind: str, path: str | os.PathLike[str]) -> Path:
    key = hashlib.sha256(f"{kind}\0{Path(path).expanduser().resolve()}".encode()).hexdigest()
    return default_cache_dir() / _FOLDER / f"{key[:32]}.json"


def remember(
    kind: str, path: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None = None
) -> None:
    """Note a place that the user named; a cache that cannot be written notes nothing.

    Args:
        kind: of the data, as in its configuration.
        path: of the data; None (built in) is not noted.
        cache_dir: where it is converted to.
    """
    if path is None:
        return
    note = _note(kind, path)
    cache = None if cache_dir is None else str(Path(cache_dir).expanduser().resolve())
    content = {"kind": kind, "path": str(Path(path).expanduser().resolve()), "cache_dir": cache}
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, (json.dumps(content) + "\n").encode())


def recall(kind: str, path: str | os.PathLike[str]) -> KnownPlace | None:
    """The place, if it was noted; the path itself is not looked into."""
    try:
        content = read_json(_note(kind, path))
        cache = content["cache_dir"]
        named = content["kind"] == kind and (cache is None or isinstance(cache, str))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return KnownPlace(cache) if named else None
