"""The data that a run was trained on: as it says, where this user has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from polygraph.data.config import MeshDataConfig
from polygraph.data.images import ImageDataConfig
from polygraph.data.known import recall
from polygraph.train.checkpoint import CheckpointError

_Config = TypeVar("_Config", MeshDataConfig, ImageDataConfig)


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
        config = kind(**{**meta["config"]["data"], "cache_dir": None})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the run's data: {error}") from error
    if path is not None:
        return replace(config, path=path)
    if config.path is None:
        return config
    known = recall(config.kind, config.path)
    if known is None:
        raise CheckpointError(
            f"{folder}: the run says that its data lie at {config.path!r}, where nothing was "
            f"trained on from here: say where they are, {options.format(kind=config.kind)}"
        )
    return replace(config, cache_dir=known.cache_dir)
