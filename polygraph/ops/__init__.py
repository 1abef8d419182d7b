"""The operators: compiled kernels, differentiable any number of times."""

from polygraph.ops.batch_norm_step import batch_norm_step
from polygraph.ops.ecc import ecc
from polygraph.ops.edge_conv import edge_aggregate, edge_conv
from polygraph.ops.edge_max import edge_max
from polygraph.ops.edge_softmax import edge_softmax
from polygraph.ops.edge_sum import edge_dist2, edge_sum, edge_values
from polygraph.ops.graph import Graph, graph_from_coo, graph_from_table
from polygraph.ops.hamming_knn import hamming_knn, pack_bits
from polygraph.ops.knn import knn
from polygraph.ops.light_ecc import light_ecc
from polygraph.ops.poly_step import poly_step
from polygraph.ops.resample import resample
from polygraph.ops.spiral_conv import spiral_conv
from polygraph.ops.transpose_table import transpose_table

__all__ = [
    "Graph",
    "batch_norm_step",
    "ecc",
    "edge_aggregate",
    "edge_conv",
    "edge_dist2",
    "edge_max",
    "edge_softmax",
    "edge_sum",
    "edge_values",
    "graph_from_coo",
    "graph_from_table",
    "hamming_knn",
    "knn",
    "light_ecc",
    "pack_bits",
    "poly_step",
    "resample",
    "spiral_conv",
    "transpose_table",
]
