"""The exception of everything that reads, checks or changes meshes and point clouds."""


class MeshError(ValueError):
    """A mesh, a mesh file or a mesh operation is at fault; the message names which and why."""
