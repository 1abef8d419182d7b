"""The spline lens: what a piecewise affine network is at a point."""

from polygraph.analysis.spline.affine_map import AffineMap
from polygraph.analysis.spline.frozen import FrozenNetwork
from polygraph.analysis.spline.lens import SplineLens
from polygraph.analysis.spline.slices import Slice
from polygraph.analysis.spline.walks import Walk

__all__ = ["AffineMap", "FrozenNetwork", "Slice", "SplineLens", "Walk"]
