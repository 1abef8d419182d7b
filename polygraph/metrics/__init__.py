"""Measures of what models make: vertex errors of meshes, scores of images.

The names of :mod:`~polygraph.metrics.vertex_error` are here;
:mod:`~polygraph.metrics.image_scores` needs the compiled library and is imported by its own name.
"""

from polygraph.metrics.vertex_error import (
    OUTLIER,
    Floats,
    VertexError,
    VertexErrorResult,
    evaluate,
    summarize,
    vertex_distance,
)

__all__ = [
    "OUTLIER",
    "Floats",
    "VertexError",
    "VertexErrorResult",
    "evaluate",
    "summarize",
    "vertex_distance",
]
