"""JSON from files that may come from anybody: of a bounded size and depth, or one clear error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from polygraph._files import PathLike, read_regular
from polygraph._memory import check_room

MOST_BYTES = 1 << 24
MOST_DEPTH = 64  #: of lists and objects in each other; ours have less than ten
SEAL = "sha256"  #: key of the hash that an object carries of its other values
_EXPANSION = 20  # of a text to the lists that it may become


def read_json(
    path: PathLike,
    error: type[Exception] = ValueError,
    *,
    most_bytes: int = MOST_BYTES,
    parse_constant: Callable[[str], Any] | None = None,
) -> Any:
    """The value in a JSON file.

    Args:
        path: a regular file.
        error: the exception to raise; its message begins with the path.
        most_bytes: the size above which the file is refused.
        parse_constant: called with ``NaN``, ``Infinity`` or ``-Infinity``; None takes them.

    Raises:
        error: no such file, no regular file, one that is too large, or no JSON.
    """
    data = read_regular(path, most_bytes, error)
    if len(data) > MOST_BYTES:
        check_room(_EXPANSION * len(data), f"{path}: a list of {len(data)} bytes", error)
    return parse_json(data, str(path), error, parse_constant=parse_constant)


def parse_json(
    text: bytes | str,
    name: str,
    error: type[Exception] = ValueError,
    *,
    parse_constant: Callable[[str], Any] | None = None,
) -> Any:
    """The value of a JSON text; errors as of :func:`read_json`, with ``name`` for the path."""
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode(), parse_constant=parse_constant
        )
    except RecursionError as fault:
        raise error(_too_deep(name)) from fault
    except ValueError as fault:  # of the decoder, or of UTF-8
        raise error(f"{name}: not a readable JSON file ({fault})") from fault
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _inner_trees(outer)]
        if not level:
            return value
    raise error(_too_deep(name))


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values by name, and the SHA-256 of them all, by which a changed one is noticed."""
    return {**values, SEAL: _seal(values)}


def check_seal(values: Mapping[str, Any], name: str, error: type[Exception] = ValueError) -> None:
    """Compare an object with the hash in it; one that has none, of an older version, is taken.

    Raises:
        error: it was changed; the message begins with ``name``.
    """
    if SEAL in values and values[SEAL] != _seal(values):
        raise error(f"{name}: changed since it was written: its values do not have its {SEAL}")


def _seal(values: Mapping[str, Any]) -> str:
    others = {key: value for key, value in values.items() if key != SEAL}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _inner_trees(value: Any) -> list[Any]:
    """The lists and objects that are members of a list or object."""
    if not isinstance(value, dict | list):
        return []
    members = value.values() if isinstance(value, dict) else value
    return [member for member in members if isinstance(member, dict | list)]


def _too_deep(name: str) -> str:
    return f"{name}: not a readable JSON file (more than {MOST_DEPTH} lists in each other)"
