"""The operators: compiled kernels, differentiable any number of times."""

from polygraph.ops.knn import knn
from polygraph.ops.poly_step import poly_step
from polygraph.ops.resample import resample
from polygraph.ops.spiral_conv import spiral_conv
from polygraph.ops.transpose_table import transpose_table

__all__ = ["knn", "poly_step", "resample", "spiral_conv", "transpose_table"]
