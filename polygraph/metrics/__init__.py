"""Measures of what models make: vertex errors of meshes, scores of images.

The names of :mod:`~polygraph.metrics.vertex_error` are here;
:mod:`~polygraph.metrics.image_scores`, which needs the compiled library, is imported when it is
asked for.
"""

from typing import TYPE_CHECKING

from polygraph._lazy import lazy
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
    from polygraph.metrics import image_scores
else:
    __getattr__, __dir__ = lazy(__name__, ["image_scores"])

__all__ = [
    "OUTLIER",
    "Floats",
    "VertexError",
    "VertexErrorResult",
    "evaluate",
    "image_scores",
    "summarize",
    "vertex_distance",
]
