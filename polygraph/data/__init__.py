"""Data sets: registered meshes, their splits and their cache; labelled point clouds; images."""

from polygraph.data.coma import open_coma
from polygraph.data.config import MeshDataConfig, open_dataset
from polygraph.data.dfaust import open_dfaust
from polygraph.data.glyphs import make_glyphs
from polygraph.data.images import (
    ImageDataConfig,
    ImageDataset,
    open_images,
    to_float,
    to_uint8,
)
from polygraph.data.objects import make_objects
from polygraph.data.registered import MeshDataset, open_registered
from polygraph.data.shapes import ShapeDataConfig, ShapeDataset, open_shapes
from polygraph.data.solids import make_shapes
from polygraph.data.splits import Split, make_split
from polygraph.data.synthetic import make_creature

__all__ = [
    "ImageDataConfig",
    "ImageDataset",
    "MeshDataConfig",
    "MeshDataset",
    "ShapeDataConfig",
    "ShapeDataset",
    "Split",
    "make_creature",
    "make_glyphs",
    "make_objects",
    "make_shapes",
    "make_split",
    "open_coma",
    "open_dataset",
    "open_dfaust",
    "open_images",
    "open_registered",
    "open_shapes",
    "to_float",
    "to_uint8",
]
