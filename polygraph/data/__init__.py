"""Data sets: registered meshes, their splits and their cache; labelled point clouds."""

from polygraph.data.coma import open_coma
from polygraph.data.config import MeshDataConfig, open_dataset
from polygraph.data.dfaust import open_dfaust
from polygraph.data.registered import MeshDataset, open_registered
from polygraph.data.shapes import ShapeDataConfig, ShapeDataset, make_shapes, open_shapes
from polygraph.data.splits import Split, make_split
from polygraph.data.synthetic import make_creature

__all__ = [
    "MeshDataConfig",
    "MeshDataset",
    "ShapeDataConfig",
    "ShapeDataset",
    "Split",
    "make_creature",
    "make_shapes",
    "make_split",
    "open_coma",
    "open_dataset",
    "open_dfaust",
    "open_registered",
    "open_shapes",
]
