"""Measures of what models make: vertex errors of meshes, scores of images, verification.

The names of :mod:`~polygraph.metrics.vertex_error` are here;
:mod:`~polygraph.metrics.image_scores`, which needs the compiled library, and
:mod:`~polygraph.metrics.verification` are imported when they are asked for.
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
    from polygraph.metrics import image_scores, verification
else:
    __getattr__, __dir__ = lazy(__name__, ["image_scores", "verification"])

__all__ = [
    "OUTLIER",
    "Floats",
    "VertexError",
    "VertexErrorResult",
    "evaluate",
    "image_scores",
    "summarize",
    "verification",
    "vertex_distance",
]
