"""Reading, checking and writing triangle meshes.

Every mesh that enters polygraph passes :func:`validate_mesh` first: the native code behind us (and
the code of others) reads out of bounds on a bad face index, and a NaN surfaces hours later as a NaN
loss. One exception type, :class:`MeshError`, names the file and the fault.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polygraph._files import temporary_beside

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
PathLike = str | os.PathLike[str]

READABLE = (".ply", ".obj", ".off", ".stl")


class MeshError(ValueError):
    """A mesh, a mesh file or a mesh operation is at fault; the message names which and why."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """A checked triangle mesh.

    Attributes:
        vertices: float64 ``[V, 3]``, finite, in the file's own unit.
        faces: int64 ``[F, 3]``, in ``[0, V)``, counter-clockwise seen from outside.
    """

    vertices: FloatArray
    faces: IntArray


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
    finite = np.isfinite(v).all(axis=1)
    if not finite.all():
        raise MeshError(
            f"{name}: {np.count_nonzero(~finite)} of {len(v)} vertices are not finite,"
            f" first vertex {int(np.argmin(finite))}"
        )
    outside = ((f < 0) | (f >= len(v))).any(axis=1)
    if outside.any():
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


def read_mesh(path: PathLike) -> Mesh:
    """Read a ``.ply``, ``.obj``, ``.off`` or ``.stl`` file; vertices and faces keep their order.

    Only the geometry is read: normals, colours and texture coordinates never split a vertex.
    Polygons are cut into triangles. An ``.stl`` file stores loose triangles, so corners at the same
    position become one vertex, in order of first appearance, and triangles that this flattens to an
    edge or a point are dropped.

    Args:
        path: the file. All formats but ``.obj`` need the extra ``[mesh]`` (trimesh).

    Raises:
        MeshError: if the file is missing, of another format, unreadable, or holds a mesh that is
            not valid.
        ImportError: if trimesh is needed and not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise MeshError(
            f"{path}: cannot read {suffix or 'a file without extension'},"
            f" want one of {', '.join(READABLE)}"
        )
    if not path.is_file():
        raise MeshError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    reader = _read_obj if suffix == ".obj" else _read_with_trimesh
    if suffix != ".obj":
        _import_trimesh()
    try:
        vertices, faces = reader(path)
    except MeshError:
        raise
    except (
        Exception
    ) as error:  # whatever a parser throws at a corrupt file, the fault is the file's
        detail = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise MeshError(f"{path}: cannot be read as {suffix}: {detail}") from error
    if suffix == ".stl":
        vertices, faces = _merge_coincident(vertices, faces, str(path))
    return validate_mesh(vertices, faces, str(path))


