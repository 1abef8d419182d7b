"""How good a model of shapes is: specificity, generalisation, diversity, all in millimetres.

Sources: Davies, Twining and Taylor, "Statistical Models of Shape", Springer 2008, chapter 9.2:
specificity is the distance of what a model draws to the nearest training shape, generalisation
the error of its reconstructions of shapes that did not train. Distances of two meshes of one
topology are means over their vertices.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 1 << 22  # coordinates that are compared at a time


@dataclass(frozen=True)
class ShapeScores:
    """Scores of meshes that a model draws, in mm.

    Attributes:
        specificity: mean distance of a drawn mesh to the nearest training mesh; small is realistic,
            0 is a copy.
        specificity_std: its standard deviation over the drawn meshes.
        test_specificity: the same of meshes that did not train: what real ones have.
        coverage: mean distance of a test mesh to the nearest drawn one; small is complete.
        diversity: mean distance of two drawn meshes.
        test_diversity: mean distance of two test meshes.
        num_samples: drawn meshes.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics import shape_scores
        >>> meshes = np.random.default_rng(0).random((30, 10, 3))
        >>> scores = shape_scores(meshes[:10], meshes[10:20], meshes[20:])
        >>> scores.num_samples, scores.specificity > 0
        (10, True)
    """

    specificity: float
    specificity_std: float
    test_specificity: float
    coverage: float
    diversity: float
    test_diversity: float
    num_samples: int

    def summary(self) -> dict[str, float]:
        """The numbers, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"specificity {self.specificity:.2f} mm (test meshes {self.test_specificity:.2f}), "
            f"coverage {self.coverage:.2f}, diversity {self.diversity:.2f} (test meshes "
            f"{self.test_diversity:.2f}), {self.num_samples} drawn"
        )


def nearest_meshes(
    queries: Any, bank: Any, *, to_mm: float = 1000.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The nearest of some meshes to each of others, by the mean distance of their vertices.

    Args:
        queries: ``[Q, V, 3]``, numpy or torch.
        bank: ``[N, V, 3]``, an array or a memory map, in the same units.
        to_mm: millimetres per unit.

    Returns:
        Distances float64 ``[Q]`` in mm, and places in the bank int64 ``[Q]``; of equal ones the
        first.

    Raises:
        ValueError: shapes that do not fit, no meshes, or queries that are not finite.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics import nearest_meshes
        >>> bank = np.random.default_rng(0).random((5, 10, 3))
        >>> distance, place = nearest_meshes(bank[[3]] + [0.003, 0.004, 0.0], bank)
        >>> distance.round(3), place
        (array([5.]), array([3]))

    See Also:
        `shape_scores`.
    """
    x = _meshes("nearest_meshes", "queries", queries)
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    place = torch.zeros(len(x), dtype=torch.int64)
    step = max(1, _BLOCK // (3 * x.shape[1]))
    if not len(bank) or tuple(bank.shape[1:]) != tuple(x.shape[1:]):
        raise ValueError(
            f"nearest_meshes: bank must be [N, {x.shape[1]}, 3] with N at least 1, got "
            f"{list(bank.shape)}"
        )
    for start in range(0, len(bank), step):
        block = _tensor(bank[start : start + step]).to(x)
        for row, query in enumerate(x):
            found, at = torch.linalg.vector_norm(block - query, dim=-1).mean(-1).min(0)
            if float(found) < float(best[row]):
                best[row], place[row] = found.double(), start + int(at)
    return best.numpy() * to_mm, place.numpy()


def shape_scores(samples: Any, train: Any, test: Any, *, to_mm: float = 1000.0) -> ShapeScores:
    """Score meshes that a model has drawn.

    Generalisation is the vertex error of the model on test meshes (`evaluate`).

    Args:
        samples: ``[S, V, 3]``, two or more, as independent draws.
        train: ``[N, V, 3]``, what the model was trained on.
        test: ``[T, V, 3]``, two or more meshes that did not train.
        to_mm: millimetres per unit.

    Raises:
        ValueError: shapes that do not fit, too few meshes, or meshes that are not finite.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics import shape_scores
        >>> meshes = np.random.default_rng(0).random((30, 10, 3))
        >>> copies = shape_scores(meshes[:10], meshes[:10], meshes[10:])
        >>> copies.specificity, copies.test_specificity > 0
        (0.0, True)

    See Also:
        `nearest_meshes`; `polygraph.models.vae`.
    """
    drawn = _meshes("shape_scores", "samples", samples)
    held_out = _meshes("shape_scores", "test", test)
    near = nearest_meshes(drawn, train, to_mm=to_mm)[0]
    return ShapeScores(
        specificity=float(near.mean()),
        specificity_std=float(near.std()),
        test_specificity=float(nearest_meshes(held_out, train, to_mm=to_mm)[0].mean()),
        coverage=float(nearest_meshes(held_out, drawn, to_mm=to_mm)[0].mean()),
        diversity=_diversity("samples", drawn) * to_mm,
        test_diversity=_diversity("test", held_out) * to_mm,
        num_samples=len(drawn),
    )


def _diversity(name: str, meshes: Tensor) -> float:
    """Mean distance of each two different meshes."""
    count = len(meshes)
    if count < 2:
        raise ValueError(f"shape_scores: {name} must be two meshes or more, got {count}")
    total = sum(
        float(torch.linalg.vector_norm(meshes[row + 1 :] - meshes[row], dim=-1).mean(-1).sum())
        for row in range(count - 1)
    )
    return total / (count * (count - 1) / 2)


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(np.ascontiguousarray(values))


def _meshes(owner: str, name: str, values: Any) -> Tensor:
    meshes = _tensor(values).detach().cpu()
    meshes = meshes if meshes.is_floating_point() else meshes.double()
    if meshes.dim() != 3 or meshes.shape[2] != 3 or not meshes.numel():
        raise ValueError(
            f"{owner}: {name} must be [N, V, 3] with meshes in it, got {list(meshes.shape)}"
        )
    if not bool(torch.isfinite(meshes).all()):
        raise ValueError(f"{owner}: {name} must be finite, and holds NaN or infinity")
    return meshes
