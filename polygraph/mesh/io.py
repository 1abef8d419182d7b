"""Reading, checking and writing triangle meshes.

Every mesh that enters polygraph passes :func:`validate_mesh` first: the native code behind us (and
the code of others) reads out of bounds on a bad face index, and a NaN surfaces hours later as a NaN
loss. One exception type, :class:`MeshError`, names the file and the fault.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polygraph._files import PathLike as PathLike
from polygraph._files import read_regular, write_atomic
from polygraph._repr import short_repr
from polygraph.mesh.errors import MeshError as MeshError
from polygraph.mesh.formats import obj, off, ply, stl
from polygraph.mesh.formats.polygons import Polygons, triangles_of
from polygraph.mesh.formats.text import FloatArray as FloatArray
from polygraph.mesh.formats.text import IntArray as IntArray
from polygraph.mesh.formats.write import ENCODERS
from polygraph.mesh.origin import ZERO, Point, to_float32

READABLE = (".ply", ".obj", ".off", ".stl")
MOST_BYTES = 1 << 32  # of a file that is read


@dataclass(frozen=True, eq=False)
class Mesh:
    """A checked triangle mesh.

    Attributes:
        vertices: float64 ``[V, 3]``, finite, in the file's own unit.
        faces: int64 ``[F, 3]``, in ``[0, V)``, counter-clockwise seen from outside.

    Example:
        >>> from polygraph.mesh import validate_mesh
        >>> validate_mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
        Mesh(vertices=float64 [3, 3], faces=int64 [1, 3])

    See Also:
        `validate_mesh`, which makes one of arrays; `read_mesh`.
    """

    vertices: FloatArray
    faces: IntArray

    __repr__ = short_repr


def validate_mesh(vertices: Any, faces: Any, name: str = "mesh") -> Mesh:
    """Check a mesh before anything touches it.

    Vertices that no face uses, boundaries, several components and non-manifold edges are all
    allowed.

    Args:
        vertices: real numbers ``[V, 3]``, V >= 1.
        faces: integers ``[F, 3]``, F >= 1.
        name: what the message calls the mesh (its file, or the argument's name).

    Returns:
        The same mesh as C-contiguous float64 and int64 arrays (copied only where needed).

    Raises:
        MeshError: on a wrong shape or dtype, an empty mesh, a vertex that is not finite, a face
            index out of range, a face that repeats a vertex, or vertices that all coincide.

    Example:
        >>> from polygraph.mesh import validate_mesh
        >>> mesh = validate_mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
        >>> mesh.vertices.dtype, mesh.faces.dtype
        (dtype('float64'), dtype('int64'))

    See Also:
        `read_mesh`, which checks what it reads.
    """
    v, f = np.asarray(vertices), np.asarray(faces)
    if v.ndim != 2 or v.shape[1] != 3:
        raise MeshError(f"{name}: vertices must have shape [V, 3], got {list(v.shape)}")
    if v.dtype.kind not in "fiu":
        raise MeshError(f"{name}: vertices must be real numbers, got {v.dtype}")
    if len(v) == 0:
        raise MeshError(f"{name}: the mesh is empty: it has no vertices")
    if f.size == 0:
        raise MeshError(f"{name}: the mesh is empty: it has {len(v)} vertices and no faces")
    if f.ndim != 2 or f.shape[1] != 3:
        raise MeshError(f"{name}: faces must have shape [F, 3], got {list(f.shape)}")
    if f.dtype.kind not in "iu":
        raise MeshError(f"{name}: faces must be integers, got {f.dtype}")
    check_finite(v, name, "vertices", "vertex")
    if not 0 <= f.min() <= f.max() < len(v):
        outside = ((f < 0) | (f >= len(v))).any(axis=1)
        first = int(np.argmax(outside))
        raise MeshError(
            f"{name}: face {first} = {f[first].tolist()} has an index outside [0, {len(v)})"
        )
    repeats = (f[:, 0] == f[:, 1]) | (f[:, 1] == f[:, 2]) | (f[:, 2] == f[:, 0])
    if repeats.any():
        first = int(np.argmax(repeats))
        raise MeshError(
            f"{name}: {np.count_nonzero(repeats)} faces repeat a vertex,"
            f" first face {first} = {f[first].tolist()}"
        )
    if (v == v[0]).all():
        raise MeshError(f"{name}: all {len(v)} vertices coincide")
    return Mesh(np.ascontiguousarray(v, dtype=np.float64), np.ascontiguousarray(f, dtype=np.int64))


def check_finite(points: npt.NDArray[Any], name: str, plural: str, singular: str) -> None:
    """Raise MeshError, saying how many points ``[N, 3]`` are not finite, unless all are."""
    if not np.isfinite(points).all():
        finite = np.isfinite(points).all(axis=1)
        raise MeshError(
            f"{name}: {np.count_nonzero(~finite)} of {len(points)} {plural} are not finite,"
            f" first {singular} {int(np.argmin(finite))}"
        )


def read_mesh(path: PathLike) -> Mesh:
    """Read a ``.ply``, ``.obj``, ``.off`` or ``.stl`` file; vertices and faces keep their order.

    Only the geometry is read: normals, colours and texture coordinates never split a vertex.
    Polygons are cut into triangles, by the same rule in every format: into the fan from the first
    corner wherever no triangle of it is turned over (always, if the polygon is convex), by ear
    cutting elsewhere. An ``.stl`` file stores loose triangles, so corners at the same position
    become one vertex, in order of first appearance. What has no area because a face repeats a
    corner is left out, with a warning. docs/files.md says what each format's reader takes.

    Args:
        path: a regular file of at most 4 GiB.

    Raises:
        MeshError: if the file is missing, of another format, damaged (fewer or more vertices or
            faces than its header announces, numbers outside their declared type), or holds a mesh
            that is not valid.

    Example:
        >>> import tempfile
        >>> from polygraph.mesh import read_mesh, validate_mesh, write_mesh
        >>> path = f"{tempfile.mkdtemp()}/triangle.obj"
        >>> write_mesh(path, validate_mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]))
        >>> read_mesh(path)
        Mesh(vertices=float64 [3, 3], faces=int64 [1, 3])

    See Also:
        `read_collection`, of many meshes of one topology; `write_mesh`; `polygraph.mesh.cloud` for
        points.
    """
    polygons = read_polygons(path)
    return polygons_mesh(polygons, str(path))


def read_polygons(path: PathLike) -> Polygons:
    """What a mesh file holds before its polygons are cut; arguments and errors of read_mesh."""
    suffix = Path(path).suffix.lower()
    if suffix not in READABLE:
        raise MeshError(
            f"{path}: cannot read {suffix or 'a file without extension'},"
            f" want one of {', '.join(READABLE)}"
        )
    polygons = _READERS[suffix](read_regular(path, MOST_BYTES, MeshError), str(path))
    check_finite(polygons.vertices, str(path), "vertices", "vertex")
    return polygons


def polygons_mesh(polygons: Polygons, name: str) -> Mesh:
    """Cut what was read into triangles, warn of what is odd, and check the mesh."""
    faces, notes = triangles_of(polygons, name)
    for note in notes:
        warnings.warn(note, stacklevel=3)
    if not len(faces) and len(polygons.sizes):
        raise MeshError(f"{name}: the mesh is empty: all its {len(polygons.sizes)} faces are flat")
    return validate_mesh(polygons.vertices, faces, name)


class Registered:
    """Reads files of one topology: polygons are cut as in the first file.

    Whether a polygon is convex depends on where its vertices lie, its cut must not.

    Args:
        path: the first file.

    Attributes:
        first: its mesh.
    """

    def __init__(self, path: PathLike) -> None:
        self._path = path
        self._polygons = read_polygons(path)
        self.first = polygons_mesh(self._polygons, str(path))

    def read(self, path: PathLike) -> Mesh:
        """The mesh of another file.

        Raises:
            MeshError: it is not valid, or its vertex count or faces differ from the first one's.
        """
        polygons = read_polygons(path)
        if polygons.same_faces(self._polygons):
            return validate_mesh(polygons.vertices, self.first.faces, str(path))
        mesh = polygons_mesh(polygons, str(path))
        check_topology(mesh, self.first, str(path), str(self._path))
        return mesh


def read_collection(
    paths: Sequence[PathLike], origin: Point = ZERO
) -> tuple[npt.NDArray[np.float32], IntArray]:
    """Read meshes of one topology.

    Args:
        paths: N >= 1 mesh files, in the order wanted.
        origin: subtracted in float64 before float32 rounds; for meshes far from 0, such as
            `polygraph.mesh.origin.origin_of` the first.

    Returns:
        Vertices float32 ``[N, V, 3]`` less ``origin``, and the common faces int64 ``[F, 3]``.

    Raises:
        MeshError: a mesh lies so far from the origin that float32 is too coarse for it.
        MeshError: if there are no paths, a file is not valid, or a file's vertex count or faces
            differ from those of the first file; it names the first file that differs.

    Example:
        >>> import tempfile
        >>> from polygraph.mesh import read_collection, validate_mesh, write_mesh
        >>> paths = [f"{tempfile.mkdtemp()}/{n}.ply" for n in range(3)]
        >>> for n, path in enumerate(paths):
        ...     write_mesh(path, validate_mesh([[n, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]))
        >>> vertices, faces = read_collection(paths)
        >>> vertices.shape, faces.shape
        ((3, 3, 3), (1, 3))

    See Also:
        `read_mesh`; `polygraph.data.open_registered`, for collections larger than memory.
    """
    if isinstance(paths, (str, os.PathLike)):
        raise MeshError(
            f"paths must be a sequence of files, got the single path {os.fspath(paths)!r}"
        )
    if len(paths) == 0:
        raise MeshError("paths is empty: a collection needs at least one mesh file")
    registered = Registered(paths[0])
    first = registered.first
    out = np.empty((len(paths), len(first.vertices), 3), dtype=np.float32)
    for i, path in enumerate(paths):
        mesh = first if i == 0 else registered.read(path)
        out[i] = to_float32(mesh.vertices[None], str(path), i, origin)[0]
    return out, first.faces


def check_topology(mesh: Mesh, reference: Mesh, name: str, reference_name: str) -> None:
    """Raise MeshError, naming ``name``, unless vertex count and faces are the same."""
    if len(mesh.vertices) != len(reference.vertices):
        raise MeshError(
            f"{name}: {len(mesh.vertices)} vertices,"
            f" want {len(reference.vertices)} as in {reference_name}"
        )
    if len(mesh.faces) != len(reference.faces):
        raise MeshError(
            f"{name}: {len(mesh.faces)} faces, want {len(reference.faces)} as in {reference_name}"
        )
    differs = (mesh.faces != reference.faces).any(axis=1)
    if differs.any():
        row = int(np.argmax(differs))
        raise MeshError(
            f"{name}: face {row} is {mesh.faces[row].tolist()},"
            f" want {reference.faces[row].tolist()} as in {reference_name}"
        )


def write_mesh(path: PathLike, mesh: Mesh) -> None:
    """Write a mesh in the format of the file's extension: ``.ply``, ``.obj``, ``.off`` or ``.stl``.

    ``.ply`` and ``.stl`` are binary. The file appears complete or not at all. Coordinates survive
    the round trip bit for bit, except in ``.stl``, which holds float32 and loose triangles.

    Raises:
        MeshError: if the format is unknown, the folder does not exist, or the mesh is not valid.
        OSError: if the file cannot be written, for instance on a full disk; an older file is left
            as it was.

    Example:
        >>> import tempfile
        >>> from polygraph.mesh import validate_mesh, write_mesh
        >>> triangle = validate_mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
        >>> write_mesh(f"{tempfile.mkdtemp()}/triangle.ply", triangle)

    See Also:
        `read_mesh`.
    """
    path = Path(path)
    encode = ENCODERS.get(path.suffix.lower())
    if encode is None:
        raise MeshError(
            f"{path}: cannot write {path.suffix or 'a file without extension'},"
            f" want one of {', '.join(READABLE)}"
        )
    if not path.parent.is_dir():
        raise MeshError(f"{path}: the folder {path.parent} does not exist")
    mesh = validate_mesh(mesh.vertices, mesh.faces, f"mesh for {path}")
    write_atomic(path, encode(mesh.vertices, mesh.faces))


_READERS = {".ply": ply.read, ".obj": obj.read, ".off": off.read, ".stl": stl.read}
