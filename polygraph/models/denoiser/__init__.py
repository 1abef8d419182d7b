"""Networks that take noise out of pictures, and what runs them on pictures of any size."""

from polygraph.models.denoiser.dncnn import DnCNN, DnCNNConfig
from polygraph.models.denoiser.gcdn import GCDN, GCDNConfig
from polygraph.models.denoiser.tiles import denoise_tiles

__all__ = ["GCDN", "DnCNN", "DnCNNConfig", "GCDNConfig", "denoise_tiles"]
