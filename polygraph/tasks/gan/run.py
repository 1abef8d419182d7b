"""A finished run of an adversarial pair: its generator without the data, and images of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polygraph.data.images import ImageDataset
from polygraph.tasks.gan.checkpoint import checkpoint_of as checkpoint_of
from polygraph.tasks.gan.checkpoint import load_generator as load_generator
from polygraph.tasks.gan.latent import (
    deviation,
    generate,
    interpolations,
    latent_vectors,
    principal_directions,
    walk_kind,
    walks,
)
from polygraph.train.checkpoint import read_json_object

RESULT = "result.json"


@dataclass(frozen=True)
class Run:
    """A trained generator; from `polygraph.tasks.gan.train` or `polygraph.tasks.gan.load`.

    Attributes:
        folder: where it lies.
        model: the generator in eval mode; maps z ``[B, latent]`` to images in [-1, 1].
        meta: configuration, hashes and versions, as in the checkpoint.
        dataset: what it was trained on, where that is at hand.
    """

    folder: Path
    model: nn.Module
    meta: dict[str, Any]
    dataset: ImageDataset | None = None

    def __repr__(self) -> str:
        """Folder and numbers."""
        return f"Run({str(self.folder)!r}, {self.latent_channels} numbers per image)"

    @property
    def latent_channels(self) -> int:
        """Numbers that an image is made from."""
        return int(self.model.config.latent_channels)  # type: ignore[union-attr, arg-type]

    @cached_property
    def result(self) -> dict[str, Any]:
        """What ``result.json`` holds: steps, seconds, FID if it was asked for; empty before."""
        path = self.folder / RESULT
        return read_json_object(path, "steps") if path.is_file() else {}

    def sample(self, count: int = 64, *, seed: int = 0) -> Tensor:
        """Images uint8 ``[count, C, size, size]``, the same for the same seed."""
        return generate(self.model, latent_vectors(count, self.model.config, seed))

    def interpolate(
        self, count: int = 8, steps: int = 8, *, seed: int = 0, along: str | None = None
    ) -> Tensor:
        """Walks of ``steps`` images between pairs: uint8 ``[count * steps, C, size, size]``.

        Args:
            count: pairs of latent vectors.
            steps: images of a walk, ends included.
            seed: the vectors are drawn from.
            along: ``"linear"`` or ``"sphere"``, see `polygraph.tasks.gan.latent.interpolations`;
                None: linear for polynomial generators, along the sphere for the others.

        Raises:
            ValueError: fewer than two steps, or another way.
        """
        z = latent_vectors(2 * count, self.model.config, seed)
        kind = walk_kind(self.model.config) if along is None else along
        return generate(self.model, interpolations(z, steps, kind))

    def walk(
        self, directions: int = 4, steps: int = 9, *, seed: int = 0, reach: float = 2.0
    ) -> Tensor:
        """Walks from one image along the directions of z in which images change most.

        What such a direction means, light or pose or shape, is for the eye to say.

        Args:
            directions: rows, see `polygraph.tasks.gan.latent.principal_directions`.
            steps: images of a row; of an odd number the middle one is the image of the seed.
            seed: of the image that all rows start from.
            reach: how far to both sides, in standard deviations of a number of z.

        Returns:
            uint8 ``[directions * steps, C, size, size]``.

        Raises:
            ValueError: fewer than two steps, no direction, or a bad reach.
        """
        config = self.model.config
        start = latent_vectors(1, config, seed)[0]
        found = principal_directions(self.model, directions)
        return generate(self.model, walks(start, found, steps, reach * deviation(config)))

    def score(self, count: int = 10_000, **settings: Any) -> Any:
        """Inception Score, FID, KID, precision and recall against the training images.

        Args:
            count: generated images.
            **settings: of `polygraph.tasks.gan.scores.score_run`: ``seed``, ``path``,
                ``classifier``, ``inception``, ``weights``.

        Returns:
            `polygraph.metrics.image_scores.ImageScores`, which says through which network.
        """
        from polygraph.tasks.gan.scores import score_run

        return score_run(self.folder, count, dataset=self.dataset, **settings)

    def nearest(self, count: int = 1000, neighbors: int = 7, **settings: Any) -> Any:
        """The training images nearest to generated ones: are these copies?

        Args:
            count: generated images.
            neighbors: training images for each.
            **settings: of `polygraph.tasks.gan.nearest.nearest_of_run`, which are those of `score`.

        Returns:
            `polygraph.tasks.gan.nearest.NearestOfRun`: the share that is closer than usual, with
            that of held-out images; ``write(path)`` makes the picture.
        """
        from polygraph.tasks.gan.nearest import nearest_of_run

        return nearest_of_run(self.folder, count, neighbors, dataset=self.dataset, **settings)

    def diagnose(self, count: int = 10_000, **settings: Any) -> Any:
        """The scores, and whether the networks use their non-local layers.

        Norms of the non-local and of the local part where they meet, gradients, where neighbors
        lie, and the scores without the non-local part or with other neighbors.

        Args:
            count: generated images of every score.
            **settings: of `polygraph.tasks.gan.diagnosis.diagnose_run`: those of `score`, and
                ``ablations=False`` for what is quick.

        Returns:
            `polygraph.tasks.gan.diagnosis.Diagnosis`: ``scores``, ``layers``, ``ablations``.
        """
        from polygraph.tasks.gan.diagnosis import diagnose_run

        return diagnose_run(self.folder, count, dataset=self.dataset, **settings)


def load_run(
    folder: str | Path, device: torch.device | str = "cpu", *, weights: str = "average"
) -> Run:
    """Load a run's generator; see `load_generator`.

    Raises:
        CheckpointError: the folder holds no run of a generator.
    """
    folder = Path(folder)
    generator, meta = load_generator(checkpoint_of(folder), device, weights=weights)
    return Run(folder, generator, meta)


def sample_run(
    folder: str | Path,
    count: int,
    seed: int = 0,
    *,
    weights: str = "average",
    interpolate: int | None = None,
    along: str | None = None,
) -> Tensor:
    """Images of a run's generator, the same for the same seed.

    Args:
        folder: of the run.
        count: latent vectors.
        seed: they are drawn from.
        weights: see `load_generator`.
        interpolate: points of a walk between each two latent vectors, ends included; None: the
            images of the vectors themselves.
        along: see `Run.interpolate`.

    Returns:
        uint8 ``[count, C, size, size]``, or ``[count / 2 * interpolate, ...]``.

    Raises:
        CheckpointError: the folder holds no run.
        ValueError: no images are asked for, an odd number of ends, or an unknown way.
    """
    if count < 1:
        raise ValueError(f"sample: count must be at least 1, got {count}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = load_run(folder, device, weights=weights)
    if interpolate is None:
        return run.sample(count, seed=seed)
    if count % 2:
        raise ValueError(f"sample: a walk needs pairs of ends, an even count, got {count}")
    return run.interpolate(count // 2, interpolate, seed=seed, along=along)
