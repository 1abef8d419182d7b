"""Models: one file each, with its config, its module and the paper it is from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polygraph.models.classifier import LeNet, LeNetConfig
from polygraph.models.dgcnn import (
    DGCNNClassifier,
    DGCNNClassifierConfig,
    DGCNNSegmenter,
    DGCNNSegmenterConfig,
)
from polygraph.models.inception import InceptionV3, load_inception
from polygraph.models.mesh_autoencoder import MeshAutoencoder, MeshAutoencoderConfig
from polygraph.models.pca import PCA
from polygraph.models.published import load_published

if TYPE_CHECKING:
    from polygraph.models.presets import PRESETS, get_preset

__all__ = [
    "PCA",
    "PRESETS",
    "DGCNNClassifier",
    "DGCNNClassifierConfig",
    "DGCNNSegmenter",
    "DGCNNSegmenterConfig",
    "InceptionV3",
    "LeNet",
    "LeNetConfig",
    "MeshAutoencoder",
    "MeshAutoencoderConfig",
    "get_preset",
    "load_inception",
    "load_published",
]


def __getattr__(name: str) -> Any:
    # Presets say how spirals are made, for which polygraph.mesh needs the extra [mesh].
    if name in ("PRESETS", "get_preset"):
        from polygraph.models import presets

        return getattr(presets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
