"""What is said before a mesh autoencoder trains: sizes, units, levels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polygraph.data.registered import MeshDataset
from polygraph.data.splits import Split
from polygraph.mesh.hierarchy import MeshHierarchy
from polygraph.tasks.mesh.config import MeshRunConfig

_LARGEST, _SMALLEST = 50_000.0, 1.0  # mm: what lies outside is likely in another unit


def opening_lines(
    config: MeshRunConfig,
    dataset: MeshDataset,
    split: Split,
    hierarchy: MeshHierarchy,
    *,
    chosen: bool,
) -> Iterator[str]:
    """Lines for people.

    Args:
        config: of the run, with factors.
        dataset: its meshes.
        split: which of them train.
        hierarchy: of the template.
        chosen: the factors were not given.
    """
    yield (
        f"{dataset.name}: {len(dataset):,} meshes of {dataset.num_vertices:,} vertices; split "
        f"{split.name}: {len(split.train):,} train, {len(split.val):,} validate, "
        f"{len(split.test):,} test"
    )
    yield unit_line(dataset)
    assert config.factors is not None
    why = ", chosen for this mesh" if chosen else ""
    yield (
        f"levels of {', '.join(f'{size:,}' for size in hierarchy.sizes)} vertices (--factors "
        f"{','.join(f'{factor:g}' for factor in config.factors)}{why}), "
        f"{','.join(map(str, config.model.encoder_channels))} channels, "
        f"{config.model.latent_channels} numbers per mesh"
    )


def unit_line(dataset: MeshDataset) -> str:
    """How large a mesh is in millimetres, and whether another unit is more likely."""
    sides = np.ptp(dataset.template, axis=0)
    size = float(sides.max()) * dataset.to_mm
    text = f"1 unit is {dataset.to_mm:g} mm: the first mesh is {_length(size)} large"
    if size > _LARGEST:
        return f"{text}. If the files are in millimetres, say --to-mm 1"
    if size < _SMALLEST:
        return f"{text}. If the files are in metres, say --to-mm 1000"
    return text


def _length(mm: float) -> str:
    return f"{mm:,.0f} mm" if mm >= 100 else f"{mm:.3g} mm"
