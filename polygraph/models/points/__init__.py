"""Models of point clouds."""

from polygraph.models.points.dgcnn import (
    DGCNNClassifier,
    DGCNNClassifierConfig,
    DGCNNSegmenter,
    DGCNNSegmenterConfig,
)

__all__ = [
    "DGCNNClassifier",
    "DGCNNClassifierConfig",
    "DGCNNSegmenter",
    "DGCNNSegmenterConfig",
]
