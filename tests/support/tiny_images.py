"""A classifier of images that trains in a second."""

from polygraph.data import ImageDataConfig
from polygraph.models import PixelClassifierConfig
from polygraph.tasks.images.training import ImagesRunConfig, images_train_config
from polygraph.train.augment import AugmentConfig

MODEL = PixelClassifierConfig(in_channels=1, size=12, width=4)
DATA = ImageDataConfig(num_images=100, size=12, channels=1)


def tiny_images(model=MODEL, data=DATA, **train):
    """A run on a few built-in digits."""
    settings = {"steps": 8, "batch_size": 8, "eval_every": 4, "accelerator": "cpu", **train}
    return ImagesRunConfig(
        model, data, images_train_config(**settings), AugmentConfig(crop_padding=1)
    )
