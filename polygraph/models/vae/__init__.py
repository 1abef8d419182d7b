"""What variational autoencoders share: Gaussians over codes, likelihoods, bounds on log p(x).

The models are `polygraph.models.ImageVAE`, of images, and `polygraph.models.MeshAutoencoder` with
``variational=True``, of meshes. Everything is in nats, and sums over the numbers of a sample: a
mean in the place of one of the sums is another weight of the divergence.
"""

from polygraph.models.vae.gaussian import Posterior, gaussian_kl
from polygraph.models.vae.likelihood import BernoulliLikelihood, GaussianLikelihood
from polygraph.models.vae.variational import Elbo, VariationalMixin

__all__ = [
    "BernoulliLikelihood",
    "Elbo",
    "GaussianLikelihood",
    "Posterior",
    "VariationalMixin",
    "gaussian_kl",
]
