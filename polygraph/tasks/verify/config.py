"""The configuration of a run that trains embeddings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from polygraph._checks import check_numbers
from polygraph.data.identities import IdentityDataConfig
from polygraph.models.images.pixel_classifier import PixelClassifierConfig
from polygraph.tasks.verify.embedder import embedder_family, is_of_points
from polygraph.tasks.verify.heads import check_head
from polygraph.train.augment import AugmentConfig
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.optimizer import check_flags
from polygraph.train.orthogonality import check_orthogonality, orthogonality_settings

RECIPE: dict[str, Any] = {
    "epochs": 40,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 0.0,
}  #: where it differs from the defaults of `TrainConfig`


def verify_train_config(**settings: Any) -> TrainConfig:
    """The recipe, with other ``settings`` of `TrainConfig` where they are given."""
    return TrainConfig(**{**RECIPE, **settings})


def usual_augmentation(kind: str) -> AugmentConfig:
    """How images of a kind of set are changed while they train: faces alone are."""
    return AugmentConfig(crop_padding=4, flip=True) if kind == "orl" else AugmentConfig()


@dataclass(frozen=True)
class VerifyRunConfig:
    """Everything that decides about embeddings.

    Attributes:
        model: config of a family of `polygraph.tasks.verify.embedder.EMBEDDERS`. Channels and sizes
            are those of the data, its numbers of classes the embedding's.
        data: samples of identities.
        train: steps, batch, optimiser, schedule, seed.
        augment: random changes of training images.
        preset: name that the model's settings started from; for people.
        loss: softmax, norm-softmax (of scaled cosines), arcface or cosface.
        embedding_dim: numbers of an embedding.
        margin: of arcface in radians (null: 0.5), of cosface of the cosine (null: 0.35).
        logit_scale: of the cosines; null: sqrt(2) ln(C - 1) for C training identities.
        balanced: whether every identity comes as often as the others, in every batch.
        orthogonality: factor of a penalty that makes what the identities are orthogonal; 0: none.
        orthogonality_on: ``weights`` of the head, ``templates`` or ``probes``: see
            `polygraph.train.supervised.ClassificationLoss`.
        orthogonality_unit: of rows of unit length.
        mirror: embed an image as the sum of its own and its mirror image's embedding.
        point_scale: largest factor by which a training cloud is scaled along an axis; the smallest
            is its inverse; 1: none, since size tells identities apart.
        point_shift: largest distance by which a training cloud is moved along an axis.
        folds: of the pairs of test identities.
        pairs_per_fold: genuine pairs of a fold, and impostor pairs; fewer where there are fewer.
        pair_seed: draws the pairs.
        resamples: of test identities, for intervals; 0: no intervals.
    """

    model: Any = field(default_factory=PixelClassifierConfig)
    data: IdentityDataConfig = field(default_factory=IdentityDataConfig)
    train: TrainConfig = field(default_factory=verify_train_config)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    preset: str = ""
    loss: str = "arcface"
    embedding_dim: int = 128
    margin: float | None = None
    logit_scale: float | None = None
    balanced: bool = False
    orthogonality: float = 0.0
    orthogonality_on: str = "weights"
    orthogonality_unit: bool = False
    mirror: bool = False
    point_scale: float = 1.0
    point_shift: float = 0.0
    folds: int = 10
    pairs_per_fold: int = 300
    pair_seed: int = 0
    resamples: int = 1000

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_numbers("train", self, ("pair_seed",))
        check_flags(self, ("balanced",))
        check_orthogonality(
            "train", self.orthogonality, self.orthogonality_on, self.orthogonality_unit
        )
        embedder_family(self.model)
        check_head("train", self.loss, self.margin, self.logit_scale)
        if is_of_points(self.model) and self.mirror:
            raise ValueError("train: mirror is for images, and the model takes point clouds")
        for name, low in (("embedding_dim", 2), ("folds", 2), ("pairs_per_fold", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"train: {name} must be at least {low}, got {getattr(self, name)}")
        for name in ("pair_seed", "resamples"):
            if getattr(self, name) < 0:
                raise ValueError(f"train: {name} must be at least 0, got {getattr(self, name)}")
        for name, least in (("point_scale", 1.0), ("point_shift", 0.0)):
            value = getattr(self, name)
            if not (value >= least and math.isfinite(value)):
                raise ValueError(
                    f"train: {name} must be finite and at least {least:g}, got {value}"
                )

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights, besides the loop's settings and the samples."""
        names = ("loss", "embedding_dim", "margin", "logit_scale", "mirror")
        return {
            "model": {"family": embedder_family(self.model), **asdict(self.model)},
            "augment": self.augment.semantics(),
            **{name: getattr(self, name) for name in (*names, "point_scale", "point_shift")},
            **({"balanced": True} if self.balanced else {}),
            **orthogonality_settings(
                self.orthogonality, self.orthogonality_on, self.orthogonality_unit
            ),
        }

    def digest(self) -> str:
        """SHA-256 of what decides about the result, the same on every machine.

        Where the data lie does not count: their content has a hash of its own.
        """
        protocol = ("folds", "pairs_per_fold", "pair_seed", "resamples")
        data = {k: v for k, v in asdict(self.data).items() if k not in ("path", "cache_dir")}
        return config_hash(
            {
                **self.semantics(),
                **{name: getattr(self, name) for name in protocol},
                "data": data,
                "train": {**self.train.semantics(), "length": self.train.length()},
            }
        )
