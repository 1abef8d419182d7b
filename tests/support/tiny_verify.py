"""Embedders that train in a second."""

import io

import numpy as np
from PIL import Image

from polygraph.data.identities import IdentityDataConfig
from polygraph.models import PixelClassifierConfig
from polygraph.tasks.verify.config import VerifyRunConfig, verify_train_config
from polygraph.train.augment import AugmentConfig
from support.tiny_points import MODEL as CLOUDS

MODEL = PixelClassifierConfig(in_channels=1, size=12, width=4)
DATA = IdentityDataConfig(num_samples=120, size=12, channels=1)
POINTS = IdentityDataConfig("arrays")
QUICK = {"steps": 8, "batch_size": 8, "eval_every": 4, "accelerator": "cpu"}


def tiny_verify(data=DATA, model=MODEL, *, train=None, **settings):
    """A run on a few built-in digits: seven are known, the others are told apart."""
    usual = {"loss": "softmax", "embedding_dim": 8, "folds": 3, "pairs_per_fold": 20}
    usual |= {"augment": AugmentConfig(crop_padding=1), "resamples": 20}
    loop = verify_train_config(**{**QUICK, **(train or {})})
    return VerifyRunConfig(model=model, data=data, train=loop, **{**usual, **settings})


def tiny_clouds(**settings):
    """A run on clouds that are handed over."""
    return tiny_verify(POINTS, CLOUDS, augment=AugmentConfig(), **settings)


def clouds(people=8, each=6, points=20):
    """Boxes of different sizes, one for each identity: clouds and their labels."""
    draw = np.random.default_rng(0)
    sizes = draw.uniform(0.2, 1, (people, 1, 3))
    labels = np.repeat(np.arange(people), each)
    return draw.uniform(-1, 1, (len(labels), points, 3)) * sizes[labels], labels


def write_faces(root, people=10, each=4, suffix="pgm"):
    """A folder of folders: each identity is a pattern, each picture of it has noise."""
    draw = np.random.default_rng(0)
    for n in range(people):
        pattern = draw.integers(0, 200, (4, 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        (root / f"s{n}").mkdir(parents=True)
        for k in range(each):
            stream = io.BytesIO()
            noisy = pattern + draw.integers(0, 50, (16, 16)).astype(np.uint8)
            Image.fromarray(noisy).save(stream, "PPM")
            (root / f"s{n}" / f"{k}.{suffix}").write_bytes(stream.getvalue())
    return root
