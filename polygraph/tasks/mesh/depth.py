"""How many levels a mesh is coarsened to, and the channels of a network of so many levels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from polygraph.data.registered import MeshDataset
from polygraph.mesh.errors import MeshError
from polygraph.models.mesh.presets import PRESETS
from polygraph.tasks.mesh.config import MeshRunConfig, build_hierarchy, with_depth

FACTOR = 4  #: vertices divided by, per level
LEAST = 8  #: vertices of the coarsest level, where the mesh has enough


def fit_to_mesh(config: MeshRunConfig, dataset: MeshDataset) -> MeshRunConfig:
    """The same run with the factors, and so the depth, that suit the data set's template.

    With factors of its own it stays as it is. Otherwise: as many levels of factor 4 as the preset
    has and leave at least 8 vertices. Channels that are not the preset's own fix the depth: the
    factors are smaller then. A mesh that cannot be decimated so far (many small parts) gets fewer
    levels.

    Raises:
        MeshError: not even one level can be made.
    """
    if config.factors is not None:
        return config
    first: MeshError | None = None
    for factors in _candidates(config, dataset.num_vertices):
        model, spiral = with_depth(config.model, config.spiral, len(factors))
        fitted = replace(config, model=model, spiral=spiral, factors=factors)
        try:
            build_hierarchy(fitted, dataset)
        except MeshError as error:
            first = first or error
        else:
            return fitted
    raise MeshError(f"{dataset.name}: {first}") from first


def _candidates(config: MeshRunConfig, vertices: int) -> Iterator[tuple[int, ...]]:
    """Factors to try, the best first; the last always works on a mesh that is valid."""
    depth = len(config.model.encoder_channels)
    preset = PRESETS.get(config.preset)
    own = preset is None or (
        (config.model.encoder_channels, config.model.decoder_channels)
        != (preset[0].encoder_channels, preset[0].decoder_channels)
    )
    if own:
        for factor in (4, 3, 2):
            if vertices >= LEAST * factor**depth or factor == 2:
                yield (factor,) * depth
        yield (1,) * depth
        return
    deepest = int(math.log(max(vertices / LEAST, FACTOR)) / math.log(FACTOR) + 1e-9)
    # Each level rounds up: 1,922 vertices are 481, 121, 31 and 8.
    while deepest < depth and math.ceil(vertices / FACTOR ** (deepest + 1)) >= LEAST:
        deepest += 1
    for levels in range(min(depth, deepest), 0, -1):
        yield (FACTOR,) * levels
    yield (2,)
    yield (1,)
