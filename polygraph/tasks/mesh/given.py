"""Meshes as users hand them over: a folder, a built-in set's name, arrays, a data set."""

from __future__ import annotations

import os
from typing import Any

from polygraph.data import MeshDataConfig, MeshDataset, open_dataset
from polygraph.data.config import ARRAYS

BUILT_IN = "synthetic"


def mesh_data(
    data: Any,
    *,
    kind: str = "registered",
    split: str = "interpolation",
    to_mm: float | None = None,
) -> tuple[MeshDataConfig, MeshDataset]:
    """The configuration and the data set of what was handed over.

    Args:
        data: a folder, ``"synthetic"``, ``(vertices, faces)``, a `MeshDataset` or a
            `MeshDataConfig`.
        kind: of a folder: ``registered``, ``coma`` or ``dfaust``.
        split: name of a split.
        to_mm: millimetres per unit; None for metres.

    Raises:
        TypeError: ``data`` is something else.
        FileNotFoundError, MeshError, ValueError: see `polygraph.data.open_dataset`.
    """
    if isinstance(data, MeshDataConfig):
        return data, open_dataset(data)
    if is_in_memory(data):
        dataset = in_memory(data, to_mm)
        return MeshDataConfig(ARRAYS, None, split, to_mm=dataset.to_mm), dataset
    if data == BUILT_IN:
        config = MeshDataConfig(split=split)
    else:
        config = MeshDataConfig(kind, os.fspath(data), split, to_mm=to_mm)
    return config, open_dataset(config)


def is_in_memory(data: Any) -> bool:
    """Whether the meshes are here already.

    Raises:
        TypeError: it is nothing that meshes can come from.
    """
    if isinstance(data, MeshDataset) or (isinstance(data, tuple | list) and len(data) == 2):
        return True
    if isinstance(data, str | os.PathLike):
        return False
    raise TypeError(
        f"data must be a folder, {BUILT_IN!r}, (vertices [F, V, 3], faces [T, 3]) or a "
        f"MeshDataset, got {type(data).__name__}"
    )


def in_memory(data: Any, to_mm: float | None = None) -> MeshDataset:
    """The data set of meshes that are here already.

    Raises:
        ValueError: a data set has another ``to_mm``.
    """
    if isinstance(data, MeshDataset):
        if to_mm is not None and to_mm != data.to_mm:
            raise ValueError(
                f"{data.name}: to_mm must be {data.to_mm:g}, which is the data set's, got {to_mm:g}"
            )
        return data
    vertices, faces = data
    return MeshDataset.from_arrays(vertices, faces, to_mm=1000.0 if to_mm is None else to_mm)
