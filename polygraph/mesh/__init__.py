"""Meshes: reading and checking, decimation, spirals, and hierarchies for mesh autoencoders.

Reading needs NumPy alone; spirals and hierarchies need the extra ``[mesh]`` (scipy), which is
imported only when used.
"""

from polygraph.mesh.decimate import Decimation, decimate
from polygraph.mesh.hierarchy import MeshHierarchy, build_hierarchy, load_or_build
from polygraph.mesh.io import Mesh, MeshError, read_collection, read_mesh, validate_mesh, write_mesh
from polygraph.mesh.spiral import SpiralConfig, spiral_table
from polygraph.mesh.upsample import barycentric, least_squares

__all__ = [
    "Decimation",
    "Mesh",
    "MeshError",
    "MeshHierarchy",
    "SpiralConfig",
    "barycentric",
    "build_hierarchy",
    "decimate",
    "least_squares",
    "load_or_build",
    "read_collection",
    "read_mesh",
    "spiral_table",
    "validate_mesh",
    "write_mesh",
]