def read_collection(paths: Sequence[PathLike]) -> tuple[npt.NDArray[np.float32], IntArray]:
    """Read meshes of one topology.

    Args:
        paths: N >= 1 mesh files, in the order wanted.

    Returns:
        Vertices float32 ``[N, V, 3]`` and the common faces int64 ``[F, 3]``.

    Raises:
        MeshError: if there are no paths, a file is not valid, or a file's vertex count or faces
            differ from those of the first file; it names the first file that differs.
    """
    if isinstance(paths, (str, os.PathLike)):
        raise MeshError(
            f"paths must be a sequence of files, got the single path {os.fspath(paths)!r}"
        )
    if len(paths) == 0:
        raise MeshError("paths is empty: a collection needs at least one mesh file")
    first = read_mesh(paths[0])
    out = np.empty((len(paths), len(first.vertices), 3), dtype=np.float32)
    for i, path in enumerate(paths):
        mesh = first if i == 0 else read_mesh(path)
        check_topology(mesh, first, str(path), str(paths[0]))
        with np.errstate(over="ignore"):
            out[i] = mesh.vertices
        if not np.isfinite(out[i]).all():
            raise MeshError(f"{path}: a coordinate exceeds the range of float32")
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
    """
    path = Path(path)
    encode = {
        ".ply": _encode_ply,
        ".obj": _encode_obj,
        ".off": _encode_off,
        ".stl": _encode_stl,
    }.get(path.suffix.lower())
    if encode is None:
        raise MeshError(
            f"{path}: cannot write {path.suffix or 'a file without extension'},"
            f" want one of {', '.join(READABLE)}"
        )
    if not path.parent.is_dir():
        raise MeshError(f"{path}: the folder {path.parent} does not exist")
    mesh = validate_mesh(mesh.vertices, mesh.faces, f"mesh for {path}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode(mesh))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; then sync and rename it or, on error, remove it."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _import_trimesh() -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            "reading .ply, .off and .stl files needs trimesh: pip install 'polygraph[mesh]'"
        ) from error
    return trimesh


def _read_with_trimesh(path: Path) -> tuple[Any, Any]:
    trimesh = _import_trimesh()
    options = (
        {"fix_texture": False, "skip_materials": True} if path.suffix.lower() == ".ply" else {}
    )
    mesh = trimesh.load_mesh(str(path), process=False, **options)
    if not isinstance(mesh, trimesh.Trimesh):
        raise MeshError(f"{path}: the mesh is empty: the file has no faces")
    return np.array(mesh.vertices), np.array(mesh.faces)


def _read_obj(path: Path) -> tuple[Any, Any]:
    """Read v and f lines alone: trimesh splits vertices at texture seams, losing their order."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    text = path.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#", 1)[0].split()
        if not words or words[0] not in ("v", "f"):
            continue
        try:
            if words[0] == "v":
                x, y, z = (float(w) for w in words[1:4])
                vertices.append([x, y, z])
                continue
            corners = [int(w.split("/", 1)[0]) for w in words[1:]]
        except ValueError as error:
            raise MeshError(
                f"{path}: line {number} is not a valid {words[0]} line: {line.strip()[:80]!r}"
            ) from error
        if len(corners) < 3 or 0 in corners:
            raise MeshError(f"{path}: line {number} is not a valid f line: {line.strip()[:80]!r}")
        # Indices count from 1; negative ones count back from the vertices read so far.
        corners = [c - 1 if c > 0 else len(vertices) + c for c in corners]
        faces.extend([corners[0], b, c] for b, c in pairwise(corners[1:]))
    return (
        np.array(vertices, dtype=np.float64).reshape(-1, 3),
        np.array(faces, dtype=np.int64).reshape(-1, 3),
    )


def _merge_coincident(vertices: Any, faces: Any, name: str) -> tuple[Any, Any]:
    corners = np.asarray(vertices, dtype=np.float64)
    if corners.ndim != 2 or len(corners) == 0 or not np.isfinite(corners).all():
        return vertices, faces  # validate_mesh will say what is wrong
    _, first, inverse = np.unique(corners, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    merged = rank[inverse.reshape(-1)][np.asarray(faces)]
    whole = (
        (merged[:, 0] != merged[:, 1])
        & (merged[:, 1] != merged[:, 2])
        & (merged[:, 2] != merged[:, 0])
    )
    if not whole.any():
        raise MeshError(f"{name}: the mesh is empty: all its triangles are flat")
    return corners[first[order]], merged[whole]


def _encode_ply(mesh: Mesh) -> bytes:
    with np.errstate(over="ignore"):
        single = mesh.vertices.astype(np.float32)
    exact = bool((single == mesh.vertices).all())
    kind = "float" if exact else "double"
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(mesh.vertices)}\n"
        f"property {kind} x\nproperty {kind} y\nproperty {kind} z\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(mesh.faces), dtype=[("n", "u1"), ("corners", "<i4", 3)])
    rows["n"], rows["corners"] = 3, mesh.faces
    body = single.astype("<f4") if exact else mesh.vertices.astype("<f8")
    return header.encode() + body.tobytes() + rows.tobytes()


def _encode_obj(mesh: Mesh) -> bytes:
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def _encode_off(mesh: Mesh) -> bytes:
    lines = ["OFF", f"{len(mesh.vertices)} {len(mesh.faces)} 0"]
    lines += [f"{x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in mesh.faces.tolist()]
    return ("\n".join(lines) + "\n").encode()


def _encode_stl(mesh: Mesh) -> bytes:
    header = b"polygraph".ljust(80, b"\0") + len(mesh.faces).to_bytes(4, "little")
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    rows = np.zeros(
        len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")]
    )
    rows["normal"] = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    rows["corners"] = corners
    return header + rows.tobytes()
