"""Vertex error of reconstructed meshes: Euclidean distance per vertex, in millimetres.

The published tables give the mean, the standard deviation and the median over all vertices of all
test meshes. Here they are exact (no running approximation), and a prediction that is not finite
counts as an infinite error: it makes the mean infinite and is reported, because a metric that drops
bad batches makes a diverged model look good.

Scores of generated images are in `polygraph.metrics.image_scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph._inputs import check_tensors
from polygraph._memory import check_room
from polygraph._repr import short_repr

Floats = NDArray[np.float64]
OUTLIER = 3.0  # times the error of the median mesh
_COPIES = 3  # of an error matrix that its statistics take


@dataclass(frozen=True)
class VertexErrorResult:
    """Errors over N meshes with V vertices each, in mm.

    Attributes:
        mean: mean over all N * V vertices.
        std: population standard deviation over all vertices; NaN when an error is infinite.
        median: median over all vertices (exact).
        max: largest error.
        per_vertex: float64 [V], mean over the meshes.
        per_sample: float64 [N], mean over the vertices.
        num_samples: N.
        num_nonfinite: how many vertices had a non-finite prediction (each counts as infinitely
            wrong).
        quantiles: float64 [101], the errors that 0, 1, ..., 100 % of all vertices do not exceed.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics import summarize
        >>> result = summarize(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 9.0]]))
        >>> result.mean, result.median, result.per_sample
        (3.0, 2.0, array([2., 4.]))

    See Also:
        `summarize` and `VertexError.compute` make one.
    """

    mean: float
    std: float
    median: float
    max: float
    per_vertex: Floats
    per_sample: Floats
    num_samples: int
    num_nonfinite: int
    quantiles: Floats

    __repr__ = short_repr

    @property
    def p90(self) -> float:
        """The error that nine of ten vertices do not exceed."""
        return float(self.quantiles[90])

    @property
    def num_nonfinite_meshes(self) -> int:
        """Meshes with a vertex whose prediction is not finite."""
        return int((~np.isfinite(self.per_sample)).sum())

    @property
    def num_outliers(self) -> int:
        """Meshes more than three times as wrong as the median one, those not finite among them."""
        limit = OUTLIER * np.median(self.per_sample)
        return int(((self.per_sample > limit) | ~np.isfinite(self.per_sample)).sum())

    def summary(self) -> dict[str, float]:
        """The scalars, ready for a log or a table."""
        return {
            "mean": self.mean,
            "std": self.std,
            "median": self.median,
            "p90": self.p90,
            "max": self.max,
            "num_samples": float(self.num_samples),
            "num_nonfinite": float(self.num_nonfinite),
            "num_nonfinite_meshes": float(self.num_nonfinite_meshes),
            "num_outliers": float(self.num_outliers),
        }

    def __str__(self) -> str:
        """One line for people."""
        line = f"{self.mean:.3f} mm mean, {self.std:.3f} std, {self.median:.3f} median"
        if self.num_nonfinite:
            line += f" ({self.num_nonfinite} vertices not finite)"
        return line


def check_errors_fit(num_meshes: int, num_vertices: int) -> None:
    """Refuse an error matrix whose exact statistics do not fit into the memory there is.

    Raises:
        ValueError: names both numbers, the bytes wanted and those there are.
    """
    size = 8 * _COPIES * num_meshes * num_vertices
    check_room(size, f"the errors of {num_meshes} meshes of {num_vertices} vertices")


def vertex_distance(prediction: Tensor, target: Tensor, to_mm: float = 1000.0) -> Tensor:
    """Euclidean distance per vertex in mm, computed in float64.

    Args:
        prediction: [..., V, 3] in original units.
        target: same shape; must be finite.
        to_mm: millimetres per original unit (1000 for metres).

    Returns:
        float64 [..., V]; infinite where the prediction is not finite.

    Example:
        >>> import torch
        >>> from polygraph.metrics import vertex_distance
        >>> moved = torch.tensor([[0.003, 0.004, 0.0]])
        >>> vertex_distance(moved, torch.zeros(1, 3)).round(decimals=3)
        tensor([5.], dtype=torch.float64)

    See Also:
        `VertexError`, over many batches.
    """
    check_tensors("vertex_distance", prediction=prediction, target=target)
    if prediction.shape != target.shape or prediction.shape[-1:] != (3,):
        raise ValueError(
            "vertex_distance: prediction and target must both have shape [..., V, 3], got "
            f"{list(prediction.shape)} and {list(target.shape)}"
        )
    distance = (prediction.double() - target.double()).norm(dim=-1) * to_mm
    return torch.where(torch.isfinite(distance), distance, torch.inf)


class VertexError:
    """Collects vertex errors batch by batch.

    Keeps one float64 per vertex and mesh (that is what an exact median needs): 28 MB per thousand
    meshes of 3,446 vertices.

    Args:
        to_mm: millimetres per original unit (1000 for metres).

    Example:
        >>> import torch
        >>> from polygraph.metrics import VertexError
        >>> errors = VertexError()  # meshes in metres
        >>> for target in torch.randn(4, 2, 10, 3):
        ...     errors.update(target + 0.001, target)
        >>> print(errors.compute())
        1.732 mm mean, 0.000 std, 1.732 median

    See Also:
        `evaluate`, over a data set; `vertex_distance`, of one batch.
    """

    def __init__(self, to_mm: float = 1000.0) -> None:
        if not to_mm > 0:
            raise ValueError(f"VertexError: to_mm must be positive, got {to_mm}")
        self.to_mm = to_mm
        self._errors: list[Floats] = []

    def __repr__(self) -> str:
        """One line: the unit, and how many meshes were added."""
        return f"VertexError(to_mm={self.to_mm:g}, {sum(map(len, self._errors))} meshes so far)"

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch: prediction and target [B, V, 3] in original units."""
        check_tensors("VertexError", prediction=prediction, target=target)
        if prediction.dim() != 3:
            raise ValueError(
                f"VertexError: prediction must have shape [B, V, 3], got {list(prediction.shape)}"
            )
        if not bool(torch.isfinite(target).all()):
            raise ValueError("VertexError: target holds NaN or infinity; the data is damaged")
        errors = vertex_distance(prediction, target, self.to_mm).detach().cpu().numpy()
        if self._errors and errors.shape[1] != self._errors[0].shape[1]:
            raise ValueError(
                f"VertexError: every batch must have V = {self._errors[0].shape[1]} vertices, "
                f"got {errors.shape[1]}"
            )
        self._errors.append(errors)

    def errors(self) -> Floats:
        """All errors so far, float64 [N, V] in mm, in the order of the updates."""
        if not self._errors:
            raise ValueError("VertexError: no meshes to measure, update() was never called")
        return np.concatenate(self._errors)

    def compute(self) -> VertexErrorResult:
        """The statistics of everything added so far."""
        return summarize(self.errors())


