"""The training images nearest to a run's generated ones: a number, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polygraph._repr import short_repr
from polygraph.data.images import ImageDataset
from polygraph.metrics.nearest import Nearest, nearest_training
from polygraph.report.image_grid import image_grid
from polygraph.tasks.gan.latent import generate, latent_vectors
from polygraph.tasks.gan.scores import open_run


@dataclass(frozen=True)
class NearestOfRun:
    """What `nearest_of_run` found.

    Attributes:
        label: whose features were compared: "LeNet, CIFAR-10".
        found: shares and distances; rows of `Nearest.index` are those of ``dataset.train``.
        images: uint8 ``[count, C, size, size]``: the generated images.
        dataset: the images of the run.
    """

    label: str
    found: Nearest
    images: NDArray[np.uint8]
    dataset: ImageDataset

    __repr__ = short_repr

    def summary(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        numbers: dict[str, Any] = {"extractor": self.label, "median_distance": self.found.median}
        for name, share in (("fake", self.found.fake), ("held_out", self.found.held_out)):
            numbers[f"closer_share_{name}"] = share.value
            numbers[f"closer_share_{name}_95"] = [share.low, share.high]
            numbers[f"num_{name}"] = share.count
        return {**numbers, "num_train": len(self.dataset.train)}

    def __str__(self) -> str:
        """A few lines for people."""
        return (
            f"closer to a training image than the median of these among themselves "
            f"({self.label}):\n"
            f"  generated images  {self.found.fake}\n"
            f"  held-out images   {self.found.held_out}: what new images are like\n"
            f"  training images   50 % by definition (median {self.found.median:.4g})\n"
            "Many more than held-out images would be copies; the intervals are of 95 %."
        )

    def order(self, closest: bool = False) -> NDArray[np.int64]:
        """Generated images in their order, or from the nearest to a training image on."""
        if not closest:
            return np.arange(len(self.images))
        nearest: NDArray[np.int64] = self.found.distance[:, 0].argsort(stable=True).numpy()
        return nearest

    def picture(self, rows: int = 8, *, closest: bool = False, scale: int = 2) -> NDArray[np.uint8]:
        """Rows of a generated image and the training images nearest to it.

        Args:
            rows: generated images.
            closest: those nearest to a training image, in place of the first.
            scale: pixels per pixel.

        Returns:
            uint8 ``[height, width, C]``; a white line parts the generated images.

        Raises:
            ValueError: more rows than images.
        """
        if not 1 <= rows <= len(self.images):
            raise ValueError(
                f"neighbours: rows must be from 1 to the number of images, {len(self.images)}, got "
                f"{rows}"
            )
        chosen = self.order(closest)[:rows]
        index = self.found.index.numpy()[chosen]
        near = self.dataset.images[self.dataset.train[index.flatten()]]
        left = image_grid(self.images[chosen], 1)
        right = image_grid(np.ascontiguousarray(near), index.shape[1])
        line = np.full((len(left), 3, left.shape[2]), 255, np.uint8)
        canvas = np.concatenate([left, line, right], 1)
        return canvas.repeat(scale, 0).repeat(scale, 1)

    def write(self, path: str | Path, rows: int = 8, **settings: Any) -> Path:
        """Write `picture` to a PNG file; folders are made.

        Raises:
            ValueError: as `picture`, or the name does not end in .png.
            OSError: the file cannot be written.
        """
        from polygraph.report.image_grid import write_png

        return write_png(path, self.picture(rows, **settings))


def nearest_of_run(
    folder: str | Path,
    count: int = 1000,
    neighbors: int = 7,
    *,
    seed: int = 0,
    path: str | None = None,
    classifier: str | Path | None = None,
    inception: str | Path | None = None,
    weights: str = "average",
    dataset: ImageDataset | None = None,
) -> NearestOfRun:
    """The training images nearest to a run's generated ones, in the extractor's features.

    Args:
        folder: of the run.
        count: generated images; the first are those of `Run.sample` of the same seed.
        neighbors: training images for each.
        seed: of their z.
        path: see `polygraph.tasks.gan.scores.score_run`; so are the next four.
        classifier: folder of the classifier's weights.
        inception: file of Inception's weights.
        weights: ``average`` or ``generator``.
        dataset: the run's, opened already.

    Raises:
        CheckpointError: the folder holds no run of a generator.
        ValueError: the data are not those of the run, or have no labels for a classifier; no
            images, or more neighbors than training images; an image that is not finite.
    """
    run = open_run(folder, path=path, weights=weights, dataset=dataset)
    if count < 1 or not 1 <= neighbors <= len(run.dataset.train):
        raise ValueError(
            f"neighbours: wants at least 1 image and from 1 to {len(run.dataset.train)} "
            f"neighbours, the training images of {run.dataset.name}, got {count} and {neighbors}"
        )
    scorer = run.scorer(count, seed=seed, classifier=classifier, inception=inception)
    fake = scorer.activations(run.generator)
    if fake.num_nonfinite:
        raise ValueError(f"neighbours: {fake.num_nonfinite} of {count} images are not finite")
    found = nearest_training(
        scorer.real.features(), fake.features(), scorer.held_out().features(), neighbors
    )
    z = latent_vectors(count, run.generator.config, seed)
    images = generate(run.generator, z).numpy()
    return NearestOfRun(scorer.extractor.label, found, images, run.dataset)
