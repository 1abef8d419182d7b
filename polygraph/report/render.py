"""A small mesh renderer on matplotlib: sorted, shaded triangles, without GPU or window.

Orthographic view; triangles are painted from back to front, which is right up to intersecting
neighbours, invisible at the size of a figure. Colour comes from a value per vertex through a colour
map, shading from interpolated normals.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph.mesh.up import Up, guess_up

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Direction in view space, strength.
_LIGHTS = (((-0.45, 0.65, 0.75), 0.62), ((0.8, 0.1, 0.5), 0.18))
_AMBIENT = 0.34
# Lightness falls from one to the next, so that people with any kind of colour vision read them.
ERROR_COLORS = ("#dfe6ee", "#f7e39c", "#f6a95a", "#e4573d", "#a31d5d", "#4b0f5c")
_SMOOTH_FACES = 7_000  # coarser meshes are subdivided: smoother colours and shading


def pyplot() -> Any:
    """matplotlib.pyplot on a backend that needs no display.

    Raises:
        ImportError: matplotlib is missing; the message names the extra.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'polygraph-nn[report]'") from error
    matplotlib.use("Agg", force=False)
    return importlib.import_module("matplotlib.pyplot")


@dataclass(frozen=True)
class View:
    """Where a mesh is seen from.

    Attributes:
        rotation: float64 [3, 3]; rows are the directions that point right, up and to the viewer.
        center: float64 [3], put into the middle of the picture.
        half_width: half of the width of what is shown, in mesh units.
        half_height: half of its height.
    """

    rotation: Floats
    center: Floats
    half_width: float
    half_height: float


def make_view(
    vertices: Floats, *, up: Up = "auto", azimuth: float = 25.0, elevation: float = 12.0
) -> View:
    """A view that shows a shape from its broad side, turned a little for depth.

    Args:
        vertices: [V, 3] or [N, V, 3]; everything given fits into the picture.
        up: axis that points up; ``auto``: see `polygraph.mesh.up.guess_up`.
        azimuth: degrees to turn about the up axis, away from the broad side.
        elevation: degrees to look down from.
    """
    points = np.asarray(vertices, dtype=np.float64)
    single = points.reshape(-1, points.shape[-2], 3)[0]
    points = points.reshape(-1, 3)
    top = np.eye(3)["xyz".index(guess_up(single) if up == "auto" else up)]
    flat = single - single.mean(axis=0)
    flat = flat - np.outer(flat @ top, top)
    right = np.linalg.eigh(flat.T @ flat)[1][:, -1]  # broadest direction across the up axis
    right = right - (right @ top) * top
    right /= max(float(np.linalg.norm(right)), 1e-12)
    if right[int(np.argmax(np.abs(right)))] < 0:  # eigenvectors have no sign: fix one
        right = -right
    toward = np.cross(right, top)
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    right, toward = np.cos(a) * right - np.sin(a) * toward, np.sin(a) * right + np.cos(a) * toward
    top, toward = np.cos(e) * top - np.sin(e) * toward, np.sin(e) * top + np.cos(e) * toward
    rotation = np.stack([right, top, toward])
    seen = points @ rotation.T
    low, high = seen.min(axis=0), seen.max(axis=0)
    size = np.maximum(high - low, 1e-12)
    margin = 0.05 * float(size[:2].max())
    half_width, half_height = float(size[0] / 2 + margin), float(size[1] / 2 + margin)
    return View(rotation, rotation.T @ ((low + high) / 2), half_width, half_height)


def draw_mesh(
    axes: Any,
    vertices: Floats,
    faces: Ints,
    view: View,
    *,
    values: Floats | None = None,
    vmax: float = 1.0,
    cmap: Any = None,
    color: tuple[float, float, float] = (0.72, 0.77, 0.84),
) -> None:
    """Paint a mesh into matplotlib axes.

    Args:
        axes: matplotlib axes; their decoration is removed.
        vertices: [V, 3]. Vertices that are not finite make their triangles disappear.
        faces: int64 [F, 3]; a closed mesh is culled by orientation (outside is found out), an open
            one is seen from both sides.
        view: from :func:`make_view`; use one view for all panels of a figure.
        values: [V] mapped through the colour map from 0 to ``vmax``; None paints in ``color``.
        vmax: value of the last colour.
        cmap: name or object of a matplotlib colour map; default :func:`error_colormap`.
        color: RGB without values.
    """
    collections = importlib.import_module("matplotlib.collections")
    points, triangles = np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64)
    whole = np.asarray(np.isfinite(points).all(axis=1))
    triangles = triangles[whole[triangles].all(axis=1)]
    points = np.where(np.isfinite(points), points, 0.0)
    closed, flip = _orientation(points, triangles)
    normals = _normals(points, triangles) * flip
    attributes = np.zeros(len(points)) if values is None else np.asarray(values, dtype=np.float64)
    attributes = np.where(np.isfinite(attributes), attributes, np.finfo(np.float64).max / 4)
    packed = np.column_stack([(points - view.center) @ view.rotation.T, normals @ view.rotation.T])
    packed = np.column_stack([packed, np.minimum(attributes, 4 * vmax)])
    while 0 < len(triangles) < _SMOOTH_FACES:
        packed, triangles = _subdivide(packed, triangles)
    corners = packed[triangles]
    area = _cross2(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) * flip
    if closed:
        corners = corners[area > 0]
        facing = np.ones(len(corners))
    else:
        facing = np.where(area < 0, -1.0, 1.0)
    order = np.argsort(corners[:, :, 2].mean(axis=1), kind="stable")
    corners, facing = corners[order], facing[order]
    base = np.broadcast_to(np.asarray(color), (len(corners), 3))
    if values is not None:
        mapped = _colormap(cmap)(np.clip(corners[:, :, 6].mean(axis=1) / max(vmax, 1e-30), 0, 1))
        base = np.asarray(mapped)[:, :3]
    painted = _shade(corners[:, :, 3:6].mean(axis=1) * facing[:, None], base)
    axes.add_collection(
        collections.PolyCollection(
            corners[:, :, :2], facecolors=painted, edgecolors=painted, linewidths=0.25
        )
    )
    axes.set_xlim(-view.half_width, view.half_width)
    axes.set_ylim(-view.half_height, view.half_height)
    axes.set_aspect("equal")
    axes.set_axis_off()


