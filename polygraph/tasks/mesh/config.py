"""The configuration of a run of a mesh autoencoder, and the hierarchy that it wants."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from polygraph._checks import check_choice, check_numbers, check_positive
from polygraph.data import MeshDataConfig, MeshDataset
from polygraph.data.store import default_cache_dir
from polygraph.mesh.hierarchy import MeshHierarchy, load_or_build
from polygraph.mesh.spiral import SpiralConfig
from polygraph.models.mesh.mesh_autoencoder import MeshAutoencoderConfig
from polygraph.train.config import TrainConfig, config_hash
from polygraph.train.variational import ObjectiveConfig

NORMALIZATIONS, LOSSES = ("vertex", "shared"), ("l1", "distance")


@dataclass(frozen=True)
class MeshRunConfig:
    """Everything that decides about a mesh autoencoder.

    Attributes:
        preset: name that ``model`` and ``spiral`` started from; a label.
        model: channels, latents, kind of block.
        spiral: convention and size of the spirals.
        data: data set and split.
        train: steps, batch, optimiser, schedule, seed.
        factors: how many times fewer vertices per level of the hierarchy, finest first, one for
            each encoder layer; None: they, and the number of layers with them, are chosen from the
            mesh (see `polygraph.tasks.mesh.depth.fit_to_mesh`).
        upsampling: ``barycentric`` or ``lstsq``.
        normalization: what coordinates are divided by: ``vertex`` (published), each by its own
            deviation, so that a millimetre counts more where the training meshes move less; or
            ``shared``, all by the root mean square of the deviations.
        loss: ``l1`` (published), of normalised coordinates, or ``distance``, the Euclidean
            distance of vertices, which is the error that is reported.
        augmentation: standard deviation of α in ``x + α (x' - x'')``, by which training meshes x
            are moved along the difference of two others of their batch, beyond what was recorded;
            0 (published) trains on the meshes as they are.
        objective: of a variational autoencoder, which ``loss`` is not looked at for.
    """

    preset: str = "full-2"
    model: MeshAutoencoderConfig = field(default_factory=MeshAutoencoderConfig)
    spiral: SpiralConfig = field(default_factory=SpiralConfig)
    data: MeshDataConfig = field(default_factory=MeshDataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    factors: tuple[int, ...] | None = (4, 4, 4, 4)
    upsampling: str = "barycentric"
    normalization: Literal["vertex", "shared"] = "vertex"
    loss: Literal["l1", "distance"] = "l1"
    augmentation: float = 0.0
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        """Turn lists (from YAML) into tuples, compare the number of levels, check the choices."""
        check_numbers("train", self)
        check_choice("train", "normalization", self.normalization, NORMALIZATIONS)
        check_choice("train", "loss", self.loss, LOSSES)
        if not (self.augmentation >= 0 and math.isfinite(self.augmentation)):
            raise ValueError(f"train: augmentation must be 0 or more, got {self.augmentation}")
        if not self.model.variational and self.objective != ObjectiveConfig():
            raise ValueError(
                "train: objective (beta, warmup_steps, free_bits) is of variational autoencoders, "
                "such as vae-full-2, and this one is not"
            )
        if self.factors is None:
            return
        object.__setattr__(self, "factors", tuple(self.factors))
        for factor in self.factors:
            check_positive("train", factors=factor)
        channels = self.model.encoder_channels
        if len(self.factors) != len(channels):
            raise ValueError(
                f"factors must have one entry per encoder layer, {len(channels)} (encoder_channels "
                f"are {', '.join(map(str, channels))}), got {len(self.factors)}: leave one of the "
                "two out, and it is made to fit the other"
            )

    def semantics(self) -> dict[str, Any]:
        """What decides about the weights of a run on given meshes, besides the loop's settings."""
        return {
            "model": self.model.semantics(),
            "loss": self.loss,
            "augmentation": self.augmentation,
            **({"objective": asdict(self.objective)} if self.model.variational else {}),
        }

    def digest(self) -> str:
        """SHA-256 of what decides about the result, the same on every machine.

        Where the data lies does not count (its content has a hash of its own), nor the name of the
        preset, nor what is only shown.
        """
        fields = {**asdict(self), **self.semantics()}
        if not self.model.variational:
            del fields["objective"]
        del fields["preset"]
        for name in ("path", "cache_dir", "full_check", "up"):
            del fields["data"][name]
        fields["train"] = {**self.train.semantics(), "length": self.train.length()}
        return config_hash(fields)


def preset_run(
    preset: str,
    data: MeshDataConfig,
    train: TrainConfig,
    *,
    latent_channels: int | None = None,
    **settings: Any,
) -> MeshRunConfig:
    """The run of a named preset on a data set; ``settings`` are further fields of the run.

    Raises:
        ValueError: no preset has that name; the message suggests the nearest.
    """
    from polygraph.models.mesh.presets import get_preset

    model, spiral = get_preset(preset)
    if latent_channels is not None:
        model = replace(model, latent_channels=latent_channels)
    if settings.get("factors") is not None:
        model, spiral = with_depth(model, spiral, len(settings["factors"]))
    return MeshRunConfig(preset, model, spiral, data, train, **settings)


def with_depth(
    model: MeshAutoencoderConfig, spiral: SpiralConfig, depth: int
) -> tuple[MeshAutoencoderConfig, SpiralConfig]:
    """The same network with ``depth`` levels.

    Levels are left out at the fine end, where the channels are few; more of them have the channels
    of the coarsest. Rings and dilations are given for as many levels as there are.
    """
    had = len(model.encoder_channels)
    if depth == had:
        return model, spiral
    encoder, decoder = model.encoder_channels, model.decoder_channels
    more = max(0, depth - had)
    encoder = (*encoder, *encoder[-1:] * more)[-depth:]
    # The first is of the linear layer; behind the last level come the coordinates, or a
    # convolution at the finest level and they.
    decoder = (*decoder[:1] * more, *decoder[: min(had, depth)], *decoder[had:])
    spiral = replace(spiral, hops=spiral.hops[: depth + 1], dilation=spiral.dilation[: depth + 1])
    return replace(model, encoder_channels=encoder, decoder_channels=decoder), spiral


def build_hierarchy(config: MeshRunConfig, dataset: MeshDataset) -> MeshHierarchy:
    """The hierarchy of the data set's template, from the cache when it was built before."""
    cache = config.data.cache_dir
    assert config.factors is not None, "chosen when the data set was opened"
    return load_or_build(
        dataset.template,
        dataset.faces,
        factors=config.factors,
        spiral=config.spiral,
        upsampling=config.upsampling,
        cache_dir=default_cache_dir() if cache is None else cache,
    )
