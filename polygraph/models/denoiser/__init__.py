"""Networks that take noise out of pictures of any size, and out of meshes and point clouds."""

from polygraph.models.denoiser.dncnn import DnCNN, DnCNNConfig
from polygraph.models.denoiser.gcdn import GCDN, GCDNConfig
from polygraph.models.denoiser.tiles import denoise_tiles
from polygraph.models.denoiser.vertices import VertexDenoiser, VertexDenoiserConfig

__all__ = [
    "GCDN",
    "DnCNN",
    "DnCNNConfig",
    "GCDNConfig",
    "VertexDenoiser",
    "VertexDenoiserConfig",
    "denoise_tiles",
]
