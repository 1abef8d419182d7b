"""Point clouds: reading them, and sampling them from meshes (by the extra ``[open3d]``)."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from polygraph._files import PathLike, read_regular
from polygraph.mesh.formats import pcd, ply, xyz
from polygraph.mesh.io import (
    MOST_BYTES,
    FloatArray,
    Mesh,
    MeshError,
    check_finite,
    validate_mesh,
)

CLOUDS = (".pcd", ".ply", ".xyz")
_READERS = {".pcd": pcd.read_points, ".ply": ply.read_points, ".xyz": xyz.read_points}
# What open3d's wheel takes from the system, and where Debian and Ubuntu have it.
_PACKAGES = {
    "libusb-1.0": "libusb-1.0-0",
    "libGL": "libgl1",
    "libEGL": "libegl1",
    "libgomp": "libgomp1",
    "libX11": "libx11-6",
    "libc++": "libc++1",
    "libc++abi": "libc++abi1",
    "libtbb": "libtbb12",
}


def import_open3d() -> Any:
    """The module open3d.

    Raises:
        ImportError: it is not installed, or a library of the system that it needs is not; the
            message says how to get it.
    """
    try:
        return importlib.import_module("open3d")
    except ModuleNotFoundError as error:
        missing = (error.name or "open3d").split(".")[0]
        raise ImportError(
            f"the viewer and Poisson-disk sampling need {missing}: "
            "pip install 'polygraph-nn[open3d]'"
        ) from error
    except (ImportError, OSError) as error:
        raise ImportError(_explain(str(error))) from error


def _explain(text: str) -> str:
    found = re.search(r"(lib[\w.+-]+?)\.so[\w.]*(?=:)", text)
    if not found:
        return f"open3d is installed but does not load: {text}"
    library = found[0]
    package = _PACKAGES.get(found[1])
    how = f"apt-get install {package} (Debian, Ubuntu)" if package else "install the package of it"
    return f"open3d is installed but the system lacks {library}: {how}"


def read_cloud(path: PathLike) -> FloatArray:
    """Read a point cloud from a ``.pcd``, ``.ply`` or ``.xyz`` file; docs/files.md says what of it.

    Returns:
        float64 ``[N, 3]``, N >= 1, in the order of the file, as precise as they stand there.
        Colours and normals are left out.

    Raises:
        MeshError: the file is missing, of another format, damaged (fewer or more points than it
            announces, numbers outside their declared type), empty, or holds points that are not
            finite. An organized cloud marks missing returns by NaN: these are an error, not left
            out in silence.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in CLOUDS:
        raise MeshError(
            f"{path}: cannot read {suffix or 'a file without extension'} as a point cloud,"
            f" want one of {', '.join(CLOUDS)}"
        )
    points = _READERS[suffix](read_regular(path, MOST_BYTES, MeshError), str(path))
    if not len(points):
        raise MeshError(f"{path}: it holds no points")
    check_finite(points, str(path), "points", "point")
    return points


def poisson_disk(mesh: Mesh, count: int, *, seed: int = 0) -> FloatArray:
    """Sample points of a surface that keep their distance from each other.

    Points are drawn uniformly and the crowded ones eliminated (Yuksel, Sample Elimination for
    Generating Poisson Disk Sample Sets, Eurographics 2015; open3d's implementation).

    Args:
        mesh: a checked mesh.
        count: points wanted.
        seed: equal seeds give equal points on one version of open3d.

    Returns:
        float64 ``[count, 3]``.

    Raises:
        MeshError: the mesh is not valid or has no area.
        ValueError: ``count`` is not positive.
        ImportError: open3d is missing, see :func:`import_open3d`.
    """
    if count < 1:
        raise ValueError(f"poisson_disk: count must be positive, got {count}")
    mesh = validate_mesh(mesh.vertices, mesh.faces, "poisson_disk: mesh")
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    if not area.sum() > 0:
        raise MeshError("poisson_disk: the mesh has no area")
    open3d = import_open3d()
    surface = as_open3d(mesh, open3d)
    open3d.utility.random.seed(seed)
    points = np.array(surface.sample_points_poisson_disk(count).points, dtype=np.float64)
    if points.shape != (count, 3):
        raise MeshError(f"poisson_disk: open3d gave {len(points)} points, not {count}")
    return points


def as_open3d(mesh: Mesh, open3d: Any) -> Any:
    """An open3d TriangleMesh of a mesh."""
    return open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(mesh.vertices),
        open3d.utility.Vector3iVector(mesh.faces.astype(np.int32)),
    )
