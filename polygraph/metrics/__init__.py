"""Measures of what models make: vertex errors of meshes, scores of shapes and of images.

The names of :mod:`~polygraph.metrics.vertex_error`, :mod:`~polygraph.metrics.shape_model` and
:mod:`~polygraph.metrics.bounds` are here;
:mod:`~polygraph.metrics.image_scores`, which needs the compiled library, and
:mod:`~polygraph.metrics.verification` are imported when they are asked for.
"""

from typing import TYPE_CHECKING

from polygraph._lazy import lazy
from polygraph.metrics.bounds import active_units, bits_per_dimension
from polygraph.metrics.shape_model import ShapeScores, nearest_meshes, shape_scores
from polygraph.metrics.vertex_error import (
    OUTLIER,
    Floats,
    VertexError,
    VertexErrorResult,
    evaluate,
    summarize,
    vertex_distance,
)

if TYPE_CHECKING:
    from polygraph.metrics import image_scores, verification
else:
    __getattr__, __dir__ = lazy(__name__, ["image_scores", "verification"])

__all__ = [
    "OUTLIER",
    "Floats",
    "ShapeScores",
    "VertexError",
    "VertexErrorResult",
    "active_units",
    "bits_per_dimension",
    "evaluate",
    "image_scores",
    "nearest_meshes",
    "shape_scores",
    "summarize",
    "verification",
    "vertex_distance",
]
