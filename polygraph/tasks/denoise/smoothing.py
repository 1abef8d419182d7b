"""The peers of a denoiser of vertices: Laplacian and Taubin smoothing, with uniform weights.

Sources: Field, "Laplacian smoothing and Delaunay triangulations", 1988; Taubin, "A signal
processing approach to fair surface design", SIGGRAPH 1995, whose second step, of the other sign,
gives back what the first one shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polygraph import ops

LAPLACIAN = (0.5,)  #: factors of one step
TAUBIN = (0.5, -0.53)
PEERS = {"laplacian": LAPLACIAN, "taubin": TAUBIN}
STEPS = (0, 1, 2, 3, 5, 8, 12, 20)  #: of which the best on validation is taken
_NEAREST = 12  # points beside one of a cloud

Points = NDArray[np.float64]


def neighbour_mean(
    vertices: Points, edges: NDArray[np.int64] | None = None
) -> Callable[[Points], Points]:
    """What gives the mean of each vertex's neighbours, each with the same weight.

    Args:
        vertices: ``[V, 3]``, noisy.
        edges: of a mesh ``[E, 2]``, each once. None, of a cloud: of two neighbours one is among the
            12 nearest of the other.

    Returns:
        Maps ``[V, 3]`` to ``[V, 3]``; a vertex without neighbours stays.
    """
    if edges is not None:
        pairs = edges
    else:
        k = min(_NEAREST, len(vertices) - 1)
        near, _ = ops.knn(torch.from_numpy(vertices), k, exclude_self=True)
        centres = np.repeat(np.arange(len(vertices)), k)
        pairs = np.unique(np.sort(np.stack([centres, near.numpy().ravel()], 1), 1), axis=0)
    target = np.concatenate([pairs[:, 0], pairs[:, 1]])
    source = np.concatenate([pairs[:, 1], pairs[:, 0]])
    count = np.bincount(target, minlength=len(vertices))[:, None]

    def mean(values: Points) -> Points:
        rows = [np.bincount(target, values[source, axis], len(values)) for axis in range(3)]
        return np.where(count > 0, np.stack(rows, 1) / np.maximum(count, 1), values)

    return mean


def smooth(
    vertices: Points,
    mean: Callable[[Points], Points],
    factors: Sequence[float],
    steps: int,
) -> Points:
    """Move each vertex towards the mean of its neighbours, ``steps`` times by each of the factors.

    Args:
        vertices: ``[V, 3]``.
        mean: of `neighbour_mean`.
        factors: shares of the way: `LAPLACIAN` or `TAUBIN`.
        steps: how often; 0 changes nothing.
    """
    found = vertices
    for _ in range(steps):
        for factor in factors:
            found = found + factor * (mean(found) - found)
    return found


def best_steps(
    noisy: Sequence[Points], clean: Sequence[Points], edges: NDArray[np.int64] | None
) -> dict[str, int]:
    """For each peer the number of steps, of `STEPS`, with the least mean error of vertices."""
    means = [neighbour_mean(y, edges) for y in noisy]
    found: dict[str, int] = {}
    for name, factors in PEERS.items():
        errors: list[Any] = []
        for steps in STEPS:
            made = [smooth(y, mean, factors, steps) for y, mean in zip(noisy, means, strict=True)]
            errors.append(np.mean([vertex_error(a, b) for a, b in zip(made, clean, strict=True)]))
        found[name] = STEPS[int(np.argmin(errors))]
    return found


def vertex_error(made: Points, clean: Points) -> float:
    """Mean distance of vertices ``[V, 3]`` from where they belong, in the unit of both."""
    return float(np.linalg.norm(made - clean, axis=1).mean())
