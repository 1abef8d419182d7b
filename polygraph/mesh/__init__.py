"""Meshes: reading and checking, decimation, spirals, and hierarchies for mesh autoencoders.

Reading needs NumPy alone; spirals and hierarchies need the extra ``[mesh]`` (scipy), which is
imported only when used. :mod:`~polygraph.mesh.cloud` reads point clouds, and samples them from
meshes by the extra ``[open3d]``.
"""

from typing import TYPE_CHECKING

from polygraph._lazy import lazy
from polygraph.mesh.decimate import Decimation, decimate
from polygraph.mesh.hierarchy import MeshHierarchy, build_hierarchy, load_or_build
from polygraph.mesh.io import Mesh, MeshError, read_collection, read_mesh, validate_mesh, write_mesh
from polygraph.mesh.spiral import SpiralConfig, spiral_table
from polygraph.mesh.upsample import barycentric, least_squares

if TYPE_CHECKING:
    from polygraph.mesh import cloud
else:
    __getattr__, __dir__ = lazy(__name__, ["cloud"])

__all__ = [
    "Decimation",
    "Mesh",
    "MeshError",
    "MeshHierarchy",
    "SpiralConfig",
    "barycentric",
    "build_hierarchy",
    "cloud",
    "decimate",
    "least_squares",
    "load_or_build",
    "read_collection",
    "read_mesh",
    "spiral_table",
    "validate_mesh",
    "write_mesh",
]
