"""Variational autoencoders of images that train in a second."""

from polygraph.data import ImageDataConfig
from polygraph.models import ImageVAEConfig
from polygraph.tasks.vae.training import VaeRunConfig, vae_train_config
from polygraph.train.variational import ObjectiveConfig

MODEL = ImageVAEConfig(size=12, channels=(4, 8), latent_channels=3)
DATA = ImageDataConfig(num_images=100, size=12, channels=1)


def tiny_vae(model=MODEL, data=DATA, objective=None, **train):
    """A run on a few built-in digits."""
    settings = {"steps": 8, "batch_size": 8, "eval_every": 4, "accelerator": "cpu", **train}
    return VaeRunConfig(model, data, vae_train_config(**settings), objective or ObjectiveConfig())
