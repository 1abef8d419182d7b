"""Data sets: registered meshes, their splits, their cache; labelled clouds; images; sounds."""

from polygraph.data.audio.dataset import AudioDataConfig, AudioDataset, open_audio
from polygraph.data.audio.mel import LogMel
from polygraph.data.audio.wav import read_wav
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
from polygraph.data.mnist_variations import make_mnist_variation
from polygraph.data.objects import make_objects
from polygraph.data.registered import MeshDataset, open_registered
from polygraph.data.shapes import ShapeDataConfig, ShapeDataset, open_shapes
from polygraph.data.solids import make_shapes
from polygraph.data.splits import Split, make_split
from polygraph.data.synthetic import make_creature

__all__ = [
    "AudioDataConfig",
    "AudioDataset",
    "ImageDataConfig",
    "ImageDataset",
    "LogMel",
    "MeshDataConfig",
    "MeshDataset",
    "ShapeDataConfig",
    "ShapeDataset",
    "Split",
    "make_creature",
    "make_glyphs",
    "make_mnist_variation",
    "make_objects",
    "make_shapes",
    "make_split",
    "open_audio",
    "open_coma",
    "open_dataset",
    "open_dfaust",
    "open_images",
    "open_registered",
    "open_shapes",
    "read_wav",
    "to_float",
    "to_uint8",
]
