"""Every number of every configuration: what is none, or means nothing, is refused by its name."""

from dataclasses import fields, is_dataclass

import pytest

from polygraph.data import AudioDataConfig, ImageDataConfig, MeshDataConfig, ShapeDataConfig
from polygraph.data.audio.mel import FeatureConfig
from polygraph.data.identities import IdentityDataConfig
from polygraph.data.pictures import PictureDataConfig
from polygraph.data.vertex_sets import VertexDataConfig
from polygraph.mesh.spiral import SpiralConfig
from polygraph.models.denoiser.presets import DENOISERS
from polygraph.models.denoiser.vertices import VertexDenoiserConfig
from polygraph.models.images.families import CLASSIFIERS, CRITICS, GENERATORS, VAES
from polygraph.models.images.graph_gan import GraphCriticConfig, GraphGeneratorConfig
from polygraph.models.images.pixel_classifier import PixelClassifierConfig
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoderConfig
from polygraph.models.points.dgcnn import DGCNNClassifierConfig, DGCNNSegmenterConfig
from polygraph.tasks.audio.training import AudioRunConfig
from polygraph.tasks.denoise.picture_training import DenoiseRunConfig
from polygraph.tasks.denoise.vertex_training import VertexRunConfig
from polygraph.tasks.gan.losses import GanConfig
from polygraph.tasks.gan.training import GanRunConfig
from polygraph.tasks.images.training import ImagesRunConfig
from polygraph.tasks.mesh.training import MeshRunConfig
from polygraph.tasks.points.training import PointsRunConfig
from polygraph.tasks.vae.training import VaeRunConfig
from polygraph.tasks.verify.config import VerifyRunConfig
from polygraph.train.augment import AugmentConfig
from polygraph.train.config import TrainConfig
from polygraph.train.sound_augment import SoundAugmentConfig
from polygraph.train.variational import ObjectiveConfig

CLASSES = [
    *(MeshDataConfig, ShapeDataConfig, ImageDataConfig, SpiralConfig),
    *(MeshAutoencoderConfig, DGCNNClassifierConfig, DGCNNSegmenterConfig),
    *(
        cls
        for families in (GENERATORS, CRITICS, CLASSIFIERS, VAES, DENOISERS)
        for cls, _ in families.values()
    ),
    *(TrainConfig, GanConfig, MeshRunConfig, PointsRunConfig, GanRunConfig),
    *(ImagesRunConfig, AugmentConfig, AudioRunConfig, AudioDataConfig, FeatureConfig),
    *(SoundAugmentConfig, VerifyRunConfig, IdentityDataConfig, VaeRunConfig, ObjectiveConfig),
    *(DenoiseRunConfig, PictureDataConfig),
    *(VertexRunConfig, VertexDataConfig, VertexDenoiserConfig),
]
BAD = {"nan": float("nan"), "inf": float("inf"), "minus": -1, "zero": 0, "true": True}
BAD |= {"huge": 10**12, "text": "3"}
# Of what a value means something: nothing, the least seed, a run that is never over.
MEANT = {
    "zero": {
        *("seed", "val_seed", "weight_decay", "label_smoothing", "shift", "beta1", "beta2", "ema"),
        *("grow_steps", "score_images", "mapping_order", "dropout", "augmentation", "reference"),
        *("num_categories", "noise_seed", "min_learning_rate", "warmup_epochs", "split_seed"),
        *("crop_padding", "drop_block", "instance_share"),
        *("warmup_steps", "free_bits"),
        *("probability", "speed", "stretch", "shift_frames", "noise"),
        *("margin", "point_shift", "pair_seed", "resamples", "orthogonality"),
        *("padding", "unfoldings", "threshold", "reconstruction"),
    },
    "huge": {
        *(
            "seed",
            "val_seed",
            "split_seed",
            "noise_seed",
            "steps",
            "epochs",
            "eval_every",
            "checkpoint_every",
            "log_every",
        ),
        *("learning_rate", "grad_clip", "weight_decay", "augmentation", "gradient_penalty"),
        *("clip", "critic_rate", "grow_steps", "scale", "shift", "to_mm", "delta"),
        *("clip_value", "warmup_epochs", "logit_scale", "point_scale", "point_shift", "pair_seed"),
        *("orthogonality", "threshold"),
    },
}
BESIDE = {
    (MeshDataConfig, "to_mm"): {"kind": "registered", "path": "meshes"},
    (GraphGeneratorConfig, "delta"): {"graph": "ecc"},
    (GraphCriticConfig, "delta"): {"graph": "ecc"},
    (PixelClassifierConfig, "delta"): {"graph": "ecc"},
}


def with_first(items, value):
    """A tuple, of tuples or not, with another first number."""
    first = with_first(items[0], value) if items and isinstance(items[0], tuple) else value
    return (first, *items[1:])


def numeric_fields(cls):
    """Names, and what makes a value of the field from a number."""
    for field in fields(cls):
        kinds = str(field.type).split(" | ")
        if {"int", "float"} & set(kinds):
            yield field.name, lambda value: value
        if any(kind.startswith("tuple[") for kind in kinds):
            default = field.default if isinstance(field.default, tuple) else ()
            yield field.name, lambda value, rest=default: with_first(rest, value)


CASES = [
    pytest.param(cls, name, make, id=f"{cls.__name__}-{name}{'-item' * (make(1) != 1)}")
    for cls in CLASSES
    for name, make in numeric_fields(cls)
]


def test_all_configurations_are_here():
    assert all(is_dataclass(cls) for cls in CLASSES)
    assert len(CASES) > 90


@pytest.mark.parametrize(("cls", "name", "make"), CASES)
def test_a_number_is_meaningful_or_refused_by_name(cls, name, make):
    beside = BESIDE.get((cls, name), {})
    for kind, value in BAD.items():
        if name in MEANT.get(kind, ()):
            cls(**{name: make(value)}, **beside)
            continue
        with pytest.raises(ValueError, match=name):
            cls(**{name: make(value)}, **beside)