def summarize(errors: Floats) -> VertexErrorResult:
    """Statistics of a full error matrix.

    Args:
        errors: float64 [N, V] in mm, infinite where a prediction was not finite.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics import summarize
        >>> print(summarize(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 9.0]])))
        3.000 mm mean, 2.769 std, 2.000 median

    See Also:
        `evaluate`, which makes the matrix.
    """
    if errors.ndim != 2 or errors.size == 0:
        raise ValueError(f"summarize: errors must be a non-empty [N, V], got {list(errors.shape)}")
    finite = bool(np.isfinite(errors).all())
    return VertexErrorResult(
        mean=float(errors.mean()),
        std=float(errors.std()) if finite else float("nan"),
        median=float(np.median(errors)),
        max=float(errors.max()),
        per_vertex=errors.mean(axis=0),
        per_sample=errors.mean(axis=1),
        num_samples=errors.shape[0],
        num_nonfinite=int((~np.isfinite(errors)).sum()),
        quantiles=_percentiles(errors),
    )


def _percentiles(errors: Floats) -> Floats:
    """Without interpolation, which knows no way from a number to infinity."""
    place = -(-np.arange(101) * errors.size // 100) - 1
    return np.sort(errors, axis=None)[np.maximum(place, 0)]


@torch.no_grad()
def evaluate(
    reconstruct: Callable[[Tensor], Tensor],
    vertices: Any,
    indices: NDArray[np.int64],
    *,
    to_mm: float = 1000.0,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
) -> Floats:
    """Error matrix of a reconstruction over part of a data set, streamed in batches.

    Args:
        reconstruct: maps float32 [B, V, 3] to the same shape, original units (a model in eval
            mode).
        vertices: [N, V, 3], an array or a memory map.
        indices: which meshes, in the order of the rows of the result.
        to_mm: millimetres per original unit.
        batch_size: meshes per call.
        device: where the model lives.

    Returns:
        float64 [len(indices), V] in mm; feed it to :func:`summarize`.

    Raises:
        ValueError: there are no meshes to measure, or more than there is memory for.

    Example:
        >>> import numpy as np
        >>> from polygraph.metrics import evaluate, summarize
        >>> meshes = np.random.default_rng(0).random((8, 10, 3))
        >>> errors = evaluate(lambda x: x + 0.001, meshes, np.arange(4))
        >>> errors.shape, round(summarize(errors).mean, 3)
        ((4, 10), 1.732)

    See Also:
        `summarize` makes numbers of the matrix; `VertexError` collects batch by batch.
    """
    if len(indices) == 0:
        raise ValueError("evaluate: indices is empty, there is no mesh to measure")
    check_errors_fit(len(indices), vertices.shape[1])
    metric = VertexError(to_mm)
    for start in range(0, len(indices), batch_size):
        rows = np.ascontiguousarray(vertices[indices[start : start + batch_size]], dtype=np.float32)
        batch = torch.from_numpy(rows).to(device)
        metric.update(reconstruct(batch), batch)
    return metric.errors()
