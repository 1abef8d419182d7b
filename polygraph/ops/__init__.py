"""The operators: compiled kernels, differentiable any number of times."""

from polygraph.ops.spiral_conv import spiral_conv
from polygraph.ops.transpose_table import transpose_table

__all__ = ["spiral_conv", "transpose_table"]
