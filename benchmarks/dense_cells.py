"""Regions of a network in a plane as SplineCam finds them, for comparison.

Layers are dense matrices. Layer by layer, and region by region, the lines of all units that cross
the region are cut out at once, and the faces of their arrangement are the regions of the next
layer. Only linear layers, ReLU and leaky ReLU are known to it, in one sequence: no pools by
maximum, no residual connections. Where the published code keeps an affine map of the whole input
for each region, this one keeps it on the plane alone, three numbers a unit, which is in its favor;
and shapely stands in for the library of graphs that finds the faces.

Source: Humayun, Balestriero, Balakrishnan and Baraniuk, "SplineCam: Exact Visualization and
Characterization of Deep Network Geometry and Decision Boundaries", CVPR 2023, section 3.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]
_SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
_THIN = 1e-12


def dense_layers(net: nn.Sequential, shape: tuple[int, ...]) -> list[tuple[Array, Array, float]]:
    """Of each run of linear layers its matrix, its offset, and the slope of the activation's left.

    The slope after the last is 1: nothing bends there.
    """
    layers: list[tuple[Array, Array, float]] = []
    linear: list[nn.Module] = []
    for module in [*net, None]:
        if isinstance(module, (nn.ReLU, nn.LeakyReLU)) or module is None:
            part = nn.Sequential(*linear)
            with torch.no_grad():
                start = part(torch.zeros(1, *shape, dtype=torch.float64))
                eye = torch.eye(math.prod(shape), dtype=torch.float64)
                matrix = (part(eye.view(-1, *shape)) - start).flatten(1).T
            slope = 1.0 if module is None else float(getattr(module, "negative_slope", 0.0))
            layers.append((matrix.numpy(), start.flatten().numpy(), slope))
            shape, linear = tuple(start.shape[1:]), []
        else:
            if not isinstance(module, (nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.Flatten)):
                raise NotImplementedError(f"dense_cells: {type(module).__name__}")
            linear.append(module)
    return layers


def dense_cells(
    layers: list[tuple[Array, Array, float]], origin: Tensor, u: Tensor, v: Tensor
) -> list[Array]:
    """Corners of the regions in ``origin + a u + b v``, a and b from -1 to 1."""
    shapely = importlib.import_module("shapely")
    plane = torch.stack([u.flatten(), v.flatten(), origin.flatten()], 1).numpy()
    regions = [(_SQUARE, plane)]
    for matrix, offset, slope in layers[:-1]:
        following = []
        for polygon, at in regions:
            units = matrix @ at
            units[:, 2] += offset
            for piece in _faces(shapely, polygon, units):
                middle = np.append(piece.mean(0), 1.0)
                following.append((piece, units * np.where(units @ middle > 0, 1.0, slope)[:, None]))
        regions = following
    return [polygon for polygon, _ in regions]


def _faces(shapely: Any, polygon: Array, units: Array) -> list[Array]:
    """The faces into which the zeros of some units divide a polygon."""
    values = units @ np.column_stack([polygon, np.ones(len(polygon))]).T  # [units, corners]
    rounding = _THIN * max(float(np.abs(values).max()), 1e-300)
    crossing = (values.min(1) < -rounding) & (values.max(1) > rounding)
    if not crossing.any():
        return [polygon]
    ends = []
    for side in values[crossing]:
        found = []
        for k, s in enumerate(side):
            t = side[(k + 1) % len(side)]
            if (s > 0) != (t > 0):
                corner, following = polygon[k], polygon[(k + 1) % len(polygon)]
                found.append(corner + (following - corner) * (s / (s - t)))
        # A little longer, so that it meets the border in spite of rounding.
        direction = found[1] - found[0]
        ends.append([found[0] - 1e-7 * direction, found[1] + 1e-7 * direction])
    border = shapely.linestrings(np.vstack([polygon, polygon[:1]]))
    noded = shapely.node(shapely.union_all([border, *shapely.linestrings(np.array(ends))]))
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(noded)))
    return [shapely.get_coordinates(face)[:-1] for face in faces if face.area > _THIN]
