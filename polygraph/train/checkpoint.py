"""Checkpoints: tensors as safetensors, everything else as JSON in the same file's header.

One checkpoint is one file, so that a rename replaces it whole: there is no moment at which weights
and description disagree. Nothing is ever unpickled. Writing goes to a hidden temporary file beside
the target, which is flushed to the disk and then renamed; a process killed at any moment leaves
either the old checkpoint or the new one, plus at most a temporary file that the next run removes.

The header also holds the SHA-256 of the file, computed with zeros in its own place: a bit that
turned over, anywhere, is noticed when the file is read. Files of versions that wrote no hash are
read as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as decode_safetensors
from safetensors.torch import save as encode_safetensors
from torch import Tensor, nn

from polygraph import _files, _json
from polygraph._files import TEMPORARY_SUFFIX, read_regular
from polygraph._memory import readable_bytes
from polygraph.models.state import StateError, load_state

_HEADER = "polygraph"
_UNKNOWN = "0" * 64  # stands for the hash in what is hashed
_MOST_HEADER = 1 << 24  # bytes


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or that belongs to something else."""


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` so that a crash leaves the old file or the new one.

    Args:
        path: target file; its folder must exist.
        data: the whole content.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is untouched.
        CheckpointError: a folder is in the place of the file.
    """
    if Path(path).is_dir():
        raise CheckpointError(f"{path}: not a file but a folder")
    _files.write_atomic(path, data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically (see :func:`write_atomic`)."""
    write_atomic(path, (json.dumps(value, indent=2, default=_plain) + "\n").encode())


def _plain(value: Any) -> Any:
    """JSON for the few things configurations hold that the encoder does not know."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON: {value!r}")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: the file is missing, no regular file, larger than 16 MiB, or is not JSON;
            the message names it.
    """
    return _json.read_json(path, CheckpointError)


def read_json_object(path: str | os.PathLike[str], *keys: str) -> dict[str, Any]:
    """Read a JSON file that holds an object with at least these keys.

    Raises:
        CheckpointError: as :func:`read_json`; or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold an object, got {type(value).__name__}")
    for key in keys:
        if key not in value:
            raise CheckpointError(f"{path}: {key} is missing")
    return value


def remove_temporaries(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete what a killed writer left in ``folder`` and the folders in it; the removed paths."""
    removed = []
    places = [
        Path(folder),
        *(p for p in Path(folder).iterdir() if p.is_dir() and not p.is_symlink()),
    ]
    for path in sorted(path for place in places for path in place.glob(f".*{TEMPORARY_SUFFIX}")):
        with contextlib.suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Replace and collect the tensors of a tree; tuples and keys that are no strings are marked."""
    if isinstance(value, Tensor):
        # A clone: two parameters may share storage (tied weights), which the file format refuses.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": name}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _pack(item, f"{name}/{key}", tensors) for key, item in value.items()}
        pairs = [[key, _pack(item, f"{name}/{key}", tensors)] for key, item in value.items()]
        return {"$pairs": pairs}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _plain(value)


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo :func:`_pack`."""
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["$tuple"])
    if "$pairs" in value:
        return {key: _unpack(item, tensors) for key, item in value["$pairs"]}
    return {key: _unpack(item, tensors) for key, item in value.items()}


def save_checkpoint(
    path: str | os.PathLike[str], state: dict[str, Any], meta: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint atomically.

    Args:
        path: target file, by custom ``*.safetensors``.
        state: tree of dicts, lists and tuples with tensors, numbers, strings and None as leaves:
            state_dicts of modules and optimizers go in as they are. Tensors may live on any device
            and may share storage.
        meta: description that can be read without the tensors (:func:`read_meta`): configuration,
            hashes, versions.

    Raises:
        OSError: the file could not be written; a checkpoint that was there before is still there.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, "", tensors)
    document = {"sha256": _UNKNOWN, "meta": meta or {}, "state": tree}
    header = json.dumps(document, default=_plain)
    data = encode_safetensors(tensors, metadata={_HEADER: header})
    place = data.index(_UNKNOWN.encode())
    digest = hashlib.sha256(data).hexdigest().encode()
    write_atomic(path, b"".join([data[:place], digest, data[place + len(digest) :]]))


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document in the header of a checkpoint, and its tensors, compared with their hash."""
    if not os.path.exists(path):
        raise CheckpointError(f"{path}: no such checkpoint")
    # The file and its tensors are in memory at once.
    data = read_regular(path, readable_bytes(), CheckpointError)
    size = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data), _MOST_HEADER):
        raise CheckpointError(f"{path}: not a readable safetensors file (no header in it)")
    try:
        tensors = decode_safetensors(data)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    header = _json.parse_json(data[8:size], f"{path}: header", CheckpointError)
    text = (header.get("__metadata__") or {}).get(_HEADER)
    if text is None:
        raise CheckpointError(
            f"{path}: a safetensors file, but not one of ours (no '{_HEADER}' header)"
        )
    document = _json.parse_json(text, f"{path}: the '{_HEADER}' header is damaged", CheckpointError)
    if (
        not isinstance(document, dict)
        or not {"meta", "state"} <= set(document) <= {"meta", "state", "sha256"}
        or not all(isinstance(document[key], dict) for key in ("meta", "state"))
    ):
        raise CheckpointError(
            f"{path}: the '{_HEADER}' header is damaged (meta and state must be objects)"
        )
    if "sha256" in document:
        _check_hash(path, data, size, document["sha256"])
    return document, tensors


def _check_hash(path: str | os.PathLike[str], data: bytes, size: int, wanted: Any) -> None:
    """Compare the content of a file whose header has ``size`` bytes with the hash in it."""
    valid = isinstance(wanted, str) and re.fullmatch("[0-9a-f]{64}", wanted)
    place = data.find(wanted.encode(), 0, size) if valid else -1
    if place < 0:
        raise CheckpointError(f"{path}: the '{_HEADER}' header is damaged (no SHA-256 in it)")
    digest = hashlib.sha256(memoryview(data)[:place])
    digest.update(_UNKNOWN.encode())
    digest.update(memoryview(data)[place + len(_UNKNOWN) :])
    if digest.hexdigest() != wanted:
        raise CheckpointError(
            f"{path}: changed or not whole: SHA-256 {digest.hexdigest()[:12]}, its header wants "
            f"{wanted[:12]}"
        )


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description stored with a checkpoint; the whole file is compared with its hash.

    Raises:
        CheckpointError: missing, unreadable or changed file; the message names it.
    """
    meta: dict[str, Any] = _read(path)[0]["meta"]
    return meta


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint.

    Returns:
        ``(state, meta)`` as given to :func:`save_checkpoint`, tensors on the CPU.

    Raises:
        CheckpointError: missing, truncated, changed or foreign file, or one that is larger than
            half of the memory there is; the message names it.
    """
    document, tensors = _read(path)
    try:
        state = _unpack(document["state"], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error})") from error
    return state, document["meta"]


def load_weights(module: nn.Module, path: str | os.PathLike[str], name: str = "model") -> None:
    """Put the weights of one module of a checkpoint into it, as they are or not at all.

    Raises:
        CheckpointError: as :func:`load_checkpoint`; or a tensor is missing, superfluous, of another
            shape or dtype, or not finite.
    """
    state, _ = load_checkpoint(path)
    fill_module(module, state, path, name)


def fill_module(
    module: nn.Module, state: dict[str, Any], path: str | os.PathLike[str], name: str = "model"
) -> None:
    """:func:`load_weights` from a state that is read already."""
    try:
        load_state(module, part_of(state, "modules", path)[name])
    except (StateError, KeyError) as error:
        raise CheckpointError(f"{path}: {name}: {error}") from error


def part_of(state: dict[str, Any], name: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary of that name in a state.

    Raises:
        CheckpointError: there is none.
    """
    part = state.get(name) if isinstance(state, dict) else None
    if not isinstance(part, dict):
        raise CheckpointError(f"{path}: damaged checkpoint (no {name} in it)")
    return part


def all_finite(modules: dict[str, torch.nn.Module]) -> str | None:
    """Name of the first floating-point parameter or buffer that holds NaN or infinity, or None."""
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            if (
                isinstance(value, Tensor)
                and value.is_floating_point()
                and not bool(torch.isfinite(value).all())
            ):
                return f"{name}.{key}"
    return None