def error_colormap() -> Any:
    """Pale blue-grey (no error) over yellow and red to violet; shading shows on every colour."""
    colors = importlib.import_module("matplotlib.colors")
    return colors.LinearSegmentedColormap.from_list("vertex_error", ERROR_COLORS)


def error_colors(values: Floats, vmax: float) -> Floats:
    """Colours [V, 3] in [0, 1] of errors [V] on the scale of :func:`error_colormap`.

    Errors of ``vmax`` and more have the last colour, those that are not finite are black. Needs no
    matplotlib.
    """
    errors = np.asarray(values, dtype=np.float64)
    stops = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in ERROR_COLORS])
    finite = np.isfinite(errors)
    where = np.clip(np.where(finite, errors, 0) / max(vmax, 1e-30), 0, 1) * (len(stops) - 1)
    colors = np.stack([np.interp(where, np.arange(len(stops)), stop) for stop in stops.T], axis=1)
    return np.asarray(np.where(finite[:, None], colors, 0.0))


def _colormap(cmap: Any) -> Any:
    if cmap is None:
        return error_colormap()
    return importlib.import_module("matplotlib").colormaps[cmap] if isinstance(cmap, str) else cmap


def _cross2(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def outward_normals(vertices: Floats, faces: Ints) -> Floats:
    """Unit normals [V, 3], outwards of a closed mesh, of an open one to the side of its faces.

    Zero where a vertex has no face.

    Args:
        vertices: [V, 3], finite.
        faces: int64 [F, 3].
    """
    return _normals(vertices, faces) * _orientation(vertices, faces)[1]


def _normals(points: Floats, faces: Ints) -> Floats:
    """Area-weighted unit normals per vertex; zero where a vertex has no face."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    normals = np.zeros_like(points)
    for i in range(3):
        np.add.at(normals, faces[:, i], cross)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(normals / np.maximum(length, 1e-30))


def _orientation(points: Floats, faces: Ints) -> tuple[bool, float]:
    """Whether the mesh is closed, and -1 when its faces point inwards (negative volume), else 1."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    counts = np.unique(edges, axis=0, return_counts=True)[1]
    closed = len(faces) > 0 and bool((counts == 2).all())
    a, b, c = (points[faces[:, i]] - points.mean(axis=0) for i in range(3))
    volume = float(np.einsum("ij,ij->", a, np.cross(b, c)))
    return closed, -1.0 if closed and volume < 0 else 1.0


def _subdivide(values: Floats, faces: Ints) -> tuple[Floats, Ints]:
    """Split every triangle into four at the middles of its edges, interpolating linearly."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    middle = values[unique].mean(axis=1)
    ab, bc, ca = (inverse.reshape(3, -1)[i] + len(values) for i in range(3))
    a, b, c = faces.T
    quarters = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return (
        np.concatenate([values, middle]),
        np.concatenate([np.stack(corner, axis=1) for corner in quarters]),
    )


def _shade(normals: Floats, base: Floats) -> Floats:
    """Two diffuse lights, ambient light and a faint highlight; normals in view space."""
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    light = np.full(len(normals), _AMBIENT)
    for direction, strength in _LIGHTS:
        unit = np.asarray(direction) / np.linalg.norm(direction)
        light += strength * np.clip(normals @ unit, 0, None)
    half = np.asarray(_LIGHTS[0][0]) / np.linalg.norm(_LIGHTS[0][0]) + np.array([0.0, 0.0, 1.0])
    glint = np.clip(normals @ (half / np.linalg.norm(half)), 0, None) ** 40
    return np.asarray(np.clip(base * light[:, None] + 0.10 * glint[:, None], 0, 1))
