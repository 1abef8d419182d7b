"""Checkpoints: tensors as safetensors, everything else as JSON in the same file's header.

One checkpoint is one file, so that a rename replaces it whole: there is no moment at which weights
and description disagree. Nothing is ever unpickled. Writing goes to a hidden temporary file beside
the target, which is flushed to the disk and then renamed; a process killed at any moment leaves
either the old checkpoint or the new one, plus at most a temporary file that the next run removes.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode_safetensors
from torch import Tensor

_HEADER = "polygraph"
_TEMPORARY_SUFFIX = ".tmp"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or that belongs to something else."""


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` so that a crash leaves the old file or the new one.

    Args:
        path: target file; its folder must exist.
        data: the whole content.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a file system that refuses to sync a folder still renames at once."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
        CheckpointError: the file is missing or is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file ({error})") from error


def remove_temporaries(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete what a killed writer left in ``folder`` and return the removed paths."""
    removed = []
    for path in sorted(Path(folder).glob(f".*{_TEMPORARY_SUFFIX}")):
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
    header = json.dumps({"meta": meta or {}, "state": tree}, default=_plain)
    write_atomic(path, encode_safetensors(tensors, metadata={_HEADER: header}))


def _open_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if header is None:
        raise CheckpointError(
            f"{path}: a safetensors file, but not one of ours (no '{_HEADER}' header)"
        )
    try:
        document = json.loads(header)
        if not isinstance(document["meta"], dict) or not isinstance(document["state"], dict):
            raise TypeError("meta and state must be objects")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the '{_HEADER}' header is damaged ({error})") from error
    return dict(document)


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description stored with a checkpoint, without reading its tensors.

    Raises:
        CheckpointError: missing or unreadable file; the message names it.
    """
    meta: dict[str, Any] = _open_header(path)["meta"]
    return meta


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint.

    Returns:
        ``(state, meta)`` as given to :func:`save_checkpoint`, tensors on the CPU.

    Raises:
        CheckpointError: missing, truncated or foreign file; the message names it.
    """
    header = _open_header(path)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                tensors[name] = file.get_tensor(name)
        state = _unpack(header["state"], tensors)
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error})") from error
    return state, header["meta"]


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
