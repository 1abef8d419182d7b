"""The operators in plain PyTorch: slow, short; the definition every kernel is tested against."""

from polygraph.reference.batch_norm_step import batch_norm_step
from polygraph.reference.ecc import ecc
from polygraph.reference.edge_conv import edge_aggregate, edge_conv, edge_values
from polygraph.reference.edge_softmax import edge_softmax
from polygraph.reference.hamming_knn import hamming_knn
from polygraph.reference.knn import knn
from polygraph.reference.light_ecc import light_ecc
from polygraph.reference.poly_step import poly_step
from polygraph.reference.resample import resample
from polygraph.reference.spiral_conv import spiral_conv
from polygraph.reference.transpose_table import transpose_table

__all__ = [
    "batch_norm_step",
    "ecc",
    "edge_aggregate",
    "edge_conv",
    "edge_softmax",
    "edge_values",
    "hamming_knn",
    "knn",
    "light_ecc",
    "poly_step",
    "resample",
    "spiral_conv",
    "transpose_table",
]
