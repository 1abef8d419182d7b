"""Models of meshes of one template: polynomial autoencoders, and PCA."""

from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoder, MeshAutoencoderConfig
from polygraph.models.mesh.pca import PCA
from polygraph.models.mesh.published import load_published

__all__ = ["PCA", "MeshAutoencoder", "MeshAutoencoderConfig", "load_published"]
