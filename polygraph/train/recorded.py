"""The data that a run was trained on: as it says, where this user has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from polygraph.data.audio.dataset import AudioDataConfig
from polygraph.data.config import MeshDataConfig
from polygraph.data.identities import IdentityDataConfig
from polygraph.data.images import ImageDataConfig
from polygraph.data.known import recall
from polygraph.data.shapes import ARRAYS, ShapeDataConfig
from polygraph.train.checkpoint import CheckpointError, read_meta
from polygraph.train.loop import BEST, LAST

_WITHOUT_PATH = ("synthetic", "glyphs", "tones", "arrays")  # kinds of data
_FOLDERS = {
    MeshDataConfig: "registered",
    AudioDataConfig: "auto",
}  # what a folder is; else "folder"
_Config = TypeVar(
    "_Config",
    MeshDataConfig,
    ImageDataConfig,
    ShapeDataConfig,
    AudioDataConfig,
    IdentityDataConfig,
)


def recorded_data(
    kind: type[_Config], meta: dict[str, Any], folder: Path, path: str | None, options: str
) -> _Config:
    """The configuration of a run's data.

    Where a run says that its data lie is followed only when this user trained on that place on this
    machine (see `polygraph.data.known`), with the cache that was used then.

    Args:
        kind: class of the configuration.
        meta: of the run's checkpoint.
        folder: of the run, for messages.
        path: where the data lie; None: where they lay.
        options: of the command line, by which the user says where the data are; ``{kind}`` stands
            for that of the data.

    Raises:
        CheckpointError: the run names a place that this user has not trained on here, or its
            description of the data is damaged.
    """
    try:
        fields = dict(meta["config"]["data"])
        if kind is not ShapeDataConfig:
            fields["cache_dir"] = None
        config = kind(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the run's data: {error}") from error
    if path is not None:
        if getattr(config, "kind", None) in _WITHOUT_PATH:
            changed: dict[str, Any] = {"path": path, "kind": _FOLDERS.get(kind, "folder")}
            return replace(config, **changed)
        return replace(config, path=path)
    if config.path is None or config.path == ARRAYS:
        return config
    what = "points" if isinstance(config, ShapeDataConfig) else config.kind
    known = recall(what, config.path)
    if known is None:
        raise CheckpointError(
            f"{folder}: the run says that its data lie at {config.path!r}, where nothing was "
            f"trained on from here: say where they are, {options.format(kind=what)}"
        )
    if isinstance(config, ShapeDataConfig):
        return config
    return replace(config, cache_dir=known.cache_dir)


#: kind of a run -> what it is, and the commands for it
KINDS = {
    "mesh": (
        "a mesh autoencoder",
        "evaluate, reconstruct, latent, export and view take it; `polygraph latent sample` draws "
        "meshes",
    ),
    "points": ("a network of point clouds", "`polygraph predict` takes it"),
    "images": ("a classifier of images", "`polygraph predict` takes it"),
    "audio": ("a classifier of sounds", "`polygraph predict` takes it"),
    "denoise": ("a denoiser of pictures", "`polygraph denoise` takes it, with a picture"),
    "denoise-vertices": (
        "a denoiser of meshes or point clouds",
        "`polygraph denoise` takes it, with a mesh or a cloud",
    ),
    "verify": ("a network for verification", "`polygraph verify` takes it"),
    "vae": (
        "a variational autoencoder of images",
        "`polygraph sample`, `latent`, `score` and `neighbours` take it",
    ),
    "gan": ("a generator of images", "`polygraph sample`, `score` and `neighbours` take it"),
}


def checkpoint_of(folder: Path, kind: str) -> Path | None:
    """The checkpoint of a run's best weights, or its last.

    Args:
        folder: of the run.
        kind: what it must hold, a key of `KINDS`.

    Returns:
        The file; None for an exported mesh autoencoder, which has no checkpoint.

    Raises:
        CheckpointError: there is no run, or one of another kind; the message says what to do.
    """
    found = next((folder / name for name in (BEST, LAST) if (folder / name).is_file()), None)
    if found is None:
        if (folder / "config.json").is_file():
            _check_kind(folder, "mesh", kind)
            return None
        hint = ""
        if (folder / "runs").is_dir():
            hint = ": it is a grid; name one of the runs in its folder runs"
        raise CheckpointError(f"{folder}: no run here ({BEST} and {LAST} are missing){hint}")
    _check_kind(folder, str(read_meta(found).get("kind", "mesh")), kind)
    return found


def kind_of(folder: Path) -> str:
    """What kind of run a folder holds, a key of `KINDS`; "mesh" where it cannot be told."""
    found = next((folder / name for name in (BEST, LAST) if (folder / name).is_file()), None)
    return "mesh" if found is None else str(read_meta(found).get("kind", "mesh"))


def _check_kind(folder: Path, found: str, wanted: str) -> None:
    if found == wanted:
        return
    what, commands = KINDS.get(found, (f"something else ({found[:40]!r})", ""))
    raise CheckpointError(
        f"{folder} holds {what}, not {KINDS[wanted][0]}" + (f": {commands}" if commands else "")
    )
