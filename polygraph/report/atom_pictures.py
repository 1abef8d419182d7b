"""Pictures of dictionaries: what an entry of a sparse code adds to an image, or to a mesh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polygraph.mesh.up import Up, guess_up
from polygraph.models.sparse_coding import MultiLayerSparseCoder
from polygraph.report.figures import save_figure
from polygraph.report.render import View, draw_mesh, make_view, outward_normals, pyplot

Floats = NDArray[np.float64]
_CONTEXT = 1.5  # of a mesh is shown, around an atom's vertices


def atom_figure(
    path: str | Path,
    coder: MultiLayerSparseCoder,
    *,
    layers: Sequence[int] | None = None,
    shown: int = 64,
) -> Path:
    """The effective dictionaries of images: atoms ``D₁ ... D_l e_j``, a panel for each layer.

    Those of the largest norm, the largest first. Each is cut to what the layer's atoms reach, and
    has a scale of its own: of grey images red adds light and blue takes it, of coloured ones grey
    adds nothing.

    Source: the form is that of Sulam, Papyan, Romano and Elad, "Multi-Layer Convolutional Sparse
    Modeling: Pursuit and Dictionary Learning", IEEE TSP 2018, section 5.

    Args:
        path: of the picture, .png or .svg.
        coder: of signals ``[C, H, W]``, C of 1 or 3.
        layers: their numbers, from 1 on; default: all.
        shown: atoms of each at most, at least 1.

    Raises:
        ValueError: signals of another kind, no atoms to show, or a layer that there is not.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from polygraph.models import MultiLayerSparseCoder
        >>> from polygraph.report.atom_pictures import atom_figure
        >>> layers = [torch.nn.Conv2d(1, 8, 5, stride=2), torch.nn.Conv2d(8, 12, 3)]
        >>> coder = MultiLayerSparseCoder(layers, (1, 16, 16))
        >>> atom_figure(tempfile.mkdtemp() + "/atoms.png", coder, shown=9).name
        'atoms.png'

    See Also:
        `mesh_atom_figure`; `MultiLayerSparseCoder.effective`.
    """
    shape = coder.shapes[0]
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"atom_figure: signals must be [1 or 3, H, W], got {list(shape)}")
    numbers = _checked("atom_figure", coder, layers, shown)
    plt = pyplot()
    figure, grid = plt.subplots(
        1, len(numbers), figsize=(3.3 * len(numbers), 3.6), squeeze=False, layout="constrained"
    )
    for axes, number in zip(grid[0], numbers, strict=True):
        with torch.no_grad():
            atoms = _cropped(coder.effective(number))
        chosen = atoms[_longest(atoms, shown)].double().cpu().numpy()
        axes.imshow(_tiles(chosen), interpolation="nearest")
        axes.set_axis_off()
        high, wide = atoms.shape[2:]
        part = f"{len(chosen)} of {len(atoms)}" if len(chosen) < len(atoms) else f"{len(atoms)}"
        axes.set_title(f"{_product(number)}: {part} atoms, {high} x {wide}", fontsize=9)
    return save_figure(plt, figure, path)


def _checked(
    owner: str, coder: MultiLayerSparseCoder, layers: Sequence[int] | None, shown: int
) -> list[int]:
    numbers = list(range(1, coder.depth + 1)) if layers is None else list(layers)
    if not numbers or not all(1 <= number <= coder.depth for number in numbers):
        raise ValueError(f"{owner}: layers must be some of 1 to {coder.depth}, got {numbers}")
    if shown < 1:
        raise ValueError(f"{owner}: shown must be at least 1, got {shown}")
    return numbers


def _product(number: int) -> str:
    return "".join(f"$D_{{{n}}}$" for n in range(1, number + 1))


def _longest(atoms: Tensor, shown: int) -> Tensor:
    """The atoms of largest norm, of equal ones the first."""
    norms = atoms.flatten(1).norm(dim=1)
    order: Tensor = norms.argsort(descending=True, stable=True)
    return order[:shown]


def _cropped(atoms: Tensor) -> Tensor:
    """Atoms ``[N, C, H, W]`` without the rows and columns in which all of them are 0."""
    where = atoms.abs().amax((0, 1))
    rows, columns = where.amax(1).nonzero(), where.amax(0).nonzero()
    if not len(rows):
        return atoms
    high = slice(int(rows[0]), int(rows[-1]) + 1)
    return atoms[:, :, high, int(columns[0]) : int(columns[-1]) + 1]


def _tiles(atoms: Floats) -> Floats:
    """Atoms ``[N, 1 or 3, H, W]`` in rows, as colours ``[height, width, 3]`` on white."""
    count, channels, high, wide = atoms.shape
    largest = np.abs(atoms).max((1, 2, 3), keepdims=True)
    scaled = 0.5 + 0.5 * atoms / np.where(largest > 0, largest, 1)
    columns = math.ceil(math.sqrt(count))
    gap = max(1, wide // 8)
    canvas = np.ones(
        (-(-count // columns) * (high + gap) - gap, columns * (wide + gap) - gap, 3), np.float64
    )
    colors = pyplot().get_cmap("RdBu_r")
    for n, atom in enumerate(scaled):
        top, left = n // columns * (high + gap), n % columns * (wide + gap)
        tile = colors(atom[0])[..., :3] if channels == 1 else atom.transpose(1, 2, 0)
        canvas[top : top + high, left : left + wide] = tile
    return canvas


def mesh_atom_figure(
    path: str | Path,
    coder: MultiLayerSparseCoder,
    vertices: Any,
    faces: Any,
    *,
    layers: Sequence[int] | None = None,
    shown: int = 5,
    places: Sequence[int] | None = None,
    up: Up = "auto",
) -> Path:
    """The effective dictionaries of a mesh: atoms ``D₁ ... D_l e_j``, a row for each layer.

    The first panel of a row has the vertices that the layer's atoms at one place reach, on the
    whole mesh and seen from their side; beside it are the atoms of the largest norm, from near by.
    Each has a scale of its own. Of one channel red adds and blue takes; of several the colour is
    the length of what is added to a vertex, from 0 on.

    Args:
        path: of the picture, .png or .svg.
        coder: of signals ``[V, C]``.
        vertices: ``[V, 3]``, where the vertices are drawn.
        faces: ``[F, 3]``, integers.
        layers: their numbers, from 1 on; default: all.
        shown: atoms of each at most, at least 1.
        places: for each of the layers the vertex of its code at which the atoms are; default: the
            first.
        up: axis that points up, see `polygraph.report.render.make_view`.

    Raises:
        ValueError: the mesh and the signals do not go together, a layer or a place is none.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import torch
        >>> from polygraph.mesh import spiral_table
        >>> from polygraph.models import MultiLayerSparseCoder
        >>> from polygraph.nn import SpiralConv
        >>> from polygraph.report.atom_pictures import mesh_atom_figure
        >>> vertices = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
        >>> faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])  # a tetrahedron
        >>> coder = MultiLayerSparseCoder([SpiralConv(3, 6, spiral_table(vertices, faces))], (4, 3))
        >>> path = tempfile.mkdtemp() + "/atoms.png"
        >>> mesh_atom_figure(path, coder, vertices, faces, shown=2).name
        'atoms.png'

    See Also:
        `atom_figure`; `polygraph.nn.SpiralConv`.
    """
    owner = "mesh_atom_figure"
    shape = coder.shapes[0]
    points, triangles = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    if len(shape) != 2 or points.shape != (shape[0], 3):
        raise ValueError(
            f"{owner}: vertices must be [V, 3] of signals [V, C], got {list(points.shape)} and "
            f"{list(shape)}"
        )
    if triangles.ndim != 2 or triangles.shape[1] != 3 or not _inside(triangles, len(points)):
        raise ValueError(
            f"{owner}: faces must be [F, 3] in [0, {len(points)}), got {list(triangles.shape)}"
        )
    numbers = _checked(owner, coder, layers, shown)
    if places is not None and len(places) != len(numbers):
        raise ValueError(
            f"{owner}: places must be one for each of {len(numbers)} layers, got {len(places)}"
        )
    with torch.no_grad():
        every = [
            coder.effective(number, None if places is None else places[n]).double().cpu()
            for n, number in enumerate(numbers)
        ]
    plt = pyplot()
    columns = 1 + min(shown, max(map(len, every)))
    figure, grid = plt.subplots(
        len(numbers), columns, figsize=(1.9 * columns, 2.1 * len(numbers)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes in grid.ravel():
        axes.set_axis_off()
    for row, number, atoms in zip(grid, numbers, every, strict=True):
        reached = atoms.square().sum((0, 2)).sqrt().numpy()
        far, near = _views(points, triangles, reached, up)
        top = float(reached.max()) or 1.0
        draw_mesh(row[0], points, triangles, far, values=reached, vmax=top)
        row[0].set_title(f"{_product(number)}, {len(atoms)} atoms", fontsize=9)
        for axes, k in zip(row[1:], _longest(atoms, shown).tolist(), strict=False):
            _draw_atom(axes, points, triangles, near, atoms[k].numpy())
            axes.set_title(f"atom {k}", fontsize=9)
    return save_figure(plt, figure, path)


def _inside(triangles: NDArray[np.int64], count: int) -> bool:
    return not len(triangles) or bool(triangles.min() >= 0 and triangles.max() < count)


def _draw_atom(
    axes: Any, points: Floats, triangles: NDArray[np.int64], view: View, atom: Floats
) -> None:
    if atom.shape[1] == 1:
        limit = float(np.abs(atom).max()) or 1.0
        values, colors = atom[:, 0] + limit, "RdBu_r"
        draw_mesh(axes, points, triangles, view, values=values, vmax=2 * limit, cmap=colors)
        return
    length = np.linalg.norm(atom, axis=1)
    draw_mesh(axes, points, triangles, view, values=length, vmax=float(length.max()) or 1.0)


def _views(
    points: Floats, triangles: NDArray[np.int64], reached: Floats, up: Up
) -> tuple[View, View]:
    """The whole mesh, and what is reached, both from the side where most of that is in sight."""
    toward = (reached[:, None] ** 2 * outward_normals(points, triangles)).sum(0)
    top = np.eye(3)["xyz".index(guess_up(points) if up == "auto" else up)]
    right = np.cross(top, toward)
    if np.linalg.norm(right) < 1e-6 * max(float(np.linalg.norm(toward)), 1e-300):
        far = make_view(points, up=up)  # nothing is reached, or it is seen from above
    else:
        right /= np.linalg.norm(right)
        toward /= np.linalg.norm(toward)
        far = _framed(points, np.stack([right, np.cross(toward, right), toward]), 1.05)
    some = points[reached > 0.01 * reached.max()] if reached.max() > 0 else points
    return far, _framed(some, far.rotation, _CONTEXT)


def _framed(points: Floats, rotation: Floats, room: float) -> View:
    """A view of points in the middle, as wide as high, or as what is seen of them."""
    seen = points @ rotation.T
    low, high = seen.min(0), seen.max(0)
    half = np.maximum((high - low)[:2] / 2 * room, 1e-9)
    half = np.maximum(half, half.max() / 2)
    return View(rotation, rotation.T @ ((low + high) / 2), float(half[0]), float(half[1]))
