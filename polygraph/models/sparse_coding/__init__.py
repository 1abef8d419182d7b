"""Multi-layer convolutional sparse coding: codes by pursuit, and classifiers that read them."""

from polygraph.models.sparse_coding.adjoint import adjoint, linear_part, squared_norm
from polygraph.models.sparse_coding.coder import MultiLayerSparseCoder

__all__ = [
    "MultiLayerSparseCoder",
    "adjoint",
    "linear_part",
    "squared_norm",
]
