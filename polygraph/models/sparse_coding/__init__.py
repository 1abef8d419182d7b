"""Multi-layer convolutional sparse coding: codes of any affine modules, by pursuit."""

from polygraph.models.sparse_coding.adjoint import adjoint, linear_part, squared_norm
from polygraph.models.sparse_coding.coder import MultiLayerSparseCoder

__all__ = [
    "MultiLayerSparseCoder",
    "adjoint",
    "linear_part",
    "squared_norm",
]
