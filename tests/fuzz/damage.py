"""Damage to the files of a run folder, or to an archive, drawn at random."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Bytes = bytes | bytearray


def flip(rng: random.Random, data: Bytes) -> bytes:
    """One to three bits turned over."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        bit = rng.randrange(8 * len(data))
        # Half of them near the beginning, where headers are.
        bit = bit % min(8 * len(data), 1 << 13) if rng.random() < 0.5 else bit
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(rng: random.Random, data: Bytes) -> bytes:
    """Without its end."""
    return bytes(data[: rng.randrange(len(data))])


def drop(rng: random.Random, data: Bytes) -> bytes:
    """Without a byte."""
    place = rng.randrange(len(data))
    return bytes(data[:place] + data[place + 1 :])


def double(rng: random.Random, data: Bytes) -> bytes:
    """Twice."""
    return bytes(data) * 2


def swap(rng: random.Random, data: Bytes) -> bytes:
    """Two pieces of one length exchanged, as two tensors of one shape are."""
    size = rng.randint(1, max(1, len(data) // 8))
    one, other = (rng.randrange(len(data) - size + 1) for _ in range(2))
    changed = bytearray(data)
    changed[one : one + size], changed[other : other + size] = (
        data[other : other + size],
        data[one : one + size],
    )
    return bytes(changed)


def declare(rng: random.Random, data: Bytes) -> bytes:
    """Another dtype of the same size, or another number, in a header."""
    pairs = [(b"F32", b"I32"), (b"F64", b"I64"), (b"<f8", b"<i8"), (b"<i8", b"<f8")]
    pairs += [(b": 0", b": 1"), (b"true", b"null"), (b"false", b"true "), (b"elu", b"abs")]
    there = [(old, new) for old, new in pairs if old in data]
    if not there:
        return flip(rng, data)
    old, new = rng.choice(there)
    places = [n for n in range(len(data)) if data.startswith(old, n)]
    place = rng.choice(places)
    return bytes(data[:place] + new + data[place + len(old) :])


VALUES = (None, True, -1, 0, 1, 1e308, float("nan"), 10**7, 5_000_000, "", "x", [], {}, [[]])


def edit(rng: random.Random, data: Bytes) -> bytes:
    """A value of a JSON file replaced, or lists in each other."""
    try:
        document = json.loads(data)
    except ValueError:
        return flip(rng, data)
    if rng.random() < 0.05:
        depth = rng.choice((100, 100_000))
        return b"[" * depth + b"]" * depth
    holders: list[tuple[Any, Any]] = []
    stack = [document]
    while stack:
        tree = stack.pop()
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        holders += [(tree, key) for key in keys]
        stack += [tree[key] for key in keys if isinstance(tree[key], dict | list)]
    if not holders:
        return b""
    tree, key = rng.choice(holders)
    tree[key] = rng.choice(VALUES)
    return json.dumps(document).encode()


def replace_by_link(rng: random.Random, path: Path) -> None:
    """Something that is no regular file, or leads to one elsewhere."""
    path.unlink()
    kind = rng.randrange(6)
    if kind == 0:
        path.symlink_to(path.name)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        path.touch()
        os.truncate(path, 50 << 30)


DAMAGE: tuple[Callable[[random.Random, Bytes], bytes], ...] = (
    flip, flip, flip, cut, drop, double, swap, declare, declare, edit, edit,
)  # fmt: skip


def damage_folder(rng: random.Random, folder: Path) -> str:
    """Damage one file of a folder; says how."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    path = rng.choice(files)
    kind = rng.random()
    if kind < 0.12:
        replace_by_link(rng, path)
        return f"{path.name}: no file"
    if kind < 0.2:
        other = rng.choice(files)
        path.write_bytes(other.read_bytes())
        return f"{path.name}: {other.name}"
    how = rng.choice(DAMAGE)
    path.write_bytes(how(rng, path.read_bytes()))
    return f"{path.name}: {how.__name__}"


def damage_archive(rng: random.Random, folder: Path) -> str:
    """As `damage_folder`; of a plain tar, which has no checksum of its data, the headers."""
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    if path.suffix != ".tar":
        return damage_folder(rng, folder)
    if rng.random() < 0.3:
        how = rng.choice((cut, drop, double))
        path.write_bytes(how(rng, data))
        return f"{path.name}: {how.__name__}"
    headers = [n for n in range(0, len(data), 512) if data[n + 257 : n + 262] == b"ustar"]
    place = rng.choice(headers) + rng.randrange(512)
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{path.name}: header"
