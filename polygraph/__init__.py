"""Deep learning on graphs, meshes and images-as-graphs: fast operators and polynomial networks."""

__version__ = "0.1.0"
