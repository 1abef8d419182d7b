"""Settings of `polygraph train denoise`, of pictures or of meshes and clouds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polygraph._checks import check_choice
from polygraph.data.pictures import KINDS as PICTURE_KINDS
from polygraph.data.vertex_sets import KINDS as VERTEX_KINDS
from polygraph.models.denoiser.vertices import VERTEX_PRESETS
from polygraph.tasks.denoise.picture_arguments import parse_train_pictures
from polygraph.tasks.denoise.vertex_arguments import parse_train_vertices
from polygraph.tasks.denoise.vertex_training import KIND
from polygraph.train.arguments import Told, list_settings
from polygraph.train.checkpoint import read_json_object
from polygraph.train.frame import RUN
from polygraph.train.words import Spelling, spelled

_SPELLING = Spelling(list_settings({}, ["sigma"]), {"kind": "data.kind"})


def parse_train_denoise(arguments: Sequence[str]) -> tuple[Any, str, bool]:
    """Read the command line of `polygraph train denoise`.

    It is of meshes or clouds where the kind of the data, the preset, or the run that is named as a
    configuration or to be resumed says so.

    Returns:
        The run's configuration, its folder, whether to resume.

    Raises:
        ValueError: a setting is unknown or has a bad value.
    """
    told = Told(spelled(arguments, _SPELLING))
    kind = told.last("data.kind")
    if kind is not None:
        check_choice("data", "kind", kind, (*PICTURE_KINDS, *VERTEX_KINDS))
        vertices = kind in VERTEX_KINDS
    else:
        vertices = told.last("preset") in VERTEX_PRESETS or any(map(_is_run, _runs(told)))
    return parse_train_vertices(arguments) if vertices else parse_train_pictures(arguments)


def _runs(told: Told) -> list[Path]:
    """The ``run.json`` files that a command line names."""
    out, config = told.last("out"), told.last("config")
    found = [Path(out) / RUN] if out is not None and told.names("resume") else []
    return found + ([Path(config)] if config is not None and config.endswith(".json") else [])


def _is_run(path: Path) -> bool:
    """Whether a file is the ``run.json`` of a denoiser of vertices."""
    if not path.is_file():
        return False
    try:
        return bool(read_json_object(path, "kind")["kind"] == KIND)
    except ValueError:  # whoever reads the settings says what is wrong with it
        return False
